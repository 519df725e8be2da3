package inbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sync/errgroup"

	"roombell/db"
	"roombell/internal/eventlog"
	"roombell/internal/postgres"
	"roombell/internal/postgres/dbtest"
)

// node is a projector with a tail of its own.
type node struct {
	*Projector
	tail   *eventlog.Tail
	ringer atomic.Bool
	stop   func()
}

// startNode runs a projector; when leads is nil the tail says whether it is the ringer.
func startNode(t *testing.T, pool *pgxpool.Pool, leads *bool) *node {
	t.Helper()
	n := &node{}
	ringer := n.ringer.Load
	if leads == nil {
		ringer = func() bool { return n.tail.Status().Ringer }
	} else {
		n.ringer.Store(*leads)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	n.Projector = NewProjector(ProjectorOptions{Pool: pool, Ringer: ringer, Logger: log})
	n.tail = eventlog.New(eventlog.Options{ConnConfig: pool.Config().ConnConfig, Node: t.Name()}, n.Projector)

	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error { return n.tail.Run(ctx) })
	g.Go(func() error { return n.Run(ctx) })
	n.stop = func() {
		cancel()
		if err := g.Wait(); err != nil {
			t.Error("stop: ", err)
		}
	}
	t.Cleanup(n.stop)
	n.attached(t)
	return n
}

// attached returns when the tail listens, so that nothing written from now on is missed.
func (n *node) attached(t *testing.T) {
	t.Helper()
	eventually(t, "the tail to be attached", func() bool {
		heard := make(chan error, 1)
		n.tail.Attach(func(_ eventlog.Cursor, err error) { heard <- err })
		return <-heard == nil
	})
}

func (n *node) count(reason string) float64 {
	return testutil.ToFloat64(n.metrics.retries.WithLabelValues(reason))
}

func (n *node) undone() []int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.touched.list()
}

var yes, no = true, false

const wrongChats = `SELECT count(*) FROM chats c WHERE
	unread_count <> (SELECT count(*) FROM messages m WHERE m.chat_id = c.id AND NOT m.from_me AND NOT m.is_read_by_operator)
	OR last_message_at IS DISTINCT FROM (SELECT max(m.timestamp) FROM messages m WHERE m.chat_id = c.id)`

func eventuallyRight(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	eventually(t, "the counters of all chats to be right", func() bool { return number(t, pool, wrongChats) == 0 })
}

// eventuallyStored waits for the first position, which is stored when all chats were compared.
func eventuallyStored(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	eventually(t, "a position to be stored", func() bool {
		return number(t, pool, "SELECT count(*) FROM event_log_state WHERE projected IS NOT NULL") == 1
	})
}

func newChats(t *testing.T, pool *pgxpool.Pool, n int) []int64 {
	t.Helper()
	rows, err := pool.Query(t.Context(), `WITH o AS (INSERT INTO organizations (name) VALUES ('test') RETURNING id)
		INSERT INTO chats (organization_id) SELECT id FROM o, generate_series(1, $1::int) RETURNING id`, n)
	check(t, err)
	chats, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	check(t, err)
	return chats
}

func TestCountersFollowEveryWrite(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	chats := newChats(t, d.Pool, 2)
	startNode(t, d.Pool, nil)
	a, b := chats[0], chats[1]

	for _, test := range []struct {
		name, statement string
		unread          int64 // of chat a
	}{
		{"insert", "INSERT INTO messages (chat_id, timestamp) VALUES ($1, '2026-01-02T00:00:00Z'), ($1, '2026-01-03T00:00:00Z')", 2},
		{"an answer", "INSERT INTO messages (chat_id, from_me, timestamp) VALUES ($1, true, '2026-01-04T00:00:00Z')", 2},
		{"read", "UPDATE messages SET is_read_by_operator = true WHERE chat_id = $1 AND timestamp = '2026-01-02T00:00:00Z'", 1},
		{"unread again", "UPDATE messages SET is_read_by_operator = false WHERE chat_id = $1", 2},
		{"time moved", "UPDATE messages SET timestamp = '2026-01-05T00:00:00Z' WHERE chat_id = $1 AND from_me", 2},
		{"infinity", "UPDATE messages SET timestamp = 'infinity' WHERE chat_id = $1 AND from_me", 2},
		{"direction changed", "UPDATE messages SET from_me = false WHERE chat_id = $1 AND from_me", 3},
		{"silent", "WITH s AS (SELECT set_config('roombell.notify', 'off', true)) INSERT INTO messages (chat_id) SELECT $1::bigint FROM s", 4},
		{"moved to another chat", fmt.Sprintf("UPDATE messages SET chat_id = %d WHERE chat_id = $1 AND timestamp = 'infinity'", b), 3},
		{"deleted", "DELETE FROM messages WHERE chat_id = $1", 0},
	} {
		exec(t, d.Pool, test.statement, a)
		eventuallyRight(t, d.Pool)
		if got := number(t, d.Pool, "SELECT unread_count FROM chats WHERE id = $1", a); got != test.unread {
			t.Errorf("%s: %d unread, want %d", test.name, got, test.unread)
		}
	}
	exec(t, d.Pool, "TRUNCATE messages")
	eventuallyRight(t, d.Pool)
}

