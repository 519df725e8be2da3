package inbox

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"roombell/db"
	"roombell/internal/postgres"
	"roombell/internal/postgres/dbtest"
)

// told is what clients hear of counters: events for single chats, and sums with the chats that they name.
type told struct{ singles, sums, chats int }

// countersTold reads what was recorded after an event. Sums of messages, which writers make, have no updated chats here.
func countersTold(t *testing.T, pool *pgxpool.Pool, after int64) told {
	t.Helper()
	var got told
	rows, err := pool.Query(t.Context(), `SELECT event, payload FROM event_log WHERE id > $1 AND event IN ('chat:updated', 'chats:updated')`, after)
	check(t, err)
	var event string
	var payload []byte
	_, err = pgx.ForEachRow(rows, []any{&event, &payload}, func() error {
		var sum struct{ Chats []struct{ Updated int } }
		if err := json.Unmarshal(payload, &sum); err != nil {
			return err
		}
		if event == "chat:updated" {
			got.singles++
			return nil
		}
		if len(sum.Chats) > 0 && sum.Chats[0].Updated == 1 {
			got.sums++
			got.chats += len(sum.Chats)
		}
		return nil
	})
	check(t, err)
	return got
}

// A script writes bulk after bulk to the same chats: each time the counters of all of them are told in a few sums.
func TestCountersOfABulkAreToldInSums(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	// Of many organizations, each with few chats.
	for range 100 {
		newChats(t, d.Pool, 10)
	}
	startNode(t, d.Pool, nil)
	exec(t, d.Pool, "INSERT INTO messages (chat_id) SELECT min(id) FROM chats")
	eventuallyStored(t, d.Pool)
	eventuallyRight(t, d.Pool)
	for range 3 {
		before := number(t, d.Pool, "SELECT coalesce(max(id), 0) FROM event_log")
		exec(t, d.Pool, "INSERT INTO messages (organization_id, chat_id) SELECT organization_id, id FROM chats, generate_series(1, 3)")
		eventuallyRight(t, d.Pool)
		// One that was computed a moment before has its rest, and is told alone.
		if got := countersTold(t, d.Pool, before); got.singles > 10 || got.singles+got.chats < 1000 || got.sums == 0 || got.sums > 1000 {
			t.Errorf("clients hear %+v, want next to no single ones", got)
		}
	}
}

// A bulk write of few chats is told chat by chat: clients need not fetch anything.
func TestCountersOfASmallBulkAreToldSingly(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	newChats(t, d.Pool, 100)
	startNode(t, d.Pool, nil)
	exec(t, d.Pool, "INSERT INTO messages (organization_id, chat_id) SELECT organization_id, id FROM chats, generate_series(1, 30)")
	eventuallyRight(t, d.Pool)
	if got := countersTold(t, d.Pool, 0); got != (told{singles: 100}) {
		t.Errorf("clients hear %+v, want 100 single ones", got)
	}
}

// Single writes beside a bulk are told singly, and before it.
func TestSinglesBesideABulk(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	chats := newChats(t, d.Pool, 3000)
	n := startNode(t, d.Pool, &no)
	exec(t, d.Pool, "INSERT INTO messages (organization_id, chat_id) SELECT organization_id, id FROM chats WHERE id <> $1", chats[2999])
	exec(t, d.Pool, "INSERT INTO messages (chat_id) VALUES ($1)", chats[2999])
	eventually(t, "all chats to be noted", func() bool { return len(n.undone()) == 3000 })
	n.ringer.Store(true)
	eventuallyRight(t, d.Pool)
	var first string
	var chat *int64
	check(t, d.Pool.QueryRow(t.Context(), `SELECT event, chat_id FROM event_log
		WHERE id > (SELECT max(id) FROM event_log WHERE event = 'message:new') ORDER BY id LIMIT 1`).Scan(&first, &chat))
	if first != "chat:updated" || chat == nil || *chat != chats[2999] {
		t.Errorf("the first event of counters is %s", first)
	}
	if got := countersTold(t, d.Pool, 0); got.singles != 1 || got.sums == 0 || got.sums > 15 {
		t.Errorf("clients hear %+v, want one single and few sums", got)
	}
}

