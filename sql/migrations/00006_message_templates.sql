-- +goose Up

ALTER TABLE messages ADD COLUMN template jsonb;
COMMENT ON COLUMN messages.template IS 'What the vendor is asked to send in place of the content, where that needs a template (WABA). Written once, by who inserts the row.';

-- +goose Down
ALTER TABLE messages DROP COLUMN template;