// Clients are told by one chat:updated, and the projector does not answer its own writes.
func TestCountersAreToldOnce(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	chats := newChats(t, d.Pool, 2)
	startNode(t, d.Pool, nil)
	exec(t, d.Pool, "INSERT INTO messages (chat_id, timestamp) VALUES ($1, '2026-01-02T03:04:05Z')", chats[0])
	eventuallyRight(t, d.Pool)

	var payload []byte
	check(t, d.Pool.QueryRow(t.Context(), "SELECT payload FROM event_log WHERE event = 'chat:updated'").Scan(&payload))
	var got struct {
		ID            int64
		Changes       []string
		UnreadCount   int
		LastMessageAt time.Time
		ChangedBy     *int64 `json:"changedByUserId"`
	}
	check(t, json.Unmarshal(payload, &got))
	if got.ID != chats[0] || !slices.Equal(got.Changes, []string{"unreadCount", "lastMessageAt"}) || got.UnreadCount != 1 ||
		!got.LastMessageAt.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) || got.ChangedBy != nil {
		t.Errorf("clients hear %s", payload)
	}
	// More rounds of the projector pass; the first chat is not touched again.
	for range 3 {
		exec(t, d.Pool, "INSERT INTO messages (chat_id) VALUES ($1)", chats[1])
		eventuallyRight(t, d.Pool)
	}
	if n := number(t, d.Pool, "SELECT count(*) FROM event_log WHERE event = 'chat:updated' AND chat_id = $1", chats[0]); n != 1 {
		t.Errorf("%d chat:updated for one message", n)
	}
}

func TestCountersBesideConcurrentWriters(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	chats := newChats(t, d.Pool, 12)
	n := startNode(t, d.Pool, nil)
	second := startNode(t, d.Pool, &yes) // believes that it is the ringer, too

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var g errgroup.Group
	var transactions atomic.Int64
	for range 6 {
		g.Go(func() error {
			for ctx.Err() == nil {
				if err := writeSomething(t.Context(), d.Pool, chats); err != nil {
					return err
				}
				transactions.Add(1)
			}
			return nil
		})
	}
	check(t, g.Wait())
	eventuallyRight(t, d.Pool)
	t.Logf("%d transactions; deadlocks %v and %v", transactions.Load(), n.count(retryDeadlock), second.count(retryDeadlock))
}

// writeSomething is a transaction of one to three writes to any chats; one in five is rolled back.
func writeSomething(ctx context.Context, pool *pgxpool.Pool, chats []int64) error {
	statements := []string{
		"INSERT INTO messages (chat_id, timestamp) VALUES ($1, now() + random() * interval '1 day')",
		"INSERT INTO messages (chat_id, timestamp) SELECT $1, now() + random() * interval '1 day' FROM generate_series(1, 5)",
		"UPDATE messages SET is_read_by_operator = NOT is_read_by_operator WHERE id IN (SELECT id FROM messages WHERE chat_id = $1 ORDER BY id LIMIT 5 FOR UPDATE)",
		"DELETE FROM messages WHERE id IN (SELECT id FROM messages WHERE chat_id = $1 ORDER BY id LIMIT 2 FOR UPDATE)",
		"UPDATE chats SET name = random()::text WHERE id = $1",
	}
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		for range 1 + rand.IntN(3) {
			if _, err := tx.Exec(ctx, statements[rand.IntN(len(statements))], chats[rand.IntN(len(chats))]); err != nil {
				return err
			}
		}
		if rand.IntN(5) == 0 {
			return tx.Rollback(ctx)
		}
		return nil
	})
	if db.IsRetryable(err) || errors.Is(err, pgx.ErrTxClosed) { // the writers' own deadlocks, and the rollback above
		return nil
	}
	return err
}

