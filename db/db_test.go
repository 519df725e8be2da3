package db_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"roombell/db"
	"roombell/internal/postgres/dbtest"
)

func TestOpenDoesNotConnect(t *testing.T) {
	t.Parallel()
	pool, err := db.Open(t.Context(), "postgres://127.0.0.1:1/nothing?pool_max_conns=3")
	check(t, err)
	defer pool.Close()
	if got := pool.Config().MaxConns; got != 3 {
		t.Errorf("pool_max_conns=3 gave %d", got)
	}
	if err := pool.Ping(t.Context()); !db.IsUnavailable(err) {
		t.Errorf("ping without a server: %v", err)
	}
}

func TestOpenFindsTheWritableHost(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	cfg := d.Pool.Config().ConnConfig
	pool, err := db.Open(t.Context(), "host=/nowhere,"+cfg.Host+" port=1,"+fmt.Sprint(cfg.Port)+" user="+cfg.User+
		" dbname="+cfg.Database+" target_session_attrs=read-write")
	check(t, err)
	defer pool.Close()
	if got := number(t, pool, "SELECT count(*) FROM organizations"); got != 0 {
		t.Errorf("%d organizations in a new database", got)
	}
}

func TestOpenRefusesNonsense(t *testing.T) {
	t.Parallel()
	if _, err := db.Open(t.Context(), "postgres://host:port/x"); err == nil {
		t.Error("an address that is none was accepted")
	}
}

func TestInTx(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	insert := func(tx pgx.Tx) { exec(t, tx, "INSERT INTO organizations (name) VALUES ('x')") }
	count := func() int64 { return number(t, d.Pool, "SELECT count(*) FROM organizations") }
	own := errors.New("own")

	check(t, db.InTx(t.Context(), d.Pool, func(tx pgx.Tx) error { insert(tx); return nil }))
	if got := count(); got != 1 {
		t.Errorf("%d rows after a commit", got)
	}
	if err := db.InTx(t.Context(), d.Pool, func(tx pgx.Tx) error { insert(tx); return own }); !errors.Is(err, own) {
		t.Errorf("the function's error came back as %v", err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a panic was swallowed")
			}
		}()
		_ = db.InTx(t.Context(), d.Pool, func(tx pgx.Tx) error { insert(tx); panic("in a transaction") })
	}()
	if got := count(); got != 1 {
		t.Errorf("%d rows after an error and a panic", got)
	}
	if got := d.Pool.Stat().AcquiredConns(); got != 0 {
		t.Errorf("%d connections were not given back", got)
	}
}

func TestInTxRunsAgain(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	for _, test := range []struct {
		code    string
		failing int
		tries   int
	}{
		{"40001", 2, 3},
		{"40P01", 4, 5},
		{"40001", 9, 5},
		{"23505", 9, 1},
	} {
		tries := 0
		err := db.InTx(t.Context(), d.Pool, func(tx pgx.Tx) error {
			tries++
			if tries > test.failing {
				return nil
			}
			_, err := tx.Exec(t.Context(), "DO $$ BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = '"+test.code+"'; END $$")
			return err
		})
		if tries != test.tries {
			t.Errorf("%s %d times: %d tries, want %d", test.code, test.failing, tries, test.tries)
		}
		if failed := err != nil; failed != (test.failing >= test.tries) {
			t.Errorf("%s %d times: %v", test.code, test.failing, err)
		}
	}
}

