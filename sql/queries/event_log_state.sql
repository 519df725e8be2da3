-- name: LoadProjected :one
SELECT projected FROM event_log_state;

-- name: StoreProjected :execrows
UPDATE event_log_state SET projected = @projected;

-- name: CountEventsAfter :one
-- Up to a limit: the caller asks whether it is more, not how many.
SELECT count(*) FROM (SELECT FROM event_log WHERE id > @after LIMIT @at_most) e;
