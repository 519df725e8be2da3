package doctor

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"roombell/db"
)

const (
	migrateUp = "roombell migrate up"

	// Over the half writers cease to ring (roombell.wake), and at the whole every transaction that NOTIFYs fails at its commit.
	queueHalf = 0.5
	queueFull = 0.9

	connectTo = "Name the primary in DATABASE_URL, or all servers: postgres://user@one,two/database?target_session_attrs=read-write"
)

// Ready makes the checks that may be made every second, over the caller's connection; roundTrip is the tail's. A service is ready when none
// is Broken. What depends on something that is broken is left out.
func Ready(ctx context.Context, q db.DBTX, roundTrip func(context.Context) error) []Finding {
	found := readiness(ctx, q)
	for _, f := range found {
		if f.Level == Broken && f.Check != "triggers" && f.Check != "queue" {
			return found
		}
	}
	heard := Finding{Check: "listen", Code: "listen_ok", Title: "a NOTIFY is heard on the listening connection"}
	if err := roundTrip(ctx); err != nil {
		heard = notHeard
		heard.Err = err
	}
	return append(found, heard)
}

var notHeard = Finding{
	Check: "listen", Code: "notify_not_heard", Level: Broken, Title: "a NOTIFY was not heard on the listening connection",
	Meaning: "Nobody is woken when something is committed: events come late or not at all.",
	Remedy:  "Give ROOMBELL_LISTEN_DATABASE_URL a direct address of the primary of the same database, without a proxy in between.",
}

// readiness is Ready without the round trip.
func readiness(ctx context.Context, q db.DBTX) []Finding {
	s, err := askServer(ctx, q)
	if err != nil {
		return []Finding{unreachable(err)}
	}
	found := []Finding{{Check: "database", Code: "database_ok", Title: "the database answers"}}
	if f := primary(s.standby, s.readOnly); f.Level > OK {
		return append(found, f)
	}
	found = append(found, primary(false, false))
	versions, err := db.ReadVersions(ctx, q)
	if err != nil {
		f := notChecked("migrations", err)
		f.Level, f.Title = Broken, "the versions of tables and triggers cannot be read"
		return append(found, f)
	}
	migrations := migrations(versions)
	found = append(found, migrations)
	if migrations.Level == Broken {
		return found
	}
	return append(append(found, inForce(ctx, q, versions)...), queue(s.queue))
}

// server is what readiness asks it.
type server struct {
	standby, readOnly bool
	queue             float64
}

func askServer(ctx context.Context, q db.DBTX) (s server, err error) {
	err = q.QueryRow(ctx, `SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::boolean, pg_notification_queue_usage()`).
		Scan(&s.standby, &s.readOnly, &s.queue)
	return s, err
}

func unreachable(err error) Finding {
	f := Finding{
		Check: "database", Code: "database_unreachable", Level: Broken, Title: "the database cannot be reached", Err: err,
		Meaning: "Nothing is heard until it can. The service waits for it, and clients come back by themselves.",
		Remedy:  "Start PostgreSQL, and see that address, role and password of DATABASE_URL are right and its network lets us through.",
	}
	switch db.Code(err) {
	case "3D000", "28P01", "28000": // invalid_catalog_name, invalid_password, invalid_authorization_specification
		f.Remedy = "The server answers and refuses: correct DATABASE_URL, or make the role or the database."
	case "53300": // too_many_connections
		f.Remedy = "The server has no connection left: let programs take fewer (pool_max_conns in DATABASE_URL), or raise max_connections and restart it."
	}
	return f
}

func primary(standby, readOnly bool) Finding {
	switch {
	case standby:
		return Finding{
			Check: "primary", Code: "standby", Level: Broken, Title: "the database is a read-only standby",
			Meaning: "LISTEN does not work there, and nothing can be written.", Remedy: connectTo,
		}
	case readOnly:
		return Finding{
			Check: "primary", Code: "read_only", Level: Broken, Title: "transactions are read-only (default_transaction_read_only)",
			Meaning: "Neither writers nor Roombell can write. Hosters set this when a disk is full.",
			Remedy:  "Take the setting back: ALTER SYSTEM, ALTER DATABASE or ALTER ROLE … RESET default_transaction_read_only.",
		}
	}
	return Finding{Check: "primary", Code: "primary_ok", Title: "the server takes writes"}
}

