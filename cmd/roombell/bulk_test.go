package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"roombell/db"
	"roombell/internal/client"
	"roombell/internal/postgres"
	"roombell/internal/postgres/dbtest"
)

// office is an organization with an open chat and a restricted one, of which the member, the assignee and the admin know.
type office struct {
	organization, open, restricted int64
	clients                        map[string]*client.Conn // by role in the story
}

func newOffice(t *testing.T, d *dbtest.DB, s served, name string) office {
	t.Helper()
	var o office
	users := map[string]int64{}
	scan := func(into *int64, sql string, args ...any) {
		t.Helper()
		if err := d.Pool.QueryRow(t.Context(), sql, args...).Scan(into); err != nil {
			t.Fatal(err)
		}
	}
	scan(&o.organization, "INSERT INTO organizations (name) VALUES ($1) RETURNING id", name)
	for _, who := range []string{"admin", "manager", "member", "assignee", "stranger"} {
		role, id := "employee", int64(0)
		if who == "admin" || who == "manager" {
			role = who
		}
		scan(&id, "INSERT INTO users (organization_id, email, role) VALUES ($1, $2, $3) RETURNING id", o.organization, who+"@"+name, role)
		users[who] = id
	}
	scan(&o.open, "INSERT INTO chats (organization_id) VALUES ($1) RETURNING id", o.organization)
	scan(&o.restricted, "INSERT INTO chats (organization_id, restricted, assigned_user_id) VALUES ($1, true, $2) RETURNING id", o.organization, users["assignee"])
	exec1(t, d, "INSERT INTO chat_members (chat_id, user_id) VALUES ($1, $2)", o.restricted, users["member"])
	o.clients = map[string]*client.Conn{}
	for who, id := range users {
		o.clients[who] = connect(t, s.public, people{organization: o.organization, user: id}.token(t))
	}
	return o
}

// sum is what sums of bulk writes told a client of one chat.
type sum struct{ New, Updated, Deleted, Read int }

// bulkHeard is what a client heard of a bulk write.
type bulkHeard struct {
	sums   map[int64]sum
	events map[string]int
}

// hear reads until a sentinel, leaving out who is there and what the projector writes: counters may come before it or behind.
func hear(t *testing.T, conn *client.Conn, sentinel string) bulkHeard {
	t.Helper()
	guard := time.AfterFunc(limit, func() { _ = conn.Close() })
	defer guard.Stop()
	h := bulkHeard{sums: map[int64]sum{}, events: map[string]int{}}
	for {
		event, err := conn.Next()
		if err != nil {
			t.Fatalf("waiting for %s: %v", sentinel, err)
		}
		var payload struct {
			Reason    string
			Count     int
			Truncated bool
			Chats     []struct {
				ID int64
				sum
			}
		}
		if err := json.Unmarshal(event.Payload, &payload); err != nil {
			t.Fatal(err)
		}
		switch {
		case event.Name == sentinel:
			return h
		case event.Name == "chat:updated" || event.Name == "presence:changed":
			continue
		case event.Name == "chats:updated":
			if payload.Reason != "bulk" || payload.Truncated {
				t.Errorf("a sum says %s", event.Payload)
			}
			for _, c := range payload.Chats {
				was := h.sums[c.ID]
				h.sums[c.ID] = sum{was.New + c.New, was.Updated + c.Updated, was.Deleted + c.Deleted, was.Read + c.Read}
				payload.Count -= c.New + c.Updated + c.Deleted + c.Read
			}
			if payload.Count > 0 {
				t.Errorf("a sum says that it has more rows than its chats: %s", event.Payload)
			}
		}
		h.events[event.Name]++
	}
}

