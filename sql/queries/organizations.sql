-- name: CreateOrganization :one
INSERT INTO organizations (name) VALUES ($1) RETURNING id;

-- name: ListOrganizationIDs :many
SELECT id FROM organizations ORDER BY id;
