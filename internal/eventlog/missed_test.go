package eventlog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// startHistory returns one with room for that many bytes of recent events; with next to none it asks the log.
func startHistory(t *testing.T, url string, memory int) *History {
	t.Helper()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	h, err := NewHistory(t.Context(), HistoryOptions{ConnConfig: config, Memory: memory})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// hear returns the names of what the answer has, and checks its order and its cursors.
func hear(t *testing.T, m *Missed) []string {
	t.Helper()
	var heard []string
	var last int64
	outlined := 0
	if err := m.Each(t.Context(), func(*Event) bool { outlined++; return true }); err != nil {
		t.Fatal(err)
	}
	for {
		b, err := m.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if b == nil {
			break
		}
		for i, e := range b.Events {
			if e.ID <= last {
				t.Errorf("%d after %d", e.ID, last)
			}
			last = e.ID
			heard = append(heard, e.Name)
			if c, err := ParseCursor(b.Cursor(i)); err != nil || !c.Seen(e.ID, e.TxID) || c.String() != b.at(i).String() {
				t.Errorf("the cursor after %s does not see it: %v", e.Name, err)
			}
		}
	}
	if outlined != len(heard) {
		t.Errorf("%d events were announced, %d came", outlined, len(heard))
	}
	return heard
}

// From every position that clients had, over late events and over pages of the log, exactly the rest is missed: from the log and from memory.
func TestMissedIsExactlyTheRest(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	node := startNode(t, db.URL, "a")
	var late []*writer
	for i := range 3 {
		l := newWriter(t, db.URL)
		l.exec("BEGIN")
		l.tell(fmt.Sprint("late ", i))
		late = append(late, l)
	}
	for i := range 45 {
		w.tell(fmt.Sprint("event ", i))
		if i%15 == 14 {
			node.attached(t) // what is late comes after it
			l := late[i/15]
			l.tell(fmt.Sprint("late again ", i/15))
			l.exec("COMMIT")
		}
	}
	w.exec(`SELECT count(broadcast_to_organization((SELECT min(id) FROM organizations), 'many', '{}')) FROM generate_series(1, 1300)`)
	to := node.attached(t)
	for name, h := range map[string]*History{"log": startHistory(t, db.URL, 1), "memory": startHistory(t, db.URL, 0)} {
		t.Run(name, func(t *testing.T) {
			var heard []string
			positions := 0
			node.lock.Lock()
			batches := slices.Clone(node.batches)
			node.lock.Unlock()
			for _, b := range batches {
				for _, e := range b.Events {
					heard = append(heard, e.Name)
				}
			}
			at := 0
			for _, b := range batches {
				for i := range b.Events {
					at++
					if at > 60 && at%97 != 0 {
						continue
					}
					positions++
					from, err := ParseCursor(b.Cursor(i))
					if err != nil {
						t.Fatal(err)
					}
					m, err := h.Missed(t.Context(), Question{From: from, To: to, OrganizationID: 1, UserID: 1})
					if err != nil {
						t.Fatal(err)
					}
					if m.FromMemory != (name == "memory") {
						t.Fatalf("from memory: %v", m.FromMemory)
					}
					rest := slices.Clone(heard[at:])
					got := hear(t, m)
					slices.Sort(rest)
					slices.Sort(got)
					if !slices.Equal(got, rest) {
						t.Fatalf("after %d events: %d more, want %d", at, len(got), len(rest))
					}
				}
			}
			if positions < 60 {
				t.Errorf("only %d positions", positions)
			}
		})
	}
}

// A replay that is cut after any event goes on from that event's cursor.
func TestReplayGoesOnFromItsOwnCursors(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	node := startNode(t, db.URL, "a")
	late := newWriter(t, db.URL)
	late.exec("BEGIN")
	late.tell("late 0", "late 1", "late 2")
	w.tell("first")
	node.await(t, "first")
	start := node.attached(t)
	w.tell("second")
	late.exec("COMMIT")
	w.tell("third")
	want := []string{"late 0", "late 1", "late 2", "second", "third"}
	for _, room := range []int{0, 1} {
		h := startHistory(t, db.URL, room)
		for cut := range len(want) {
			to := node.attached(t)
			m, err := h.Missed(t.Context(), Question{From: start, To: to, OrganizationID: 1})
			if err != nil {
				t.Fatal(err)
			}
			b, err := m.Next(t.Context())
			if err != nil || len(b.Events) != len(want) {
				t.Fatal(err, b)
			}
			from, err := ParseCursor(b.Cursor(cut))
			if err != nil {
				t.Fatal(err)
			}
			if m, err = h.Missed(t.Context(), Question{From: from, To: to, OrganizationID: 1}); err != nil {
				t.Fatal(err)
			}
			if got := hear(t, m); !slices.Equal(got, want[cut+1:]) {
				t.Errorf("cut after %s: %v, want %v", want[cut], got, want[cut+1:])
			}
		}
	}
}

// Nobody is given another organization's events, or another user's own.
func TestMissedOfOneUser(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	w.exec(`INSERT INTO organizations (name) VALUES ('two')`)
	w.exec(`INSERT INTO users (organization_id, email) SELECT 1 + n / 3, n || '@example.com' FROM generate_series(1, 3) n`)
	node := startNode(t, db.URL, "a")
	from := node.attached(t)
	w.exec(`SELECT notify_user(1, 'mine', '{}'), notify_user(2, 'his', '{}'), notify_user(3, 'theirs', '{}'),
		broadcast_to_organization(1, 'ours', '{}'), broadcast_to_organization(2, 'foreign', '{}')`)
	w.exec(`INSERT INTO messages (chat_id) SELECT 1 WHERE false`)
	w.exec(`TRUNCATE notifications`)
	to := node.attached(t)
	for _, room := range []int{0, 1} {
		m, err := startHistory(t, db.URL, room).Missed(t.Context(), Question{From: from, To: to, OrganizationID: 1, UserID: 1})
		if err != nil {
			t.Fatal(err)
		}
		if got := hear(t, m); !slices.Equal(got, []string{"mine", "ours", ""}) { // the last is the truncate
			t.Errorf("%q", got)
		}
	}
}

// What cannot be a position here costs no query.
func TestUnknownCursorsCostNothing(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	node := startNode(t, db.URL, "a")
	w.tell("first")
	node.await(t, "first")
	to := node.attached(t)
	h := startHistory(t, db.URL, 0)
	for name, change := range map[string]func(c *Cursor){
		"another cluster":   func(c *Cursor) { c.system++ },
		"a later timeline":  func(c *Cursor) { c.timeline++ },
		"a higher id":       func(c *Cursor) { c.hi++ },
		"a later flush":     func(c *Cursor) { c.lsn++ },
		"an id of 62 bits":  func(c *Cursor) { c.hi = 1<<62 - 1 },
		"timeline and more": func(c *Cursor) { c.timeline, c.hi = maxEra, 1<<62-1 },
	} {
		from := to
		change(&from)
		if _, err := h.Missed(t.Context(), Question{From: from, To: to, OrganizationID: 1}); !errors.Is(err, ErrCursor) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := h.pool.Stat().NewConnsCount(); n != 0 {
		t.Errorf("%d connections were made", n)
	}
}

// Whatever a cursor claims to have seen, its bearer gets events of his organization or none, and no more than there are.
func TestForgedCursors(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	w.exec(`INSERT INTO organizations (name) VALUES ('two')`)
	node := startNode(t, db.URL, "a")
	w.exec(`SELECT broadcast_to_organization(1 + n % 2, 'n' || n, '{}') FROM generate_series(1, 200) n`)
	to := node.attached(t)
	r := rand.New(rand.NewPCG(1, 2))
	for _, room := range []int{0, 1} {
		h := startHistory(t, db.URL, room)
		for range 200 {
			from := Cursor{system: to.system, timeline: to.timeline, lsn: r.Uint64N(to.lsn), step: forgedStep(r, to)}
			for i := range r.IntN(3) {
				s := forgedStep(r, to)
				if s.hi = from.hi - int64(i) - 1; s.hi > 0 {
					from.late = append(from.late, s)
				}
			}
			m, err := h.Missed(t.Context(), Question{From: from, To: to, OrganizationID: 1, UserID: 1})
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range hear(t, m) {
				var n int
				if _, err := fmt.Sscanf(name, "n%d", &n); err != nil || n%2 != 0 {
					t.Fatalf("%+v was given %s", from, name)
				}
			}
		}
	}
}

func forgedStep(r *rand.Rand, to Cursor) step {
	s := step{hi: r.Int64N(to.hi + 1), snapshot: snapshot{xmax: r.Uint64N(2 * to.xmax)}}
	for x := range s.xmax {
		if r.IntN(10) == 0 && len(s.xip) < 100 {
			s.xip = append(s.xip, x)
		}
	}
	return s
}

func TestMissedBeyondTheRetention(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	node := startNode(t, db.URL, "a")
	w.tell("first")
	node.await(t, "first")
	old := node.attached(t)
	w.tell("second")
	w.exec(`UPDATE event_log SET created_at = created_at - interval '100 hours'`)
	w.exec(`UPDATE roombell_settings SET retention = '1 hour'`)
	w.exec(`UPDATE event_log SET slot = (roombell.slot() + 5) % 10`) // not the one that is written now
	w.tell("third")
	w.exec(`SELECT roombell.rotate_slot(n) FROM generate_series(0, 9) n`)
	to := node.attached(t)
	for _, room := range []int{0, 1} {
		h := startHistory(t, db.URL, room)
		if _, err := h.Missed(t.Context(), Question{From: old, To: to, OrganizationID: 1}); !errors.Is(err, ErrTooOld) {
			t.Errorf("room for %d: %v", room, err)
		}
		if m, err := h.Missed(t.Context(), Question{From: to, To: to, OrganizationID: 1}); err != nil || len(hear(t, m)) != 0 {
			t.Errorf("room for %d: %v", room, err)
		}
	}
}

// A snapshot's xmax is one above the highest transaction that has ended, not above all that have begun: one that began later, drew its event's
// id earlier and was still open is above xmax and in no list of what was running.
func TestMissedOfATransactionAboveTheSnapshot(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	node := startNode(t, db.URL, "a")
	younger := newWriter(t, db.URL)
	var from, to Cursor
	for open := uint64(0); from.xmax > open || open == 0; { // again when somebody else's transaction, younger still, ended in between
		w.exec("BEGIN")
		w.exec("SELECT pg_current_xact_id()")
		younger.exec("BEGIN")
		younger.tell("missed")
		if err := younger.QueryRow(t.Context(), "SELECT pg_current_xact_id()::text::bigint").Scan(&open); err != nil {
			t.Fatal(err)
		}
		w.tell("heard")
		w.exec("COMMIT")
		from = node.attached(t)
		younger.exec("COMMIT")
		to = node.attached(t)
	}
	for _, room := range []int{0, 1} {
		m, err := startHistory(t, db.URL, room).Missed(t.Context(), Question{From: from, To: to, OrganizationID: 1, UserID: 1})
		if err != nil {
			t.Fatal(err)
		}
		if heard := hear(t, m); !slices.Equal(heard, []string{"missed"}) {
			t.Errorf("room for %d: %q", room, heard)
		}
	}
}

// Each branch of a page goes through an index of each slot, with statistics and without, and touches no more than it returns.
func TestPlanOfAPageUsesIndexes(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	w.exec(`INSERT INTO event_log (id, txid, slot, organization_id, kind, event, payload)
		SELECT (1::bigint << 43) | nextval('event_log_seq'), (1000 + n / 3)::text::xid8, n / 20000, 1 + n % 50, 'event', 'message:new', json_build_object('id', n, 'content', repeat('x', 300))
		FROM generate_series(0, 199999) n`)
	h := startHistory(t, db.URL, 0)
	for _, statistics := range []string{"none", "fresh"} {
		if statistics == "fresh" {
			w.exec("ANALYZE event_log")
		}
		for name, sql := range map[string]string{"page": pageSQL, "outline": outlineSQL} {
			t.Run(name+" with "+statistics+" statistics", func(t *testing.T) {
				plan := explainPage(t, h.pool, sql)
				if regexp.MustCompile(`Seq Scan on event_log_\d|Bitmap|Parallel`).MatchString(plan) {
					t.Error("it reads more than it returns")
				}
				for condition, want := range map[string]int{
					`Index Cond: \(\(organization_id = `: 10, `Index Cond: \(organization_id IS NULL\)`: 10, `Index Cond: \(txid = ANY`: 10,
					`Index Cond: \(\(txid >= .* AND \(id <= `: 10,
				} {
					if n := len(regexp.MustCompile(condition).FindAllString(plan, -1)); n != want {
						t.Errorf("%s: %d slots, want %d", condition, n, want)
					}
				}
				var pages int
				if _, err := fmt.Sscan(regexp.MustCompile(`Buffers: shared hit=(\d+)`).FindStringSubmatch(plan)[1], &pages); err != nil || pages > 900 {
					t.Errorf("%d pages for 500 events: %v", pages, err)
				}
				if t.Failed() {
					t.Log(plan)
				}
			})
		}
	}
}

func explainPage(t *testing.T, pool *pgxpool.Pool, sql string) string {
	t.Helper()
	var lines []string
	err := pool.AcquireFunc(t.Context(), func(conn *pgxpool.Conn) error {
		return explainOn(t.Context(), conn.Conn(), sql, &lines)
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

func explainOn(ctx context.Context, conn *pgx.Conn, sql string, lines *[]string) error {
	if _, err := conn.Exec(ctx, "PREPARE page (bigint, bigint, bigint, bigint, xid8[], bigint, bigint, xid8, xid8[], xid8, xid8) AS "+sql); err != nil {
		return err
	}
	rows, err := conn.Query(ctx, `EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF)
		EXECUTE page(7, 1, 0, (1::bigint << 43) | 100000, '{33000,34000}', 500, (1::bigint << 43) | 100000, '67000', '{33000,34000}', '34300', '50684')`, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return err
	}
	*lines, err = pgx.CollectRows(rows, pgx.RowTo[string])
	_, free := conn.Exec(ctx, "DEALLOCATE page")
	return errors.Join(err, free)
}
