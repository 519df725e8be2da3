-- name: ListMemberIDs :many
SELECT user_id FROM chat_members WHERE chat_id = @chat_id ORDER BY user_id;

-- name: AddMembers :exec
-- Those who are members already stay, and hear nothing.
INSERT INTO chat_members (chat_id, user_id, organization_id)
SELECT @chat_id, u.id, u.organization_id FROM users u WHERE u.id = ANY(@user_ids::bigint[]) AND u.organization_id = @organization_id ORDER BY u.id
ON CONFLICT DO NOTHING;

-- name: RemoveOtherMembers :exec
DELETE FROM chat_members WHERE chat_id = @chat_id AND user_id <> ALL(@user_ids::bigint[]);

-- name: ListUserIDsOf :many
-- Those of the given users that are the organization's. They stay until the transaction ends.
SELECT id FROM users WHERE id = ANY(@user_ids::bigint[]) AND organization_id = @organization_id ORDER BY id FOR KEY SHARE;
