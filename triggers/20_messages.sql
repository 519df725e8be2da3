-- messages: message:new, message:updated, message:deleted, message:status, messages:read.

CREATE OR REPLACE FUNCTION roombell.message_json(m public.messages, channel text, chat_channel bigint) RETURNS json LANGUAGE sql STABLE AS $$
  SELECT row_to_json(ROW(
    $1.id, $1.chat_id, $1.organization_id, $2, coalesce($1.channel_id, $3), roombell.short($1.content), roombell.short($1.type),
    roombell.short($1.media_url), roombell.short($1.filename), roombell.short($1.mime_type), $1.size, $1.from_me, $1.sender_user_id,
    $1.status, $1.quoted_message_id, roombell.short($1.quoted_content), roombell.short($1.external_id),
    roombell.rfc3339($1.timestamp), roombell.rfc3339($1.created_at))::roombell.message_new)
$$;
COMMENT ON FUNCTION roombell.message_json(public.messages, text, bigint) IS 'Payload of message:new.';

CREATE OR REPLACE FUNCTION roombell.message_too_long(m public.messages) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
  SELECT greatest(octet_length($1.content), octet_length($1.type), octet_length($1.media_url), octet_length($1.filename),
                  octet_length($1.mime_type), octet_length($1.quoted_content), octet_length($1.external_id)) > 262144
$$;
COMMENT ON FUNCTION roombell.message_too_long(public.messages) IS 'Whether the event carries less than the row: then it says truncated.';

CREATE OR REPLACE FUNCTION roombell.mark_truncated(payload json) RETURNS json LANGUAGE sql IMMUTABLE AS $$
  SELECT (left($1::text, -1) || ', "truncated" : true}')::json
$$;
COMMENT ON FUNCTION roombell.mark_truncated(json) IS 'The object with truncated: true.';

-- Columns that clients see, by their name on the wire; statuses and read marks have events of their own.
CREATE OR REPLACE FUNCTION roombell.message_changes(o public.messages, n public.messages) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
  SELECT array_remove(ARRAY[
    CASE WHEN $1.channel_id IS DISTINCT FROM $2.channel_id THEN 'channelId' END,
    CASE WHEN $1.content IS DISTINCT FROM $2.content THEN 'content' END,
    CASE WHEN $1.type <> $2.type THEN 'type' END,
    CASE WHEN $1.media_url IS DISTINCT FROM $2.media_url THEN 'mediaUrl' END,
    CASE WHEN $1.filename IS DISTINCT FROM $2.filename THEN 'filename' END,
    CASE WHEN $1.mime_type IS DISTINCT FROM $2.mime_type THEN 'mimeType' END,
    CASE WHEN $1.size IS DISTINCT FROM $2.size THEN 'size' END,
    CASE WHEN $1.from_me <> $2.from_me THEN 'fromMe' END,
    CASE WHEN $1.sender_user_id IS DISTINCT FROM $2.sender_user_id THEN 'senderUserId' END,
    CASE WHEN $1.quoted_message_id IS DISTINCT FROM $2.quoted_message_id THEN 'quotedMessageId' END,
    CASE WHEN $1.quoted_content IS DISTINCT FROM $2.quoted_content THEN 'quotedContent' END,
    CASE WHEN $1.external_id IS DISTINCT FROM $2.external_id THEN 'externalId' END,
    CASE WHEN $1.timestamp <> $2.timestamp THEN 'timestamp' END,
    CASE WHEN $1.created_at <> $2.created_at THEN 'createdAt' END,
    CASE WHEN $1.error IS DISTINCT FROM $2.error AND $1.status = $2.status THEN 'error' END], NULL)
$$;
COMMENT ON FUNCTION roombell.message_changes(public.messages, public.messages) IS 'What message:updated names as changed.';

