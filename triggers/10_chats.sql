-- chats: chat:new, chat:updated, chat:deleted, and who gains or loses a restricted chat.

CREATE OR REPLACE FUNCTION roombell.chat_json(c public.chats) RETURNS json LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT json_build_object(
    'id', $1.id, 'organizationId', $1.organization_id, 'channelId', $1.channel_id, 'channel', $1.channel,
    'name', roombell.short($1.name), 'externalId', roombell.short($1.external_id), 'status', $1.status, 'priority', $1.priority,
    'assignedUserId', $1.assigned_user_id, 'restricted', $1.restricted, 'unreadCount', $1.unread_count,
    'lastMessageAt', roombell.rfc3339($1.last_message_at), 'ticketNumber', $1.ticket_number,
    'tags', CASE WHEN octet_length($1.tags::text) > 262144 THEN '{}' ELSE $1.tags END,
    'createdAt', roombell.rfc3339($1.created_at), 'updatedAt', roombell.rfc3339($1.updated_at))
$$;
COMMENT ON FUNCTION roombell.chat_json(public.chats) IS 'Payload of chat:new.';

CREATE OR REPLACE FUNCTION roombell.chat_too_long(c public.chats) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
  SELECT greatest(octet_length($1.name), octet_length($1.external_id), octet_length($1.tags::text)) > 262144
$$;
COMMENT ON FUNCTION roombell.chat_too_long(public.chats) IS 'Whether the event carries less than the row: then it says truncated.';

CREATE OR REPLACE FUNCTION roombell.chat_new_json(c public.chats) RETURNS json LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN roombell.chat_too_long($1) THEN (left(roombell.chat_json($1)::text, -1) || ', "truncated" : true}')::json
         ELSE roombell.chat_json($1) END
$$;
COMMENT ON FUNCTION roombell.chat_new_json(public.chats) IS 'Payload of chat:new, with truncated where the row is longer.';

-- updated_at alone is no change.
CREATE OR REPLACE FUNCTION roombell.chat_changes(o public.chats, n public.chats) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
  SELECT array_remove(ARRAY[
    CASE WHEN $1.channel_id IS DISTINCT FROM $2.channel_id THEN 'channelId' END,
    CASE WHEN $1.channel <> $2.channel THEN 'channel' END,
    CASE WHEN $1.name IS DISTINCT FROM $2.name THEN 'name' END,
    CASE WHEN $1.external_id IS DISTINCT FROM $2.external_id THEN 'externalId' END,
    CASE WHEN $1.status <> $2.status THEN 'status' END,
    CASE WHEN $1.priority <> $2.priority THEN 'priority' END,
    CASE WHEN $1.assigned_user_id IS DISTINCT FROM $2.assigned_user_id THEN 'assignedUserId' END,
    CASE WHEN $1.restricted <> $2.restricted THEN 'restricted' END,
    CASE WHEN $1.unread_count <> $2.unread_count THEN 'unreadCount' END,
    CASE WHEN $1.last_message_at IS DISTINCT FROM $2.last_message_at THEN 'lastMessageAt' END,
    CASE WHEN $1.ticket_number <> $2.ticket_number THEN 'ticketNumber' END,
    CASE WHEN $1.tags <> $2.tags THEN 'tags' END,
    CASE WHEN $1.created_at <> $2.created_at THEN 'createdAt' END], NULL)
$$;
COMMENT ON FUNCTION roombell.chat_changes(public.chats, public.chats) IS 'What chat:updated names as changed.';

CREATE OR REPLACE FUNCTION roombell.chat_update_json(n public.chats, changes text[]) RETURNS json
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  -- The projector's changes are most of them.
  SELECT CASE WHEN $2 = '{unreadCount,lastMessageAt}' THEN json_build_object('id', ($1).id, 'changes', to_json($2), 'unreadCount', ($1).unread_count,
    'lastMessageAt', roombell.rfc3339(($1).last_message_at), 'changedByUserId', roombell.actor(), 'updatedAt', roombell.rfc3339(($1).updated_at))
  ELSE (jsonb_build_object('id', ($1).id, 'changes', to_jsonb($2), 'changedByUserId', roombell.actor(), 'updatedAt', roombell.rfc3339(($1).updated_at))
      || (SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(roombell.chat_json($1)::jsonb) WHERE key = ANY ($2))
      || CASE WHEN roombell.chat_too_long($1) AND $2 && '{name,externalId,tags}' THEN '{"truncated": true}' ELSE '{}'::jsonb END)::json END