func TestInTxGetsOutOfDeadlocks(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	a, b := newChat(t, d.Pool), newChat(t, d.Pool)
	swap := func(first, second int64, met chan struct{}, meet <-chan struct{}) error {
		once := false
		return db.InTx(t.Context(), d.Pool, func(tx pgx.Tx) error {
			update := "UPDATE chats SET name = coalesce(name, '') || 'x' WHERE id = $1"
			if _, err := tx.Exec(t.Context(), update, first); err != nil {
				return err
			}
			if !once { // in the first try both have their first row before either asks for its second
				once = true
				close(met)
				<-meet
			}
			_, err := tx.Exec(t.Context(), update, second)
			return err
		})
	}
	one, two := make(chan struct{}), make(chan struct{})
	var g errgroup.Group
	g.Go(func() error { return swap(a, b, one, two) })
	g.Go(func() error { return swap(b, a, two, one) })
	check(t, g.Wait())
	if n := number(t, d.Pool, "SELECT count(*) FROM chats WHERE name = 'xx'"); n != 2 {
		t.Errorf("%d of 2 rows have both writes", n)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	run := func(statement string) error {
		_, err := d.Pool.Exec(t.Context(), statement)
		return err
	}
	chat := newChat(t, d.Pool)
	exec(t, d.Pool, "INSERT INTO users (organization_id, email) SELECT id, 'a@example.com' FROM organizations")
	locked, err := d.Pool.Begin(t.Context())
	check(t, err)
	defer locked.Rollback(context.WithoutCancel(t.Context()))
	exec(t, locked, "SELECT FROM chats WHERE id = $1 FOR UPDATE", chat)

	for _, test := range []struct {
		name string
		err  error
		is   func(error) bool
	}{
		{"unique", run("INSERT INTO users (organization_id, email) SELECT id, 'A@Example.com' FROM organizations"),
			func(err error) bool { return db.IsUnique(err, "users_email") && !db.IsUnique(err, "other") }},
		{"foreign key", run("INSERT INTO users (organization_id, email) VALUES (0, 'b@example.com')"), func(err error) bool { return db.IsForeignKey(err, "") }},
		{"check", run("UPDATE users SET role = 'king'"), func(err error) bool { return db.IsCheck(err, "") }},
		{"missing", run("SELECT FROM nowhere"), db.IsMissing},
		{"locked", run("SELECT FROM chats FOR UPDATE NOWAIT"), db.IsLocked},
		{"terminated", run("SELECT pg_terminate_backend(pg_backend_pid())"), db.IsUnavailable},
		{"not found", d.Pool.QueryRow(t.Context(), "SELECT id FROM users WHERE id = 0").Scan(new(int64)), db.IsNotFound},
		{"no server", db.Migrate(t.Context(), "postgres://127.0.0.1:1/nothing", nil), db.IsUnavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			if !test.is(test.err) {
				t.Errorf("%v (%s) is not seen as %s", test.err, db.Code(test.err), test.name)
			}
			for name, is := range map[string]func(error) bool{"missing": db.IsMissing, "locked": db.IsLocked, "not found": db.IsNotFound,
				"retryable": db.IsRetryable, "read only": db.IsReadOnly} {
				if is(test.err) && name != test.name {
					t.Errorf("%v is seen as %s as well", test.err, name)
				}
			}
		})
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Pool.Exec(canceled, "SELECT 1"); db.IsUnavailable(err) {
		t.Errorf("our own cancellation is seen as an outage: %v", err)
	}
}

// Behind PgBouncer's transaction pooling the next transaction's connection does not know what this one prepared.
func TestThroughProxyPreparesNothing(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	for _, test := range []struct {
		name     string
		options  []db.Option
		prepares bool
	}{{"direct", nil, true}, {"through a proxy", []db.Option{db.ThroughProxy}, false}} {
		t.Run(test.name, func(t *testing.T) {
			pool, err := db.Open(t.Context(), d.URL+"&pool_max_conns=1", test.options...)
			check(t, err)
			defer pool.Close()
			q := db.New(pool)
			_, err = q.ListChatIDs(t.Context(), []int64{1, 2})
			check(t, err)
			if n := number(t, pool, "SELECT count(*) FROM pg_prepared_statements"); n > 0 != test.prepares {
				t.Errorf("%d prepared statements", n)
			}
		})
	}
}
