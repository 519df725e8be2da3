-- name: LoadProjected :one
SELECT projected FROM event_log_state;

-- name: StoreProjected :execrows
UPDATE event_log_state SET projected = @projected;
