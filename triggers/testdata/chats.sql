INSERT INTO chats (organization_id) VALUES (1)

INSERT INTO chats (organization_id, channel_id, name, external_id, status, priority, assigned_user_id, restricted, last_message_at, tags, created_at)
  VALUES (2, 2, 'all', 'x1', 'open', 'urgent', 5, true, 'infinity', '{a,"b c",NULL}', '1999-09-09 09:09:09+00')

UPDATE chats SET status = 'open', tags = '{vip}', name = 'renamed' WHERE id = 1

SET LOCAL roombell.actor = '2'; UPDATE chats SET priority = 'high' WHERE id IN (1, 2)

-- nothing
UPDATE chats SET updated_at = now() + interval '1 day' WHERE id = 1

UPDATE chats SET status = status

-- counters, as the projector keeps them
UPDATE chats SET unread_count = 3, last_message_at = '1999-01-01 00:00+00' WHERE id = 1

UPDATE chats SET channel_id = 1 WHERE id = 1

-- restricted: assigned to 3, who newly sees it
UPDATE chats SET assigned_user_id = 3 WHERE id = 3

-- from 3 to 4
UPDATE chats SET assigned_user_id = 4, name = 'handed over' WHERE id = 3

-- to its member 2: 4 loses it, nobody gains it
UPDATE chats SET assigned_user_id = 2 WHERE id = 3

UPDATE chats SET restricted = false WHERE id = 3

UPDATE chats SET restricted = true, status = 'open' WHERE id = 3

INSERT INTO chat_members (chat_id, user_id) VALUES (3, 3), (3, 1), (1, 3)

-- 2 is still the assignee
DELETE FROM chat_members WHERE chat_id = 3

UPDATE chats SET assigned_user_id = NULL WHERE id = 3

INSERT INTO chat_members (chat_id, user_id) VALUES (3, 2)

UPDATE chat_members SET user_id = 3 WHERE chat_id = 3

-- an admin sees it by role
UPDATE users SET role = 'admin' WHERE id = 4

UPDATE users SET role = 'employee' WHERE id IN (1, 4)

UPDATE users SET active = false WHERE id = 2

UPDATE users SET name = 'renamed' WHERE id = 3

-- a deleted chat takes messages and members along: only chat:deleted is heard
INSERT INTO messages (chat_id, content) VALUES (1, 'a'), (3, 'b'); DELETE FROM chats WHERE id IN (1, 3)

-- a deleted user leaves his chats
UPDATE chats SET assigned_user_id = 3 WHERE id = 2; INSERT INTO notifications (user_id) VALUES (3)

DELETE FROM users WHERE id = 3

DELETE FROM organizations WHERE id = 2

TRUNCATE chats CASCADE
