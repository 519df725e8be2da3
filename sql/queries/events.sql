-- name: ListLivingMessages :many
-- Those of the given messages that exist: what was said in the others is left out of the history.
SELECT id FROM messages WHERE id = ANY(@ids::bigint[]);

-- name: ListLivingNotifications :many
-- Those of the given notifications that exist.
SELECT id FROM notifications WHERE id = ANY(@ids::bigint[]);

-- name: GetMessageSpan :one
-- When a message's row was written and last changed, by the clock and by the last writer's transaction: where the log has its events. xmin has
-- the lower half of the transaction's number, and no transaction is more than half of that back.
SELECT m.organization_id, m.chat_id, least(m.created_at, m.updated_at)::timestamptz AS written_at,
  greatest(m.created_at, m.updated_at, coalesce(m.read_at, m.updated_at))::timestamptz AS changed_at,
  (n.newest - ((n.newest - m.xmin::text::bigint) & 4294967295))::bigint AS changed_by
FROM messages m, (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS newest) n
WHERE m.id = @message_id AND m.organization_id = @organization_id;
