INSERT INTO notifications (user_id, type, message, data) VALUES (2, 'mention', 'look', '{"chatId": 1, "deep": {"n": 1.5}}')

UPDATE notifications SET read_at = '1999-01-01 00:00+00'

UPDATE notifications SET read_at = read_at

UPDATE notifications SET user_id = 3

DELETE FROM notifications

-- data over 1 MB is left out
INSERT INTO notifications (user_id, data) VALUES (2, jsonb_build_object('big', repeat('x', 1100000)))

SELECT notify_user(2, 'coffee', '{"cups": 2, "cursor": "forged", "eventId": 1, "timestamp": "never"}')

SELECT notify_user(user_id := 2, event := 'coffee', data := '[1, 2]'), broadcast_to_organization(organization_id := 1, event := 'lunch time 🍲', data := '"now"')

SELECT notify_user(2, 'user:notification', NULL)

SELECT notify_user(2, 'message:new', '{}')

SELECT broadcast_to_organization(1, 'disconnecting', '{}')

SELECT notify_user(2, '', '{}')

SELECT notify_user(2, repeat('n', 256), '{}')

SELECT notify_user(2, repeat('n', 255), '{}')

SELECT notify_user(999, 'coffee', '{}')

SELECT broadcast_to_organization(NULL, 'coffee', '{}')

SELECT notify_user(2, 'coffee', jsonb_build_object('big', repeat('x', 1100000)))

BEGIN; SELECT notify_user(2, 'coffee', '{}'); ROLLBACK
