package db_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"roombell/db"
	"roombell/internal/postgres/dbtest"
	"roombell/triggers"
)

func TestMigrateEmptyDatabase(t *testing.T) {
	t.Parallel()
	d := dbtest.Empty(t)

	before, err := db.Status(t.Context(), d.URL)
	check(t, err)
	if before.Pending() == 0 || before.Ready() == nil || before.Triggers != 0 {
		t.Errorf("an empty database is %+v, want everything pending", before)
	}
	check(t, db.Migrate(t.Context(), d.URL, nil))
	after, err := db.Status(t.Context(), d.URL)
	check(t, err)
	if err := after.Ready(); err != nil {
		t.Errorf("after Migrate: %v", err)
	}
	if after.Triggers < 1 || after.Triggers != triggers.Version() || after.Migrations[0].AppliedAt.IsZero() || len(after.Newer) > 0 {
		t.Errorf("after Migrate: %+v", after)
	}
	if age := time.Since(after.Migrations[0].AppliedAt); age < 0 || age > time.Hour {
		t.Errorf("applied %v ago", age)
	}
	// The triggers work, not only exist.
	chat := newChat(t, d.Pool)
	exec(t, d.Pool, "INSERT INTO messages (chat_id, content) VALUES ($1, 'hi')", chat)
	if n := number(t, d.Pool, "SELECT count(*) FROM event_log WHERE event = 'message:new'"); n != 1 {
		t.Errorf("%d events for one message", n)
	}
}

func TestMigrateSeveralAtOnce(t *testing.T) {
	t.Parallel()
	d := dbtest.Empty(t)
	var log syncBuffer
	var g errgroup.Group
	for range 6 {
		g.Go(func() error { return db.Migrate(t.Context(), d.URL, slog.New(slog.NewTextHandler(&log, nil))) })
	}
	check(t, g.Wait())
	v, err := db.Status(t.Context(), d.URL)
	check(t, err)
	check(t, v.Ready())
	if n := strings.Count(log.String(), "triggers applied"); n != 1 {
		t.Errorf("triggers were applied %d times", n)
	}
	if n := strings.Count(log.String(), "migration applied"); n != len(v.Migrations) {
		t.Errorf("%d migrations were applied, there are %d", n, len(v.Migrations))
	}
}

func TestMigrateLocksNothingWhenNothingChanged(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	tx, err := d.Pool.Begin(t.Context())
	check(t, err)
	defer tx.Rollback(context.WithoutCancel(t.Context()))
	exec(t, tx, "LOCK TABLE "+strings.Join(db.TriggerTables(), ", ")+" IN EXCLUSIVE MODE") // whoever does more than read would wait
	// Not even the migrations' own lock is waited for.
	class, object := db.MigrationLock()
	exec(t, tx, "SELECT pg_advisory_xact_lock($1, $2)", class, object)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	check(t, db.Migrate(ctx, d.URL, nil, db.WithRetention(72*time.Hour)))
}

func TestMigrateWritesRetention(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	retention := "SELECT extract(epoch FROM retention)::bigint FROM roombell_settings"

	check(t, db.Migrate(t.Context(), d.URL, nil, db.WithRetention(36*time.Hour)))
	if got := number(t, d.Pool, retention); got != 36*3600 {
		t.Errorf("retention is %d s", got)
	}
	check(t, db.Migrate(t.Context(), d.URL, nil))
	if got := number(t, d.Pool, retention); got != 36*3600 {
		t.Errorf("without the setting retention became %d s", got)
	}
}

func TestTriggerVersionOnlyRises(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	next := triggers.Version() + 1
	check(t, db.ApplyTriggers(t.Context(), d.URL, nil, marked(t, "the next version"), next))

	// The older binary, starting again beside the newer one.
	check(t, db.Migrate(t.Context(), d.URL, nil))
	v, err := db.Status(t.Context(), d.URL)
	check(t, err)
	if v.Triggers != next {
		t.Errorf("the version went from %d to %d", next, v.Triggers)
	}
	if err := v.Ready(); err != nil {
		t.Errorf("newer triggers make the older binary unready: %v", err)
	}
	if got := mark(t, d.Pool); got != "the next version" {
		t.Errorf("the older binary put back %q", got)
	}
}

