-- users and chat_members: who may see what. Changes of access are told in every mode: roombell.notify silences clients, not the house.

-- Tells each chat's gainers (chat:new) or losers (chat:deleted, reason access); above the bulk threshold one sum for them all.
CREATE OR REPLACE FUNCTION roombell.record_access(base bigint, slot smallint, bulk_rows bigint, gained boolean, chats bigint[], people bigint[])
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
BEGIN
  IF chats IS NULL THEN
    RETURN;
  END IF;
  IF (SELECT count(DISTINCT c) FROM unnest(chats) c) <= bulk_rows THEN
    INSERT INTO public.event_log (id, slot, organization_id, chat_id, audience, kind, event, payload)
    SELECT base + nextval('public.event_log_seq'), slot, c.organization_id, c.id, a.audience, 'event',
           CASE WHEN gained THEN 'chat:new' ELSE 'chat:deleted' END,
           CASE WHEN gained THEN roombell.chat_new_json(c) ELSE json_build_object('chatId', c.id, 'reason', 'access') END
    FROM (SELECT chat_id, array_agg(DISTINCT user_id ORDER BY user_id) AS audience FROM unnest(chats, people) r(chat_id, user_id) GROUP BY 1 ORDER BY 1 OFFSET 0) a
    JOIN public.chats c ON c.id = a.chat_id;
    RETURN;
  END IF;
  PERFORM roombell.record_sums(base, slot, 'sum', array_agg(
      ROW(c.organization_id, c.id, gained::integer, 0, (NOT gained)::integer, 0, true, a.audience)::roombell.chat_sum), false)
    FROM (SELECT chat_id, array_agg(DISTINCT user_id ORDER BY user_id) AS audience FROM unnest(chats, people) r(chat_id, user_id) GROUP BY 1) a
    JOIN public.chats c ON c.id = a.chat_id;
  IF NOT gained THEN
    INSERT INTO public.event_log (id, slot, organization_id, kind, touched)
    SELECT base + nextval('public.event_log_seq'), slot, organization_id, 'chats', array_agg(id ORDER BY id)
    FROM public.chats WHERE id = ANY (chats) GROUP BY organization_id;
  END IF;
END $$;
COMMENT ON FUNCTION roombell.record_access(bigint, smallint, bigint, boolean, bigint[], bigint[]) IS 'Tells users that they gained or lost restricted chats: pairs of chat and user.';

CREATE OR REPLACE FUNCTION roombell.chat_members_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
DECLARE
  n      bigint;
  s      record;
  chats  bigint[];
  people bigint[];
BEGIN
  IF TG_OP IN ('UPDATE', 'DELETE') THEN
    -- Of a chat that is gone, and of a user who is gone, nothing is to be told here.
    SELECT count(*), array_agg(m.chat_id), array_agg(m.user_id) INTO n, chats, people
      FROM old_rows m
      JOIN LATERAL (SELECT assigned_user_id FROM public.chats WHERE id = m.chat_id AND restricted OFFSET 0) c ON true
      JOIN LATERAL (SELECT role FROM public.users WHERE id = m.user_id OFFSET 0) u ON true
     WHERE u.role <> 'admin' AND c.assigned_user_id IS DISTINCT FROM m.user_id
       AND NOT EXISTS (SELECT FROM public.chat_members x WHERE x.chat_id = m.chat_id AND x.user_id = m.user_id);
    IF n > 0 THEN
      s := roombell.begin_statement(n);
      PERFORM roombell.record_access(s.base, s.slot, s.bulk_rows, false, chats, people);
      PERFORM roombell.wake();
    END IF;
  END IF;
  IF TG_OP = 'INSERT' THEN
    SELECT count(*), array_agg(m.chat_id), array_agg(m.user_id) INTO n, chats, people
      FROM new_rows m
      JOIN LATERAL (SELECT assigned_user_id FROM public.chats WHERE id = m.chat_id AND restricted OFFSET 0) c ON true
      JOIN LATERAL (SELECT role FROM public.users WHERE id = m.user_id OFFSET 0) u ON true
     WHERE u.role <> 'admin' AND c.assigned_user_id IS DISTINCT FROM m.user_id;
  ELSIF TG_OP = 'UPDATE' THEN
    SELECT count(*), array_agg(m.chat_id), array_agg(m.user_id) INTO n, chats, people
      FROM (SELECT chat_id, user_id FROM new_rows EXCEPT SELECT chat_id, user_id FROM old_rows) m
      JOIN LATERAL (SELECT assigned_user_id FROM public.chats WHERE id = m.chat_id AND restricted OFFSET 0) c ON true
      JOIN LATERAL (SELECT role FROM public.users WHERE id = m.user_id OFFSET 0) u ON true
     WHERE u.role <> 'admin' AND c.assigned_user_id IS DISTINCT FROM m.user_id;
  ELSE
    RETURN NULL;
  END IF;
  IF n > 0 THEN
    s := roombell.begin_statement(n);
    PERFORM roombell.record_access(s.base, s.slot, s.bulk_rows, true, chats, people);
    PERFORM roombell.wake();
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION roombell.chat_members_changed() IS 'Trigger: chat:new to who may newly see a restricted chat, chat:deleted to who no longer may.';

