-- name: SeesChat :one
-- Today's rights on a chat: an active user of its organization, and where it is restricted a member, the assignee or an admin.
SELECT EXISTS (
  SELECT FROM chats c JOIN users u ON u.organization_id = c.organization_id
  WHERE c.id = @chat_id AND c.organization_id = @organization_id AND u.id = @user_id AND u.active
    AND (NOT c.restricted OR u.role = 'admin' OR c.assigned_user_id = u.id
         OR EXISTS (SELECT FROM chat_members m WHERE m.chat_id = c.id AND m.user_id = u.id))
);

-- name: ListSeenChats :many
-- Those of the given chats that SeesChat is true for.
SELECT c.id FROM chats c JOIN users u ON u.organization_id = c.organization_id
WHERE c.id = ANY(@chat_ids::bigint[]) AND u.id = @user_id AND u.active
  AND (NOT c.restricted OR u.role = 'admin' OR c.assigned_user_id = u.id
       OR EXISTS (SELECT FROM chat_members m WHERE m.chat_id = c.id AND m.user_id = u.id))
ORDER BY c.id;

-- name: ListChatRights :many
-- Of the given chats those that exist: whether a chat is restricted, and who sees it then beside the organization's admins.
SELECT c.id, c.restricted, ARRAY(
  SELECT m.user_id FROM chat_members m WHERE m.chat_id = c.id AND c.restricted
  UNION SELECT c.assigned_user_id WHERE c.assigned_user_id IS NOT NULL AND c.restricted
)::bigint[] AS users
FROM chats c WHERE c.id = ANY(@chat_ids::bigint[]);

-- name: ListChatIDs :many
-- Those of the given chats that exist.
SELECT id FROM chats WHERE id = ANY(@ids::bigint[]) ORDER BY id;

-- name: LockChats :many
-- In the order of ids, as everybody who locks several. Those that somebody else has are left out: one long transaction must not hold up the
-- counters of all others. Before the counters are read, in a statement of its own: the next statement's snapshot then has what the last holder wrote.
SELECT id FROM chats WHERE id = ANY(@ids::bigint[]) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED;

-- name: RecomputeCounters :many
-- Only rows that differ are written: an update without a change would still be a new row version. Returns those. OFFSET 0 keeps the planner
-- from counting twice, for the comparison and for the new value.
UPDATE chats c SET unread_count = f.unread, last_message_at = f.latest
FROM (
  SELECT t.chat_id,
         (SELECT count(*) FROM messages m WHERE m.chat_id = t.chat_id AND NOT m.from_me AND NOT m.is_read_by_operator)::integer AS unread,
         (SELECT max(m.timestamp) FROM messages m WHERE m.chat_id = t.chat_id) AS latest
  FROM unnest(@ids::bigint[]) AS t(chat_id) OFFSET 0
) f
WHERE c.id = f.chat_id AND (c.unread_count <> f.unread OR c.last_message_at IS DISTINCT FROM f.latest)
RETURNING c.id;

-- name: FindDriftedChats :one
-- Of the next chats by id: the last one's id (0: there are no more), and those whose counters are not what their messages say.
WITH page AS MATERIALIZED (
  SELECT c.id, c.unread_count, c.last_message_at FROM chats c WHERE c.id > @after ORDER BY c.id LIMIT @page_size
)
SELECT coalesce(max(p.id), 0)::bigint AS last_id,
       coalesce(array_agg(p.id ORDER BY p.id) FILTER (WHERE
         p.unread_count <> (SELECT count(*) FROM messages m WHERE m.chat_id = p.id AND NOT m.from_me AND NOT m.is_read_by_operator)
         OR p.last_message_at IS DISTINCT FROM (SELECT max(m.timestamp) FROM messages m WHERE m.chat_id = p.id)), '{}')::bigint[] AS drifted
FROM page p;

-- name: ListChats :many
-- A page of the chats that the viewer may see, newest first. It is planned anew for each call (inbox.planned): which of the filters are there
-- decides which index gives the order. Times are texts as in the events, empty where they have no such form.
SELECT c.id, c.organization_id, c.channel_id, c.channel, c.name, c.external_id, c.status, c.priority, c.assigned_user_id, c.restricted,
  c.unread_count, coalesce(roombell.rfc3339(c.last_message_at), '')::text AS last_message_at, c.ticket_number, ARRAY(SELECT t FROM unnest(c.tags) t WHERE t IS NOT NULL)::text[] AS tags,
  coalesce(roombell.rfc3339(c.created_at), '')::text AS created_at, coalesce(roombell.rfc3339(c.updated_at), '')::text AS updated_at