// Version N goes in again and again beside writers that lock tables in both orders, and beside an N-1 that starts all the time.
func TestApplyTriggersUnderTraffic(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		files    func(*testing.T, string) fstest.MapFS
		versions int
	}{
		{"functions", marked, 8},
		{"definitions", withDefinitions, 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := dbtest.New(t)
			w := startWriters(t, d)
			version := triggers.Version()
			for i := range test.versions {
				version++
				name := fmt.Sprintf("version %d", i)
				check(t, db.ApplyTriggers(t.Context(), d.URL, nil, test.files(t, name), version))
				if got := mark(t, d.Pool); got != name {
					t.Errorf("after applying %s the database has %q", name, got)
				}
				seen := w.written.Load()
				eventually(t, "the writers go on", func() bool { return w.written.Load() > seen+3 })
			}
			w.finish(t, d)
		})
	}
}

// writers write messages and chats, in both orders, and start the older binary.
type writers struct {
	group            errgroup.Group
	stop             context.CancelFunc
	written, slowest atomic.Int64
}

func startWriters(t *testing.T, d *dbtest.DB) *writers {
	t.Helper()
	var w writers
	var ctx context.Context
	ctx, w.stop = context.WithCancel(t.Context())
	for i := range 4 {
		chat := newChat(t, d.Pool)
		w.group.Go(func() error {
			for n := 0; ctx.Err() == nil; n++ {
				began := time.Now()
				if err := write(t.Context(), d.Pool, chat, n, i); err != nil {
					return fmt.Errorf("a writer saw an error: %w", err)
				}
				w.written.Add(1)
				w.slowest.Store(max(w.slowest.Load(), int64(time.Since(began))))
			}
			return nil
		})
	}
	w.group.Go(func() error {
		for ctx.Err() == nil {
			if err := db.Migrate(t.Context(), d.URL, nil); err != nil {
				return err
			}
		}
		return nil
	})
	return &w
}

func (w *writers) finish(t *testing.T, d *dbtest.DB) {
	t.Helper()
	w.stop()
	check(t, w.group.Wait())
	total := w.written.Load()
	events := number(t, d.Pool, "SELECT count(DISTINCT payload->>'id') FROM event_log WHERE event = 'message:new'")
	messages := number(t, d.Pool, "SELECT count(*) FROM messages")
	if events != total || messages != total {
		t.Errorf("%d commits, %d messages, %d of them with an event", total, messages, events)
	}
	t.Logf("%d commits, the slowest took %v", total, time.Duration(w.slowest.Load()))
}

// write writes a message alone, or with its chat in one transaction, in the one order or the other.
func write(ctx context.Context, pool *pgxpool.Pool, chat int64, n, writer int) error {
	insert := func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO messages (chat_id, content) VALUES ($1, 'hi')", chat)
		return err
	}
	update := func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE chats SET name = $2 WHERE id = $1", chat, fmt.Sprint(n))
		return err
	}
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		switch writer {
		case 0:
			return errors.Join(insert(tx), update(tx))
		case 1:
			return errors.Join(update(tx), insert(tx))
		}
		return insert(tx)
	})
}

