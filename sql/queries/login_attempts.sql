-- name: HashSubject :one
-- What stands for an email or an address: the email in the letters that users_email compares.
SELECT sha256(convert_to('email ' || lower(sqlc.arg(email)::text), 'UTF8'))::bytea AS email,
       sha256(convert_to('address ' || sqlc.arg(address)::text, 'UTF8'))::bytea AS address;

-- name: LockSubjects :exec
-- Tries of one subject come one after the other, on all nodes, so that none sees fewer than there are. Both locks in one order: no deadlock.
SELECT pg_advisory_xact_lock(least(a, b)), pg_advisory_xact_lock(greatest(a, b))
FROM (SELECT hashtextextended(encode(sqlc.arg(email)::bytea, 'hex'), 7462) AS a, hashtextextended(encode(sqlc.arg(address)::bytea, 'hex'), 7462) AS b) keys;

-- name: CountAttempts :one
-- After LockSubjects, in a statement of its own: what others did meanwhile is seen. first is the oldest try that counts, by the database's clock.
SELECT count(*) AS tries, coalesce(extract(epoch FROM min(at) + make_interval(secs => sqlc.arg(span)::float8) - clock_timestamp()), 0)::float8 AS ends_in
FROM login_attempts WHERE subject = @subject AND at > clock_timestamp() - make_interval(secs => sqlc.arg(span)::float8);

-- name: CreateAttempts :exec
INSERT INTO login_attempts (subject, at) VALUES (sqlc.arg(email)::bytea, clock_timestamp()), (sqlc.arg(address)::bytea, clock_timestamp());

-- name: DeleteOldAttempts :execrows
-- Some at a time, and none that another try is deleting: each try removes more than it adds.
DELETE FROM login_attempts WHERE ctid = ANY (ARRAY(
  SELECT ctid FROM login_attempts WHERE at < clock_timestamp() - make_interval(secs => sqlc.arg(span)::float8) ORDER BY at LIMIT 100 FOR UPDATE SKIP LOCKED));
