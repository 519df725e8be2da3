package doctor

import (
	"context"
	"fmt"
	"time"
)

const (
	// An id of event_log is (offset + timeline) << 43 | sequence (eventlog/cursor.go).
	sequenceBits = 43

	// clockSkew is what is said, clockApart what breaks tokens: auth allows 30 s.
	clockSkew  = time.Second
	clockApart = 30 * time.Second
)

// baked is a setting that the triggers have as a constant of a function.
type baked struct {
	Name        string
	Row, Actual int64
}

// settings compares what the triggers use with what the tables say.
func (d *Doctor) settings(ctx context.Context) ([]Finding, error) {
	var settingsRow, stateRow, own bool
	err := d.ask(ctx, `SELECT EXISTS (SELECT FROM roombell_settings), EXISTS (SELECT FROM event_log_state),
		EXISTS (SELECT FROM event_log_state s, pg_control_system() c WHERE s.system_identifier = c.system_identifier)`, nil, &settingsRow, &stateRow, &own)
	if err != nil {
		return nil, err
	}
	if !settingsRow || !stateRow {
		return []Finding{rowMissing(settingsRow)}, nil
	}
	var found []Finding
	if d.ownLog = own; !own {
		found = append(found, Finding{
			Code: "log_of_another_cluster", Level: Note, Title: "the event log came with a dump, or through an upgrade",
			Meaning: "The first node that connects empties it, and every client is told to fetch what it shows again.", Remedy: "Start the service.",
		})
	}
	stale, err := collect[baked](ctx, d, `
		SELECT name, said, actual FROM roombell_settings s, event_log_state st, LATERAL (VALUES
		  ('slot_seconds', s.slot_seconds, roombell.slot_seconds()), ('bulk_rows', s.bulk_rows::bigint, roombell.bulk_rows()),
		  ('bulk_transaction_rows', s.bulk_transaction_rows::bigint, roombell.bulk_transaction_rows()),
		  ('timeline_offset', st.timeline_offset, roombell.timeline_offset())) v(name, said, actual) WHERE said <> actual`)
	if err != nil {
		return nil, err
	}
	if len(stale) > 0 {
		found = append(found, settingsStale(stale))
	}
	if len(found) == 0 {
		found = []Finding{{Code: "settings_ok", Title: "the triggers use what roombell_settings says"}}
	}
	return found, nil
}

func rowMissing(settings bool) Finding {
	f := Finding{
		Code: "settings_row_missing", Level: Broken, Title: "the one row of roombell_settings is missing",
		Meaning: "The triggers go on with what they knew; the next migration and the retention stop at it.",
		Command: psql("INSERT INTO roombell_settings DEFAULT VALUES; SELECT roombell.bake_settings()"),
	}
	if settings {
		f.Title = "the one row of event_log_state is missing"
		f.Meaning = "No node can recognize the server: none hears anything."
		f.Command = psql("INSERT INTO event_log_state (system_identifier) SELECT system_identifier FROM pg_control_system()")
	}
	return f
}

func settingsStale(stale []baked) Finding {
	var names []string
	for _, b := range stale {
		names = append(names, fmt.Sprintf("%s is %d and not %d", b.Name, b.Actual, b.Row))
	}
	return Finding{
		Code: "settings_stale", Level: Broken, Title: "the triggers do not use what the tables say: " + list(names),
		Meaning: "A row of roombell_settings or event_log_state was changed while their triggers did not fire.",
		Command: psql("SELECT roombell.bake_settings()"),
	}
}

