INSERT INTO messages (chat_id, content) VALUES (999, 'nowhere')

INSERT INTO messages (content) VALUES ('nowhere')

INSERT INTO messages (organization_id, chat_id, content) VALUES (2, 1, 'mismatch')

INSERT INTO messages (chat_id, sender_user_id, content) VALUES (1, 5, 'foreign sender')

INSERT INTO messages (chat_id, channel_id, content) VALUES (1, 2, 'foreign channel')

INSERT INTO messages (chat_id, content) VALUES (4, 'theirs')

INSERT INTO messages (chat_id, content, quoted_message_id) SELECT 1, 'foreign quote', id FROM messages WHERE chat_id = 4

INSERT INTO messages (chat_id, content) VALUES (1, 'ours'); UPDATE messages SET chat_id = 4 WHERE content = 'ours'

UPDATE messages SET organization_id = 1 WHERE content = 'theirs'

UPDATE messages SET read_by_user_id = 1 WHERE content = 'theirs'

INSERT INTO chats (organization_id, assigned_user_id) VALUES (1, 5)

INSERT INTO chats (organization_id, channel_id) VALUES (1, 2)

UPDATE chats SET organization_id = 2 WHERE id = 1

UPDATE users SET organization_id = 2 WHERE id = 1

-- a changed password, and a moved tokens_from, end the user's tokens: the generation counts by itself, and no writer takes it back
UPDATE users SET password_hash = 'new' WHERE id = 2

UPDATE users SET password_hash = 'new' WHERE id = 2

UPDATE users SET tokens_from = 'infinity', token_generation = 1 WHERE id = 2

SELECT notify_user(id, 'tokens', jsonb_build_object('generation', token_generation, 'now', tokens_from BETWEEN now() - interval '1 minute' AND now())) FROM users WHERE id = 2

INSERT INTO users (organization_id, email, tokens_from) VALUES (1, 'never@one', 'infinity')

INSERT INTO chat_members (chat_id, user_id) VALUES (3, 5)

INSERT INTO chat_members (chat_id, user_id, organization_id) VALUES (3, 3, 2)

INSERT INTO notifications (user_id, organization_id) VALUES (2, 2)

INSERT INTO notifications (user_id) VALUES (999)

UPDATE notifications SET user_id = 5

UPDATE chats SET status = 'nonsense' WHERE id = 1

INSERT INTO users (organization_id, email) VALUES (1, 'ADMIN@TWO')

-- as superuser: foreign keys do not fire here, guards and events do
SET session_replication_role = replica; INSERT INTO messages (chat_id, content) VALUES (1, 'loaded')

-- as superuser
UPDATE users SET password_hash = NULL WHERE id = 2

-- as superuser
INSERT INTO messages (organization_id, chat_id, content) VALUES (2, 1, 'mismatch')

-- as superuser
INSERT INTO messages (organization_id, chat_id, content) VALUES (1, 999, 'nowhere')

-- as superuser
INSERT INTO messages (organization_id, chat_id, sender_user_id, content) VALUES (1, 1, 5, 'foreign sender')

-- as superuser
UPDATE messages SET read_by_user_id = 1 WHERE content = 'theirs'

-- as superuser
INSERT INTO chats (organization_id, assigned_user_id) VALUES (1, 5)

-- as superuser
UPDATE chats SET channel_id = 2 WHERE id = 1

-- as superuser
INSERT INTO chat_members (chat_id, user_id) VALUES (1, 5)

-- as superuser
UPDATE messages SET status = 'sent' WHERE content = 'loaded'

-- as superuser
RESET session_replication_role

-- as writer: may insert and update messages, and read nothing
INSERT INTO messages (chat_id, content) VALUES (1, 'by a writer'), (3, 'for few, by a writer')

-- as writer
SELECT FROM messages

-- as writer
INSERT INTO messages (chat_id, content) SELECT 1, 'm' FROM generate_series(1, 300)

-- as writer
INSERT INTO event_log (id, slot, kind) VALUES (1, 1, 'truncate')

-- as writer
CREATE TEMP TABLE chats (id bigint, organization_id bigint); INSERT INTO chats VALUES (4, 1); INSERT INTO messages (organization_id, chat_id, content) VALUES (1, 4, 'forged');