func TestApplyTriggersWaitsForALongTransaction(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE"} { // a writer; what VACUUM holds
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			d := dbtest.New(t)
			chat := newChat(t, d.Pool)
			tx, err := d.Pool.Begin(t.Context())
			check(t, err)
			defer tx.Rollback(context.WithoutCancel(t.Context()))
			exec(t, tx, "LOCK TABLE messages IN "+mode+" MODE")

			// Watched from the beginning: on a slow machine all long tries are over before the short ones were seen.
			long := watchLongWaits(t, d.Pool)
			applied := make(chan error, 1)
			go func() {
				applied <- db.ApplyTriggers(t.Context(), d.URL, nil, withDefinitions(t, "new"), triggers.Version()+1)
			}()
			// Each try that is seen waiting lets go again, and writers pass.
			for range 4 {
				eventually(t, "a try to lock messages", func() bool { return waitingForMessages(t, d.Pool) })
				exec(t, d.Pool, "INSERT INTO messages (chat_id) VALUES ($1)", chat)
				eventually(t, "the try to end", func() bool { return !waitingForMessages(t, d.Pool) })
			}
			if mode == "SHARE UPDATE EXCLUSIVE" {
				// deadlock_timeout is 1 s: an autovacuum would be canceled by a try that is longer.
				eventually(t, "a try that sends an autovacuum away", long.Load)
			}
			check(t, tx.Commit(t.Context()))
			check(t, <-applied)
			if got := mark(t, d.Pool); got != "new" {
				t.Errorf("the database has %q", got)
			}
		})
	}
}

// watchLongWaits notes whether anybody ever waited for the lock of messages for more than a second.
func watchLongWaits(t *testing.T, pool *pgxpool.Pool) *atomic.Bool {
	t.Helper()
	var long atomic.Bool
	ctx, stop := context.WithCancel(t.Context())
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for !long.Load() && ctx.Err() == nil {
			var n int
			err := pool.QueryRow(ctx, `SELECT count(*) FROM (SELECT pg_sleep(0.02)) nap, pg_locks
				WHERE relation = 'messages'::regclass AND NOT granted AND waitstart < clock_timestamp() - interval '1 s'`).Scan(&n)
			long.Store(err == nil && n > 0)
		}
	})
	t.Cleanup(func() { stop(); watcher.Wait() })
	return &long
}

func waitingForMessages(t *testing.T, pool *pgxpool.Pool) bool {
	return number(t, pool, "SELECT count(*) FROM pg_locks WHERE relation = 'messages'::regclass AND mode = 'ShareRowExclusiveLock' AND NOT granted") > 0
}

// Functions alone are replaced beside a transaction that has written, and beside one that has locked every table.
func TestApplyFunctionsLocksNoTable(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	tx, err := d.Pool.Begin(t.Context())
	check(t, err)
	defer tx.Rollback(context.WithoutCancel(t.Context()))
	exec(t, tx, "LOCK TABLE "+strings.Join(db.TriggerTables(), ", ")+" IN SHARE ROW EXCLUSIVE MODE")
	chat := newChat(t, tx)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	check(t, db.ApplyTriggers(ctx, d.URL, nil, marked(t, "new"), triggers.Version()+1))
	exec(t, tx, "INSERT INTO messages (chat_id) VALUES ($1)", chat)
	check(t, tx.Commit(t.Context()))
	if n := number(t, d.Pool, "SELECT count(*) FROM event_log WHERE event = 'message:new'"); n != 1 {
		t.Errorf("%d events for one message", n)
	}
}

// A trigger that somebody disabled or dropped comes back with the next version, even when its definition is the same.
func TestApplyTriggersMendsThem(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	all := number(t, d.Pool, "SELECT count(*) FROM pg_trigger WHERE tgenabled IN ('A', 'R')")
	exec(t, d.Pool, "DROP TRIGGER roombell_insert ON messages")
	exec(t, d.Pool, "ALTER TABLE chats DISABLE TRIGGER roombell_update")
	check(t, db.ApplyTriggers(t.Context(), d.URL, nil, marked(t, "new"), triggers.Version()+1))
	if n := number(t, d.Pool, "SELECT count(*) FROM pg_trigger WHERE tgenabled IN ('A', 'R')"); n != all {
		t.Errorf("%d of %d triggers are in force", n, all)
	}
}