$$;
COMMENT ON FUNCTION roombell.chat_update_json(public.chats, text[]) IS 'Payload of chat:updated.';

CREATE OR REPLACE FUNCTION roombell.chats_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
DECLARE
  n bigint;
  s record;
BEGIN
  SELECT count(*) INTO n FROM new_rows;
  IF n = 0 THEN
    RETURN NULL;
  END IF;
  s := roombell.begin_statement(n);
  IF s.mode = 'each' THEN
    INSERT INTO public.event_log (id, slot, organization_id, chat_id, audience, kind, event, payload)
    SELECT s.base + nextval('public.event_log_seq'), s.slot, c.organization_id, c.id,
           CASE WHEN c.restricted THEN roombell.audience(c.id, c.organization_id, c.assigned_user_id) END,
           'event', 'chat:new', roombell.chat_new_json(ROW(c.*)::public.chats)
    FROM (SELECT * FROM new_rows ORDER BY id) c;
  ELSE
    PERFORM roombell.record_sums(s.base, s.slot, s.mode,
      (SELECT array_agg(ROW(organization_id, id, 1, 0, 0, 0, false, NULL)::roombell.chat_sum) FROM new_rows),
      EXISTS (SELECT FROM new_rows WHERE unread_count <> 0 OR last_message_at IS NOT NULL));
  END IF;
  PERFORM roombell.wake();
  RETURN NULL;
END $$;
COMMENT ON FUNCTION roombell.chats_inserted() IS 'Trigger: chat:new, or the sum of a bulk insert.';

CREATE OR REPLACE FUNCTION roombell.chats_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
DECLARE
  n        bigint;
  s        record;
  changed  bigint;
  access   bigint[];
  counters boolean;
  sums     roombell.chat_sum[];