func migrations(v db.Versions) Finding {
	pending := v.Pending()
	f := Finding{Check: "migrations", Code: "migrations_ok", Title: fmt.Sprintf("%s applied", count(len(v.Migrations), "migration is", "migrations are"))}
	switch {
	case pending == len(v.Migrations):
		f.Code, f.Level, f.Command = "not_migrated", Broken, migrateUp
		f.Title = fmt.Sprintf("the database has no tables of Roombell: all %d migrations are pending", pending)
		f.Meaning = "Nothing can be served. Is it the right database?"
	case pending > 0:
		f.Code, f.Level, f.Command = "migrations_pending", Broken, migrateUp
		f.Title = fmt.Sprintf("%d of %d migrations are pending", pending, len(v.Migrations))
		f.Meaning = "The tables are older than this binary."
	case len(v.Newer) > 0:
		f.Code, f.Level, f.Title = "migrations_newer", Note, "the tables are newer than this binary"
		f.Meaning = "That is so while a new version is rolled out."
		f.Remedy = "Bring this binary to the version of the others."
	}
	return f
}

// inForce compares version, presence and state. Those of a newer version are not known here: they are looked at for being disabled only.
func inForce(ctx context.Context, q db.DBTX, v db.Versions) []Finding {
	if v.Triggers < v.BinaryTriggers {
		return []Finding{{
			Check: "triggers", Code: "triggers_old", Level: Broken, Command: migrateUp,
			Title:   fmt.Sprintf("the triggers have version %d, this binary has %d", v.Triggers, v.BinaryTriggers),
			Meaning: "What they record is not what this binary expects, or there are none and nothing is recorded.",
		}}
	}
	states, err := triggerStates(ctx, q)
	if err != nil {
		return []Finding{notChecked("triggers", err)}
	}
	expected, err := db.Triggers()
	if err != nil {
		return []Finding{notChecked("triggers", err)}
	}
	found := judgeTriggers(states, expected, v.Triggers == v.BinaryTriggers)
	if ahead := v.Triggers - v.BinaryTriggers; ahead > 0 {
		found = append(found, newerTriggers(ahead))
	}
	if len(found) == 0 {
		found = []Finding{{Check: "triggers", Code: "triggers_ok", Title: fmt.Sprintf("%d triggers, version %d, are in force", len(expected), v.Triggers)}}
	}
	return found
}

func newerTriggers(ahead int) Finding {
	f := Finding{
		Check: "triggers", Code: "triggers_newer", Level: Note, Title: fmt.Sprintf("the triggers are %s newer than this binary", count(ahead, "version", "versions")),
		Meaning: "That is so while a new version is rolled out. A binary understands triggers one version ahead of its own.",
		Remedy:  "Bring this binary to the version of the others.",
	}
	if ahead > 1 {
		f.Level = Warning
	}
	return f
}

// triggerStates are pg_trigger.tgenabled by table and trigger: O fires for ordinary writers, R for loads under session_replication_role =
// replica, A for both, D for nobody.
func triggerStates(ctx context.Context, q db.DBTX) (map[[2]string]string, error) {
	rows, err := q.Query(ctx, `SELECT c.relname::text, t.tgname::text, t.tgenabled::text
		FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
		WHERE c.relnamespace = 'public'::regnamespace AND NOT t.tgisinternal AND t.tgname LIKE 'roombell\_%'`)
	if err != nil {
		return nil, err
	}
	states := map[[2]string]string{}
	var table, name, state string
	_, err = pgx.ForEachRow(rows, []any{&table, &name, &state}, func() error {
		states[[2]string{table, name}] = state
		return nil
	})
	return states, err
}