// What is recognized decides what is locked and dropped.
func TestAllTriggersAreRecognized(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	rows, err := d.Pool.Query(t.Context(), `SELECT format('%s.%s:%s', tgrelid::regclass, tgname, tgenabled) FROM pg_trigger
		WHERE NOT tgisinternal AND tgparentid = 0 ORDER BY 1`)
	check(t, err)
	have, err := pgx.CollectRows(rows, pgx.RowTo[string])
	check(t, err)
	names, err := db.TriggersInForce(triggers.Files)
	check(t, err)
	slices.Sort(names)
	slices.Sort(have)
	if !slices.Equal(have, names) {
		t.Errorf("in the database: %q\nin the files: %q", have, names)
	}
}

func TestBrokenTriggersChangeNothing(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	files := marked(t, "half")
	files["99_broken.sql"] = &fstest.MapFile{Data: []byte("SELECT nonsense(1);")}
	err := db.ApplyTriggers(t.Context(), d.URL, nil, files, triggers.Version()+1)
	if err == nil || !strings.Contains(err.Error(), "99_broken.sql") {
		t.Errorf("the error does not name the file: %v", err)
	}
	v, err := db.Status(t.Context(), d.URL)
	check(t, err)
	if v.Triggers != triggers.Version() || mark(t, d.Pool) == "half" {
		t.Errorf("half of the files were applied")
	}
}

func TestDownToNothingAndUpAgain(t *testing.T) {
	t.Parallel()
	d := dbtest.Empty(t)
	before := objects(t, d.Pool)
	check(t, db.Migrate(t.Context(), d.URL, nil))
	v, err := db.Status(t.Context(), d.URL)
	check(t, err)

	for range 2 {
		for left := len(v.Migrations); left > 0; left-- {
			check(t, db.Down(t.Context(), d.URL, nil))
			v, err := db.Status(t.Context(), d.URL)
			check(t, err)
			if got := len(v.Migrations) - v.Pending(); got != left-1 {
				t.Fatalf("a step down left %d migrations, want %d", got, left-1)
			}
			if v.Triggers != 0 {
				t.Errorf("a step down left triggers of version %d", v.Triggers)
			}
		}
		if left := objects(t, d.Pool); !slices.Equal(left, before) {
			t.Errorf("after down to nothing there are %q", left)
		}
		if err := db.Down(t.Context(), d.URL, nil); !errors.Is(err, db.ErrNothingApplied) {
			t.Errorf("one more step down: %v", err)
		}
		check(t, db.Migrate(t.Context(), d.URL, nil))
		newChat(t, d.Pool)
	}
}

func TestDownRemovesTriggersFirst(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	check(t, db.Down(t.Context(), d.URL, nil))
	if n := number(t, d.Pool, "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal"); n != 0 {
		t.Errorf("%d triggers are left", n)
	}
}

func TestDownRefusesANewerDatabase(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	exec(t, d.Pool, "INSERT INTO roombell_migrations (version_id, is_applied) VALUES (999, true)")
	if err := db.Down(t.Context(), d.URL, nil); !errors.Is(err, db.ErrNewer) {
		t.Errorf("Down of a newer database: %v", err)
	}
	check(t, db.Migrate(t.Context(), d.URL, nil))
	v, err := db.Status(t.Context(), d.URL)
	check(t, err)
	if !slices.Equal(v.Newer, []int64{999}) || v.Ready() != nil {
		t.Errorf("a newer database is %+v: %v", v, v.Ready())
	}
}

func TestTriggerTablesAreThoseWithTriggers(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	rows, err := d.Pool.Query(t.Context(), "SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal AND tgparentid = 0")
	check(t, err)
	have, err := pgx.CollectRows(rows, pgx.RowTo[string])
	check(t, err)
	for _, table := range have {
		if !slices.Contains(db.TriggerTables(), table) {
			t.Errorf("table %s has triggers and is not locked while they are applied", table)
		}
	}
}