// sequence looks at where ids come from: they must ascend, and none may be given twice.
func (d *Doctor) sequence(ctx context.Context) ([]Finding, error) {
	var cache, last, used int64
	// Used ids first: the sequence is read as it is at that moment, and only grows.
	err := d.ask(ctx, `
		WITH used AS MATERIALIZED (
		  SELECT greatest((SELECT max(id) FROM event_log), (SELECT max(max_id) FROM event_log_trim), 0) AS id)
		SELECT q.seqcache, s.last_value, CASE WHEN u.id >> $1 = CASE WHEN pg_is_in_recovery() THEN -1 ELSE roombell.base() >> $1 END THEN u.id & ((1::bigint << $1) - 1) ELSE 0 END
		FROM used u, pg_sequence q, event_log_seq s WHERE q.seqrelid = 'event_log_seq'::regclass`, []any{sequenceBits}, &cache, &last, &used)
	if err != nil {
		return nil, err
	}
	var found []Finding
	if cache != 1 {
		found = append(found, Finding{
			Code: "sequence_cached", Level: Broken, Title: fmt.Sprintf("event_log_seq has CACHE %d", cache),
			Meaning: "Sessions keep ids for later, so that ids do not ascend any more: events are passed over, and changes of one row come in the wrong order.",
			Command: psql("ALTER SEQUENCE event_log_seq CACHE 1"),
		})
	}
	if last < used {
		found = append(found, Finding{
			Code: "sequence_behind", Level: Broken, Title: fmt.Sprintf("event_log_seq stands at %d, below %d, which is in use", last, used),
			Meaning: "Somebody set it back. New events get ids that clients believe to have seen, and are not given to them.",
			Command: psql(fmt.Sprintf("SELECT setval('event_log_seq', %d)", used+1000)),
		})
	}
	if len(found) == 0 {
		found = []Finding{{Code: "sequence_ok", Title: "ids of events ascend"}}
	}
	return found, nil
}

// retention looks at how long the log is kept, and whether it is emptied.
func (d *Doctor) retention(ctx context.Context) ([]Finding, error) {
	var kept float64
	var size int64
	err := d.ask(ctx, `SELECT extract(epoch FROM retention)::float8, (SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'event_log'::regclass)::bigint
		FROM roombell_settings`, nil, &kept, &size)
	if err != nil {
		return nil, err
	}
	var found []Finding
	if there := seconds(kept); d.o.Retention != 0 && d.o.Retention != there {
		found = append(found, Finding{
			Code: "retention_differs", Level: Warning, Title: fmt.Sprintf("the database keeps events for %s, ROOMBELL_RETENTION says %s", there, d.o.Retention),
			Meaning: "The database's is the one that counts.", Remedy: "To have that of the setting:", Command: migrateUp,
		})
	}
	overdue, err := d.overdue(ctx)
	if err != nil {
		return nil, err
	}
	found = append(found, overdue...)
	if len(found) == 0 {
		found = []Finding{{Code: "retention_ok", Title: fmt.Sprintf("the event log is kept for %s and has %.1f MB", seconds(kept), float64(size)/1e6)}}
	}
	return found, nil
}

// lateSlot is one that should have been emptied for half a slot's time; holder is whoever has had a lock on it for long.
type lateSlot struct {
	Slot   int
	Age    float64
	Holder *int32
}

