package doctor

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"roombell/db"
	"roombell/internal/eventlog"
	"roombell/internal/postgres"
	"roombell/internal/postgres/dbtest"
	"roombell/triggers"
)

func TestTriggers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, statement, code string
		level                 Level
	}{
		{"disabled", `ALTER TABLE messages DISABLE TRIGGER roombell_insert`, "triggers_disabled", Broken},
		{"all of a table disabled", `ALTER TABLE messages DISABLE TRIGGER USER`, "triggers_disabled", Broken},
		{"for replicas only", `ALTER TABLE chats ENABLE REPLICA TRIGGER roombell_update`, "triggers_disabled", Broken},
		{"for ordinary writers only", `ALTER TABLE chats ENABLE TRIGGER roombell_update`, "triggers_not_always", Warning},
		{"the guard of replicas for ordinary writers", `ALTER TABLE messages ENABLE TRIGGER roombell_insert_guard`, "triggers_not_always", Warning},
		{"missing", `DROP TRIGGER roombell_insert ON messages`, "triggers_missing", Broken},
		{"missing from several", `DROP TRIGGER roombell_insert ON messages; DROP TRIGGER roombell_update ON users`, "triggers_missing", Broken},
		{"older", `UPDATE roombell.trigger_version SET version = version - 1`, "triggers_old", Broken},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := dbtest.New(t)
			onConn(t, d.URL, test.statement)
			mend(t, d.URL, expect(t, examine(t, options(d.URL)), test.level, test.code))
			if got := without(above(examine(t, options(d.URL)), Note), careless); len(got) > 0 {
				t.Errorf("after its command there is %v", got)
			}
		})
	}
}

// A trigger that is there for all writers may be so for more reasons than ours.
func TestGuardOfReplicasForAll(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	execute(t, d.Pool, `ALTER TABLE messages ENABLE ALWAYS TRIGGER roombell_insert_guard`)
	if f := find(examine(t, options(d.URL)), "triggers_ok"); f.Code == "" {
		t.Error("it is no fault")
	}
}

func TestTriggersOfANewerVersion(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	// A newer version may have others.
	execute(t, d.Pool, `DROP TRIGGER roombell_insert ON messages`)
	execute(t, d.Pool, `UPDATE roombell.trigger_version SET version = $1`, triggers.Version()+1)
	expect(t, examine(t, options(d.URL)), Note, "triggers_newer")
	execute(t, d.Pool, `UPDATE roombell.trigger_version SET version = version + 1`)
	expect(t, examine(t, options(d.URL)), Warning, "triggers_newer")
	execute(t, d.Pool, `ALTER TABLE messages DISABLE TRIGGER roombell_update`)
	expect(t, examine(t, options(d.URL)), Broken, "triggers_disabled", "triggers_newer")
}

func TestNotMigrated(t *testing.T) {
	t.Parallel()
	d := dbtest.Empty(t)
	r := examine(t, options(d.URL))
	f := expect(t, r, Broken, "not_migrated")
	if left := find(r, "checks_left_out"); !strings.Contains(left.Title, "counters") {
		t.Errorf("what was left out: %+v", left)
	}
	if f.Command != migrateUp || find(r, "listen_ok").Code == "" {
		t.Errorf("%+v; and LISTEN needs no tables: %s", f, describe(r))
	}
	mend(t, d.URL, f)
	if got := without(above(examine(t, options(d.URL)), Note), careless); len(got) > 0 {
		t.Errorf("after its command there is %v", got)
	}
}

func TestMigrationsPending(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	check0(t, db.Down(t.Context(), d.URL, slog.New(slog.DiscardHandler)))
	mend(t, d.URL, expect(t, examine(t, options(d.URL)), Broken, "migrations_pending"))
	if got := without(above(examine(t, options(d.URL)), Note), careless); len(got) > 0 {
		t.Errorf("after its command there is %v", got)
	}
}

func TestMigrationsOfANewerVersion(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	execute(t, d.Pool, `INSERT INTO roombell_migrations (version_id, is_applied) VALUES (999, true)`)
	expect(t, examine(t, options(d.URL)), Note, "migrations_newer")
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	elsewhere, err := pgx.ParseConfig(d.URL)
	check0(t, err)
	for name, url := range map[string]string{
		"nobody there":     "postgres://ann:hunter2@127.0.0.1:1/x",
		"no such database": strings.Replace(d.URL, "/"+elsewhere.Database+"?", "/nowhere?", 1),
		"no such role":     strings.Replace(d.URL, "roombell@", "stranger:hunter2@", 1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := examine(t, options(url))
			f := expect(t, r, Broken, "database_unreachable")
			if len(f.Meaning) < 80 || find(r, "tokens_ok").Code == "" {
				t.Errorf("%+v; and what needs no database was not looked at: %s", f, describe(r))
			}
		})
	}
}

