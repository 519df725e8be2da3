-- name: CreateChannel :one
INSERT INTO channels (organization_id, provider, name, external_id) VALUES (@organization_id, @provider, @name, @external_id)
RETURNING id, organization_id, provider, name, status, external_id,
  coalesce(roombell.rfc3339(created_at), '')::text AS created_at,
  coalesce(roombell.rfc3339(updated_at), '')::text AS updated_at;

-- name: GetChannel :one
-- Times are texts as in the events, empty where they have no such form.
SELECT id, organization_id, provider, name, status, external_id,
  coalesce(roombell.rfc3339(created_at), '')::text AS created_at,
  coalesce(roombell.rfc3339(updated_at), '')::text AS updated_at
FROM channels WHERE id = sqlc.arg(channel_id) AND organization_id = @organization_id;

-- name: ListChannels :many
SELECT id, organization_id, provider, name, status, external_id,
  coalesce(roombell.rfc3339(created_at), '')::text AS created_at,
  coalesce(roombell.rfc3339(updated_at), '')::text AS updated_at
FROM channels WHERE organization_id = @organization_id AND (@after_id::bigint = 0 OR id < @after_id) ORDER BY id DESC LIMIT @page_size;

-- name: UpdateChannel :one
-- What is null stays; an empty external_id is taken away.
UPDATE channels SET name = coalesce(sqlc.narg(name), name), external_id = nullif(coalesce(sqlc.narg(external_id), external_id), ''), updated_at = now()
WHERE id = sqlc.arg(channel_id) AND organization_id = @organization_id
RETURNING id, organization_id, provider, name, status, external_id,
  coalesce(roombell.rfc3339(created_at), '')::text AS created_at,
  coalesce(roombell.rfc3339(updated_at), '')::text AS updated_at;

-- name: DeleteChannel :execrows
DELETE FROM channels WHERE id = sqlc.arg(channel_id) AND organization_id = @organization_id;