// judgeTriggers says what is missing (when the list is the database's own) and what is not in the state that it should be in.
func judgeTriggers(states map[[2]string]string, expected []db.Trigger, same bool) []Finding {
	var missing, off, half []string
	var enable []string
	for _, t := range expected {
		state, ok := states[[2]string{t.Table, t.Name}]
		name := t.Table + "." + t.Name
		switch {
		case !ok && same:
			missing = append(missing, name)
			continue
		case !ok || state == t.State || state == "A":
			continue
		case state == "D" || state == "R":
			off = append(off, name)
		default:
			half = append(half, name)
		}
		enable = append(enable, fmt.Sprintf("ALTER TABLE public.%s ENABLE %s TRIGGER %s;", t.Table, t.Enable(), t.Name))
	}
	var found []Finding
	if len(missing) > 0 {
		found = append(found, Finding{
			Check: "triggers", Code: "triggers_missing", Level: Broken, Title: count(len(missing), "trigger is", "triggers are") + " missing: " + list(missing),
			Meaning: "What these tables' writers change is not recorded, or not checked: nobody hears of it, and no resume finds it later.",
			// The version says that there is nothing to be done: without the note all are made again.
			Command: psql("UPDATE roombell.trigger_version SET version = 0") + " && " + migrateUp,
		})
	}
	if len(off) > 0 {
		found = append(found, Finding{
			Check: "triggers", Code: "triggers_disabled", Level: Broken, Title: count(len(off), "trigger is", "triggers are") + " disabled: " + list(off),
			Meaning: "What these tables' writers change is not recorded, or not checked: nobody hears of it, and no resume finds it later.",
			Command: psql(strings.Join(enable, " ")),
		})
	} else if len(half) > 0 {
		found = append(found, Finding{
			Check: "triggers", Code: "triggers_not_always", Level: Warning, Title: count(len(half), "trigger is", "triggers are") + " not ENABLE ALWAYS: " + list(half),
			Meaning: "They are passed over by loads under session_replication_role = replica, which then are neither heard nor checked.",
			Command: psql(strings.Join(enable, " ")),
		})
	}
	return found
}

func queue(usage float64) Finding {
	f := Finding{Check: "queue", Code: "queue_ok", Title: fmt.Sprintf("the notification queue is %.1f %% full", 100*usage)}
	if usage < queueHalf {
		return f
	}
	f.Code, f.Level, f.Title = "queue_filling", Warning, fmt.Sprintf("the notification queue is %.0f %% full", 100*usage)
	f.Meaning = "A session that listens sits in a transaction and keeps all notifications. Writers do not ring any more: events may come a second late."
	f.Remedy = "End that session: of those who LISTEN it is one with an old transaction."
	f.Command = psql(`SELECT pid, usename, application_name, state, xact_start FROM pg_stat_activity WHERE xact_start < now() - interval '1 minute' ORDER BY xact_start`)
	if usage >= queueFull {
		f.Code, f.Level = "queue_full", Broken
		f.Meaning = "When it is full, every transaction of yours that NOTIFYs fails at its commit. A session that listens sits in a transaction and keeps all notifications."
	}
	return f
}

// standbyAlone finds out whether an address that wants a primary leads to servers that are none.
func (d *Doctor) standbyAlone(ctx context.Context) []Finding {
	config, err := pgx.ParseConfig(d.o.DatabaseURL)
	if err != nil || config.ValidateConnect == nil {
		return nil
	}
	config.ValidateConnect = nil
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil
	}
	defer conn.Close(context.WithoutCancel(ctx))
	s, err := askServer(ctx, conn)
	if err != nil {
		return nil
	}
	if f := primary(s.standby, s.readOnly); f.Level > OK {
		f.Meaning += " None of the servers that DATABASE_URL names is what its target_session_attrs asks for."
		return []Finding{f}
	}
	return nil
}
