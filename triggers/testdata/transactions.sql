BEGIN; INSERT INTO messages (chat_id, content) VALUES (1, 'gone'); ROLLBACK

BEGIN; INSERT INTO messages (chat_id, content) VALUES (1, 'kept'); SAVEPOINT s; INSERT INTO messages (chat_id, content) VALUES (1, 'gone'); ROLLBACK TO s; INSERT INTO messages (chat_id, content) VALUES (1, 'kept too'); COMMIT

DO $$ BEGIN INSERT INTO messages (chat_id, content) VALUES (1, 'gone'); RAISE EXCEPTION 'no'; EXCEPTION WHEN OTHERS THEN NULL; END $$

-- nonsense settings count as unset
SET LOCAL roombell.notify = 'nonsense'; SET LOCAL roombell.actor = 'Robert''); DROP TABLE'; SET LOCAL roombell.bulk_rows = '-1'; SET LOCAL roombell.bulk_transaction_rows = '1e9'; SET LOCAL roombell.two_phase = '?';
SET LOCAL roombell.transaction_rows = 'x'; SET LOCAL roombell.audiences = '{'; INSERT INTO messages (chat_id, content) VALUES (1, 'a'), (1, 'b'); UPDATE chats SET status = 'open' WHERE id = 1

-- off
BEGIN; SET LOCAL roombell.notify = 'off'; INSERT INTO messages (chat_id, content) VALUES (1, 'a'); INSERT INTO messages (chat_id, content) VALUES (1, 'b'), (2, 'c'); UPDATE chats SET status = 'pending' WHERE id = 1;
  INSERT INTO notifications (user_id, message) VALUES (2, 'n'); INSERT INTO chat_members (chat_id, user_id) VALUES (3, 3); UPDATE chats SET assigned_user_id = 4, name = 'still secret' WHERE id = 3; COMMIT

-- summary
BEGIN; SET LOCAL roombell.notify = 'summary'; INSERT INTO messages (chat_id, content) VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd'); UPDATE messages SET is_read_by_operator = true WHERE chat_id IN (1, 3);
  UPDATE messages SET content = 'e' WHERE chat_id = 2; DELETE FROM messages WHERE chat_id = 2; INSERT INTO notifications (user_id, message) SELECT 2, 'n' FROM generate_series(1, 3); COMMIT

-- each, whatever the number
BEGIN; SET LOCAL roombell.notify = 'each'; SET LOCAL roombell.bulk_rows = 1; SET LOCAL roombell.bulk_transaction_rows = 1; DELETE FROM notifications; COMMIT

-- both worlds: what was sent singly stays single, then each chat once
BEGIN; SET LOCAL roombell.bulk_transaction_rows = 2; INSERT INTO messages (chat_id, content) VALUES (1, 'one'); INSERT INTO messages (chat_id, content) VALUES (1, 'two'); INSERT INTO messages (chat_id, content) VALUES (1, 'three');
  INSERT INTO messages (chat_id, content) VALUES (1, 'four'); INSERT INTO messages (chat_id, content) VALUES (3, 'five'), (3, 'six'); INSERT INTO messages (chat_id, content) VALUES (3, 'seven');
  UPDATE chats SET status = 'closed' WHERE id = 2; UPDATE chats SET status = 'open' WHERE id = 2; INSERT INTO notifications (user_id) VALUES (2); INSERT INTO notifications (user_id) VALUES (2); COMMIT

-- the next transaction counts anew
INSERT INTO messages (chat_id, content) VALUES (1, 'single')

-- as superuser: two-phase; after a NOTIFY this would be refused
SET roombell.two_phase = 'on'; INSERT INTO messages (chat_id, content) VALUES (1, 'prepared'); RESET roombell.two_phase

-- thresholds for everybody, heard by sessions that are open
UPDATE roombell_settings SET bulk_rows = 2, bulk_transaction_rows = 3

INSERT INTO messages (chat_id, content) VALUES (1, 'a'), (1, 'b'), (2, 'c')

BEGIN; INSERT INTO messages (chat_id, content) VALUES (1, 'a'), (1, 'b'); INSERT INTO messages (chat_id, content) VALUES (1, 'c'), (2, 'd'); COMMIT