// Who stores whole rows writes counters that he read long ago.
func TestCountersThatAWriterStored(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	chats := newChats(t, d.Pool, 300)
	startNode(t, d.Pool, nil)
	exec(t, d.Pool, "INSERT INTO messages (chat_id) SELECT unnest($1::bigint[])", chats[:2])
	eventuallyRight(t, d.Pool)
	for _, test := range []struct{ name, statement string }{
		{"one chat", "UPDATE chats SET unread_count = 7, name = 'stale' WHERE id = (SELECT min(id) FROM chats)"},
		{"another time", "UPDATE chats SET last_message_at = '2001-01-01' WHERE id = (SELECT min(id) FROM chats)"},
		{"in bulk", "UPDATE chats SET unread_count = 7"},
		{"silently", "WITH s AS MATERIALIZED (SELECT set_config('roombell.notify', 'off', true)) UPDATE chats SET unread_count = 8 FROM s"},
		{"a new chat", "INSERT INTO chats (organization_id, unread_count) SELECT id, 5 FROM organizations"},
		{"new chats", "INSERT INTO chats (organization_id, last_message_at) SELECT id, now() FROM organizations, generate_series(1, 300)"},
	} {
		exec(t, d.Pool, test.statement)
		eventually(t, test.name+" to be mended", func() bool { return number(t, d.Pool, wrongChats) == 0 })
	}
}

// A plan that was made beside an empty table reads all messages for each chat, and is kept until somebody analyzes the table.
func TestCountersNeverReadAllMessages(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	chats := newChats(t, d.Pool, 50)
	exec(t, d.Pool, "INSERT INTO messages (chat_id) VALUES ($1)", chats[0])
	exec(t, d.Pool, "ANALYZE messages")

	var mu sync.Mutex
	var plans strings.Builder
	config, err := pgxpool.ParseConfig(d.AdminURL)
	check(t, err)
	config.MaxConns = 1
	config.ConnConfig.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		mu.Lock()
		defer mu.Unlock()
		plans.WriteString(n.Message + "\n")
	}
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET client_min_messages = log")
		return err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	check(t, err)
	defer pool.Close()
	p := NewProjector(ProjectorOptions{Pool: pool, Ringer: func() bool { return true }})
	for range 8 { // the sixth plan of a prepared statement may be its last
		_, err := p.recompute(t.Context(), work{chats: chats})
		check(t, err)
		_, err = p.compare(t.Context(), 0, pageMost)
		check(t, err)
	}
	mu.Lock()
	defer mu.Unlock()
	told := plans.String()
	if strings.Contains(told, "Seq Scan on messages") || strings.Count(told, "on messages") < 2*8 {
		t.Errorf("the plans are\n%s", told)
	}
	if strings.Count(told, "Index Scan on messages_unread")+strings.Count(told, "using messages_unread") != 2*8 {
		t.Errorf("unread messages are not counted once for each computation:\n%s", told)
	}
}

// Writers of all kinds, two nodes whose ringer changes, and a Postgres that crashes.
func TestCountersOverManyCrashes(t *testing.T) {
	t.Parallel()
	server := dbtest.Cluster(t)
	url := server.URL(postgres.Name)
	check(t, db.Migrate(t.Context(), url, nil))
	pool, err := db.Open(t.Context(), url)
	check(t, err)
	defer pool.Close()
	chats := newChats(t, pool, 400)
	nodes := []*node{startNode(t, pool, nil), startNode(t, pool, nil)}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var g errgroup.Group
	for range 3 {
		g.Go(func() error {
			for ctx.Err() == nil {
				// What a crash cuts off may have been committed or not: the tables say.
				_ = writeSomething(ctx, pool, chats)
				_, _ = pool.Exec(ctx, "INSERT INTO messages (organization_id, chat_id) SELECT organization_id, id FROM chats")
				_, _ = pool.Exec(ctx, "DELETE FROM messages WHERE id IN (SELECT id FROM messages ORDER BY id LIMIT 500)")
			}
			return nil
		})
	}
	for round := range 3 {
		before := number(t, pool, "SELECT last_value FROM messages_id_seq")
		check(t, server.Crash(t.Context()))
		check(t, server.Restart(t.Context()))
		eventually(t, "writes to work again", func() bool {
			n := int64(0)
			err := pool.QueryRow(t.Context(), "SELECT last_value FROM messages_id_seq").Scan(&n)
			return err == nil && n > before+1000
		})
		// The ringer dies, too: the other one has to go on where it was.
		nodes[round%2].stop()
		eventually(t, "the other node to lead", func() bool { return nodes[1-round%2].tail.Status().Ringer })
		nodes[round%2] = startNode(t, pool, nil)
	}
	cancel()
	check(t, g.Wait())
	eventuallyRight(t, pool)
	for _, n := range nodes {
		n.stop()
	}
}