BEGIN
  SELECT count(*) INTO n FROM new_rows;
  IF n = 0 THEN
    RETURN NULL;
  END IF;
  s := roombell.begin_statement(n);
  SELECT count(*) FILTER (WHERE changes <> '{}'), array_agg(id ORDER BY id) FILTER (WHERE moved), bool_or(changes && '{unreadCount,lastMessageAt}')
    INTO changed, access, counters
    FROM (
      SELECT n.id, roombell.chat_changes(ROW(o.*)::public.chats, ROW(n.*)::public.chats) AS changes,
             o.restricted <> n.restricted OR (n.restricted AND o.assigned_user_id IS DISTINCT FROM n.assigned_user_id) AS moved
      FROM old_rows o FULL JOIN new_rows n ON n.id = o.id OFFSET 0) d;
  IF changed = 0 THEN
    RETURN NULL;
  END IF;

  IF s.mode = 'each' OR (s.mode <> 'sum' AND access IS NOT NULL AND n <= s.bulk_rows) THEN
    -- Losing first, then the change for those who keep the chat, then the chat for those who gain it. A change of access is told in
    -- every mode.
    INSERT INTO public.event_log (id, slot, organization_id, chat_id, audience, kind, event, payload)
    SELECT s.base + nextval('public.event_log_seq'), s.slot, e.organization_id, e.chat_id, e.audience, 'event', e.event,
           CASE e.event
             WHEN 'chat:deleted' THEN json_build_object('chatId', e.chat_id, 'reason', 'access')
             WHEN 'chat:new' THEN roombell.chat_new_json(e.n)
             ELSE roombell.chat_update_json(e.n, e.changes) END
    FROM (
      SELECT a.n, a.changes, (a.n).organization_id, (a.n).id AS chat_id, x.event, x.audience
      FROM (
        SELECT p.n, p.changes, p.moved,
               CASE WHEN p.was THEN roombell.audience((p.n).id, (p.n).organization_id, p.former)
                    WHEN p.moved THEN roombell.organization_users((p.n).organization_id) END AS before,
               CASE WHEN (p.n).restricted THEN roombell.audience((p.n).id, (p.n).organization_id, (p.n).assigned_user_id)
                    WHEN p.moved THEN roombell.organization_users((p.n).organization_id) END AS after
        FROM (
          SELECT ROW(n.*)::public.chats AS n, o.restricted AS was, o.assigned_user_id AS former,
                 o.restricted <> n.restricted OR (n.restricted AND o.assigned_user_id IS DISTINCT FROM n.assigned_user_id) AS moved,
                 roombell.chat_changes(ROW(o.*)::public.chats, ROW(n.*)::public.chats) AS changes
          FROM old_rows o FULL JOIN new_rows n ON n.id = o.id OFFSET 0) p OFFSET 0) a
      CROSS JOIN LATERAL (VALUES
        (1, 'chat:deleted', CASE WHEN a.moved THEN roombell.without(a.before, a.after) END),
        (2, 'chat:updated', CASE WHEN a.moved THEN roombell.without(a.before, roombell.without(a.before, a.after)) ELSE a.after END),
        (3, 'chat:new', CASE WHEN a.moved THEN roombell.without(a.after, a.before) END)) x(nth, event, audience)
      WHERE a.changes <> '{}' AND (x.event = 'chat:updated' AND s.mode = 'each' OR a.moved AND x.event <> 'chat:updated') AND x.audience IS DISTINCT FROM '{}'
      ORDER BY (a.n).id, x.nth OFFSET 0) e;
  END IF;
  IF s.mode <> 'each' THEN
    -- Each audience with its own figures: deleted for those who lost the chat, new for those who gained it.
    SELECT array_agg(ROW(a.organization_id, a.id, (x.what = 'new')::integer, (x.what = 'updated')::integer, (x.what = 'deleted')::integer, 0, true, x.audience)::roombell.chat_sum)
      INTO sums
      FROM (
        SELECT p.id, p.organization_id, p.moved,
               CASE WHEN p.was THEN roombell.audience(p.id, p.organization_id, p.former)
                    WHEN p.moved THEN roombell.organization_users(p.organization_id) END AS before,
               CASE WHEN p.restricted THEN roombell.audience(p.id, p.organization_id, p.assigned_user_id)
                    WHEN p.moved THEN roombell.organization_users(p.organization_id) END AS after
        FROM (
          SELECT n.id, n.organization_id, n.restricted, n.assigned_user_id, o.restricted AS was, o.assigned_user_id AS former,
                 o.restricted <> n.restricted OR (n.restricted AND o.assigned_user_id IS DISTINCT FROM n.assigned_user_id) AS moved,
                 roombell.chat_changes(ROW(o.*)::public.chats, ROW(n.*)::public.chats) AS changes
          FROM old_rows o FULL JOIN new_rows n ON n.id = o.id OFFSET 0) p
        WHERE p.changes <> '{}' OFFSET 0) a
      CROSS JOIN LATERAL (VALUES
        ('deleted', CASE WHEN a.moved AND s.mode = 'sum' THEN roombell.without(a.before, a.after) ELSE '{}' END),
        ('updated', CASE WHEN a.moved THEN roombell.without(a.before, roombell.without(a.before, a.after)) ELSE a.after END),
        ('new', CASE WHEN a.moved AND s.mode = 'sum' THEN roombell.without(a.after, a.before) ELSE '{}' END)) x(what, audience)
      WHERE x.audience IS DISTINCT FROM '{}';
    -- Who writes the counters himself is mended by the projector.
    PERFORM roombell.record_sums(s.base, s.slot, s.mode, sums, counters);
    IF access IS NOT NULL THEN
      INSERT INTO public.event_log (id, slot, organization_id, kind, touched)
      SELECT s.base + nextval('public.event_log_seq'), s.slot, organization_id, 'chats', array_agg(id ORDER BY id)
      FROM public.chats WHERE id = ANY (access) GROUP BY organization_id;
    END IF;
  END IF;
  PERFORM roombell.wake();
  RETURN NULL;