CREATE OR REPLACE TRIGGER roombell_insert AFTER INSERT ON chat_members REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION roombell.chat_members_changed();
CREATE OR REPLACE TRIGGER roombell_update AFTER UPDATE ON chat_members REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION roombell.chat_members_changed();
CREATE OR REPLACE TRIGGER roombell_delete AFTER DELETE ON chat_members REFERENCING OLD TABLE AS old_rows
  FOR EACH STATEMENT EXECUTE FUNCTION roombell.chat_members_changed();
CREATE OR REPLACE TRIGGER roombell_truncate AFTER TRUNCATE ON chat_members FOR EACH STATEMENT EXECUTE FUNCTION roombell.truncated();

-- Restricted chats that a user sees by the role of an admin alone.
CREATE OR REPLACE FUNCTION roombell.chats_by_role(people bigint[], OUT chats bigint[], OUT users bigint[]) RETURNS record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT array_agg(c.id), array_agg(u.id)
  FROM public.users u
  JOIN public.chats c ON c.organization_id = u.organization_id AND c.restricted AND c.assigned_user_id IS DISTINCT FROM u.id
  WHERE u.id = ANY ($1) AND NOT EXISTS (SELECT FROM public.chat_members m WHERE m.chat_id = c.id AND m.user_id = u.id)
$$;
COMMENT ON FUNCTION roombell.chats_by_role(bigint[]) IS 'Pairs of chat and user: what the users gain or lose with the role admin.';

CREATE OR REPLACE FUNCTION roombell.users_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  n       bigint;
  s       record;
  pairs   record;
  raised  bigint[];
  lowered bigint[];
BEGIN
  IF TG_OP = 'DELETE' THEN
    SELECT count(*) INTO n FROM old_rows;
    IF n > 0 THEN
      s := roombell.begin_statement(n);
      INSERT INTO public.event_log (id, slot, organization_id, user_id, kind, payload)
      SELECT s.base + nextval('public.event_log_seq'), s.slot, organization_id, id, 'user', json_build_object('userId', id, 'active', false, 'role', role)
      FROM old_rows;
      PERFORM roombell.wake();
    END IF;
    RETURN NULL;
  END IF;
  SELECT count(*), array_agg(id) FILTER (WHERE was <> 'admin' AND role = 'admin'), array_agg(id) FILTER (WHERE was = 'admin' AND role <> 'admin')
    INTO n, raised, lowered
    FROM (SELECT n.id, n.role, o.role AS was,
                 o.role <> n.role OR o.active <> n.active OR o.email <> n.email OR o.token_generation <> n.token_generation AS changed
          FROM old_rows o FULL JOIN new_rows n ON n.id = o.id OFFSET 0) d
   WHERE changed;
  IF n = 0 THEN
    RETURN NULL;
  END IF;
  s := roombell.begin_statement(n);
  INSERT INTO public.event_log (id, slot, organization_id, user_id, kind, payload)
  SELECT s.base + nextval('public.event_log_seq'), s.slot, organization_id, id, 'user', json_build_object('userId', id, 'active', active, 'role', role)
  FROM (SELECT n.id, n.organization_id, n.active, n.role,
               o.role <> n.role OR o.active <> n.active OR o.email <> n.email OR o.token_generation <> n.token_generation AS changed
        FROM old_rows o FULL JOIN new_rows n ON n.id = o.id ORDER BY n.id OFFSET 0) d
  WHERE changed;
  pairs := roombell.chats_by_role(lowered);
  PERFORM roombell.record_access(s.base, s.slot, s.bulk_rows, false, pairs.chats, pairs.users);
  pairs := roombell.chats_by_role(raised);
  PERFORM roombell.record_access(s.base, s.slot, s.bulk_rows, true, pairs.chats, pairs.users);
  PERFORM roombell.wake();
  RETURN NULL;
END $$;
COMMENT ON FUNCTION roombell.users_changed() IS 'Trigger: tells the listener that a user''s rights or tokens changed or that he is gone, and admins what restricted chats they gain or lose.';

CREATE OR REPLACE TRIGGER roombell_update AFTER UPDATE ON users REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION roombell.users_changed();
CREATE OR REPLACE TRIGGER roombell_delete AFTER DELETE ON users REFERENCING OLD TABLE AS old_rows
  FOR EACH STATEMENT EXECUTE FUNCTION roombell.users_changed();
CREATE OR REPLACE TRIGGER roombell_truncate AFTER TRUNCATE ON users FOR EACH STATEMENT EXECUTE FUNCTION roombell.truncated();
ALTER TABLE chat_members ENABLE ALWAYS TRIGGER roombell_insert;
ALTER TABLE chat_members ENABLE ALWAYS TRIGGER roombell_update;
ALTER TABLE chat_members ENABLE ALWAYS TRIGGER roombell_delete;
ALTER TABLE chat_members ENABLE ALWAYS TRIGGER roombell_truncate;
ALTER TABLE users ENABLE ALWAYS TRIGGER roombell_update;
ALTER TABLE users ENABLE ALWAYS TRIGGER roombell_delete;
ALTER TABLE users ENABLE ALWAYS TRIGGER roombell_truncate;
