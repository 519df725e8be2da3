package eventlog

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"roombell/db"
	"roombell/internal/postgres"
	"roombell/internal/postgres/dbtest"
)

// cluster is a server that the test may crash.
type cluster struct {
	*postgres.Server
	url  string
	pool *pgxpool.Pool
}

func newCluster(t *testing.T, settings map[string]string) *cluster {
	t.Helper()
	server := dbtest.Cluster(t, func(o *postgres.Options) { o.Settings = settings })
	c := &cluster{Server: server, url: server.URL(postgres.Name)}
	if err := db.Migrate(t.Context(), c.url, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	pool, err := db.Open(t.Context(), c.url)
	if err != nil {
		t.Fatal(err)
	}
	c.pool = pool
	t.Cleanup(pool.Close)
	newWriter(t, c.url).organization()
	return c
}

func (c *cluster) crash(t *testing.T) {
	t.Helper()
	if err := c.Crash(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// lazy keeps Postgres from flushing what no commit waits for, so that a crash takes it back.
var lazy = map[string]string{"wal_writer_delay": "10s", "bgwriter_delay": "10s", "max_prepared_transactions": "10"}

// A crash gives transaction ids out again that ended without a flush, and that the tail has seen as ended.
func TestTransactionIDsGivenOutAgain(t *testing.T) {
	t.Parallel()
	c := newCluster(t, lazy)
	n := startNode(t, c.url, "a")
	w := newWriter(t, c.url)
	w.tell("before")
	n.await(t, "before")
	for range 300 {
		w.exec("BEGIN; SELECT pg_current_xact_id(); ROLLBACK")
	}
	seen := n.attached(t).xmax
	c.crash(t)
	w = newWriter(t, c.url)
	if again := query[uint64](t, c.pool, `SELECT pg_snapshot_xmax(pg_current_snapshot())`); again >= seen {
		t.Fatalf("transaction ids went from %d to %d: the crash took nothing back", seen, again)
	}
	want := append([]string{"before"}, sequence("after ", 200)...)
	w.tell(want[1:]...)
	n.await(t, want...)
}

// With synchronous_commit = off a crash would take back what clients have heard. The trigger does not let it.
func TestWriterThatDoesNotWaitForItsFlush(t *testing.T) {
	t.Parallel()
	c := newCluster(t, lazy)
	n := startNode(t, c.url, "a")
	w := newWriter(t, c.url)
	w.exec("SET synchronous_commit = off")
	want := sequence("before ", 50)
	w.tell(want...)
	n.await(t, want...)
	c.crash(t)
	for _, e := range n.events {
		if query[int](t, c.pool, `SELECT count(*) FROM event_log WHERE id = $1 AND event = $2`, e.ID, e.Name) != 1 {
			t.Errorf("%s was heard and is gone", e.Name)
		}
	}
	after := sequence("after ", 50)
	newWriter(t, c.url).tell(after...)
	n.await(t, append(want, after...)...)
}

func TestPreparedTransactions(t *testing.T) {
	t.Parallel()
	c := newCluster(t, lazy)
	a := startNode(t, c.url, "a")
	a.awaitArmed(t)
	b := startNode(t, c.url, "b")
	w := newWriter(t, c.url)
	w.exec("BEGIN")
	w.exec("SET LOCAL roombell.two_phase = 'on'")
	w.tell("prepared")
	w.exec("PREPARE TRANSACTION 'one'")
	w.tell("meanwhile")
	a.await(t, "meanwhile")
	a.awaitArmed(t) // a prepared transaction holds no gate
	c.crash(t)
	w = newWriter(t, c.url)
	w.tell("after the crash")
	w.exec("COMMIT PREPARED 'one'")
	for _, n := range []*node{a, b} {
		n.until(t, "all", func() bool { return len(n.events) >= 3 })
		n.lock.Lock()
		got := names(n.events)
		n.lock.Unlock()
		slices.Sort(got)
		if !slices.Equal(got, []string{"after the crash", "meanwhile", "prepared"}) {
			t.Errorf("heard %v", got)
		}
	}
}

func TestTailOutlivesTheServer(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	n := startNode(t, c.url, "a")
	w := newWriter(t, c.url)
	w.tell("1")
	n.await(t, "1")
	if err := c.Crash(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it knows that the database is away", func() bool { return n.Status().Err != "" })
	answers := make(chan error, 1)
	n.Attach(func(_ Cursor, err error) { answers <- err })
	if err := <-answers; !errors.Is(err, ErrUnavailable) {
		t.Errorf("Attach gave %v", err)
	}
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	newWriter(t, c.url).tell("2")
	n.await(t, "1", "2")
}

// A standby that is promoted goes on with a higher timeline. Here it is the same server with nothing lost, so nobody is reset.
func TestPromotedStandby(t *testing.T) {
	t.Parallel()
	c := newCluster(t, map[string]string{"wal_level": "replica", "hot_standby": "on"})
	n := startNode(t, c.url, "a")
	w := newWriter(t, c.url)
	w.tell("1")
	n.await(t, "1")
	if err := c.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.Dir(), "data", "standby.signal"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it refuses a standby", func() bool { return n.Status().Err != "" })
	admin, err := pgx.Connect(t.Context(), c.AdminURL(postgres.Name))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	if _, err := admin.Exec(t.Context(), "SELECT pg_promote()"); err != nil {
		t.Fatal(err)
	}
	newWriter(t, c.url).tell("2")
	n.await(t, "1", "2")
	if era := n.events[1].ID >> sequenceBits; era != 2 {
		t.Errorf("the event after the promotion has era %d", era)
	}
	if got := query[string](t, c.pool, `SELECT string_agg(timeline::text, ' ') FROM event_log_timelines`); got != "2" {
		t.Errorf("recorded timelines: %s", got)
	}
	if len(n.resets) > 0 {
		t.Errorf("resets %v, though nothing was lost", n.resets)
	}
}
