package dbtest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"roombell/internal/postgres"
)

func count(t *testing.T, d *DB, sql string) int {
	t.Helper()
	var n int
	if err := d.Pool.QueryRow(t.Context(), sql).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDatabasesAreMigratedAndApart(t *testing.T) {
	t.Parallel()
	a, b := New(t), New(t)
	if _, err := a.Pool.Exec(t.Context(), "INSERT INTO organizations (name) VALUES ('one')"); err != nil {
		t.Fatal(err)
	}
	if n := count(t, a, "SELECT count(*) FROM organizations"); n != 1 {
		t.Errorf("%d rows where one was written", n)
	}
	if n := count(t, b, "SELECT count(*) FROM organizations"); n != 0 {
		t.Errorf("%d rows in the other database", n)
	}
	if n := count(t, a, "SELECT count(*) FROM pg_roles WHERE rolname = current_user AND rolsuper"); n != 0 {
		t.Error("the owner is a superuser")
	}
}

func TestEmptyDatabaseTakesTables(t *testing.T) {
	t.Parallel()
	d := Empty(t)
	if n := count(t, d, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"); n != 0 {
		t.Errorf("%d tables", n)
	}
	if _, err := d.Pool.Exec(t.Context(), "CREATE TABLE t (id int)"); err != nil {
		t.Error(err)
	}
}

func TestDatabaseGoesWithItsTest(t *testing.T) {
	t.Parallel()
	watcher := Empty(t)
	var name string
	t.Run("short", func(t *testing.T) {
		d := Empty(t)
		name = d.Name
		left, err := pgx.Connect(t.Context(), d.URL)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { left.Close(context.Background()) })
	})
	if n := count(t, watcher, "SELECT count(*) FROM pg_database WHERE datname = '"+name+"'"); n != 0 {
		t.Error("the database is still there")
	}
}

func TestClonesTakeTensOfMilliseconds(t *testing.T) {
	t.Parallel()
	New(t) // makes the template
	const clones = 20
	begin := time.Now()
	var all sync.WaitGroup
	for range clones {
		all.Go(func() { New(t) })
	}
	all.Wait()
	took := time.Since(begin) / clones
	t.Logf("%v a clone", took)
	// Ten times what it takes beside other tests on two cores.
	if took > 500*time.Millisecond {
		t.Errorf("%v a clone", took)
	}
}

func TestClusterSurvivesItsCrash(t *testing.T) {
	t.Parallel()
	s := Cluster(t, func(o *postgres.Options) { o.Settings = map[string]string{"wal_level": "logical"} })
	if err := s.Crash(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), s.URL(postgres.Name))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for setting, want := range map[string]string{"wal_level": "logical", "fsync": "on", "full_page_writes": "on"} {
		var got string
		if err := conn.QueryRow(t.Context(), "SHOW "+setting).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q, want %q: %v", setting, got, want, err)
		}
	}
}
