-- +goose Up

-- What GET /chats reads. No index here names unread_count or last_message_at, also not in a condition: their updates, which are most updates of
-- chats, must stay heap-only.

SET LOCAL lock_timeout = '2s';

-- Lower-case words of a text, for roombell.chat_words and roombell.chat_query. What divides words is ASCII punctuation and space: to_tsvector
-- would make one word of an address or of a number with dashes, and of a part of it another one. No regular expressions: they took ten times as long.
-- +goose StatementBegin
CREATE FUNCTION roombell.words(organization bigint, whole text) RETURNS text[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
  RETURN array_remove(string_to_array(organization || '/' || replace(
      translate(lower(whole), E'\t\n\x0b\f\r!"#$%&''()*+,-./:;<=>?@[\\]^_`{|}~', repeat(' ', 40)), ' ', ' ' || organization || '/'),
    ' '), organization || '/');
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION roombell.words(bigint, text) IS 'Words of a text, each with the organization before it: an index over them answers for one organization alone.';

-- Bounded, whatever a writer puts into these columns: an index must not refuse a row, and a word of it has at most 2,046 bytes. IMMUTABLE though
-- array_to_string is not marked so; of texts it is. COST: so dear that a search is never done by the chats one by one.
-- +goose StatementBegin
CREATE FUNCTION roombell.chat_words(organization bigint, name text, external_id text, ticket bigint, tags text[]) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE COST 300 AS $$
BEGIN
  RETURN array_to_tsvector(roombell.words(organization,
    concat_ws(' ', left(name, 400), left(external_id, 200), ticket, left(array_to_string(tags[:50], ' '), 500))));
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION roombell.chat_words(bigint, text, text, bigint, text[]) IS 'What a search for chats finds: words of name, external id, ticket number and tags.';

-- +goose StatementBegin
CREATE FUNCTION roombell.chat_query(organization bigint, asked text) RETURNS tsquery LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
  RETURN coalesce('''' || nullif(array_to_string(roombell.words(organization, left(asked, 200)), ''':* & '''), '') || ''':*', '')::tsquery;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION roombell.chat_query(bigint, text) IS 'Chats of the organization with a word that begins like each word of the question.';

-- fastupdate with a short list: a writer adds to it, a search reads at most 256 kB of it one by one.
CREATE INDEX chats_words ON chats USING gin (roombell.chat_words(organization_id, name, external_id, ticket_number, tags))
  WITH (gin_pending_list_limit = 256);
CREATE INDEX chats_status ON chats (organization_id, status, id);
CREATE INDEX chats_priority ON chats (organization_id, priority, id);
CREATE INDEX chats_channel_kind ON chats (organization_id, channel, id);
-- In the order of a list; the foreign key's look at who was deleted is served as before.
CREATE INDEX chats_assignee ON chats (assigned_user_id, id) WHERE assigned_user_id IS NOT NULL;
DROP INDEX chats_assigned;

-- +goose Down
SET LOCAL lock_timeout = '2s';
CREATE INDEX chats_assigned ON chats (assigned_user_id) WHERE assigned_user_id IS NOT NULL;
DROP INDEX chats_assignee, chats_channel_kind, chats_priority, chats_status, chats_words;
DROP FUNCTION roombell.chat_query(bigint, text), roombell.chat_words(bigint, text, text, bigint, text[]), roombell.words(bigint, text);
