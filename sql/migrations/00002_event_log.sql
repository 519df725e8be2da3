-- +goose Up

-- The event log: what the triggers record of every committed change, and all that the tail and its clients ever read.

CREATE SCHEMA roombell;
COMMENT ON SCHEMA roombell IS 'Roombell''s own functions and the version of its triggers.';

CREATE TABLE roombell_settings (
  id                    boolean PRIMARY KEY DEFAULT true CHECK (id),
  retention             interval NOT NULL DEFAULT '72 hours' CHECK (retention BETWEEN interval '1 second' AND interval '720 hours'),
  bulk_rows             integer NOT NULL DEFAULT 200 CHECK (bulk_rows >= 0),
  bulk_transaction_rows integer NOT NULL DEFAULT 2000 CHECK (bulk_transaction_rows >= 0),
  slot_seconds          bigint NOT NULL GENERATED ALWAYS AS (greatest(1, (extract(epoch FROM retention) / 8)::bigint)) STORED
);
INSERT INTO roombell_settings DEFAULT VALUES;
COMMENT ON TABLE roombell_settings IS 'One row: what all writers share. A transaction may override the thresholds with SET LOCAL roombell.bulk_rows and roombell.bulk_transaction_rows.';
COMMENT ON COLUMN roombell_settings.slot_seconds IS 'How long one slot of event_log is written: an eighth of the retention.';

CREATE TABLE event_log_state (
  id                boolean PRIMARY KEY DEFAULT true CHECK (id),
  system_identifier bigint,
  timeline_offset   bigint NOT NULL DEFAULT 0,
  projected         text
);
INSERT INTO event_log_state (system_identifier) SELECT system_identifier FROM pg_control_system();
COMMENT ON TABLE event_log_state IS 'One row: the cluster that the log belongs to, what is added to its timeline in ids, and how far the counters of chats are done.';

-- CACHE 1 and never set back: ids must not be handed out twice nor in the wrong order.
CREATE SEQUENCE event_log_seq CACHE 1;

-- A ring of ten slots, each an eighth of the retention long. Retention is TRUNCATE of the oldest: DELETE of the same rows writes
-- two thousand times the WAL.
CREATE TABLE event_log (
  id              bigint NOT NULL,
  txid            xid8 NOT NULL DEFAULT pg_current_xact_id(),
  slot            smallint NOT NULL,
  created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
  organization_id bigint,
  chat_id         bigint,
  user_id         bigint,
  audience        bigint[],
  kind            text NOT NULL,
  event           text,
  payload         json,
  touched         bigint[],
  named           bigint
) PARTITION BY LIST (slot);
-- +goose StatementBegin
DO $$
BEGIN
  FOR i IN 0..9 LOOP
    EXECUTE format('CREATE TABLE event_log_%s PARTITION OF event_log FOR VALUES IN (%s) WITH (autovacuum_vacuum_insert_threshold = 1000000)', i, i);
    EXECUTE format('COMMENT ON TABLE event_log_%s IS %L', i, 'Slot ' || i || ' of event_log.');
  END LOOP;
END $$;
-- +goose StatementEnd
CREATE INDEX event_log_id ON event_log (id);
CREATE INDEX event_log_txid ON event_log (txid, id);
CREATE INDEX event_log_organization ON event_log (organization_id, id);
-- What this transaction has named already, where it names each chat (each user) once: no other rows are in it.
CREATE INDEX event_log_named ON event_log (txid, named) WHERE named IS NOT NULL;
COMMENT ON TABLE event_log IS 'Every recorded event, for the retention. Written by Roombell''s triggers and functions only.';
COMMENT ON COLUMN event_log.id IS '((timeline_offset + timeline) << 43) | sequence: drawn while the row''s lock is held, so that changes of one row have ascending ids.';
COMMENT ON COLUMN event_log.txid IS 'The top-level transaction, inside savepoints too.';
COMMENT ON COLUMN event_log.organization_id IS 'null: concerns everybody (TRUNCATE).';
COMMENT ON COLUMN event_log.audience IS 'Users addressed one by one: those who may see a restricted chat, or who gained or lost it. null: the whole organization, or user_id alone.';
COMMENT ON COLUMN event_log.kind IS 'event (of the contract), custom (notify_user, broadcast_to_organization), touch (counters only), user and chats (rights changed), truncate.';
COMMENT ON COLUMN event_log.payload IS 'The JSON object that clients get, beside eventId, cursor and timestamp.';
COMMENT ON COLUMN event_log.touched IS 'Chats whose counters the event may have changed, beside chat_id.';
COMMENT ON COLUMN event_log.named IS 'Past the threshold of a transaction: the chat that this row names once, or, negative, the user.';

CREATE TABLE event_log_trim (
  slot       smallint PRIMARY KEY,
  max_id     bigint NOT NULL DEFAULT 0,
  max_txid   xid8 NOT NULL DEFAULT '0',
  emptied_at timestamptz
);
INSERT INTO event_log_trim (slot) SELECT generate_series(0, 9);
COMMENT ON TABLE event_log_trim IS 'The highest id and transaction that retention has removed from each slot: decides exactly which cursors are too old.';

CREATE TABLE event_log_timelines (
  timeline   bigint PRIMARY KEY,
  switch_lsn pg_lsn NOT NULL,
  noted_at   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE event_log_timelines IS 'Where each timeline after a promotion began: who has seen more of the former one may have seen what is lost.';

-- What message:new carries: to make JSON of a row type takes half the time that json_build_object takes for its keys and values.
CREATE TYPE roombell.message_new AS (
  id                bigint,
  "chatId"          bigint,
  "organizationId"  bigint,
  channel           text,
  "channelId"       bigint,
  content           text,
  type              text,
  "mediaUrl"        text,
  filename          text,
  "mimeType"        text,
  size              bigint,
  "fromMe"          boolean,
  "senderUserId"    bigint,
  status            text,
  "quotedMessageId" bigint,
  "quotedContent"   text,
  "externalId"      text,
  timestamp         text,
  "createdAt"       text
);
COMMENT ON TYPE roombell.message_new IS 'Payload of message:new.';

-- What a statement did to one chat: the triggers hand arrays of these to roombell.record_sums.
CREATE TYPE roombell.chat_sum AS (
  organization_id bigint,
  chat_id         bigint,
  new             integer,
  updated         integer,
  deleted         integer,
  read            integer,
  addressed       boolean,
  audience        bigint[]
);
COMMENT ON TYPE roombell.chat_sum IS 'Rows of one statement by chat. addressed: audience says who hears it (null: the organization); else it is looked up.';

-- +goose Down
DROP FUNCTION IF EXISTS notify_user(bigint, text, jsonb), broadcast_to_organization(bigint, text, jsonb);
DROP TABLE event_log_timelines, event_log_trim, event_log, event_log_state, roombell_settings;
DROP SEQUENCE event_log_seq;
DROP SCHEMA roombell CASCADE;