CREATE OR REPLACE FUNCTION roombell.message_update_json(n public.messages, changes text[], channel text, chat_channel bigint) RETURNS json
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT (jsonb_build_object('messageId', ($1).id, 'chatId', ($1).chat_id, 'changes', to_jsonb($2))
      || (SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(roombell.message_json($1, $3, $4)::jsonb
            || jsonb_build_object('error', roombell.short(($1).error))) WHERE key = ANY ($2))
      || CASE WHEN roombell.message_too_long($1) AND $2 && '{content,type,mediaUrl,filename,mimeType,quotedContent,externalId}'
         THEN '{"truncated": true}' ELSE '{}'::jsonb END)::json
$$;
COMMENT ON FUNCTION roombell.message_update_json(public.messages, text[], text, bigint) IS 'Payload of message:updated.';

-- The hot path is that of one row in a transaction of its own: few statements, calls and expressions, because each is prepared anew in every
-- transaction. It says in one expression what roombell.mode and roombell.wake say in full.
CREATE OR REPLACE FUNCTION roombell.messages_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
DECLARE
  n       bigint;
  base    bigint := roombell.base();
  slot    smallint := roombell.slot();
  mode    text := 'each';
  ignored text;
  m       public.messages;
  c       public.chats;
BEGIN
  SELECT count(*) INTO n FROM new_rows;
  IF n = 1 AND least(roombell.bulk_rows(), roombell.bulk_transaction_rows()) > 0 AND current_setting('synchronous_commit') <> 'off'
     AND concat(current_setting('roombell.notify', true), current_setting('roombell.transaction_rows', true),
                current_setting('roombell.bulk_rows', true), current_setting('roombell.bulk_transaction_rows', true)) = '' THEN
    ignored := set_config('roombell.transaction_rows', '1', true);
  ELSIF n = 0 THEN
    RETURN NULL;
  ELSE
    mode := roombell.mode(n);
  END IF;
  IF mode = 'each' AND n = 1 THEN
    SELECT * INTO m FROM new_rows;
    SELECT * INTO c FROM public.chats WHERE id = m.chat_id;
    INSERT INTO public.event_log (id, slot, organization_id, chat_id, audience, kind, event, payload)
    VALUES (base + nextval('public.event_log_seq'), slot, m.organization_id, m.chat_id,
      CASE WHEN c.restricted THEN roombell.audience(c.id, c.organization_id, c.assigned_user_id) END, 'event', 'message:new',
      CASE WHEN roombell.message_too_long(m) THEN roombell.mark_truncated(roombell.message_json(m, c.channel, c.channel_id))
      ELSE row_to_json(ROW(m.id, m.chat_id, m.organization_id, c.channel, coalesce(m.channel_id, c.channel_id), m.content, m.type,
        m.media_url, m.filename, m.mime_type, m.size, m.from_me, m.sender_user_id, m.status, m.quoted_message_id, m.quoted_content,
        m.external_id, roombell.rfc3339(m.timestamp), roombell.rfc3339(m.created_at))::roombell.message_new) END);
  ELSIF mode = 'each' THEN
    -- OFFSET 0 keeps the look-up of the chat an index scan per message, whatever the table's statistics say.
    INSERT INTO public.event_log (id, slot, organization_id, chat_id, audience, kind, event, payload)
    SELECT base + nextval('public.event_log_seq'), slot, r.organization_id, r.chat_id, l.audience, 'event', 'message:new',
           CASE WHEN roombell.message_too_long(ROW(r.*)::public.messages)
             THEN roombell.mark_truncated(roombell.message_json(ROW(r.*)::public.messages, l.channel, l.channel_id))
             ELSE roombell.message_json(ROW(r.*)::public.messages, l.channel, l.channel_id) END
    FROM (SELECT * FROM new_rows r ORDER BY r.id) r
    CROSS JOIN LATERAL (
      SELECT h.channel, h.channel_id, CASE WHEN h.restricted THEN roombell.audience(h.id, h.organization_id, h.assigned_user_id) END AS audience
      FROM public.chats h WHERE h.id = r.chat_id OFFSET 0) l;
  ELSE
    PERFORM roombell.record_sums(base, slot, mode,
      (SELECT array_agg(ROW(organization_id, chat_id, rows, 0, 0, 0, false, NULL)::roombell.chat_sum)
       FROM (SELECT organization_id, chat_id, count(*)::integer AS rows FROM new_rows GROUP BY 1, 2) g), true);
  END IF;
  IF current_setting('roombell.two_phase', true) > '' OR NOT pg_try_advisory_xact_lock_shared(7461, 0) THEN
    PERFORM roombell.wake();
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION roombell.messages_inserted() IS 'Trigger: message:new, or the sum of a bulk insert.';

