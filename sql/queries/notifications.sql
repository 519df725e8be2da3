-- name: CreateNotification :one
-- None when the user is not of the organization.
INSERT INTO notifications (organization_id, user_id, type, message, data)
SELECT u.organization_id, u.id, @type, @message, @data FROM users u WHERE u.id = @user_id AND u.organization_id = @organization_id
RETURNING id, type, message, data, ''::text AS read_at,
  coalesce(roombell.rfc3339(created_at), '')::text AS created_at, ''::text AS position;

-- name: ListNotifications :many
-- One's own, newest first by (created_at, id), which the index has. position is that key's time, exact and with the infinities.
SELECT n.id, n.type, n.message, n.data,
  coalesce(roombell.rfc3339(n.read_at), '')::text AS read_at,
  coalesce(roombell.rfc3339(n.created_at), '')::text AS created_at, (to_json(n.created_at) #>> '{}')::text AS position
FROM notifications n
WHERE n.user_id = @user_id AND (n.created_at, n.id) < ((sqlc.arg(before)::text)::timestamptz, @before_id::bigint) AND (NOT @unread::boolean OR n.read_at IS NULL)
ORDER BY n.created_at DESC, n.id DESC LIMIT @most;

-- name: ReadNotification :one
-- The first reading counts; what was read already is no event.
UPDATE notifications n SET read_at = coalesce(n.read_at, now()) WHERE n.id = @notification_id AND n.user_id = @user_id
RETURNING n.id, n.type, n.message, n.data,
  coalesce(roombell.rfc3339(n.read_at), '')::text AS read_at,
  coalesce(roombell.rfc3339(n.created_at), '')::text AS created_at, (to_json(n.created_at) #>> '{}')::text AS position;

-- name: ReadAllNotifications :execrows
UPDATE notifications SET read_at = now() WHERE user_id = @user_id AND read_at IS NULL;

-- name: DeleteNotification :execrows
DELETE FROM notifications WHERE id = @notification_id AND user_id = @user_id;

-- name: NotifyUser :execrows
-- None when the user is not of the organization.
SELECT notify_user(u.id, @event::text, @data::jsonb) FROM users u WHERE u.id = sqlc.arg(user_id)::bigint AND u.organization_id = @organization_id;

-- name: BroadcastToOrganization :exec
SELECT broadcast_to_organization(@organization_id::bigint, @event::text, @data::jsonb);
