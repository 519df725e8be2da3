-- The one way into event_log, and the wake. Everything here runs inside somebody else's transaction: it must be short, must not
-- abort it, and must not lock what other writers need. The callers, SECURITY DEFINER, set search_path; the helpers that run once a
-- statement rely on it: each SET clause costs a microsecond.

CREATE OR REPLACE FUNCTION roombell.timeline() RETURNS bigint LANGUAGE sql VOLATILE
BEGIN ATOMIC
  SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint;
END;
COMMENT ON FUNCTION roombell.timeline() IS
  'Timeline that this server writes now. From the WAL file''s name: pg_control_checkpoint() tells a promotion only after the next checkpoint.';

-- Settings are strangers' words: anything but digits counts as unset, and no cast may fail.
CREATE OR REPLACE FUNCTION roombell.number_setting(name text) RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN current_setting($1, true) > '' THEN
    CASE WHEN current_setting($1, true) ~ '^[0-9]{1,15}$' THEN current_setting($1, true)::bigint END END
$$;
COMMENT ON FUNCTION roombell.number_setting(text) IS 'A roombell.* setting as a number; null when unset or nonsense.';

CREATE OR REPLACE FUNCTION roombell.actor() RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT roombell.number_setting('roombell.actor')
$$;
COMMENT ON FUNCTION roombell.actor() IS 'User on whose behalf this transaction writes (SET LOCAL roombell.actor), or null.';