CREATE OR REPLACE FUNCTION roombell.messages_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
DECLARE
  n bigint;
  s record;
BEGIN
  SELECT count(*) INTO n FROM old_rows;
  IF n = 0 THEN
    RETURN NULL;
  END IF;
  s := roombell.begin_statement(n);
  IF s.mode = 'each' THEN
    -- A chat that is gone took its messages along: only chat:deleted is heard.
    INSERT INTO public.event_log (id, slot, organization_id, chat_id, audience, kind, event, payload)
    SELECT s.base + nextval('public.event_log_seq'), s.slot, m.organization_id, m.chat_id, c.audience, 'event', 'message:deleted',
           json_build_object('messageId', m.id, 'chatId', m.chat_id)
    FROM (SELECT id, organization_id, chat_id FROM old_rows ORDER BY id) m
    CROSS JOIN LATERAL (
      SELECT CASE WHEN restricted THEN roombell.audience(id, organization_id, assigned_user_id) END AS audience
      FROM public.chats WHERE id = m.chat_id OFFSET 0) c;
  ELSE
    PERFORM roombell.record_sums(s.base, s.slot, s.mode,
      (SELECT array_agg(ROW(organization_id, chat_id, 0, 0, rows, 0, false, NULL)::roombell.chat_sum)
       FROM (SELECT organization_id, chat_id, count(*)::integer AS rows FROM old_rows GROUP BY 1, 2) g
       WHERE EXISTS (SELECT FROM public.chats c WHERE c.id = g.chat_id)), true);
  END IF;
  PERFORM roombell.wake();
  RETURN NULL;
END $$;
COMMENT ON FUNCTION roombell.messages_deleted() IS 'Trigger: message:deleted, or the sum of a bulk delete.';

-- One messages:read for each chat; pairs of arrays, because a helper cannot see the trigger's transition tables.
CREATE OR REPLACE FUNCTION roombell.record_read(base bigint, slot smallint, ids bigint[], organizations bigint[], chats bigint[], readers bigint[])
RETURNS void LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
  INSERT INTO public.event_log (id, slot, organization_id, chat_id, audience, kind, event, payload)
  SELECT $1 + nextval('public.event_log_seq'), $2, r.organization_id, r.chat_id, c.audience, 'event', 'messages:read',
         json_build_object('chatId', r.chat_id, 'readByUserId', coalesce(r.reader, roombell.actor()), 'messageIds', to_json(r.ids[1:500]),
           'count', r.n, 'unreadCount', c.unread)
  FROM (SELECT organization_id, chat_id, max(reader) AS reader, array_agg(id ORDER BY id) AS ids, count(*) AS n
        FROM unnest($3, $4, $5, $6) m(id, organization_id, chat_id, reader) GROUP BY 1, 2 ORDER BY 2) r
  CROSS JOIN LATERAL (
    SELECT CASE WHEN restricted THEN roombell.audience(id, organization_id, assigned_user_id) END AS audience,
           (SELECT count(*) FROM public.messages u WHERE u.chat_id = r.chat_id AND NOT u.from_me AND NOT u.is_read_by_operator) AS unread
    FROM public.chats WHERE id = r.chat_id OFFSET 0) c
$$;
COMMENT ON FUNCTION roombell.record_read(bigint, smallint, bigint[], bigint[], bigint[], bigint[]) IS 'Records messages:read for the chats of a statement.';

CREATE OR REPLACE FUNCTION roombell.messages_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
DECLARE
  n            bigint;
  s            record;
  r            record;
  sums         roombell.chat_sum[];
  differing    bigint;
  read_chats   bigint;
  unread_chats bigint[];
