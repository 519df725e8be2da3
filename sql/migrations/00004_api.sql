-- +goose Up

-- What the HTTP API keeps beside the inbox.

ALTER TABLE users ADD COLUMN tokens_from timestamptz CHECK (isfinite(tokens_from)),
                  ADD COLUMN token_generation integer NOT NULL DEFAULT 1 CHECK (token_generation > 0);
COMMENT ON COLUMN users.tokens_from IS 'Tokens issued before are refused. Set it to now() to end them all; it moves by itself with a changed password (any writer). Null: never happened.';
COMMENT ON COLUMN users.token_generation IS 'Counts those moves, by itself: tokens of our own carry it (claim gen), because clocks of nodes and database differ.';

-- An answer is kept with its request's hash for 24 hours; the transaction that made it holds the row, so that it is there exactly when the effect is.
CREATE TABLE idempotency_keys (
  organization_id bigint NOT NULL,
  user_id         bigint NOT NULL,
  key             text NOT NULL,
  request         bytea NOT NULL,
  status          integer NOT NULL,
  answer          json NOT NULL,
  created_at      timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, user_id, key),
  FOREIGN KEY (organization_id, user_id) REFERENCES users (organization_id, id) ON DELETE CASCADE
);
CREATE INDEX idempotency_keys_created ON idempotency_keys (created_at);
COMMENT ON TABLE idempotency_keys IS 'First answers by Idempotency-Key. Keys belong to organization and user, for 24 hours.';

-- Tries to give a password, over all nodes. subject is a hash of an email or of an address: whose it was is nobody's business here.
CREATE TABLE login_attempts (
  subject bytea NOT NULL,
  at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX login_attempts_subject ON login_attempts (subject, at);
CREATE INDEX login_attempts_at ON login_attempts (at);
COMMENT ON TABLE login_attempts IS 'Failed and successful tries of the last 15 minutes, by the hash of email and of address. Each try removes some that are older.';

-- +goose Down
DROP TABLE login_attempts, idempotency_keys;
ALTER TABLE users DROP COLUMN tokens_from, DROP COLUMN token_generation;