-- RFC 3339 knows the years 0001 to 9999 only, and no infinity.
CREATE OR REPLACE FUNCTION roombell.rfc3339(t timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN $1 >= timestamptz '0001-01-01 00:00:00+00' AND $1 < timestamptz '10000-01-01 00:00:00+00'
         THEN to_char($1 AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') END
$$;
COMMENT ON FUNCTION roombell.rfc3339(timestamptz) IS 'The time in RFC 3339, UTC; null where there is no such form.';

-- Cuts at a character's boundary: a byte 10xxxxxx continues a character (RFC 3629).
CREATE OR REPLACE FUNCTION roombell.cut(whole text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  bytes bytea := substring(convert_to(left(whole, 262144), 'UTF8') FROM 1 FOR 262145);
  n     integer := least(262144, octet_length(bytes));
BEGIN
  WHILE n > 0 AND n < octet_length(bytes) AND get_byte(bytes, n) & 192 = 128 LOOP
    n := n - 1;
  END LOOP;
  RETURN convert_from(substring(bytes FROM 1 FOR n), 'UTF8');
END $$;
COMMENT ON FUNCTION roombell.cut(text) IS 'The first 262,144 bytes of a text, in whole characters.';

CREATE OR REPLACE FUNCTION roombell.short(t text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN octet_length($1) > 262144 THEN roombell.cut($1) ELSE $1 END
$$;
COMMENT ON FUNCTION roombell.short(text) IS 'A text as it goes into an event: at most 262,144 bytes.';

-- What every recording statement needs of roombell_settings and event_log_state, as constants: to read two tables in each of them cost a
-- tenth of all that the triggers do. Whoever changes a row there makes these functions anew. STABLE, not IMMUTABLE: both are inlined, but
-- only of a function that was not folded into a constant does a plan know that it depends on it.
CREATE OR REPLACE FUNCTION roombell.bake_settings() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  constant record;
BEGIN
  PERFORM pg_advisory_xact_lock(7461, 2);
  FOR constant IN
    SELECT c.name, c.value FROM public.roombell_settings s, public.event_log_state st, LATERAL (VALUES
      ('slot_seconds', s.slot_seconds), ('bulk_rows', s.bulk_rows::bigint),
      ('bulk_transaction_rows', s.bulk_transaction_rows::bigint), ('timeline_offset', st.timeline_offset)) c(name, value)
  LOOP
    EXECUTE format('CREATE OR REPLACE FUNCTION roombell.%I() RETURNS bigint LANGUAGE sql STABLE AS $c$ SELECT bigint %L $c$',
      constant.name, constant.value);
  END LOOP;
END $$;
COMMENT ON FUNCTION roombell.bake_settings() IS 'Makes slot_seconds(), bulk_rows(), bulk_transaction_rows() and timeline_offset() say what the tables say.';

CREATE OR REPLACE FUNCTION roombell.settings_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM roombell.bake_settings();
  RETURN NULL;
END $$;
COMMENT ON FUNCTION roombell.settings_changed() IS 'Trigger: bakes the settings.';

SELECT roombell.bake_settings();
COMMENT ON FUNCTION roombell.slot_seconds() IS 'roombell_settings.slot_seconds';
COMMENT ON FUNCTION roombell.bulk_rows() IS 'roombell_settings.bulk_rows';
COMMENT ON FUNCTION roombell.bulk_transaction_rows() IS 'roombell_settings.bulk_transaction_rows';
COMMENT ON FUNCTION roombell.timeline_offset() IS 'event_log_state.timeline_offset';

CREATE OR REPLACE TRIGGER roombell_bake AFTER UPDATE ON roombell_settings
  FOR EACH STATEMENT EXECUTE FUNCTION roombell.settings_changed();
CREATE OR REPLACE TRIGGER roombell_bake AFTER UPDATE OF timeline_offset ON event_log_state
  FOR EACH STATEMENT EXECUTE FUNCTION roombell.settings_changed();
ALTER TABLE roombell_settings ENABLE ALWAYS TRIGGER roombell_bake;
ALTER TABLE event_log_state ENABLE ALWAYS TRIGGER roombell_bake;

CREATE OR REPLACE FUNCTION roombell.base() RETURNS bigint LANGUAGE sql VOLATILE AS $$
  SELECT (roombell.timeline_offset() + ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint) << 43
$$;
COMMENT ON FUNCTION roombell.base() IS 'What is added to nextval(''event_log_seq'') to make the id of an event.';

CREATE OR REPLACE FUNCTION roombell.slot() RETURNS smallint LANGUAGE sql VOLATILE AS $$
  SELECT ((date_part('epoch', clock_timestamp())::bigint / roombell.slot_seconds()) % 10)::smallint
$$;
COMMENT ON FUNCTION roombell.slot() IS 'The slot of event_log that is written now.';

-- Counts the rows of a statement, and says how they are to be recorded:
--   each: one event a row · sum: one for the statement · once: each chat once a transaction · off: clients hear nothing
CREATE OR REPLACE FUNCTION roombell.mode(n bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  written bigint := coalesce(roombell.number_setting('roombell.transaction_rows'), 0) + n;
  notify  text := lower(current_setting('roombell.notify', true));
  ignored text := set_config('roombell.transaction_rows', written::text, true);
BEGIN
  -- A cursor rests on this: what is visible was flushed. With off, a crash takes back what clients have seen.
  IF current_setting('synchronous_commit') = 'off' THEN
    ignored := set_config('synchronous_commit', 'local', true);
  END IF;
  IF notify > '' THEN
    IF notify IN ('each', 'off') THEN
      RETURN notify;
    END IF;
  END IF;
  IF n > coalesce(roombell.number_setting('roombell.bulk_rows'), roombell.bulk_rows()) THEN
    RETURN 'sum';
  ELSIF written > coalesce(roombell.number_setting('roombell.bulk_transaction_rows'), roombell.bulk_transaction_rows()) THEN
    RETURN 'once';
  ELSIF notify = 'summary' THEN
    RETURN 'sum';
  END IF;
  RETURN 'each';
END $$;
COMMENT ON FUNCTION roombell.mode(bigint) IS 'Counts the rows of a statement and says how they are to be recorded: each, sum, once or off.';

-- Begins the record of one statement that wrote n rows. asked: the mode is roombell.notify's own.
CREATE OR REPLACE FUNCTION roombell.begin_statement(n bigint,
  OUT base bigint, OUT slot smallint, OUT mode text, OUT asked boolean, OUT bulk_rows bigint)
LANGUAGE plpgsql AS $$
BEGIN
  base := roombell.base();
  slot := roombell.slot();
  mode := roombell.mode(n);
  asked := lower(current_setting('roombell.notify', true)) IN ('each', 'summary', 'off') IS TRUE;
  bulk_rows := coalesce(roombell.number_setting('roombell.bulk_rows'), roombell.bulk_rows());
END $$;
COMMENT ON FUNCTION roombell.begin_statement(bigint) IS 'Counts a statement''s rows and says how they are to be recorded.';

-- The gate is held exclusively by the ringer while it sleeps: then our try fails and NOTIFY wakes every node. Else we hold it shared
-- until our end, which keeps the ringer from falling asleep before this transaction is visible.
CREATE OR REPLACE FUNCTION roombell.wake() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  -- PREPARE TRANSACTION is refused after NOTIFY, and a prepared transaction would keep the gate: found by the next read.
  IF lower(current_setting('roombell.two_phase', true)) IN ('on', 'true', 'yes', '1') THEN
    RETURN;
  END IF;
  IF NOT pg_try_advisory_xact_lock_shared(7461, 0) THEN
    -- A full queue would abort the commit; the nodes' safety read finds the event.
    IF pg_notification_queue_usage() < 0.5 THEN
      PERFORM pg_notify('roombell', '');
    END IF;
  END IF;
END $$;
COMMENT ON FUNCTION roombell.wake() IS 'Rings NOTIFY roombell when the ringer sleeps, else keeps it awake until this transaction ends.';

CREATE OR REPLACE FUNCTION roombell.audience(chat bigint, organization bigint, assignee bigint) RETURNS bigint[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(array_agg(u ORDER BY u), '{}') FROM (
    SELECT user_id FROM public.chat_members WHERE chat_id = $1
    UNION SELECT $3 WHERE $3 IS NOT NULL
    UNION SELECT id FROM public.users WHERE organization_id = $2 AND role = 'admin') seers(u)
$$;
COMMENT ON FUNCTION roombell.audience(bigint, bigint, bigint) IS 'Who sees a restricted chat: members, assignee, admins; ascending.';

CREATE OR REPLACE FUNCTION roombell.without(users bigint[], others bigint[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE AS $$
  SELECT coalesce(array_agg(u ORDER BY u), '{}') FROM (SELECT unnest($1) EXCEPT SELECT unnest($2)) d(u)
$$;
COMMENT ON FUNCTION roombell.without(bigint[], bigint[]) IS 'Users of the first list that are not in the second; ascending.';

CREATE OR REPLACE FUNCTION roombell.organization_users(organization bigint) RETURNS bigint[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(array_agg(id ORDER BY id), '{}') FROM public.users WHERE organization_id = $1
$$;
COMMENT ON FUNCTION roombell.organization_users(bigint) IS 'All users of an organization; ascending.';

-- Sums of a statement: one chats:updated for each organization and audience; past a transaction's threshold (once) each chat is named
-- once; silent (off) only the projector learns of the chats. counters: whether their counters may have changed.
-- A script that writes row by row comes here for each: its plans are kept, and what was named is looked up by chat. LIMIT keeps the planner from
-- making a join of that, which reads all that the transaction has named.
CREATE OR REPLACE FUNCTION roombell.record_sums(base bigint, slot smallint, mode text, sums roombell.chat_sum[], counters boolean)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  IF mode = 'off' AND (NOT counters OR sums IS NULL) THEN
    RETURN;
  ELSIF mode = 'off' AND cardinality(sums) > 200 THEN
    INSERT INTO public.event_log (id, slot, organization_id, kind, touched)
    SELECT base + nextval('public.event_log_seq'), slot, organization_id, 'touch', ids
    FROM (SELECT organization_id, array_agg(chat_id ORDER BY chat_id) AS ids FROM unnest(sums) GROUP BY 1) o;
  ELSIF mode = 'off' THEN
    INSERT INTO public.event_log (id, slot, organization_id, chat_id, kind, named)
    SELECT base + nextval('public.event_log_seq'), slot, organization_id, chat_id, 'touch', chat_id
    FROM (SELECT DISTINCT u.organization_id, u.chat_id FROM unnest(sums) u
          LEFT JOIN LATERAL (SELECT true AS told FROM public.event_log l WHERE l.txid = pg_current_xact_id() AND l.named = u.chat_id LIMIT 1) n ON true
          WHERE n.told IS NULL ORDER BY 2 OFFSET 0) s;
  ELSIF mode = 'once' THEN
    INSERT INTO public.event_log (id, slot, organization_id, chat_id, named, audience, kind, event, payload, touched)
    SELECT base + nextval('public.event_log_seq'), slot, s.organization_id, s.chat_id, s.chat_id, s.audience, 'event', 'chats:updated',
           json_build_object('reason', 'bulk', 'count', s.new + s.updated + s.deleted + s.read, 'chats', json_build_array(json_build_object(
             'id', s.chat_id, 'new', s.new, 'updated', s.updated, 'deleted', s.deleted, 'read', s.read)), 'truncated', false, 'atLeast', true),
           CASE WHEN counters THEN ARRAY[s.chat_id] END
    FROM (SELECT a.* FROM (
            SELECT u.organization_id, u.chat_id, u.new, u.updated, u.deleted, u.read,
                   CASE WHEN u.addressed THEN u.audience WHEN c.restricted THEN roombell.audience(c.id, c.organization_id, c.assigned_user_id) END AS audience
            FROM unnest(sums) u
            LEFT JOIN LATERAL (SELECT id, organization_id, restricted, assigned_user_id FROM public.chats WHERE id = u.chat_id OFFSET 0) c ON true
            WHERE u.addressed OR c.id IS NOT NULL OFFSET 0) a
          LEFT JOIN LATERAL (SELECT true AS told FROM public.event_log l WHERE l.txid = pg_current_xact_id() AND l.named = a.chat_id
                             AND l.event = 'chats:updated' AND l.audience IS NOT DISTINCT FROM a.audience LIMIT 1) n ON true
          WHERE n.told IS NULL ORDER BY a.chat_id OFFSET 0) s;
  ELSE
    INSERT INTO public.event_log (id, slot, organization_id, audience, kind, event, payload, touched)
    SELECT base + nextval('public.event_log_seq'), slot, g.organization_id, g.audience, 'event', 'chats:updated',
           json_build_object('reason', 'bulk', 'count', g.n, 'chats', CASE WHEN g.chats > 500 THEN '[]' ELSE g.list END, 'truncated', g.chats > 500),
           CASE WHEN counters THEN g.ids END
    FROM (
      SELECT organization_id, audience, sum(n) AS n, count(*) AS chats, array_agg(chat_id ORDER BY chat_id) FILTER (WHERE counters) AS ids,
             json_agg(json_build_object('id', chat_id, 'new', new, 'updated', updated, 'deleted', deleted, 'read', read) ORDER BY chat_id)
               FILTER (WHERE nth <= 500) AS list
      FROM (
        SELECT *, row_number() OVER (PARTITION BY organization_id, audience ORDER BY chat_id) AS nth
        FROM (
          SELECT u.organization_id, u.chat_id, u.new, u.updated, u.deleted, u.read, u.new + u.updated + u.deleted + u.read AS n,
                 CASE WHEN u.addressed THEN u.audience WHEN c.restricted THEN roombell.audience(c.id, c.organization_id, c.assigned_user_id) END AS audience
          FROM unnest(sums) u
          LEFT JOIN LATERAL (SELECT id, organization_id, restricted, assigned_user_id FROM public.chats WHERE id = u.chat_id OFFSET 0) c ON true
          WHERE u.addressed OR c.id IS NOT NULL OFFSET 0) a) r
      GROUP BY organization_id, audience ORDER BY organization_id, audience) g;
  END IF;
END $$;
COMMENT ON FUNCTION roombell.record_sums(bigint, smallint, text, roombell.chat_sum[], boolean) IS 'Records the sums of a bulk write.';

-- TRUNCATE has no transition tables: one event for everybody, however many tables a CASCADE reaches.
CREATE OR REPLACE FUNCTION roombell.truncated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE s record := roombell.begin_statement(1);
BEGIN
  INSERT INTO public.event_log (id, slot, kind) SELECT s.base + nextval('public.event_log_seq'), s.slot, 'truncate'
  WHERE NOT EXISTS (SELECT FROM public.event_log WHERE txid = pg_current_xact_id() AND kind = 'truncate');
  PERFORM roombell.wake();
  RETURN NULL;
END $$;
COMMENT ON FUNCTION roombell.truncated() IS 'Trigger: TRUNCATE of a business table resets every client.';

-- Retention: empties one slot of the ring, in a transaction of its own. False when it has nothing that is old enough.
-- Old enough by the clock and by what was written since: a clock that jumped must not empty what is still young.
CREATE OR REPLACE FUNCTION roombell.rotate_slot(slot integer) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
  part   text := format('public.event_log_%s', slot);
  kept   interval;
  newest timestamptz;
  id_    bigint;
  txid_  xid8;
BEGIN
  SELECT retention INTO kept FROM public.roombell_settings;
  EXECUTE format('SELECT created_at FROM %s ORDER BY id DESC LIMIT 1', part) INTO newest;
  IF newest IS NULL OR newest > clock_timestamp() - kept
     OR newest > (SELECT created_at FROM public.event_log ORDER BY id DESC LIMIT 1) - kept THEN
    RETURN false;
  END IF;
  -- Lock first: only then the maxima are final, long transactions included.
  EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', part);
  EXECUTE format('SELECT max(created_at), max(id), (SELECT txid FROM %s ORDER BY txid DESC LIMIT 1) FROM %s', part, part) INTO newest, id_, txid_;
  IF newest > clock_timestamp() - kept THEN
    RETURN false;
  END IF;
  UPDATE public.event_log_trim t SET max_id = greatest(t.max_id, id_), emptied_at = clock_timestamp(), snapshot = pg_current_snapshot(),
         max_txid = CASE WHEN txid_ > t.max_txid THEN txid_ ELSE t.max_txid END
   WHERE t.slot = rotate_slot.slot;
  EXECUTE format('TRUNCATE %s', part);
  RETURN true;
END $$;
COMMENT ON FUNCTION roombell.rotate_slot(integer) IS 'Empties a slot of event_log that is older than the retention; true when it did.';