FROM chats c
WHERE c.organization_id = @organization_id AND c.id < @before
  AND (sqlc.narg(status)::text IS NULL OR c.status = sqlc.narg(status)::text)
  AND (sqlc.narg(priority)::text IS NULL OR c.priority = sqlc.narg(priority)::text)
  AND (sqlc.narg(channel)::text IS NULL OR c.channel = sqlc.narg(channel)::text)
  AND (sqlc.narg(assigned_user_id)::bigint IS NULL OR c.assigned_user_id = sqlc.narg(assigned_user_id)::bigint)
  AND (sqlc.narg(unread)::boolean IS NULL OR (c.unread_count > 0) = sqlc.narg(unread)::boolean)
  AND (@sees_all::boolean OR NOT c.restricted OR c.assigned_user_id = @user_id::bigint
       OR EXISTS (SELECT FROM chat_members m WHERE m.chat_id = c.id AND m.user_id = @user_id::bigint))
ORDER BY c.id DESC LIMIT @page_size;

-- name: SearchChats :many
-- ListChats for those that have the words. First all that the index of words gives, then their order: the other way round a search for what
-- is in old chats alone would make words of all the others. Hence + 0: the index of words has the organization in it, no other one may be taken.
WITH found AS MATERIALIZED (
  SELECT c.id FROM chats c
  WHERE c.organization_id + 0 = @organization_id AND c.id + 0 < @before
    AND roombell.chat_words(c.organization_id, c.name, c.external_id, c.ticket_number, c.tags) @@ roombell.chat_query(@organization_id, @words::text)
    AND (sqlc.narg(status)::text IS NULL OR c.status = sqlc.narg(status)::text)
  AND (sqlc.narg(priority)::text IS NULL OR c.priority = sqlc.narg(priority)::text)
  AND (sqlc.narg(channel)::text IS NULL OR c.channel = sqlc.narg(channel)::text)
  AND (sqlc.narg(assigned_user_id)::bigint IS NULL OR c.assigned_user_id = sqlc.narg(assigned_user_id)::bigint)
  AND (sqlc.narg(unread)::boolean IS NULL OR (c.unread_count > 0) = sqlc.narg(unread)::boolean)
    AND (@sees_all::boolean OR NOT c.restricted OR c.assigned_user_id = @user_id::bigint
       OR EXISTS (SELECT FROM chat_members m WHERE m.chat_id = c.id AND m.user_id = @user_id::bigint))
  ORDER BY c.id DESC LIMIT @page_size
)
SELECT c.id, c.organization_id, c.channel_id, c.channel, c.name, c.external_id, c.status, c.priority, c.assigned_user_id, c.restricted,
  c.unread_count, coalesce(roombell.rfc3339(c.last_message_at), '')::text AS last_message_at, c.ticket_number, ARRAY(SELECT t FROM unnest(c.tags) t WHERE t IS NOT NULL)::text[] AS tags,
  coalesce(roombell.rfc3339(c.created_at), '')::text AS created_at, coalesce(roombell.rfc3339(c.updated_at), '')::text AS updated_at
FROM found f JOIN chats c ON c.id = f.id ORDER BY c.id DESC;

-- name: GetSeenChat :one
-- A chat that the viewer may see.
SELECT c.id, c.organization_id, c.channel_id, c.channel, c.name, c.external_id, c.status, c.priority, c.assigned_user_id, c.restricted,
  c.unread_count, coalesce(roombell.rfc3339(c.last_message_at), '')::text AS last_message_at, c.ticket_number, ARRAY(SELECT t FROM unnest(c.tags) t WHERE t IS NOT NULL)::text[] AS tags,
  coalesce(roombell.rfc3339(c.created_at), '')::text AS created_at, coalesce(roombell.rfc3339(c.updated_at), '')::text AS updated_at
FROM chats c
WHERE c.id = @chat_id AND c.organization_id = @organization_id
  AND (@sees_all::boolean OR NOT c.restricted OR c.assigned_user_id = @user_id::bigint
       OR EXISTS (SELECT FROM chat_members m WHERE m.chat_id = c.id AND m.user_id = @user_id::bigint));