func TestCountersAfterBulk(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"each", "summary", "off", ""} {
		t.Run("notify="+mode, func(t *testing.T) {
			t.Parallel()
			d := dbtest.New(t)
			newChats(t, d.Pool, 2000)
			startNode(t, d.Pool, nil)
			check(t, pgx.BeginFunc(t.Context(), d.Pool, func(tx pgx.Tx) error {
				_, err := tx.Exec(t.Context(), "SELECT set_config('roombell.notify', $1, true)", mode)
				if err == nil {
					_, err = tx.Exec(t.Context(), `INSERT INTO messages (organization_id, chat_id, is_read_by_operator)
						SELECT organization_id, id, n % 3 = 0 FROM chats, generate_series(1, 5) n`)
				}
				return err
			}))
			began := time.Now()
			eventuallyRight(t, d.Pool)
			if n := number(t, d.Pool, "SELECT sum(unread_count) FROM chats"); n != 8000 {
				t.Errorf("%d unread of 10,000", n)
			}
			t.Logf("right after %v", time.Since(began))
		})
	}
}

func TestLockedChatDoesNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	chats := newChats(t, d.Pool, 3)
	n := startNode(t, d.Pool, nil)
	tx, err := d.Pool.Begin(t.Context())
	check(t, err)
	defer tx.Rollback(context.WithoutCancel(t.Context()))
	exec(t, tx, "UPDATE chats SET name = 'long' WHERE id = $1", chats[0])

	exec(t, d.Pool, "INSERT INTO messages (chat_id) SELECT unnest($1::bigint[])", chats)
	eventually(t, "the others to be right", func() bool { return number(t, d.Pool, wrongChats) == 1 })
	eventually(t, "more than one try", func() bool { return n.count(retryBusy) > 2 })
	exec(t, d.Pool, "INSERT INTO messages (chat_id) VALUES ($1)", chats[1])
	eventually(t, "the others to stay right", func() bool { return number(t, d.Pool, wrongChats) == 1 })

	check(t, tx.Commit(t.Context()))
	eventuallyRight(t, d.Pool)
}

func TestLockedTableIsTriedAgain(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	chats := newChats(t, d.Pool, 1)
	n := startNode(t, d.Pool, &no)
	tx, err := d.Pool.Begin(t.Context())
	check(t, err)
	defer tx.Rollback(context.WithoutCancel(t.Context()))
	exec(t, tx, "LOCK TABLE chats IN SHARE MODE")
	exec(t, d.Pool, "INSERT INTO messages (organization_id, chat_id) SELECT organization_id, id FROM chats WHERE id = $1", chats[0])
	n.ringer.Store(true)
	eventually(t, "a time-out to be counted", func() bool { return n.count(retryLocked) > 0 })
	check(t, tx.Commit(t.Context()))
	eventuallyRight(t, d.Pool)
}

func TestChatDeletedMeanwhile(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	chats := newChats(t, d.Pool, 2)
	n := startNode(t, d.Pool, &no)
	exec(t, d.Pool, "INSERT INTO messages (chat_id) SELECT unnest($1::bigint[])", chats)
	eventually(t, "both chats to be noted", func() bool { return len(n.undone()) == 2 })
	exec(t, d.Pool, "DELETE FROM chats WHERE id = $1", chats[0])
	n.ringer.Store(true)
	eventuallyRight(t, d.Pool)
	eventually(t, "nothing to be left", func() bool { return len(n.undone()) == 0 })
}

func TestAtMostFourTimesASecond(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	chats := newChats(t, d.Pool, 1)
	startNode(t, d.Pool, nil)
	eventuallyRight(t, d.Pool)

	began, written := time.Now(), 0
	for ; time.Since(began) < 1500*time.Millisecond; written++ {
		exec(t, d.Pool, "INSERT INTO messages (chat_id) VALUES ($1)", chats[0])
	}
	took := time.Since(began)
	updates := number(t, d.Pool, "SELECT count(*) FROM event_log WHERE event = 'chat:updated'")
	if most := int64(took/restLeast) + 2; updates > most {
		t.Errorf("%d updates for %d messages in %v, want at most %d", updates, written, took, most)
	}
	eventuallyRight(t, d.Pool)
	if number(t, d.Pool, "SELECT count(*) FROM event_log WHERE event = 'chat:updated'") == 0 {
		t.Error("nobody was told")
	}
}

