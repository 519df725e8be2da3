-- What any writer may call: events that are no row's.

CREATE OR REPLACE FUNCTION roombell.check_event(event text, data jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF event IS NULL OR length(event) NOT BETWEEN 1 AND 255 THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'event name must have 1 to 255 characters';
  END IF;
  -- Socket.IO protocol 5 reserves the first six; the others are Roombell's own.
  IF event IN ('connect', 'connect_error', 'disconnect', 'disconnecting', 'newListener', 'removeListener',
      'connected', 'chat:new', 'chat:updated', 'chat:deleted', 'chats:updated', 'message:new', 'message:updated', 'message:deleted',
      'message:status', 'messages:read', 'notification:updated', 'notification:deleted', 'notifications:updated', 'typing:start',
      'typing:stop', 'presence:changed', 'presence:set', 'presence:list', 'chat:joined', 'chat:left', 'channel:status', 'qr',
      'subscribe:chat', 'unsubscribe:chat', 'subscribed:chat', 'unsubscribed:chat', 'sync:complete', 'sync:reset', 'sync:cursor',
      'auth:expiring', 'auth:refresh', 'error') THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('event name %s is reserved', event);
  END IF;
  IF octet_length(data::text) > 1048576 THEN
    RAISE EXCEPTION USING ERRCODE = 'program_limit_exceeded', MESSAGE = format('data of event %s is over 1 MB', event);
  END IF;
  IF data IS NULL THEN
    RETURN '{}';
  ELSIF jsonb_typeof(data) <> 'object' THEN
    RETURN jsonb_build_object('data', data);
  END IF;
  RETURN data - '{eventId,cursor,timestamp}'::text[];
END $$;
COMMENT ON FUNCTION roombell.check_event(text, jsonb) IS 'Refuses reserved names and data over 1 MB; the object that is sent: the server''s own fields win.';

CREATE OR REPLACE FUNCTION notify_user(user_id bigint, event text, data jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  payload      jsonb := roombell.check_event(event, data);
  organization bigint;
  s            record;
BEGIN
  SELECT u.organization_id INTO organization FROM public.users u WHERE u.id = $1;
  IF organization IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'foreign_key_violation', MESSAGE = format('notify_user: there is no user %s', coalesce($1::text, 'null'));
  END IF;
  -- The transaction's id before the event's: a replay rests on it (internal/eventlog/missed.go). Row triggers have it already.
  PERFORM pg_current_xact_id();
  s := roombell.begin_statement(0);
  INSERT INTO public.event_log (id, slot, organization_id, user_id, kind, event, payload)
  VALUES (s.base + nextval('public.event_log_seq'), s.slot, organization, $1, 'custom', $2, payload::json);
  PERFORM roombell.wake();
END $$;
COMMENT ON FUNCTION notify_user(bigint, text, jsonb) IS 'Sends an event to all sockets of one user, when the transaction commits. Nothing is stored but the log.';

CREATE OR REPLACE FUNCTION broadcast_to_organization(organization_id bigint, event text, data jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  payload jsonb := roombell.check_event(event, data);
  s       record;
BEGIN
  IF $1 IS NULL OR NOT EXISTS (SELECT FROM public.organizations o WHERE o.id = $1) THEN
    RAISE EXCEPTION USING ERRCODE = 'foreign_key_violation',
      MESSAGE = format('broadcast_to_organization: there is no organization %s', coalesce($1::text, 'null'));
  END IF;
  PERFORM pg_current_xact_id();
  s := roombell.begin_statement(0);
  INSERT INTO public.event_log (id, slot, organization_id, kind, event, payload)
  VALUES (s.base + nextval('public.event_log_seq'), s.slot, $1, 'custom', $2, payload::json);
  PERFORM roombell.wake();
END $$;
COMMENT ON FUNCTION broadcast_to_organization(bigint, text, jsonb) IS 'Sends an event to all sockets of an organization, when the transaction commits. Nothing is stored but the log.';