-- name: LockSeenChat :one
-- The same, and nobody else changes it, nor who may see it, until the transaction ends: all writes for people begin here.
SELECT c.id FROM chats c
WHERE c.id = @chat_id AND c.organization_id = @organization_id
  AND (@sees_all::boolean OR NOT c.restricted OR c.assigned_user_id = @user_id::bigint
       OR EXISTS (SELECT FROM chat_members m WHERE m.chat_id = c.id AND m.user_id = @user_id::bigint))
FOR NO KEY UPDATE OF c;

-- name: GetChat :one
-- For the answer to one who has just changed it, and may not see it any more.
SELECT c.id, c.organization_id, c.channel_id, c.channel, c.name, c.external_id, c.status, c.priority, c.assigned_user_id, c.restricted,
  c.unread_count, coalesce(roombell.rfc3339(c.last_message_at), '')::text AS last_message_at, c.ticket_number, ARRAY(SELECT t FROM unnest(c.tags) t WHERE t IS NOT NULL)::text[] AS tags,
  coalesce(roombell.rfc3339(c.created_at), '')::text AS created_at, coalesce(roombell.rfc3339(c.updated_at), '')::text AS updated_at
FROM chats c WHERE c.id = @chat_id;

-- name: InsertChat :one
INSERT INTO chats (organization_id, channel_id, channel, name, external_id, status, priority, assigned_user_id, restricted, tags)
VALUES (@organization_id, sqlc.narg(channel_id), @channel, sqlc.narg(name), sqlc.narg(external_id), @status, @priority,
  sqlc.narg(assigned_user_id), @restricted, @tags::text[])
RETURNING id;

-- name: ChangeChat :exec
-- A field that is not asked for keeps its value; those that may be null have a flag of their own for that.
UPDATE chats SET
  name = CASE WHEN @sets_name::boolean THEN sqlc.narg(name)::text ELSE name END,
  external_id = CASE WHEN @sets_external_id::boolean THEN sqlc.narg(external_id)::text ELSE external_id END,
  assigned_user_id = CASE WHEN @sets_assigned_user_id::boolean THEN sqlc.narg(assigned_user_id)::bigint ELSE assigned_user_id END,
  status = coalesce(sqlc.narg(status)::text, status),
  priority = coalesce(sqlc.narg(priority)::text, priority),
  restricted = coalesce(sqlc.narg(restricted)::boolean, restricted),
  tags = CASE WHEN @sets_tags::boolean THEN @tags::text[] ELSE tags END
WHERE id = @chat_id;

-- name: DeleteChat :exec
DELETE FROM chats WHERE id = @chat_id;

-- name: CountUnread :one
-- What chats.unread_count will be when the projector has been there.
SELECT count(*)::integer FROM messages WHERE chat_id = @chat_id AND NOT from_me AND NOT is_read_by_operator;

-- name: MarkChatRead :exec
-- Of a whole chat. In the order of ids, so that two who do it at once do not lock each other out.
UPDATE messages SET is_read_by_operator = true
WHERE id IN (SELECT m.id FROM messages m WHERE m.chat_id = @chat_id AND NOT m.from_me AND NOT m.is_read_by_operator ORDER BY m.id FOR NO KEY UPDATE);

-- name: MarkMessages :exec
-- Sets or takes the read mark of those messages that came in and do not have it so.
UPDATE messages SET is_read_by_operator = @read::boolean
WHERE id IN (SELECT m.id FROM messages m WHERE m.id = ANY(@ids::bigint[]) AND m.chat_id = @chat_id AND NOT m.from_me
  AND m.is_read_by_operator <> @read::boolean ORDER BY m.id FOR NO KEY UPDATE);

-- name: CountMessagesOfChat :one
-- How many of the messages are the chat's.
SELECT count(*) FROM messages WHERE id = ANY(@ids::bigint[]) AND chat_id = @chat_id;

-- name: FindLastIncoming :one
-- The latest message that came in, read or not.
SELECT id FROM messages WHERE chat_id = @chat_id AND NOT from_me ORDER BY timestamp DESC, id DESC LIMIT 1;

-- name: GetAssignee :one
-- Whether a user of the organization may be given a chat. He stays until the transaction ends.
SELECT active FROM users WHERE id = sqlc.arg(user_id) AND organization_id = @organization_id FOR KEY SHARE;

-- name: HasChannel :one
-- The account stays until the transaction ends.
SELECT id FROM channels WHERE id = @channel_id AND organization_id = @organization_id FOR KEY SHARE;
