-- name: LockIdempotencyKey :one
-- Whether nobody else is at work with this key; until the transaction ends, then nobody else can be.
SELECT pg_try_advisory_xact_lock(hashtextextended(concat_ws(' ', @organization_id::bigint, @user_id::bigint, @key::text), 7461));

-- name: GetIdempotentAnswer :one
-- The first answer by this key, unless it is too old to be remembered.
SELECT request, status, answer FROM idempotency_keys
WHERE organization_id = @organization_id AND user_id = @user_id AND key = @key AND created_at > now() - interval '24 hours';

-- name: KeepIdempotentAnswer :exec
INSERT INTO idempotency_keys (organization_id, user_id, key, request, status, answer)
VALUES (@organization_id, @user_id, @key, @request, @status, @answer);

-- name: ForgetIdempotentAnswer :exec
-- One that is too old stands in the way of the next by the same key.
DELETE FROM idempotency_keys
WHERE organization_id = @organization_id AND user_id = @user_id AND key = @key AND created_at <= now() - interval '24 hours';

-- name: SweepIdempotentAnswers :exec
-- The oldest ones of everybody. Rows that another sweeper has are left to him.
DELETE FROM idempotency_keys WHERE ctid IN (
  SELECT k.ctid FROM idempotency_keys k WHERE k.created_at <= now() - interval '24 hours'
  ORDER BY k.created_at LIMIT @most FOR UPDATE SKIP LOCKED
);