BEGIN
  SELECT count(*) INTO n FROM new_rows;
  IF n = 0 THEN
    RETURN NULL;
  END IF;
  s := roombell.begin_statement(n);

  -- By chat: rows with a change that clients see, rows whose read mark alone was set, and whether one lost it.
  -- FULL JOIN: the only join that is never done by nested loops, which go quadratic over transition tables (no index, no statistics).
  -- OFFSET 0 keeps the planner from making an inner join of it.
  SELECT array_agg(ROW(organization_id, chat_id, 0, updated, 0, read, false, NULL)::roombell.chat_sum),
         sum(changed), count(*) FILTER (WHERE marked > 0), array_agg(chat_id ORDER BY chat_id) FILTER (WHERE unread)
    INTO sums, differing, read_chats, unread_chats
    FROM (
      SELECT organization_id, chat_id, count(*) FILTER (WHERE changed OR unread)::integer AS updated,
             count(*) FILTER (WHERE marked AND NOT changed)::integer AS read, count(*) FILTER (WHERE changed) AS changed,
             count(*) FILTER (WHERE marked) AS marked, bool_or(unread) AS unread
      FROM (
        SELECT n.organization_id, n.chat_id,
               n.is_read_by_operator AND NOT o.is_read_by_operator AND NOT n.from_me AS marked,
               o.is_read_by_operator AND NOT n.is_read_by_operator AS unread,
               n.status <> o.status OR n.chat_id <> o.chat_id
                 OR roombell.message_changes(ROW(o.*)::public.messages, ROW(n.*)::public.messages) <> '{}' AS changed
        FROM old_rows o FULL JOIN new_rows n ON n.id = o.id OFFSET 0) d
      WHERE changed OR marked OR unread GROUP BY 1, 2) g;
  IF sums IS NULL THEN
    RETURN NULL;
  END IF;

  IF s.mode = 'each' THEN
    IF differing > 0 THEN
      INSERT INTO public.event_log (id, slot, organization_id, chat_id, audience, kind, event, payload, touched)
      SELECT s.base + nextval('public.event_log_seq'), s.slot, e.organization_id, e.chat_id,
             CASE WHEN c.restricted THEN roombell.audience(c.id, c.organization_id, c.assigned_user_id) END, 'event', e.event,
             CASE e.event
               WHEN 'message:deleted' THEN json_build_object('messageId', (e.n).id, 'chatId', e.chat_id)
               WHEN 'message:new' THEN CASE WHEN roombell.message_too_long(e.n)
                 THEN roombell.mark_truncated(roombell.message_json(e.n, c.channel, c.channel_id))
                 ELSE roombell.message_json(e.n, c.channel, c.channel_id) END
               WHEN 'message:updated' THEN roombell.message_update_json(e.n, e.changes, c.channel, c.channel_id)
               ELSE json_strip_nulls(json_build_object('messageId', (e.n).id, 'chatId', e.chat_id, 'status', (e.n).status,
                 'error', CASE WHEN (e.n).status = 'failed' THEN roombell.short((e.n).error) END)) END,
             CASE WHEN e.event = 'message:updated' AND e.changes && '{timestamp,fromMe}' THEN ARRAY[e.chat_id] END
      FROM (
        SELECT p.n, p.changes, x.event, x.chat_id, (p.n).organization_id
        FROM (
          SELECT ROW(n.*)::public.messages AS n, o.chat_id AS former, n.status <> o.status AS stepped,
                 roombell.message_changes(ROW(o.*)::public.messages, ROW(n.*)::public.messages) AS changes
          FROM old_rows o FULL JOIN new_rows n ON n.id = o.id OFFSET 0) p
        CROSS JOIN LATERAL (VALUES
          (1, 'message:deleted', p.former, p.former <> (p.n).chat_id),
          (2, 'message:new', (p.n).chat_id, p.former <> (p.n).chat_id),
          (3, 'message:updated', (p.n).chat_id, p.former = (p.n).chat_id AND p.changes <> '{}'),
          (4, 'message:status', (p.n).chat_id, p.former = (p.n).chat_id AND p.stepped)) x(nth, event, chat_id, wanted)
        WHERE x.wanted ORDER BY (p.n).id, x.nth OFFSET 0) e
      CROSS JOIN LATERAL (
        SELECT id, organization_id, restricted, assigned_user_id, channel, channel_id FROM public.chats WHERE id = e.chat_id OFFSET 0) c;
    END IF;
    IF unread_chats IS NOT NULL THEN
      INSERT INTO public.event_log (id, slot, organization_id, kind, touched)
      SELECT s.base + nextval('public.event_log_seq'), s.slot, organization_id, 'touch', array_agg(id ORDER BY id)
      FROM public.chats WHERE id = ANY (unread_chats) GROUP BY organization_id;
    END IF;
  END IF;

  -- Read marks alone are one event a chat, whatever the number of rows: no need to sum them up.
  IF s.mode IN ('off', 'once') OR (s.mode = 'sum' AND (s.asked OR differing > 0 OR unread_chats IS NOT NULL)) THEN
    PERFORM roombell.record_sums(s.base, s.slot, s.mode, sums || (
      -- The chats that messages were moved from are named, once; the rows were counted where they went.
      SELECT array_agg(ROW(organization_id, former, 0, 0, 0, 0, false, NULL)::roombell.chat_sum)
      FROM (SELECT organization_id, former
            FROM (SELECT o.organization_id, o.chat_id AS former, n.chat_id FROM old_rows o FULL JOIN new_rows n ON n.id = o.id OFFSET 0) d
            WHERE former <> chat_id EXCEPT SELECT organization_id, chat_id FROM unnest(sums)) f), true);
  ELSIF read_chats > 500 THEN
    PERFORM roombell.record_sums(s.base, s.slot, 'sum', (SELECT array_agg(ROW(organization_id, chat_id, 0, 0, 0, read, false, NULL)::roombell.chat_sum)
      FROM unnest(sums) WHERE read > 0), true);
  ELSIF read_chats > 0 THEN
    SELECT array_agg(id) AS ids, array_agg(organization_id) AS organizations, array_agg(chat_id) AS chats, array_agg(reader) AS readers INTO r
      FROM (SELECT n.id, n.organization_id, n.chat_id, n.read_by_user_id AS reader,
                   n.is_read_by_operator AND NOT o.is_read_by_operator AND NOT n.from_me AS marked
            FROM old_rows o FULL JOIN new_rows n ON n.id = o.id OFFSET 0) d WHERE marked;
    PERFORM roombell.record_read(s.base, s.slot, r.ids, r.organizations, r.chats, r.readers);
  END IF;
  PERFORM roombell.wake();
  RETURN NULL;
END $$;
COMMENT ON FUNCTION roombell.messages_updated() IS 'Trigger: message:updated, message:status, messages:read, or the sum of a bulk update.';

-- Transition tables allow one event a trigger, and no column list.
CREATE OR REPLACE TRIGGER roombell_insert AFTER INSERT ON messages REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION roombell.messages_inserted();
CREATE OR REPLACE TRIGGER roombell_update AFTER UPDATE ON messages REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION roombell.messages_updated();
CREATE OR REPLACE TRIGGER roombell_delete AFTER DELETE ON messages REFERENCING OLD TABLE AS old_rows
  FOR EACH STATEMENT EXECUTE FUNCTION roombell.messages_deleted();
CREATE OR REPLACE TRIGGER roombell_truncate AFTER TRUNCATE ON messages FOR EACH STATEMENT EXECUTE FUNCTION roombell.truncated();
ALTER TABLE messages ENABLE ALWAYS TRIGGER roombell_insert;
ALTER TABLE messages ENABLE ALWAYS TRIGGER roombell_update;
ALTER TABLE messages ENABLE ALWAYS TRIGGER roombell_delete;
ALTER TABLE messages ENABLE ALWAYS TRIGGER roombell_truncate;