// What a dead ringer had not done is done by the next: from its memory, and from the position that was stored.
func TestFollowerTakesOver(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	chats := newChats(t, d.Pool, 3)
	first, second := startNode(t, d.Pool, &yes), startNode(t, d.Pool, &no)
	exec(t, d.Pool, "INSERT INTO messages (chat_id) VALUES ($1)", chats[0])
	eventuallyRight(t, d.Pool)
	first.ringer.Store(false)

	exec(t, d.Pool, "INSERT INTO messages (chat_id) VALUES ($1)", chats[1])
	eventually(t, "the follower to note it", func() bool { return slices.Contains(second.undone(), chats[1]) })
	if n := number(t, d.Pool, wrongChats); n != 1 {
		t.Errorf("%d chats are wrong without a ringer, want 1", n)
	}
	second.ringer.Store(true)
	eventuallyRight(t, d.Pool)
}

func TestNextRingerReadsTheLog(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	chats := newChats(t, d.Pool, 3)
	first := startNode(t, d.Pool, nil)
	exec(t, d.Pool, "INSERT INTO messages (chat_id) VALUES ($1)", chats[0])
	eventuallyRight(t, d.Pool)
	eventuallyStored(t, d.Pool)

	// One chat cannot be finished before the end.
	tx, err := d.Pool.Begin(t.Context())
	check(t, err)
	defer tx.Rollback(context.WithoutCancel(t.Context()))
	exec(t, tx, "SELECT FROM chats WHERE id = $1 FOR NO KEY UPDATE", chats[1])
	exec(t, d.Pool, "INSERT INTO messages (chat_id) VALUES ($1)", chats[1])
	eventually(t, "the chat to be found busy", func() bool { return first.count(retryBusy) > 0 })
	first.stop()
	check(t, tx.Commit(t.Context()))

	exec(t, d.Pool, "INSERT INTO messages (chat_id) VALUES ($1)", chats[2]) // heard by nobody
	if n := number(t, d.Pool, wrongChats); n != 2 {
		t.Fatalf("%d chats are wrong while nobody runs, want 2", n)
	}
	second := startNode(t, d.Pool, nil)
	eventuallyRight(t, d.Pool)
	if n := testutil.ToFloat64(second.metrics.reconciles); n != 0 {
		t.Error("the new ringer compared all chats, though there is a position")
	}
}

func TestWithoutUsablePositionAllChatsAreCompared(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, position, statement string }{
		{name: "none", position: "", statement: "SELECT"},
		{name: "nonsense", position: "", statement: "UPDATE event_log_state SET projected = 'nonsense'"},
		{name: "no cursor", position: "", statement: `UPDATE event_log_state SET projected = '{"cursor": "AAAA"}'`},
		{name: "too old", position: "kept", statement: "UPDATE event_log_trim SET max_id = 1::bigint << 60, max_txid = (1::bigint << 60)::text::xid8"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := dbtest.New(t)
			newChats(t, d.Pool, 2500)
			if test.position == "kept" {
				first := startNode(t, d.Pool, nil)
				exec(t, d.Pool, "INSERT INTO messages (chat_id) SELECT id FROM chats ORDER BY id LIMIT 1")
				eventuallyRight(t, d.Pool)
				eventuallyStored(t, d.Pool)
				first.stop()
			}
			exec(t, d.Pool, test.statement)
			// No trigger told of these, as under a logical replication worker.
			exec(t, d.Pool, "UPDATE chats SET unread_count = 7 WHERE id % 2 = 0")
			exec(t, d.Pool, "TRUNCATE event_log")
			n := startNode(t, d.Pool, nil)
			eventuallyRight(t, d.Pool)
			if got := testutil.ToFloat64(n.metrics.reconciles); got != 1 {
				t.Errorf("all chats were compared %v times", got)
			}
		})
	}
}

func TestManyMissedEvents(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	newChats(t, d.Pool, 50)
	first := startNode(t, d.Pool, nil)
	exec(t, d.Pool, "INSERT INTO messages (chat_id) SELECT id FROM chats ORDER BY id LIMIT 1")
	eventuallyRight(t, d.Pool)
	eventuallyStored(t, d.Pool)
	first.stop()
	for range 2 {
		check(t, pgx.BeginFunc(t.Context(), d.Pool, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), `SET LOCAL roombell.notify = 'each'`)
			if err == nil {
				_, err = tx.Exec(t.Context(), "INSERT INTO messages (chat_id) SELECT id FROM chats, generate_series(1, $1::int)", catchUpLimit/50)
			}
			return err
		}))
	}
	n := startNode(t, d.Pool, nil)
	eventuallyRight(t, d.Pool)
	if got := testutil.ToFloat64(n.metrics.reconciles); got != 1 {
		t.Errorf("all chats were compared %v times", got)
	}
}

