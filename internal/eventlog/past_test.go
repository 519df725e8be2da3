package eventlog

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A trace finds a message's events among 200,000 without reading more than its span of time, through indexes alone.
func TestTraceUsesIndexes(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	w.exec(`INSERT INTO event_log (id, txid, slot, created_at, organization_id, chat_id, kind, event, payload)
		SELECT (1::bigint << 43) | nextval('event_log_seq'), (1000 + n / 3)::text::xid8, n / 20000, '2026-01-01Z'::timestamptz + n * interval '1 second', 7, 1 + n % 50, 'event',
		  'message:status', json_build_object('messageId', n / 1000, 'text', repeat('x', 300))
		FROM generate_series(0, 199999) n`)
	w.exec(`UPDATE event_log SET chat_id = 3 WHERE (payload->>'messageId')::int = 120`)
	h := startHistory(t, db.URL, 0)
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(120_000 * time.Second)
	q := TraceQuestion{OrganizationID: 7, ChatID: 3, MessageID: 120, From: began, To: began.Add(100 * time.Second), Last: 1000 + 120_999/3}
	for _, statistics := range []string{"none", "fresh"} {
		if statistics == "fresh" {
			w.exec("ANALYZE event_log")
		}
		t.Run("with "+statistics+" statistics", func(t *testing.T) {
			events, err := h.Trace(t.Context(), q)
			// 100 seconds and the slack, one a second, and the last transaction far above them.
			if err != nil || len(events) != 161 || !events[0].RecordedAt.Equal(began) || !events[160].RecordedAt.Equal(began.Add(999*time.Second)) {
				t.Fatalf("%d events, %v", len(events), err)
			}
			plan := explainTrace(t, h.pool)
			if regexp.MustCompile(`Seq Scan on event_log|Bitmap|Parallel`).MatchString(plan) {
				t.Error("it reads more than the span")
			}
			for _, condition := range []string{`Index Cond: \(\(ROW\(organization_id, id\) >= .* AND \(ROW\(organization_id, id\) < `, `Index Cond: \(txid = `} {
				if n := len(regexp.MustCompile(condition).FindAllString(plan, -1)); n != 10 {
					t.Errorf("%s: %d slots, want 10", condition, n)
				}
			}
			var pages int
			if _, err := fmt.Sscan(regexp.MustCompile(`Buffers: shared hit=(\d+)`).FindStringSubmatch(plan)[1], &pages); err != nil || pages > 3000 {
				t.Errorf("%d pages: %v", pages, err)
			}
			if t.Failed() {
				t.Log(plan)
			}
		})
	}
}

func explainTrace(t *testing.T, pool *pgxpool.Pool) string {
	t.Helper()
	var lines []string
	err := pool.AcquireFunc(t.Context(), func(conn *pgxpool.Conn) error {
		if _, err := conn.Exec(t.Context(), "PREPARE trace (bigint, bigint, bigint, timestamptz, timestamptz, text, bigint) AS "+traceSQL); err != nil {
			return err
		}
		rows, err := conn.Query(t.Context(), `EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF)
			EXECUTE trace(7, 3, 120, '2026-01-02 09:20:00Z', '2026-01-02 09:23:00Z', '41333', 200)`, pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			return err
		}
		if lines, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return err
		}
		_, err = conn.Exec(t.Context(), "DEALLOCATE trace")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// From the beginning everything is read that retention has left, and nothing is said to be missing.
func TestBeginningOfTheLog(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	node := startNode(t, db.URL, "a")
	w.tell("first")
	node.await(t, "first")
	check := func(want ...string) {
		t.Helper()
		to := node.attached(t)
		for _, room := range []int{0, 1} {
			h := startHistory(t, db.URL, room)
			from, err := h.Beginning(t.Context(), to)
			if err != nil {
				t.Fatal(err)
			}
			m, err := h.Missed(t.Context(), Question{From: from, To: to, OrganizationID: 1, UserID: 1})
			if err != nil {
				t.Fatal(err)
			}
			if got := hear(t, m); !slices.Equal(got, want) {
				t.Errorf("room for %d: %q, want %q", room, got, want)
			}
		}
	}
	check("first")
	w.exec(`UPDATE event_log SET created_at = created_at - interval '100 hours'`)
	w.exec(`UPDATE roombell_settings SET retention = '1 hour'`)
	w.exec(`UPDATE event_log SET slot = (roombell.slot() + 5) % 10`) // not the one that is written now
	w.tell("second")
	w.exec(`SELECT roombell.rotate_slot(n) FROM generate_series(0, 9) n`)
	w.tell("third")
	check("second", "third")
}

// The rate is of the last minute, of one organization or of all.
func TestPerMinute(t *testing.T) {
	t.Parallel()
	h := &History{memory: newMemory(1 << 20)}
	publish := func(id, organization int64) {
		h.Publish(newBatch(Cursor{step: step{hi: id - 1}}, Cursor{step: step{hi: id}}, []Event{{ID: id, OrganizationID: organization, Kind: KindEvent}}))
	}
	publish(1, 1)
	publish(2, 2)
	h.memory.parts[0].heard = time.Now().Add(-2 * time.Minute)
	publish(3, 1)
	publish(4, 1)
	for organization, want := range map[int64]int{0: 3, 1: 2, 2: 1, 3: 0} {
		if got := h.PerMinute(organization); got != want {
			t.Errorf("organization %d: %d, want %d", organization, got, want)
		}
	}
}