// standby is a server that replays: the same data, started as one.
func standby(t testing.TB) *postgres.Server {
	t.Helper()
	c := dbtest.Cluster(t, func(o *postgres.Options) { o.Settings = map[string]string{"wal_level": "replica", "hot_standby": "on"} })
	check0(t, db.Migrate(t.Context(), c.URL(postgres.Name), slog.New(slog.DiscardHandler)))
	check0(t, c.Shutdown(t.Context()))
	check0(t, os.WriteFile(filepath.Join(c.Dir(), "data", "standby.signal"), nil, 0o666))
	check0(t, c.Restart(t.Context()))
	return c
}

func TestStandby(t *testing.T) {
	t.Parallel()
	url := standby(t).URL(postgres.Name)
	expect(t, examine(t, options(url)), Broken, "standby")
	// A URL that wants a primary is refused by the driver, which does not say so in our words.
	expect(t, examine(t, options(url+"&target_session_attrs=read-write")), Broken, "standby", "database_unreachable")

	d := dbtest.New(t)
	o := options(d.URL)
	o.ListenDatabaseURL = url
	expect(t, examine(t, o), Broken, "listen_standby")
}

func TestReadOnly(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	asAdmin(t, d, "ALTER DATABASE "+d.Name+" SET default_transaction_read_only = on")
	expect(t, examine(t, options(d.URL)), Broken, "read_only")
}

// The queue has 8 GB: what it would take to fill it is a test's whole day, so its figure is judged.
func TestQueue(t *testing.T) {
	t.Parallel()
	for usage, want := range map[float64]Finding{
		0: {Code: "queue_ok"}, 0.49: {Code: "queue_ok"}, 0.5: {Code: "queue_filling", Level: Warning},
		0.89: {Code: "queue_filling", Level: Warning}, 0.9: {Code: "queue_full", Level: Broken}, 1: {Code: "queue_full", Level: Broken},
	} {
		if got := queue(usage); got.Code != want.Code || got.Level != want.Level {
			t.Errorf("at %v: %+v", usage, got)
		}
	}
	d := dbtest.New(t)
	mend(t, d.URL, queue(0.6)) // its command only looks
}

func TestReady(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	config, err := pgx.ParseConfig(d.URL)
	check0(t, err)
	idle := eventlog.New(eventlog.Options{ConnConfig: config}) // never run
	tail := node(t, d.URL, "ready")
	judge := func(roundTrip func(context.Context) error) Report {
		return Report{Ready(t.Context(), d.Pool, roundTrip)}
	}
	if r := judge(tail.RoundTrip); worst(r.Findings) != OK || find(r, "listen_ok").Code == "" {
		t.Errorf("a healthy one: %s", describe(r))
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	deaf := func(context.Context) error { return idle.RoundTrip(stopped) }
	if f := find(judge(deaf), "notify_not_heard"); f.Level != Broken || !errors.Is(f.Err, context.Canceled) {
		t.Errorf("a tail that does not run: %+v", f)
	}
	execute(t, d.Pool, `ALTER TABLE messages DISABLE TRIGGER roombell_insert`)
	if r := judge(tail.RoundTrip); find(r, "triggers_disabled").Level != Broken || find(r, "listen_ok").Code == "" {
		t.Errorf("a disabled trigger: %s", describe(r))
	}
	empty := dbtest.Empty(t)
	r := Report{Ready(t.Context(), empty.Pool, func(context.Context) error { t.Error("a round trip without tables"); return nil })}
	if find(r, "not_migrated").Level != Broken {
		t.Errorf("an empty database: %s", describe(r))
	}
}

// Locks of others are waited for, but not for ever.
func TestLockedTable(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	fill(t, d.Pool)
	conn := connect(t, d.URL)
	_, err := conn.Exec(t.Context(), "BEGIN; LOCK TABLE chats, roombell_settings IN ACCESS EXCLUSIVE MODE")
	check0(t, err)
	r := examine(t, options(d.URL))
	var names []string
	for _, f := range r.Findings {
		if f.Code == "not_checked" {
			names = append(names, f.Check)
			if f.Level != Warning || !strings.HasPrefix(f.Meaning, "Somebody holds a lock") {
				t.Errorf("%+v", f)
			}
		}
	}
	if strings.Join(names, " ") != "settings retention counters rows" {
		t.Errorf("could not check %v: %s", names, describe(r))
	}
}
