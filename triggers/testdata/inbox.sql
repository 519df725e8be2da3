-- Organization 1: users 1 (admin), 2 and 3 (employees), 4 (manager); chats 1, 2 and, restricted, 3 with member 2.
-- Organization 2: user 5 (admin), chat 4.
INSERT INTO organizations (name) VALUES ('one'), ('two');
INSERT INTO users (organization_id, email, role) VALUES
  (1, 'admin@one', 'admin'), (1, 'ann@one', 'employee'), (1, 'bob@one', 'employee'), (1, 'boss@one', 'manager'), (2, 'admin@two', 'admin');
INSERT INTO channels (organization_id, provider) VALUES (1, 'telegram'), (2, 'waba');
INSERT INTO chats (organization_id, name) VALUES (1, 'first'), (1, 'second');
INSERT INTO chats (organization_id, name, restricted) VALUES (1, 'secret', true);
INSERT INTO chats (organization_id, name) VALUES (2, 'theirs');
INSERT INTO chat_members (chat_id, user_id) VALUES (3, 2);
