-- name: SendMessage :one
-- One statement is one round trip and one transaction: may the sender see the chat, has this key its answer, is nobody at work with it, the message,
-- and its answer for the next who asks. The snapshot is older than the lock: who kept an answer between the two makes the last INSERT fail by its primary
-- key, and the whole statement has done nothing.
WITH chat AS MATERIALIZED (
  SELECT c.id, c.organization_id, c.channel, c.channel_id FROM chats c JOIN users u ON u.organization_id = c.organization_id
  WHERE c.id = @chat_id AND c.organization_id = @organization_id AND u.id = @user_id AND u.active
    AND (NOT c.restricted OR u.role = 'admin' OR c.assigned_user_id = u.id
         OR EXISTS (SELECT FROM chat_members x WHERE x.chat_id = c.id AND x.user_id = u.id))
), kept AS MATERIALIZED (
  SELECT k.request, k.status, k.answer FROM idempotency_keys k
  WHERE k.organization_id = @organization_id AND k.user_id = @user_id AND k.key = sqlc.arg(key)::text AND sqlc.arg(key)::text <> ''
    AND k.created_at > now() - interval '24 hours'
), turn AS MATERIALIZED (
  SELECT CASE WHEN sqlc.arg(key)::text = '' THEN true
    ELSE pg_try_advisory_xact_lock(hashtextextended(concat_ws(' ', @organization_id::bigint, @user_id::bigint, sqlc.arg(key)::text), 7461)) END AS ours
  FROM chat WHERE NOT EXISTS (SELECT FROM kept)
), quoted AS MATERIALIZED (
  SELECT q.id, left(q.content, @quote_length::integer) AS content FROM messages q JOIN chat ON q.chat_id = chat.id WHERE q.id = sqlc.narg('quoted_message_id')::bigint
), written AS (
  INSERT INTO messages (organization_id, chat_id, channel_id, from_me, sender_user_id, type, content, media_url, template, status, quoted_message_id,
    quoted_content, idempotency_key)
  SELECT chat.organization_id, chat.id, chat.channel_id, true, @user_id, @type, sqlc.narg('content'), sqlc.narg('media_url'), sqlc.narg('template')::jsonb, 'pending',
    (SELECT id FROM quoted), (SELECT content FROM quoted), nullif(sqlc.arg(key)::text, '')
  FROM chat JOIN turn ON turn.ours
  WHERE sqlc.narg('quoted_message_id')::bigint IS NULL OR EXISTS (SELECT FROM quoted)
  RETURNING *
), shaped AS (
  SELECT json_build_object('id', w.id, 'chatId', w.chat_id, 'organizationId', w.organization_id, 'channel', chat.channel, 'channelId', w.channel_id,
    'content', w.content, 'type', w.type, 'mediaUrl', w.media_url, 'template', w.template, 'fromMe', w.from_me, 'senderUserId', w.sender_user_id,
    'status', w.status, 'quotedMessageId', w.quoted_message_id, 'quotedContent', w.quoted_content, 'timestamp', roombell.rfc3339(w.timestamp),
    'createdAt', roombell.rfc3339(w.created_at), 'updatedAt', roombell.rfc3339(w.updated_at)) AS answer
  FROM written w JOIN chat ON chat.id = w.chat_id
), answered AS (
  INSERT INTO idempotency_keys (organization_id, user_id, key, request, status, answer)
  SELECT @organization_id, @user_id, sqlc.arg(key)::text, @request, @status, s.answer FROM shaped s WHERE sqlc.arg(key)::text <> ''
)
SELECT EXISTS (SELECT FROM chat) AS seen, coalesce((SELECT turn.ours FROM turn), false)::boolean AS ours, (SELECT kept.request FROM kept)::bytea AS kept_request,
  coalesce((SELECT kept.status FROM kept), @status)::integer AS answer_status, (SELECT answer FROM kept UNION ALL SELECT answer FROM shaped)::json AS answer;

-- name: ListMessages :many
-- Newest first by (timestamp, id), which the index has and which no later write of another row changes: a backfilled message has its place by its time,
-- below or above where one is reading. position is that key's time, exact and with the infinities.
SELECT m.id, m.chat_id, m.organization_id, c.channel, coalesce(m.channel_id, c.channel_id) AS channel_id, m.content, m.type, m.media_url, m.template,
  m.filename, m.mime_type, m.size, m.from_me, m.sender_user_id, m.status, m.error, m.quoted_message_id, m.quoted_content, m.external_id,
  m.is_read_by_operator, m.read_by_user_id,
  coalesce(roombell.rfc3339(m.read_at), '')::text AS read_at, coalesce(roombell.rfc3339(m.timestamp), '')::text AS timestamp,
  coalesce(roombell.rfc3339(m.created_at), '')::text AS created_at, coalesce(roombell.rfc3339(m.updated_at), '')::text AS updated_at,
  (to_json(m.timestamp) #>> '{}')::text AS position
FROM messages m JOIN chats c ON c.id = m.chat_id
WHERE m.chat_id = @chat_id AND (m.timestamp, m.id) < ((sqlc.arg(before)::text)::timestamptz, @before_id::bigint)
ORDER BY m.timestamp DESC, m.id DESC LIMIT @most;

-- name: GetMessage :one
-- A message of a chat that the user may see today (SeesChat), whole.
SELECT m.id, m.chat_id, m.organization_id, c.channel, coalesce(m.channel_id, c.channel_id) AS channel_id, m.content, m.type, m.media_url, m.template,
  m.filename, m.mime_type, m.size, m.from_me, m.sender_user_id, m.status, m.error, m.quoted_message_id, m.quoted_content, m.external_id,
  m.is_read_by_operator, m.read_by_user_id,
  coalesce(roombell.rfc3339(m.read_at), '')::text AS read_at, coalesce(roombell.rfc3339(m.timestamp), '')::text AS timestamp,
  coalesce(roombell.rfc3339(m.created_at), '')::text AS created_at, coalesce(roombell.rfc3339(m.updated_at), '')::text AS updated_at,
  (to_json(m.timestamp) #>> '{}')::text AS position
FROM messages m JOIN chats c ON c.id = m.chat_id JOIN users u ON u.organization_id = c.organization_id
WHERE m.id = @message_id AND c.organization_id = @organization_id AND u.id = @user_id AND u.active
  AND (NOT c.restricted OR u.role = 'admin' OR c.assigned_user_id = u.id
       OR EXISTS (SELECT FROM chat_members x WHERE x.chat_id = c.id AND x.user_id = u.id));

-- name: ChangeMessage :execrows
-- Only while no channel has taken it: who takes it sets another status, under the same row's lock.
UPDATE messages SET content = @content WHERE id = @message_id AND status = 'pending' AND from_me;

-- name: DeleteMessage :execrows
DELETE FROM messages WHERE id = @message_id;

-- name: RetryMessage :one
-- What failed as an order of its own, by the one who asks; the failed one stays as it is.
INSERT INTO messages (organization_id, chat_id, channel_id, from_me, sender_user_id, type, content, media_url, template, filename, mime_type, size, status,
  quoted_message_id, quoted_content, idempotency_key)
SELECT m.organization_id, m.chat_id, c.channel_id, true, @user_id, m.type, m.content, m.media_url, m.template, m.filename, m.mime_type, m.size, 'pending',
  m.quoted_message_id, m.quoted_content, sqlc.narg('key')
FROM messages m JOIN chats c ON c.id = m.chat_id WHERE m.id = @message_id AND m.from_me AND m.status = 'failed'
RETURNING id;
