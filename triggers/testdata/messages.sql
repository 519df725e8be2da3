INSERT INTO messages (chat_id, content) VALUES (1, 'hi')

-- every column
INSERT INTO messages (organization_id, chat_id, channel_id, from_me, sender_user_id, type, content, media_url, filename, mime_type, size, status, external_id,
  quoted_message_id, quoted_content, timestamp) VALUES (1, 1, 1, true, 2, 'image', 'look', 'https://x/y.png', 'y.png', 'image/png', 9007199254740991, 'sent', 'e1', 1, 'hi', '1999-01-02 03:04:05.678+02')

-- an outgoing text without a status is an order to send
INSERT INTO messages (chat_id, from_me, content) VALUES (2, true, 'out')

INSERT INTO messages (chat_id, content) SELECT 1 + g % 2, 'row ' || g FROM generate_series(1, 4) g

-- restricted
INSERT INTO messages (chat_id, content) VALUES (3, 'for few')

-- strange texts and times
INSERT INTO messages (chat_id, content, timestamp) VALUES (1, E'\x01 "quoted" \\ back </script> \u2028 😀', 'infinity'), (1, NULL, '0044-03-15 BC'), (1, '', '10000-01-01')

-- 300 KB are cut at a character's boundary
INSERT INTO messages (chat_id, content) VALUES (1, repeat('ä', 150000)), (1, 'x' || repeat('€', 100000))

UPDATE messages SET content = 'hello', size = 7 WHERE id = 1

-- the same again: nothing
UPDATE messages SET content = 'hello' WHERE id = 1

-- updated_at alone is nothing
UPDATE messages SET updated_at = now() + interval '1 day' WHERE id = 1

UPDATE messages SET status = 'sending' WHERE id = 3

UPDATE messages SET status = 'delivered', external_id = 'e3' WHERE id = 3

-- never backwards
UPDATE messages SET status = 'sent' WHERE id = 3

-- delivered cannot fail
UPDATE messages SET status = 'failed', error = 'late' WHERE id = 3

-- received never changes
UPDATE messages SET status = 'read' WHERE id = 1

INSERT INTO messages (chat_id, from_me, content) VALUES (1, true, 'fails'); UPDATE messages SET status = 'failed', error = 'no such number' WHERE content = 'fails'

-- failed is final
UPDATE messages SET status = 'sent' WHERE content = 'fails'

UPDATE messages SET error = 'said again' WHERE content = 'fails'

-- marks and status at once
UPDATE messages SET status = 'read', is_read_by_operator = true WHERE id IN (1, 3)

SET LOCAL roombell.actor = '3'; UPDATE messages SET is_read_by_operator = true WHERE chat_id IN (1, 2, 3)

SELECT id, read_by_user_id, read_at IS NOT NULL FROM messages WHERE is_read_by_operator

-- already read
UPDATE messages SET is_read_by_operator = true WHERE chat_id = 1

-- unread again: counters only
UPDATE messages SET is_read_by_operator = false WHERE id = 1

-- moved to another chat
UPDATE messages SET chat_id = 2 WHERE id = 1

UPDATE messages SET timestamp = '1999-05-05 00:00+00' WHERE id = 1

UPDATE messages m SET content = s.t FROM (VALUES (4, 'from four'), (5, 'from five')) s(id, t) WHERE m.id = s.id

INSERT INTO messages (chat_id, channel_id, external_id, content) VALUES (1, 1, 'e1', 'again') ON CONFLICT (channel_id, external_id) WHERE external_id IS NOT NULL DO UPDATE SET content = excluded.content

INSERT INTO messages (chat_id, channel_id, external_id, content) VALUES (1, 1, 'e1', 'thrice') ON CONFLICT DO NOTHING

MERGE INTO messages m USING (VALUES (4, 'merged'), (999, 'new by merge')) s(id, t) ON m.id = s.id
  WHEN MATCHED THEN UPDATE SET content = s.t WHEN NOT MATCHED THEN INSERT (chat_id, content) VALUES (2, s.t)

DELETE FROM messages WHERE id IN (4, 5)

-- nothing matches
DELETE FROM messages WHERE id = 999999; UPDATE messages SET content = 'x' WHERE id = 999999

TRUNCATE messages