func TestStoredPositionNamesUnfinishedChats(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	chats := newChats(t, d.Pool, 2)
	n := startNode(t, d.Pool, nil)
	exec(t, d.Pool, "INSERT INTO messages (chat_id) VALUES ($1)", chats[1])
	eventuallyStored(t, d.Pool)
	eventuallyRight(t, d.Pool)
	tx, err := d.Pool.Begin(t.Context())
	check(t, err)
	defer tx.Rollback(context.WithoutCancel(t.Context()))
	exec(t, tx, "SELECT FROM chats WHERE id = $1 FOR NO KEY UPDATE", chats[0])
	exec(t, d.Pool, "INSERT INTO messages (chat_id) SELECT unnest($1::bigint[])", chats)
	eventually(t, "the other chat to be right", func() bool { return number(t, d.Pool, wrongChats) == 1 })
	n.stop()

	var text string
	check(t, d.Pool.QueryRow(t.Context(), "SELECT projected FROM event_log_state").Scan(&text))
	var saved savedPosition
	check(t, json.Unmarshal([]byte(text), &saved))
	// The other may be in it: its row was right, and nobody had noted yet that it is done. That costs a look.
	if !slices.Contains(saved.Chats, chats[0]) {
		t.Errorf("stored is %s, want chat %d as unfinished", text, chats[0])
	}
	if _, err := eventlog.ParseCursor(saved.Cursor); err != nil {
		t.Errorf("stored cursor %q: %v", saved.Cursor, err)
	}
}

// Postgres crashes while chats wait and messages are written.
func TestCountersOverACrash(t *testing.T) {
	t.Parallel()
	server := dbtest.Cluster(t)
	url := server.URL(postgres.Name)
	check(t, db.Migrate(t.Context(), url, nil))
	pool, err := db.Open(t.Context(), url)
	check(t, err)
	defer pool.Close()
	chats := newChats(t, pool, 5)
	n := startNode(t, pool, nil)
	defer n.stop()
	exec(t, pool, "INSERT INTO messages (chat_id) SELECT unnest($1::bigint[])", chats)
	eventuallyRight(t, pool)

	exec(t, pool, "INSERT INTO messages (chat_id) SELECT unnest($1::bigint[])", chats)
	check(t, server.Crash(t.Context()))
	check(t, server.Restart(t.Context()))
	eventually(t, "writes to work again", func() bool {
		_, err := pool.Exec(t.Context(), "INSERT INTO messages (chat_id) SELECT unnest($1::bigint[])", chats)
		return err == nil
	})
	eventuallyRight(t, pool)
}

// Without room everything is dropped, and found again.
func TestTooManyTouchedChats(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	newChats(t, d.Pool, 100)
	n := startNode(t, d.Pool, &no)
	exec(t, d.Pool, "INSERT INTO messages (chat_id) SELECT id FROM chats")
	eventually(t, "the chats to be noted", func() bool { return len(n.undone()) == 100 })
	touched := make([]int64, touchedLimit)
	for i := range touched {
		touched[i] = int64(1e9) + int64(i)
	}
	n.Publish(&eventlog.Batch{Events: []eventlog.Event{{Kind: eventlog.KindTouch, Touched: touched}}})
	if len(n.undone()) >= touchedLimit {
		t.Errorf("%d chats are held", len(n.undone()))
	}
	n.ringer.Store(true)
	eventuallyRight(t, d.Pool)
}

func TestOutage(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	log := slog.New(slog.NewTextHandler(&text, nil))
	var o outage
	for range 20 {
		o.note(log, "counters", context.DeadlineExceeded)
	}
	if !o.waiting() || time.Until(o.until) > time.Second {
		t.Errorf("waits %v", time.Until(o.until))
	}
	o.note(log, "counters", nil)
	o.note(log, "counters", nil)
	if o.waiting() || strings.Count(text.String(), "\n") != 2 {
		t.Errorf("after it ended: waiting %v, log:\n%s", o.waiting(), text.String())
	}
}