func (d *Doctor) overdue(ctx context.Context) ([]Finding, error) {
	late, err := collect[lateSlot](ctx, d, `
		WITH newest AS (
		  SELECT g.slot, e.created_at FROM generate_series(0, 9) g(slot)
		  CROSS JOIN LATERAL (SELECT created_at FROM event_log WHERE slot = g.slot ORDER BY id DESC LIMIT 1) e)
		SELECT n.slot, extract(epoch FROM clock_timestamp() - n.created_at)::float8,
		       (SELECT l.pid FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		        WHERE l.locktype = 'relation' AND l.relation = to_regclass('event_log_' || n.slot) AND l.granted
		        AND l.pid <> pg_backend_pid() AND a.leader_pid IS DISTINCT FROM pg_backend_pid() AND a.xact_start < clock_timestamp() - $1 * interval '1 second' ORDER BY a.xact_start LIMIT 1)
		FROM newest n, roombell_settings s
		WHERE n.created_at < clock_timestamp() - s.retention - s.slot_seconds * interval '0.5 second'
		  AND n.created_at < (SELECT max(created_at) FROM newest) - s.retention ORDER BY n.created_at`, d.limits.idle.Seconds())
	if err != nil || len(late) == 0 {
		return nil, err
	}
	f := Finding{
		Code: "retention_overdue", Level: Warning,
		Title:   fmt.Sprintf("%s of the event log past the retention, the oldest for %s", count(len(late), "slot is", "slots are"), span(seconds(late[0].Age))),
		Meaning: "Nobody could empty them, and the log grows. The running service does it; none has, or a transaction keeps them locked.",
		Remedy:  "Start the service, or see why it does not get on (its log says so).",
	}
	for _, slot := range late {
		if slot.Holder != nil {
			f.Meaning = fmt.Sprintf("The log grows: the session with pid %d has a lock on slot %d, so that it cannot be emptied.", *slot.Holder, slot.Slot)
			f.Remedy, f.Command = "End that transaction, or the session:", psql(fmt.Sprintf("SELECT pg_terminate_backend(%d)", *slot.Holder))
			break
		}
	}
	return []Finding{f}, nil
}

// clock compares this machine's with the database's. Of several tries the quickest is the most exact.
func (d *Doctor) clock(ctx context.Context) ([]Finding, error) {
	var ahead, unsure time.Duration
	for try := range 5 {
		var there time.Time
		before := d.o.Now()
		if err := d.pool.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&there); err != nil {
			return nil, err
		}
		took := d.o.Now().Sub(before)
		if try == 0 || took/2 < unsure {
			ahead, unsure = before.Add(took/2).Sub(there), took/2
		}
	}
	return []Finding{judgeClock(ahead, unsure)}, nil
}

func judgeClock(ahead, unsure time.Duration) Finding {
	apart := max(ahead, -ahead)
	f := Finding{Code: "clock_ok", Title: fmt.Sprintf("this machine's clock and the database's are %s apart", span(apart))}
	if apart-unsure <= clockSkew {
		return f
	}
	direction := "ahead of"
	if ahead < 0 {
		direction = "behind"
	}
	f.Code, f.Level, f.Title = "clock_apart", Warning, fmt.Sprintf("this machine's clock is %s %s the database's", span(apart), direction)
	f.Meaning = "Ages and times that clients are shown are wrong by that much, and tokens end too early or too late."
	f.Remedy, f.Command = "Let both machines follow a time server:", "sudo timedatectl set-ntp true"
	if apart-unsure > clockApart {
		f.Level = Broken
		f.Meaning = "Fresh tokens of other machines are refused, or those that have ended are taken: 30 s are forgiven. Times that clients are shown are wrong."
	}
	return f
}

// future looks for events that were recorded by a clock that was ahead. The newest of each slot are enough: a slot is written by the clock.
func (d *Doctor) future(ctx context.Context) ([]Finding, error) {
	var n int
	var ahead float64
	err := d.ask(ctx, `
		SELECT count(*), coalesce(extract(epoch FROM max(e.created_at) - clock_timestamp()), 0)::float8 FROM generate_series(0, 9) g(slot)
		CROSS JOIN LATERAL (SELECT created_at FROM event_log WHERE slot = g.slot ORDER BY id DESC LIMIT 1000) e
		WHERE e.created_at > clock_timestamp() + interval '5 s'`, nil, &n, &ahead)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return []Finding{{Code: "future_ok", Title: "no event is dated in the future"}}, nil
	}
	return []Finding{{
		Code: "events_in_future", Level: Warning, Title: fmt.Sprintf("%s dated in the future, by %s at most", count(n, "event is", "events are"), span(seconds(ahead))),
		Meaning: "The database's clock was ahead and has been set back. Nothing is lost: what is older is emptied that much later.",
		Remedy:  "Let the database's machine follow a time server; the rest mends itself when that time has come:", Command: "sudo timedatectl set-ntp true",
	}}, nil
}