// Bulk writes of every kind to two of three organizations, over the real server: each client hears the rows of the chats that he may see,
// in sums, and the third organization hears nothing.
func TestBulkReachesItsOwnAudience(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	s := serve(t, []string{"DATABASE_URL=" + d.URL})
	s.awaitReady(http.StatusOK, "")
	a, b, c := newOffice(t, d, s, "a.example"), newOffice(t, d, s, "b.example"), newOffice(t, d, s, "c.example")
	concerned := []office{a, b}
	var chats []int64
	for _, o := range concerned {
		chats = append(chats, o.open, o.restricted)
	}
	for i, w := range bulkWrites(chats) {
		if err := pgx.BeginFunc(t.Context(), d.Pool, func(tx pgx.Tx) error { return w.write(t.Context(), tx) }); err != nil {
			t.Fatalf("%s: %v", w.name, err)
		}
		sentinel := fmt.Sprintf("sentinel:%d", i)
		exec1(t, d, "SELECT broadcast_to_organization(id, $1, '{}') FROM organizations", sentinel)
		for _, o := range concerned {
			for who, conn := range o.clients {
				w.compare(t, fmt.Sprintf("%s: the %s of organization %d", w.name, who, o.organization), hear(t, conn, sentinel), o.seenBy(who))
			}
		}
		for who, conn := range c.clients {
			w.compare(t, fmt.Sprintf("%s: the %s of another organization", w.name, who), hear(t, conn, sentinel), nil)
		}
	}
	awaitCounters(t, d.Pool)
}

// seenBy returns the chats that a client of the office may see.
func (o office) seenBy(who string) []int64 {
	if who == "manager" || who == "stranger" {
		return []int64{o.open}
	}
	return []int64{o.open, o.restricted}
}

// bulkWrite is a transaction, and what is heard of each chat that it writes to. Open and restricted chats have different audiences: with
// one of each, a client hears as many sums as it sees chats.
type bulkWrite struct {
	name  string
	write func(ctx context.Context, tx pgx.Tx) error
	event string
	times int // that it is heard for each chat
	rows  sum // in each chat, as sums say
}

func (w bulkWrite) compare(t *testing.T, who string, got bulkHeard, seen []int64) {
	t.Helper()
	events, sums := map[string]int{}, map[int64]sum{}
	for _, chat := range seen {
		if w.event != "" {
			events[w.event] += w.times
		}
		if w.event == "chats:updated" {
			sums[chat] = w.rows
		}
	}
	if fmt.Sprint(got.events, got.sums) != fmt.Sprint(events, sums) {
		t.Errorf("%s hears %v, %v; want %v, %v", who, got.events, got.sums, events, sums)
	}
}

func bulkWrites(chats []int64) []bulkWrite {
	insert := func(rows int) func(context.Context, pgx.Tx) error {
		return statement("INSERT INTO messages (chat_id, content) SELECT c, 'm' FROM unnest($1::bigint[]) c, generate_series(1, $2::int)", chats, rows)
	}
	return []bulkWrite{
		{"COPY", copyTo(chats, 5000), "chats:updated", 1, sum{New: 5000}},
		{"INSERT … SELECT", insert(500), "chats:updated", 1, sum{New: 500}},
		{"UPDATE", statement("UPDATE messages SET content = 'n' WHERE content = 'm' AND chat_id = ANY ($1)", chats), "chats:updated", 1, sum{Updated: 500}},
		{"DELETE", statement("DELETE FROM messages WHERE content = 'n' AND chat_id = ANY ($1)", chats), "chats:updated", 1, sum{Deleted: 500}},
		{"read marks", statement("UPDATE messages SET is_read_by_operator = true WHERE chat_id = ANY ($1)", chats), "messages:read", 1, sum{}},
		{"a few, summary", with("summary", insert(2)), "chats:updated", 1, sum{New: 2}},
		{"many, each", with("each", insert(100)), "message:new", 100, sum{}},
		{"many, off", with("off", insert(500)), "", 0, sum{}},
	}
}

// copyTo copies rows to each of the chats, in turns.
func copyTo(chats []int64, rows int) func(context.Context, pgx.Tx) error {
	return func(ctx context.Context, tx pgx.Tx) error {
		n := 0
		_, err := tx.CopyFrom(ctx, pgx.Identifier{"messages"}, []string{"chat_id", "content"}, pgx.CopyFromFunc(func() ([]any, error) {
			if n++; n > rows*len(chats) {
				return nil, nil
			}
			return []any{chats[n%len(chats)], "one of many"}, nil
		}))
		return err
	}
}