func TestMigrateWithASearchPathOfTheRole(t *testing.T) {
	t.Parallel()
	d := dbtest.Empty(t)
	exec(t, d.Pool, "CREATE SCHEMA elsewhere")
	exec(t, d.Pool, fmt.Sprintf("ALTER DATABASE %s SET search_path = elsewhere, public", d.Name))
	exec(t, d.Pool, fmt.Sprintf("ALTER DATABASE %s SET timezone = 'Asia/Tokyo'", d.Name))
	check(t, db.Migrate(t.Context(), d.URL, nil))
	check(t, db.Migrate(t.Context(), d.URL, nil))
	if n := number(t, d.Pool, "SELECT count(*) FROM pg_class WHERE relnamespace = 'elsewhere'::regnamespace"); n != 0 {
		t.Errorf("%d tables went to another schema", n)
	}
	v, err := db.Status(t.Context(), d.URL)
	check(t, err)
	if age := time.Since(v.Migrations[0].AppliedAt); age < -time.Minute || age > time.Hour {
		t.Errorf("applied %v ago", age)
	}
}

func TestMigrateWithoutServer(t *testing.T) {
	t.Parallel()
	if err := db.Migrate(t.Context(), "postgres://127.0.0.1:1/nothing", nil); !db.IsUnavailable(err) {
		t.Errorf("without a server: %v", err)
	}
}

// marked are this version's files with one more function, which tells versions apart.
func marked(t *testing.T, text string) fstest.MapFS {
	t.Helper()
	files := fstest.MapFS{}
	names, err := fs.Glob(triggers.Files, "*.sql")
	check(t, err)
	for _, name := range names {
		data, err := fs.ReadFile(triggers.Files, name)
		check(t, err)
		files[name] = &fstest.MapFile{Data: data}
	}
	files["98_mark.sql"] = &fstest.MapFile{Data: fmt.Appendf(nil,
		"CREATE OR REPLACE FUNCTION roombell.mark() RETURNS text LANGUAGE sql AS $$ SELECT '%s' $$;", text)}
	return files
}

// withDefinitions are marked, and define a trigger anew.
func withDefinitions(t *testing.T, text string) fstest.MapFS {
	t.Helper()
	files := marked(t, text)
	files["99_definition.sql"] = &fstest.MapFile{Data: fmt.Appendf(nil, `CREATE OR REPLACE TRIGGER roombell_truncate AFTER TRUNCATE ON notifications
  FOR EACH STATEMENT /* %s */ EXECUTE FUNCTION roombell.truncated();
ALTER TABLE notifications ENABLE ALWAYS TRIGGER roombell_truncate;
`, text)}
	return files
}

func mark(t *testing.T, pool *pgxpool.Pool) string {
	t.Helper()
	var text string
	err := pool.QueryRow(t.Context(), "SELECT roombell.mark()").Scan(&text)
	if db.Code(err) == "42883" { // undefined_function
		return ""
	}
	check(t, err)
	return text
}

// objects are all tables, sequences, functions, types and schemas that are not Postgres's own.
func objects(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), `
		SELECT o FROM (
			SELECT oid::regclass::text, relnamespace FROM pg_class
			UNION ALL SELECT oid::regprocedure::text, pronamespace FROM pg_proc
			UNION ALL SELECT oid::regtype::text, typnamespace FROM pg_type
			UNION ALL SELECT 'schema ' || nspname, oid FROM pg_namespace) a(o, n)
		JOIN pg_namespace s ON s.oid = n WHERE nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema' ORDER BY o`)
	check(t, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	check(t, err)
	return names
}

func exec(t *testing.T, q db.DBTX, statement string, args ...any) {
	t.Helper()
	if _, err := q.Exec(t.Context(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func number(t *testing.T, q db.DBTX, query string, args ...any) int64 {
	t.Helper()
	var n int64
	if err := q.QueryRow(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

func newChat(t *testing.T, q db.DBTX) int64 {
	t.Helper()
	return number(t, q, `WITH o AS (INSERT INTO organizations (name) VALUES ('test') RETURNING id)
		INSERT INTO chats (organization_id) SELECT id FROM o RETURNING id`)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually asks until it is so, for at most 20 seconds.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for !so() {
		select {
		case <-deadline.C:
			t.Fatalf("waited in vain for: %s", what)
		case <-ticker.C:
		}
	}
}

// syncBuffer takes the logs of several goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
