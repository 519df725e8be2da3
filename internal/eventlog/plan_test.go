package eventlog

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// The planner takes `txid >= $` for a third of the log and would rather read all of it. With the guards, and with id+0 in the statement, each
// of the three branches goes through its index in each slot.
func TestPlanOfTheReadUsesIndexes(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	w.exec(`INSERT INTO event_log (id, txid, slot, organization_id, kind, event, payload)
		SELECT (1::bigint << 43) | nextval('event_log_seq'), (1000 + n / 3)::text::xid8, n / 20000, 1 + n % 50, 'event', 'message:new', json_build_object('id', n, 'content', repeat('x', 300))
		FROM generate_series(0, 199999) n`)
	for _, statistics := range []string{"none", "fresh"} {
		t.Run(statistics+" statistics", func(t *testing.T) {
			if statistics == "fresh" {
				w.exec("ANALYZE event_log")
			}
			s := openSession(t, db.URL)
			for _, statement := range []string{readStatement, gapStatement} {
				checkPlan(t, s, statement)
			}
		})
	}
}

func checkPlan(t *testing.T, s *steps, statement string) {
	t.Helper()
	arguments := "(1::bigint << 43) | 199990, '67600', '{50000,60000}', 1000, false, false"
	plan := explain(t, s, fmt.Sprintf("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF) EXECUTE %s(%s)", statement, arguments))
	for branch, condition := range map[string]string{
		"new":                        `Index Cond: \(id > `,
		"begun after the snapshot":   `Index Cond: \(txid >= `,
		"running in the snapshot":    `Index Cond: \(txid = ANY`,
		"an index scan of each slot": `Index Scan using event_log_\d_(id|txid_id)_idx`,
	} {
		want := 10
		if strings.HasPrefix(branch, "an index") {
			want = 30
		}
		if n := len(regexp.MustCompile(condition).FindAllString(plan, -1)); n != want {
			t.Errorf("%s, %s: %d slots, want %d", statement, branch, n, want)
		}
	}
	if regexp.MustCompile(`Seq Scan on event_log_\d|->  Sort|Bitmap|Parallel`).MatchString(plan) {
		t.Errorf("%s reads more than it returns", statement)
	}
	var pages int
	if _, err := fmt.Sscan(regexp.MustCompile(`Buffers: shared hit=(\d+)`).FindStringSubmatch(plan)[1], &pages); err != nil || pages > 400 {
		t.Errorf("%s touches %d pages: %v", statement, pages, err)
	}
	if t.Failed() {
		t.Log(plan)
	}
}

func explain(t *testing.T, s *steps, sql string) string {
	t.Helper()
	result := s.pg.ExecParams(t.Context(), sql, nil, nil, nil, nil).Read()
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	var lines []string
	for _, row := range result.Rows {
		lines = append(lines, string(row[0]))
	}
	return strings.Join(lines, "\n")
}