func statement(sql string, args ...any) func(context.Context, pgx.Tx) error {
	return func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, sql, args...)
		return err
	}
}

func with(notify string, write func(context.Context, pgx.Tx) error) func(context.Context, pgx.Tx) error {
	return func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT set_config('roombell.notify', $1, true)", notify); err != nil {
			return err
		}
		return write(ctx, tx)
	}
}

// A row-by-row script in one transaction, an organization's end and a TRUNCATE.
func TestBulkThatEndsThings(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	s := serve(t, []string{"DATABASE_URL=" + d.URL})
	s.awaitReady(http.StatusOK, "")
	a, b := newOffice(t, d, s, "a.example"), newOffice(t, d, s, "b.example")

	exec1(t, d, fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..2500 LOOP
		INSERT INTO messages (chat_id) VALUES (CASE WHEN i %% 2 = 0 THEN %d ELSE %d END); END LOOP; END $$`, a.open, a.restricted))
	exec1(t, d, "SELECT broadcast_to_organization(id, 'sentinel:script', '{}') FROM organizations")
	for who, conn := range a.clients {
		want := map[string]int{"message:new": 2000, "chats:updated": 2}
		if who == "manager" || who == "stranger" {
			want = map[string]int{"message:new": 1000, "chats:updated": 1}
		}
		if h := hear(t, conn, "sentinel:script"); fmt.Sprint(h.events) != fmt.Sprint(want) {
			t.Errorf("the %s hears %v, want %v", who, h.events, want)
		}
	}

	exec1(t, d, "INSERT INTO chats (organization_id) SELECT $1 FROM generate_series(1, 300)", a.organization)
	exec1(t, d, "DELETE FROM organizations WHERE id = $1", a.organization)
	for who, conn := range a.clients {
		for {
			if _, err := conn.Next(); err != nil {
				if !errors.Is(err, client.ErrDisconnected) {
					t.Errorf("the %s of the deleted organization: %v", who, err)
				}
				break
			}
		}
	}
	exec1(t, d, "TRUNCATE messages")
	for who, conn := range b.clients {
		h := hear(t, conn, "sentinel:script")
		if len(h.events) > 0 {
			t.Errorf("the %s of another organization hears %v", who, h.events)
		}
		if e := next(t, conn, "sync:reset"); !strings.Contains(string(e.Payload), `"truncate"`) {
			t.Errorf("the %s hears %s", who, e.Payload)
		}
	}
	awaitCounters(t, d.Pool)
}

const wrongCounters = `SELECT count(*) FROM chats c LEFT JOIN (
		SELECT chat_id, count(*) FILTER (WHERE NOT from_me AND NOT is_read_by_operator) AS unread, max(timestamp) AS latest FROM messages GROUP BY 1) m
	ON m.chat_id = c.id
	WHERE c.unread_count <> coalesce(m.unread, 0) OR c.last_message_at IS DISTINCT FROM m.latest`

// awaitCounters waits until unread_count and last_message_at of every chat are what its messages say.
func awaitCounters(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	eventually(t, func() error {
		var wrong int
		if err := pool.QueryRow(t.Context(), wrongCounters).Scan(&wrong); err != nil || wrong == 0 {
			return err
		}
		return fmt.Errorf("the counters of %d chats are wrong", wrong)
	})
}

// awaitProjector waits until counters have been written from now on, while others write messages.
func awaitProjector(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	now := time.Now()
	eventually(t, func() error {
		var n int
		err := pool.QueryRow(t.Context(), `SELECT count(*) FROM event_log WHERE created_at > $1 AND (event = 'chat:updated'
			OR event = 'chats:updated' AND payload::text LIKE '%"updated" : 1,%')`, now).Scan(&n)
		if err == nil && n == 0 {
			err = errors.New("no counters are written")
		}
		return err
	})
}

// Two nodes, one of which is killed again and again while bulk and single writes go on, and a Postgres that crashes in between.
func TestCountersOverKilledNodes(t *testing.T) {
	t.Parallel()
	cluster := dbtest.Cluster(t)
	url := cluster.URL(postgres.Name)
	if err := db.Migrate(t.Context(), url, nil); err != nil {
		t.Fatal(err)
	}
	pool, err := db.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(t.Context(), `WITH o AS (INSERT INTO organizations (name) VALUES ('test') RETURNING id)
		INSERT INTO chats (organization_id) SELECT id FROM o, generate_series(1, 500)`); err != nil {
		t.Fatal(err)
	}
	env := []string{"DATABASE_URL=" + url}
	nodes := []served{serve(t, env), serve(t, env)}
	for _, s := range nodes {
		s.awaitReady(http.StatusOK, "")
	}

	ctx, cancel := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	for _, sql := range []string{
		"INSERT INTO messages (chat_id) SELECT id FROM chats WHERE id % 7 = floor(random() * 7)",
		"INSERT INTO messages (organization_id, chat_id, timestamp) SELECT organization_id, id, now() + random() * interval '1 day' FROM chats, generate_series(1, 3)",
		"UPDATE messages SET is_read_by_operator = NOT is_read_by_operator WHERE id IN (SELECT id FROM messages ORDER BY random() LIMIT 50 FOR UPDATE)",
		"DELETE FROM messages WHERE id IN (SELECT id FROM messages ORDER BY id LIMIT 1500 FOR UPDATE)",
	} {
		writing.Go(func() {
			for ctx.Err() == nil {
				_, _ = pool.Exec(ctx, sql) // what a crash cuts off may have been committed or not
			}
		})
	}
	for round := range 4 {
		if round == 2 {
			if err := cluster.Crash(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := cluster.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		nodes[round%2].stop(syscall.SIGKILL)
		nodes[1-round%2].awaitReady(http.StatusOK, "")
		awaitProjector(t, pool)
		nodes[round%2] = serve(t, env)
	}
	cancel()
	writing.Wait()
	awaitCounters(t, pool)
}

// The only node is killed before it could count, and messages are written while there is none: the next one reads in the log what is to be done.
func TestCountersAfterAKill(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	exec1(t, d, `WITH o AS (INSERT INTO organizations (name) VALUES ('test') RETURNING id)
		INSERT INTO chats (organization_id) SELECT id FROM o, generate_series(1, 600)`)
	env := []string{"DATABASE_URL=" + d.URL}
	s := serve(t, env)
	s.awaitReady(http.StatusOK, "")
	exec1(t, d, "INSERT INTO messages (chat_id) SELECT min(id) FROM chats")
	eventually(t, func() error { // a position, so that the next node does not compare all chats
		var there bool
		if err := d.Pool.QueryRow(t.Context(), "SELECT projected IS NOT NULL FROM event_log_state").Scan(&there); err != nil || there {
			return err
		}
		return errors.New("no position of counters is stored")
	})
	tx, err := d.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT FROM chats WHERE id % 2 = 0 FOR NO KEY UPDATE"); err != nil {
		t.Fatal(err)
	}
	exec1(t, d, "INSERT INTO messages (chat_id) SELECT id FROM chats")
	s.stop(syscall.SIGKILL)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec1(t, d, "INSERT INTO messages (chat_id) SELECT id FROM chats WHERE id % 3 = 0")
	exec1(t, d, "INSERT INTO messages (chat_id) SELECT max(id) FROM chats")
	var wrong int
	if err := d.Pool.QueryRow(t.Context(), wrongCounters).Scan(&wrong); err != nil || wrong < 300 {
		t.Fatalf("%d chats are wrong without a node, %v", wrong, err)
	}
	s = serve(t, env)
	awaitCounters(t, d.Pool)
	if _, metrics := get(t, s.admin+"/metrics"); !strings.Contains(metrics, "\nroombell_inbox_counter_reconciles_total 0\n") {
		t.Error("all chats were compared, though there was a position")
	}
}
