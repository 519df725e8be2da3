-- name: CreateOrganization :one
INSERT INTO organizations (name) VALUES ($1) RETURNING id;

-- name: ListOrganizationIDs :many
SELECT id FROM organizations ORDER BY id;

-- name: GetOrganization :one
SELECT id, name, coalesce(roombell.rfc3339(created_at), '')::text AS created_at FROM organizations WHERE id = $1;

-- name: LockOrganization :one
-- Whoever takes an admin away holds it: two who do that at once would each still see the other's. FOR NO KEY UPDATE lets all writers of
-- rows that refer to the organization pass.
SELECT id FROM organizations WHERE id = $1 FOR NO KEY UPDATE;
