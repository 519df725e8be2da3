-- +goose Up

ALTER TABLE event_log_trim ADD COLUMN snapshot pg_snapshot;
COMMENT ON COLUMN event_log_trim.snapshot IS 'Taken under the lock of the emptying: what was removed had ended in it. A transaction that is older than the retention and still open had nothing there, and must not make all cursors that saw it running too old. null: emptied before there was this column.';

-- +goose Down
ALTER TABLE event_log_trim DROP COLUMN snapshot;
