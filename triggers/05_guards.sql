-- Row triggers that fill and guard. They hold where foreign keys do not fire (session_replication_role = replica) and for roles
-- that may write one table and read none: ENABLE ALWAYS, SECURITY DEFINER. Every row of a COPY pays for them, so WHEN comes first.

CREATE OR REPLACE FUNCTION roombell.refuse(complaint text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION USING ERRCODE = 'foreign_key_violation', MESSAGE = complaint;
END $$;
COMMENT ON FUNCTION roombell.refuse(text) IS 'Refuses a write that would point into another organization.';

-- A reference that is not there is the foreign key's to refuse; one that is there, in another organization, is ours.
CREATE OR REPLACE FUNCTION roombell.check_user(organization bigint, person bigint, column_name text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF person IS NOT NULL AND EXISTS (SELECT FROM public.users WHERE id = person AND organization_id <> organization) THEN
    PERFORM roombell.refuse(format('%s %s is of another organization than %s', column_name, person, organization));
  END IF;
END $$;
COMMENT ON FUNCTION roombell.check_user(bigint, bigint, text) IS 'Refuses a user of another organization.';

CREATE OR REPLACE FUNCTION roombell.check_channel(organization bigint, channel bigint, column_name text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF channel IS NOT NULL AND EXISTS (SELECT FROM public.channels WHERE id = channel AND organization_id <> organization) THEN
    PERFORM roombell.refuse(format('%s %s is of another organization than %s', column_name, channel, organization));
  END IF;
END $$;
COMMENT ON FUNCTION roombell.check_channel(bigint, bigint, text) IS 'Refuses a channel of another organization.';

CREATE OR REPLACE FUNCTION roombell.guard_identity() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION USING ERRCODE = 'integrity_constraint_violation',
    MESSAGE = format('%s %s: its id and organization never change', TG_TABLE_NAME, OLD.id);
END $$;
COMMENT ON FUNCTION roombell.guard_identity() IS 'Trigger: a row never moves to another organization.';

CREATE OR REPLACE TRIGGER roombell_identity BEFORE UPDATE ON users FOR EACH ROW
  WHEN (OLD.id <> NEW.id OR OLD.organization_id <> NEW.organization_id) EXECUTE FUNCTION roombell.guard_identity();
CREATE OR REPLACE TRIGGER roombell_identity BEFORE UPDATE ON channels FOR EACH ROW
  WHEN (OLD.id <> NEW.id OR OLD.organization_id <> NEW.organization_id) EXECUTE FUNCTION roombell.guard_identity();
CREATE OR REPLACE TRIGGER roombell_identity BEFORE UPDATE ON chats FOR EACH ROW
  WHEN (OLD.id <> NEW.id OR OLD.organization_id <> NEW.organization_id) EXECUTE FUNCTION roombell.guard_identity();
CREATE OR REPLACE TRIGGER roombell_identity BEFORE UPDATE ON messages FOR EACH ROW
  WHEN (OLD.id <> NEW.id OR OLD.organization_id IS DISTINCT FROM NEW.organization_id) EXECUTE FUNCTION roombell.guard_identity();
CREATE OR REPLACE TRIGGER roombell_identity BEFORE UPDATE ON notifications FOR EACH ROW
  WHEN (OLD.id <> NEW.id OR OLD.organization_id IS DISTINCT FROM NEW.organization_id) EXECUTE FUNCTION roombell.guard_identity();

-- One clock is not enough to tell old tokens from new ones: tokens_from is for those that were issued elsewhere, and goes with the real time,
-- not with the transaction's beginning, before which a token may have been given out.
CREATE OR REPLACE FUNCTION roombell.end_tokens() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  NEW.tokens_from := greatest(OLD.tokens_from, clock_timestamp());
  NEW.token_generation := CASE OLD.token_generation WHEN 2147483647 THEN 1 ELSE OLD.token_generation + 1 END;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION roombell.end_tokens() IS 'Trigger: a changed password, or a moved tokens_from, ends the tokens that the user has.';

CREATE OR REPLACE TRIGGER roombell_tokens BEFORE UPDATE ON users FOR EACH ROW
  WHEN (OLD.password_hash IS DISTINCT FROM NEW.password_hash OR OLD.tokens_from IS DISTINCT FROM NEW.tokens_from
        OR OLD.token_generation <> NEW.token_generation) EXECUTE FUNCTION roombell.end_tokens();

CREATE OR REPLACE FUNCTION roombell.guard_chat() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM roombell.check_channel(NEW.organization_id, NEW.channel_id, 'chats.channel_id');
  PERFORM roombell.check_user(NEW.organization_id, NEW.assigned_user_id, 'chats.assigned_user_id');
  IF TG_OP = 'UPDATE' THEN
    IF NEW.updated_at = OLD.updated_at THEN
      NEW.updated_at := now();
    END IF;
    IF NEW.channel_id IS NOT DISTINCT FROM OLD.channel_id OR NEW.channel <> OLD.channel THEN
      RETURN NEW;
    END IF;
  ELSIF NEW.channel <> 'none' THEN
    RETURN NEW;
  END IF;
  IF NEW.channel_id IS NOT NULL THEN
    SELECT CASE provider WHEN 'waba' THEN 'whatsapp' ELSE provider END INTO NEW.channel FROM public.channels WHERE id = NEW.channel_id;
    NEW.channel := coalesce(NEW.channel, 'none');
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION roombell.guard_chat() IS 'Trigger: fills channel from the account and updated_at, refuses references into another organization.';

CREATE OR REPLACE TRIGGER roombell_insert_guard BEFORE INSERT ON chats FOR EACH ROW
  WHEN (NEW.channel_id IS NOT NULL OR NEW.assigned_user_id IS NOT NULL) EXECUTE FUNCTION roombell.guard_chat();
-- All columns but the counters: who writes these alone, as the projector does, has nothing to be guarded.
CREATE OR REPLACE TRIGGER roombell_update_guard
  BEFORE UPDATE OF channel_id, channel, name, external_id, status, priority, assigned_user_id, restricted, ticket_number, tags, created_at
  ON chats FOR EACH ROW
  WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION roombell.guard_chat();

CREATE OR REPLACE FUNCTION roombell.guard_chat_member() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  organization bigint;
BEGIN
  SELECT organization_id INTO organization FROM public.chats WHERE id = NEW.chat_id;
  IF organization IS NULL THEN
    PERFORM roombell.refuse(format('chat_members.chat_id %s is not there', NEW.chat_id));
  END IF;
  NEW.organization_id := coalesce(NEW.organization_id, organization);
  IF NEW.organization_id <> organization THEN
    PERFORM roombell.refuse(format('chat_members.organization_id %s is not that of chat %s', NEW.organization_id, NEW.chat_id));
  END IF;
  PERFORM roombell.check_user(organization, NEW.user_id, 'chat_members.user_id');
  IF TG_OP = 'UPDATE' THEN
    IF OLD.organization_id <> NEW.organization_id THEN
      PERFORM roombell.refuse('chat_members: a row never moves to another organization');
    END IF;
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION roombell.guard_chat_member() IS 'Trigger: fills organization_id from the chat, refuses users of another organization.';

CREATE OR REPLACE TRIGGER roombell_guard BEFORE INSERT OR UPDATE ON chat_members FOR EACH ROW EXECUTE FUNCTION roombell.guard_chat_member();

-- pending < sending < sent < delivered < read; failed ends the first three; received never changes.
CREATE OR REPLACE FUNCTION roombell.status_follows(old_status text, new_status text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE
    WHEN $1 IN ('received', 'failed') OR $2 = 'received' THEN false
    WHEN $2 = 'failed' THEN $1 IN ('pending', 'sending', 'sent')
    ELSE array_position('{pending,sending,sent,delivered,read}', $2) > array_position('{pending,sending,sent,delivered,read}', $1) END
$$;
COMMENT ON FUNCTION roombell.status_follows(text, text) IS 'Whether a message may go from the first status to the second.';

CREATE OR REPLACE FUNCTION roombell.guard_message() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  organization bigint;
  inserted     boolean := TG_OP = 'INSERT';
BEGIN
  IF inserted OR NEW.chat_id <> OLD.chat_id THEN
    IF NEW.chat_id IS NULL THEN
      RAISE EXCEPTION USING ERRCODE = 'not_null_violation', MESSAGE = 'messages.chat_id is missing';
    END IF;
    SELECT organization_id INTO organization FROM public.chats WHERE id = NEW.chat_id;
    IF organization IS NULL THEN
      PERFORM roombell.refuse(format('messages.chat_id %s is not there', NEW.chat_id));
    END IF;
    IF NEW.organization_id IS NULL THEN
      NEW.organization_id := organization;
    ELSIF NEW.organization_id <> organization THEN
      PERFORM roombell.refuse(format('messages.organization_id %s is not that of chat %s', NEW.organization_id, NEW.chat_id));
    END IF;
  END IF;
  IF NEW.quoted_message_id IS NOT NULL THEN
    PERFORM roombell.check_quoted(NEW.organization_id, NEW.quoted_message_id);
  END IF;
  IF current_setting('session_replication_role') = 'replica' THEN
    PERFORM roombell.check_user(NEW.organization_id, NEW.sender_user_id, 'messages.sender_user_id');
    PERFORM roombell.check_user(NEW.organization_id, NEW.read_by_user_id, 'messages.read_by_user_id');
    PERFORM roombell.check_channel(NEW.organization_id, NEW.channel_id, 'messages.channel_id');
  END IF;
  IF inserted THEN
    RETURN NEW;
  END IF;

  IF NEW.status <> OLD.status AND NOT roombell.status_follows(OLD.status, NEW.status) THEN
    IF NEW.status = 'failed' THEN
      NEW.error := OLD.error;
    END IF;
    NEW.status := OLD.status;
  END IF;
  IF NEW.is_read_by_operator AND NOT OLD.is_read_by_operator THEN
    NEW.read_at := coalesce(NEW.read_at, now());
    IF NEW.read_by_user_id IS NULL THEN
      SELECT id INTO NEW.read_by_user_id FROM public.users WHERE id = roombell.actor() AND organization_id = NEW.organization_id;
    END IF;
  ELSIF OLD.is_read_by_operator AND NOT NEW.is_read_by_operator THEN
    NEW.read_at := NULL;
    NEW.read_by_user_id := NULL;
  END IF;
  -- What was refused above may have left nothing to change.
  IF NEW.updated_at = OLD.updated_at AND NEW IS DISTINCT FROM OLD THEN
    NEW.updated_at := now();
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION roombell.guard_message() IS 'Trigger: statuses never go backwards, read marks have their time and reader, no reference points into another organization.';

CREATE OR REPLACE FUNCTION roombell.check_quoted(organization bigint, message bigint) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM public.messages WHERE id = message AND organization_id <> organization) THEN
    PERFORM roombell.refuse(format('messages.quoted_message_id %s is of another organization', message));
  END IF;
END $$;
COMMENT ON FUNCTION roombell.check_quoted(bigint, bigint) IS 'Refuses a quoted message of another organization.';

-- The lean half, which a COPY that leaves organization_id out runs for every row. It has no SET clause, hence every name in it says its
-- schema: a caller's search_path must not choose what runs with the owner's rights. With an organization_id that is given, the composite
-- foreign key says all that is to be said, at no further cost.
CREATE OR REPLACE FUNCTION roombell.fill_message() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF NEW.organization_id IS NULL THEN
    NEW.organization_id := (SELECT organization_id FROM public.chats WHERE id OPERATOR(pg_catalog.=) NEW.chat_id);
    IF NEW.organization_id IS NULL THEN
      PERFORM roombell.refuse(pg_catalog.format('messages.chat_id %L is not there', NEW.chat_id));
    END IF;
  END IF;
  IF NEW.from_me AND NEW.status OPERATOR(pg_catalog.=) 'received' THEN
    NEW.status := 'pending';
  END IF;
  IF NEW.quoted_message_id IS NOT NULL THEN
    PERFORM roombell.check_quoted(NEW.organization_id, NEW.quoted_message_id);
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION roombell.fill_message() IS 'Trigger: fills organization_id from the chat, and the status of outgoing messages; checks what is quoted.';

CREATE OR REPLACE TRIGGER roombell_insert_fill BEFORE INSERT ON messages FOR EACH ROW
  WHEN (NEW.organization_id IS NULL OR (NEW.from_me AND NEW.status = 'received') OR NEW.quoted_message_id IS NOT NULL)
  EXECUTE FUNCTION roombell.fill_message();
-- ENABLE REPLICA: fires where foreign keys do not, and costs nothing where they do. By name, after the fill.
CREATE OR REPLACE TRIGGER roombell_insert_guard BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION roombell.guard_message();
CREATE OR REPLACE TRIGGER roombell_update_guard BEFORE UPDATE ON messages FOR EACH ROW
  WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION roombell.guard_message();

CREATE OR REPLACE FUNCTION roombell.guard_notification() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  organization bigint;
BEGIN
  SELECT organization_id INTO organization FROM public.users WHERE id = NEW.user_id;
  IF organization IS NULL THEN
    PERFORM roombell.refuse(format('notifications.user_id %s is not there', NEW.user_id));
  END IF;
  NEW.organization_id := coalesce(NEW.organization_id, organization);
  IF NEW.organization_id <> organization THEN
    PERFORM roombell.refuse(format('notifications.organization_id %s is not that of user %s', NEW.organization_id, NEW.user_id));
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION roombell.guard_notification() IS 'Trigger: fills organization_id from the user, and refuses another.';

CREATE OR REPLACE TRIGGER roombell_guard BEFORE INSERT OR UPDATE ON notifications FOR EACH ROW EXECUTE FUNCTION roombell.guard_notification();

ALTER TABLE users ENABLE ALWAYS TRIGGER roombell_identity;
ALTER TABLE users ENABLE ALWAYS TRIGGER roombell_tokens;
ALTER TABLE channels ENABLE ALWAYS TRIGGER roombell_identity;
ALTER TABLE chats ENABLE ALWAYS TRIGGER roombell_identity;
ALTER TABLE messages ENABLE ALWAYS TRIGGER roombell_identity;
ALTER TABLE notifications ENABLE ALWAYS TRIGGER roombell_identity;
ALTER TABLE chats ENABLE ALWAYS TRIGGER roombell_insert_guard;
ALTER TABLE chats ENABLE ALWAYS TRIGGER roombell_update_guard;
ALTER TABLE chat_members ENABLE ALWAYS TRIGGER roombell_guard;
ALTER TABLE messages ENABLE ALWAYS TRIGGER roombell_insert_fill;
ALTER TABLE messages ENABLE REPLICA TRIGGER roombell_insert_guard;
ALTER TABLE messages ENABLE ALWAYS TRIGGER roombell_update_guard;
ALTER TABLE notifications ENABLE ALWAYS TRIGGER roombell_guard;
