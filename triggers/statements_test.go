package triggers_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"roombell/internal/postgres/dbtest"
)

func TestCopyRings(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	copyIn(t, s.owner, "COPY messages (chat_id, content) FROM STDIN", "1\ta\n2\tb\n")
	if got := s.events(t); len(got) != 2 || !strings.Contains(got[0], `"content":"a"`) || !strings.Contains(got[1], `"content":"b"`) {
		t.Errorf("events of a COPY of two rows: %q", got)
	}
	copyIn(t, s.owner, "COPY messages (chat_id, content) FROM STDIN", strings.Repeat("1\tm\n", 300))
	if got := s.events(t); len(got) != 1 || !strings.Contains(got[0], `"new" : 300`) {
		t.Errorf("events of a COPY of 300 rows: %q", got)
	}
}

func copyIn(t *testing.T, conn *pgx.Conn, sql, rows string) {
	t.Helper()
	if _, err := conn.PgConn().CopyFrom(context.Background(), strings.NewReader(rows), sql); err != nil {
		t.Fatal(err)
	}
}

func TestLongTextsAreCutAtACharacter(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	for name, c := range map[string]struct{ text, want string }{
		"short":          {"'abc'", "'abc'"},
		"exactly 256 KB": {"repeat('x', 262144)", "repeat('x', 262144)"},
		"one byte more":  {"repeat('x', 262145)", "repeat('x', 262144)"},
		"two bytes":      {"'x' || repeat('ä', 150000)", "'x' || repeat('ä', 131071)"},
		"three bytes":    {"repeat('€', 100000)", "repeat('€', 87381)"},
		"four bytes":     {"'xyz' || repeat('😀', 70000)", "'xyz' || repeat('😀', 65535)"},
	} {
		var same bool
		err := s.owner.QueryRow(context.Background(), fmt.Sprintf("SELECT roombell.short(%s) = %s", c.text, c.want)).Scan(&same)
		if err != nil || !same {
			t.Errorf("%s: same %v, %v", name, same, err)
		}
	}
}

func TestEverythingCarriesAComment(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	rows, err := d.Pool.Query(context.Background(), `
		SELECT 'table ' || c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname IN ('public', 'roombell') AND c.relkind IN ('r', 'p') AND c.relname NOT LIKE 'goose%' AND obj_description(c.oid, 'pg_class') IS NULL
		UNION ALL
		SELECT 'function ' || p.oid::regprocedure FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
		WHERE n.nspname IN ('public', 'roombell') AND obj_description(p.oid, 'pg_proc') IS NULL`)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(bare) > 0 {
		t.Errorf("without a comment: %q, %v", bare, err)
	}
}

// fill_message has no path of its own and names the schema of everything instead: golden file guards shows that a caller's table of the
// same name is not read.
func TestDefinersHaveTheirPath(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	rows, err := d.Pool.Query(context.Background(), `
		SELECT p.oid::regproc::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
		WHERE n.nspname IN ('public', 'roombell') AND p.prosecdef AND p.proname <> 'fill_message'
		AND NOT coalesce(p.proconfig @> '{"search_path=pg_catalog, pg_temp"}', false)`)
	if err != nil {
		t.Fatal(err)
	}
	open, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(open) > 0 {
		t.Errorf("SECURITY DEFINER without a search_path: %q, %v", open, err)
	}
}

// plans runs a statement and returns the plans of all statements in its triggers, as auto_explain tells them.
func plans(t *testing.T, url, sql string) string {
	t.Helper()
	var mu sync.Mutex
	var told strings.Builder
	c, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	c.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		mu.Lock()
		defer mu.Unlock()
		told.WriteString(n.Message + "\n")
	}
	conn, err := pgx.ConnectConfig(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	const explain = `LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on; SET client_min_messages = log;`
	if err := exec(conn, explain+sql); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	return told.String()
}

// A single insert beside 100,000 chats: 8.4 ms instead of 0.18 where the chat was looked up by a join of the wrong kind.
func TestInsertFindsItsChatByIndex(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	const fill = `INSERT INTO organizations (name) VALUES ('one'); SET roombell.notify = 'off';
		INSERT INTO chats (organization_id, restricted) SELECT 1, g % 2 = 0 FROM generate_series(1, 20000) g`
	if _, err := d.Pool.Exec(context.Background(), fill); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		"INSERT INTO messages (chat_id) VALUES (2)",
		"INSERT INTO messages (chat_id) SELECT g FROM generate_series(1, 100) g",
		"INSERT INTO messages (chat_id) SELECT g FROM generate_series(1, 300) g",
		"INSERT INTO messages (chat_id) VALUES (2); UPDATE messages SET is_read_by_operator = true; DELETE FROM messages",
	} {
		told := plans(t, d.AdminURL, sql)
		if !strings.Contains(told, "Index Scan using chats_pkey") && !strings.Contains(told, "Index Only Scan using chats_pkey") {
			t.Errorf("%s: chats are not read by their key:\n%s", sql, told)
		}
		for _, table := range []string{"chats", "chat_members", "users"} {
			if strings.Contains(told, "Seq Scan on "+table+" ") {
				t.Errorf("%s: reads all of %s:\n%s", sql, table, told)
			}
		}
	}
}

// The two transition tables of an UPDATE have no index: by nested loops 50,000 rows took 90 s.
func TestUpdateNeverJoinsByNestedLoops(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	const fill = `INSERT INTO organizations (name) VALUES ('one'); INSERT INTO users (organization_id, email) VALUES (1, 'ann@one');
		INSERT INTO chats (organization_id) SELECT 1 FROM generate_series(1, 100); INSERT INTO messages (chat_id) SELECT g FROM generate_series(1, 100) g;
		INSERT INTO notifications (user_id) SELECT 1 FROM generate_series(1, 100)`
	if _, err := d.Pool.Exec(context.Background(), fill); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		"UPDATE messages SET content = 'x'", "UPDATE messages SET is_read_by_operator = true", "UPDATE chats SET status = 'open'",
		"UPDATE chats SET restricted = true", "UPDATE notifications SET read_at = now()", "UPDATE users SET role = 'admin'",
	} {
		told := plans(t, d.AdminURL, sql)
		joins := strings.Count(told, "Hash Full Join") + strings.Count(told, "Merge Full Join")
		if joins == 0 {
			t.Errorf("%s: no full join of the transition tables:\n%s", sql, told)
		}
		if scans := strings.Count(told, "Named Tuplestore Scan"); scans < 2*joins {
			t.Errorf("%s: %d full joins over %d scans", sql, joins, scans)
		}
	}
}