END $$;
COMMENT ON FUNCTION roombell.chats_updated() IS 'Trigger: chat:updated, gain and loss of restricted chats, or the sum of a bulk update.';

-- Members go with the chat, before the statement's own triggers run. A STABLE function still sees what the statement saw.
CREATE OR REPLACE FUNCTION roombell.chats_deleting() RETURNS trigger
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
BEGIN
  IF EXISTS (SELECT FROM old_rows WHERE restricted) THEN
    PERFORM set_config('roombell.audiences', (
      SELECT json_object_agg(id, to_json(roombell.audience(id, organization_id, assigned_user_id)))::text FROM old_rows WHERE restricted), true);
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION roombell.chats_deleting() IS 'Trigger: remembers who saw the restricted chats that a statement deletes.';

CREATE OR REPLACE FUNCTION roombell.chats_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
DECLARE
  n         bigint;
  s         record;
  audiences jsonb;
BEGIN
  SELECT count(*) INTO n FROM old_rows;
  IF n = 0 THEN
    RETURN NULL;
  END IF;
  IF EXISTS (SELECT FROM old_rows WHERE restricted) THEN
    audiences := current_setting('roombell.audiences')::jsonb;
    PERFORM set_config('roombell.audiences', '', true);
  END IF;
  s := roombell.begin_statement(n);
  IF s.mode = 'each' THEN
    INSERT INTO public.event_log (id, slot, organization_id, chat_id, audience, kind, event, payload)
    SELECT s.base + nextval('public.event_log_seq'), s.slot, c.organization_id, c.id,
           CASE WHEN c.restricted THEN ARRAY(SELECT jsonb_array_elements_text(audiences -> c.id::text)::bigint) END,
           'event', 'chat:deleted', json_build_object('chatId', c.id)
    FROM (SELECT id, organization_id, restricted FROM old_rows ORDER BY id) c;
  ELSE
    PERFORM roombell.record_sums(s.base, s.slot, s.mode,
      (SELECT array_agg(ROW(organization_id, id, 0, 0, 1, 0, true,
                CASE WHEN restricted THEN ARRAY(SELECT jsonb_array_elements_text(audiences -> id::text)::bigint) END)::roombell.chat_sum)
       FROM old_rows), false);
    INSERT INTO public.event_log (id, slot, organization_id, kind, touched)
    SELECT s.base + nextval('public.event_log_seq'), s.slot, organization_id, 'chats', array_agg(id ORDER BY id)
    FROM old_rows GROUP BY organization_id;
  END IF;
  PERFORM roombell.wake();
  RETURN NULL;
END $$;
COMMENT ON FUNCTION roombell.chats_deleted() IS 'Trigger: chat:deleted, or the sum of a bulk delete.';

CREATE OR REPLACE TRIGGER roombell_insert AFTER INSERT ON chats REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION roombell.chats_inserted();
CREATE OR REPLACE TRIGGER roombell_update AFTER UPDATE ON chats REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION roombell.chats_updated();
-- By name: this one runs before roombell_delete_record.
CREATE OR REPLACE TRIGGER roombell_delete_audience AFTER DELETE ON chats REFERENCING OLD TABLE AS old_rows
  FOR EACH STATEMENT EXECUTE FUNCTION roombell.chats_deleting();
CREATE OR REPLACE TRIGGER roombell_delete_record AFTER DELETE ON chats REFERENCING OLD TABLE AS old_rows
  FOR EACH STATEMENT EXECUTE FUNCTION roombell.chats_deleted();
CREATE OR REPLACE TRIGGER roombell_truncate AFTER TRUNCATE ON chats FOR EACH STATEMENT EXECUTE FUNCTION roombell.truncated();
ALTER TABLE chats ENABLE ALWAYS TRIGGER roombell_insert;
ALTER TABLE chats ENABLE ALWAYS TRIGGER roombell_update;
ALTER TABLE chats ENABLE ALWAYS TRIGGER roombell_delete_audience;
ALTER TABLE chats ENABLE ALWAYS TRIGGER roombell_delete_record;
ALTER TABLE chats ENABLE ALWAYS TRIGGER roombell_truncate;
