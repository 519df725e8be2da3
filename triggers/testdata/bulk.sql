INSERT INTO messages (chat_id, content) SELECT 1 + g % 2, 'm' FROM generate_series(1, 201) g

INSERT INTO messages (chat_id, content) SELECT 1, 'm' FROM generate_series(1, 1)

INSERT INTO messages (chat_id, content) SELECT 1 + g % 4, 'm' FROM generate_series(1, 400) g

UPDATE messages SET content = 'n'

-- read marks are one event a chat, whatever the number; ids at most 500
UPDATE messages SET is_read_by_operator = true WHERE id <= 400

INSERT INTO messages (chat_id, content) SELECT 1, 'x' FROM generate_series(1, 700) g

UPDATE messages SET is_read_by_operator = true WHERE content = 'x'

UPDATE messages SET is_read_by_operator = false WHERE content = 'x'

UPDATE messages SET is_read_by_operator = true, content = 'y' WHERE content = 'x'

-- moved in bulk: both chats
UPDATE messages SET chat_id = 2 WHERE content = 'y'

UPDATE messages SET updated_at = now() + interval '1 day'

-- over 500 chats: truncated
INSERT INTO chats (organization_id, name) SELECT 1, 'bulk' FROM generate_series(1, 501)

BEGIN; INSERT INTO messages (chat_id, content) SELECT id, 'z' FROM chats WHERE name = 'bulk'; UPDATE event_log SET touched = ARRAY[cardinality(touched)] WHERE cardinality(touched) > 100; COMMIT

-- over 500 chats read: summed
BEGIN; UPDATE messages SET is_read_by_operator = true WHERE content = 'z'; UPDATE event_log SET touched = ARRAY[cardinality(touched)] WHERE cardinality(touched) > 100; COMMIT

-- a bulk that takes chats away: each audience its own sum, and the listener checks rights
BEGIN; SET LOCAL roombell.bulk_rows = 1; UPDATE chats SET restricted = true WHERE id IN (1, 2); COMMIT

BEGIN; SET LOCAL roombell.bulk_rows = 1; UPDATE chats SET restricted = false, priority = 'high' WHERE id IN (1, 2, 3); COMMIT

BEGIN; SET LOCAL roombell.bulk_rows = 1; UPDATE chats SET restricted = true WHERE id = 3; DELETE FROM chats WHERE id IN (1, 2, 3); COMMIT

INSERT INTO notifications (user_id, message) SELECT 1 + g % 3, 'n' FROM generate_series(1, 300) g

UPDATE notifications SET read_at = now() WHERE user_id <= 2

DELETE FROM notifications WHERE user_id <= 3

DELETE FROM messages WHERE chat_id = 4
