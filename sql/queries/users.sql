-- name: GetUser :one
SELECT id, organization_id, email, name, role, active FROM users WHERE id = $1;

-- name: ListUsers :many
-- Those of the given users that exist, active or not.
SELECT id, organization_id, email, role, active FROM users WHERE id = ANY(@ids::bigint[]);

-- name: GetUserByEmail :one
-- email is unique in any case: the index is over lower(email).
SELECT id, organization_id, email, name, role, active, password_hash FROM users WHERE lower(email) = lower(sqlc.arg(email)::text);

-- name: CreateUser :one
INSERT INTO users (organization_id, email, name, role, password_hash)
VALUES (@organization_id, @email, @name, @role, @password_hash) RETURNING id;

-- name: SetPassword :execrows
UPDATE users SET password_hash = @password_hash WHERE id = sqlc.arg(user_id);

-- name: GetPerson :one
SELECT id, organization_id, email, name, role, active, created_at FROM users WHERE id = sqlc.arg(user_id) AND organization_id = @organization_id;

-- name: GetBearer :one
-- What a request needs to know of the one whose token it bears.
SELECT id, organization_id, role, active, tokens_from, token_generation FROM users WHERE id = $1;
