-- name: GetUser :one
SELECT id, organization_id, email, name, role, active, token_generation FROM users WHERE id = $1;

-- name: ListUsers :many
-- Those of the given users that exist, active or not.
SELECT id, organization_id, email, role, active, token_generation AS generation, tokens_from FROM users WHERE id = ANY(@ids::bigint[]);

-- name: GetUserByEmail :one
-- email is unique in any case: the index is over lower(email).
SELECT id, organization_id, email, name, role, active, password_hash FROM users WHERE lower(email) = lower(sqlc.arg(email)::text);

-- name: CreateUser :one
INSERT INTO users (organization_id, email, name, role, password_hash)
VALUES (@organization_id, @email, @name, @role, @password_hash) RETURNING id;

-- name: SetPassword :execrows
UPDATE users SET password_hash = @password_hash WHERE id = sqlc.arg(user_id);

-- name: GetPerson :one
-- Times are texts as in the events, empty where they have no such form.
SELECT id, organization_id, email, name, role, active, coalesce(roombell.rfc3339(created_at), '')::text AS created_at
FROM users WHERE id = sqlc.arg(user_id) AND organization_id = @organization_id;

-- name: ListPeople :many
-- A page of an organization's users: the newest first, from below the last one of the page before.
SELECT id, organization_id, email, name, role, active, coalesce(roombell.rfc3339(created_at), '')::text AS created_at
FROM users WHERE organization_id = @organization_id AND (@after_id::bigint = 0 OR id < @after_id) ORDER BY id DESC LIMIT @page_size;

-- name: GetCredentials :one
-- By email, as somebody who logs in says it.
SELECT id, organization_id, email, name, role, active, coalesce(roombell.rfc3339(created_at), '')::text AS created_at,
       password_hash, token_generation
FROM users WHERE lower(email) = lower(sqlc.arg(email)::text);

-- name: LockUser :one
-- Before its role or its being active is changed; the organization is locked before (LockOrganization).
SELECT role, active FROM users WHERE id = sqlc.arg(user_id) AND organization_id = @organization_id FOR UPDATE;

-- name: CountOtherAdmins :one
-- Admins who could still do what the given user could. Under LockOrganization the number holds until the transaction ends.
SELECT count(*) FROM users WHERE organization_id = @organization_id AND role = 'admin' AND active AND id <> sqlc.arg(user_id);

-- name: UpdateUser :one
-- What is null stays. A new password_hash ends the user's tokens (trigger roombell_tokens).
UPDATE users SET email = coalesce(sqlc.narg(email), email), name = coalesce(sqlc.narg(name), name), role = coalesce(sqlc.narg(role), role),
  active = coalesce(sqlc.narg(active), active), password_hash = coalesce(sqlc.narg(password_hash), password_hash)
WHERE id = sqlc.arg(user_id) AND organization_id = @organization_id
RETURNING id, organization_id, email, name, role, active, coalesce(roombell.rfc3339(created_at), '')::text AS created_at;

-- name: DeleteUser :execrows
DELETE FROM users WHERE id = sqlc.arg(user_id) AND organization_id = @organization_id;

-- name: EndTokens :execrows
-- The trigger roombell_tokens makes it the real time, and moves the generation.
UPDATE users SET tokens_from = now() WHERE id = sqlc.arg(user_id);

-- name: GetBearer :one
-- What a request needs to know of the one whose token it bears.
SELECT id, organization_id, role, active, tokens_from, token_generation FROM users WHERE id = $1;
