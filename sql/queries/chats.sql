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
