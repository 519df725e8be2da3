-- notifications: user:notification, notification:updated, notification:deleted, and one notifications:updated for each user of a bulk.

CREATE OR REPLACE FUNCTION roombell.notification_json(n public.notifications) RETURNS json LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN octet_length(($1).data::text) > 1048576 OR greatest(octet_length(($1).message), octet_length(($1).type)) > 262144
    THEN json_build_object('id', ($1).id, 'type', roombell.short(($1).type), 'message', roombell.short(($1).message),
           'data', CASE WHEN octet_length(($1).data::text) > 1048576 THEN '{}' ELSE ($1).data END,
           'createdAt', roombell.rfc3339(($1).created_at), 'truncated', true)
    ELSE json_build_object('id', ($1).id, 'type', ($1).type, 'message', ($1).message, 'data', ($1).data,
           'createdAt', roombell.rfc3339(($1).created_at)) END
$$;
COMMENT ON FUNCTION roombell.notification_json(public.notifications) IS 'Payload of user:notification; data over 1 MB is left out.';

-- For each user of a bulk one notifications:updated; once: one in the whole transaction. Silent ones need nobody to be told.
CREATE OR REPLACE FUNCTION roombell.record_notification_sums(base bigint, slot smallint, mode text, organizations bigint[], users bigint[])
RETURNS void LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
  INSERT INTO public.event_log (id, slot, organization_id, user_id, named, kind, event, payload)
  SELECT $1 + nextval('public.event_log_seq'), $2, u.organization_id, u.user_id, CASE WHEN $3 = 'once' THEN -u.user_id END, 'event', 'notifications:updated',
         CASE WHEN $3 = 'once' THEN json_build_object('count', u.n, 'atLeast', true) ELSE json_build_object('count', u.n) END
  FROM (SELECT * FROM (SELECT organization_id, user_id, count(*) AS n FROM unnest($4, $5) r(organization_id, user_id) GROUP BY 1, 2 OFFSET 0) g
        WHERE $3 <> 'off' AND ($3 <> 'once' OR NOT EXISTS (
          SELECT FROM public.event_log l WHERE l.txid = pg_current_xact_id() AND l.named = -g.user_id))
        ORDER BY g.user_id OFFSET 0) u
$$;
COMMENT ON FUNCTION roombell.record_notification_sums(bigint, smallint, text, bigint[], bigint[]) IS 'Records the sums of a bulk write of notifications.';

CREATE OR REPLACE FUNCTION roombell.notifications_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
    INSERT INTO public.event_log (id, slot, organization_id, user_id, kind, event, payload)
    SELECT s.base + nextval('public.event_log_seq'), s.slot, r.organization_id, r.user_id, 'event', 'user:notification',
           roombell.notification_json(ROW(r.*)::public.notifications)
    FROM (SELECT * FROM new_rows ORDER BY id) r;
  ELSE
    PERFORM roombell.record_notification_sums(s.base, s.slot, s.mode, array_agg(organization_id), array_agg(user_id)) FROM new_rows;
  END IF;
  PERFORM roombell.wake();
  RETURN NULL;
END $$;
COMMENT ON FUNCTION roombell.notifications_inserted() IS 'Trigger: user:notification, or the sum of a bulk insert.';

CREATE OR REPLACE FUNCTION roombell.notifications_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
    INSERT INTO public.event_log (id, slot, organization_id, user_id, kind, event, payload)
    SELECT s.base + nextval('public.event_log_seq'), s.slot, (p.n).organization_id, x.user_id, 'event', x.event,
           CASE x.event
             WHEN 'notification:deleted' THEN json_build_object('id', (p.n).id)
             WHEN 'user:notification' THEN roombell.notification_json(p.n)
             ELSE json_build_object('id', (p.n).id, 'readAt', roombell.rfc3339((p.n).read_at)) END
    FROM (
      SELECT ROW(n.*)::public.notifications AS n, o.user_id AS former, ROW(o.*) IS DISTINCT FROM ROW(n.*) AS changed
      FROM old_rows o FULL JOIN new_rows n ON n.id = o.id ORDER BY n.id OFFSET 0) p
    CROSS JOIN LATERAL (VALUES
      (1, 'notification:deleted', p.former, p.former <> (p.n).user_id),
      (2, 'user:notification', (p.n).user_id, p.former <> (p.n).user_id),
      (3, 'notification:updated', p.former, p.former = (p.n).user_id)) x(nth, event, user_id, wanted)
    WHERE p.changed AND x.wanted;
  ELSE
    PERFORM roombell.record_notification_sums(s.base, s.slot, s.mode, array_agg(organization_id), array_agg(user_id))
    FROM (SELECT n.organization_id, n.user_id, ROW(o.*) IS DISTINCT FROM ROW(n.*) AS changed
          FROM old_rows o FULL JOIN new_rows n ON n.id = o.id OFFSET 0) p WHERE changed HAVING count(*) > 0;
  END IF;
  PERFORM roombell.wake();
  RETURN NULL;
END $$;
COMMENT ON FUNCTION roombell.notifications_updated() IS 'Trigger: notification:updated, or the sum of a bulk update.';

CREATE OR REPLACE FUNCTION roombell.notifications_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
DECLARE
  n bigint;
  s record;
BEGIN
  -- Notifications that went with their user are nobody's news.
  SELECT count(*) INTO n FROM old_rows r WHERE EXISTS (SELECT FROM public.users u WHERE u.id = r.user_id);
  IF n = 0 THEN
    RETURN NULL;
  END IF;
  s := roombell.begin_statement(n);
  IF s.mode = 'each' THEN
    INSERT INTO public.event_log (id, slot, organization_id, user_id, kind, event, payload)
    SELECT s.base + nextval('public.event_log_seq'), s.slot, r.organization_id, r.user_id, 'event', 'notification:deleted', json_build_object('id', r.id)
    FROM (SELECT id, organization_id, user_id FROM old_rows ORDER BY id) r
    WHERE EXISTS (SELECT FROM public.users u WHERE u.id = r.user_id);
  ELSE
    PERFORM roombell.record_notification_sums(s.base, s.slot, s.mode, array_agg(organization_id), array_agg(user_id))
    FROM old_rows r WHERE EXISTS (SELECT FROM public.users u WHERE u.id = r.user_id);
  END IF;
  PERFORM roombell.wake();
  RETURN NULL;
END $$;
COMMENT ON FUNCTION roombell.notifications_deleted() IS 'Trigger: notification:deleted, or the sum of a bulk delete.';

CREATE OR REPLACE TRIGGER roombell_insert AFTER INSERT ON notifications REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION roombell.notifications_inserted();
CREATE OR REPLACE TRIGGER roombell_update AFTER UPDATE ON notifications REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION roombell.notifications_updated();
CREATE OR REPLACE TRIGGER roombell_delete AFTER DELETE ON notifications REFERENCING OLD TABLE AS old_rows
  FOR EACH STATEMENT EXECUTE FUNCTION roombell.notifications_deleted();
CREATE OR REPLACE TRIGGER roombell_truncate AFTER TRUNCATE ON notifications FOR EACH STATEMENT EXECUTE FUNCTION roombell.truncated();
ALTER TABLE notifications ENABLE ALWAYS TRIGGER roombell_insert;
ALTER TABLE notifications ENABLE ALWAYS TRIGGER roombell_update;
ALTER TABLE notifications ENABLE ALWAYS TRIGGER roombell_delete;
ALTER TABLE notifications ENABLE ALWAYS TRIGGER roombell_truncate;
