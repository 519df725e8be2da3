package triggers_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"roombell/internal/postgres/dbtest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden runs testdata/*.sql paragraph by paragraph, each in one transaction unless it has its own, and compares what each left in
// event_log with testdata/*.golden. testdata/inbox.sql comes first: two organizations with users and chats.
//
// Statements run as the owner. A paragraph that begins with a comment "-- as superuser" runs as one who may do all, and "-- as writer"
// as a role that may insert and update messages and nothing else.
func TestGolden(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.sql")
	if err != nil || len(files) < 2 {
		t.Fatalf("testdata/*.sql: %d files, %v", len(files), err)
	}
	for _, file := range files {
		if filepath.Base(file) == "inbox.sql" {
			continue
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".sql"), func(t *testing.T) {
			t.Parallel()
			got := newScript(t).run(t, file)
			golden := strings.TrimSuffix(file, ".sql") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, got, string(want))
		})
	}
}

// compare fails at the first line that differs: the events of a whole file are too much to read.
func compare(t *testing.T, got, want string) {
	t.Helper()
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		var have, wish string
		if i < len(g) {
			have = g[i]
		}
		if i < len(w) {
			wish = w[i]
		}
		if have != wish {
			t.Fatalf("line %d\n got %s\nwant %s", i+1, have, wish)
		}
	}
}

type script struct {
	owner, superuser, writer *pgx.Conn
	seen                     int64
}

func newScript(t *testing.T) *script {
	t.Helper()
	d := dbtest.New(t)
	s := &script{owner: connect(t, d.URL), superuser: connect(t, d.AdminURL), writer: connect(t, d.AdminURL)}
	role := "writer_" + d.Name
	s.must(t, s.superuser, fmt.Sprintf("CREATE ROLE %[1]q; GRANT INSERT, UPDATE ON messages TO %[1]q", role))
	t.Cleanup(func() {
		s.must(t, s.writer, "RESET ROLE")
		s.must(t, s.superuser, fmt.Sprintf("DROP OWNED BY %[1]q; DROP ROLE %[1]q", role))
	})
	s.must(t, s.writer, fmt.Sprintf("SET ROLE %q", role))
	setUp, err := os.ReadFile("testdata/inbox.sql")
	if err != nil {
		t.Fatal(err)
	}
	s.must(t, s.owner, string(setUp))
	s.events(t)
	return s
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func (s *script) must(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if err := exec(conn, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// exec runs several statements in the simple protocol: one transaction, unless the text has its own.
func exec(conn *pgx.Conn, sql string) error {
	_, err := conn.PgConn().Exec(context.Background(), sql).ReadAll()
	return err
}

var paragraphs = regexp.MustCompile(`\n\n+`)

func (s *script) run(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, sql := range paragraphs.Split(strings.TrimSpace(string(text)), -1) {
		out.WriteString(sql + "\n")
		if err := exec(s.by(sql), sql); err != nil {
			out.WriteString("  error " + describe(err) + "\n")
			// The rest of an explicit transaction.
			s.must(t, s.by(sql), "ROLLBACK")
		}
		for _, e := range s.events(t) {
			out.WriteString("  " + e + "\n")
		}
		out.WriteString("\n")
	}
	return out.String()
}

func (s *script) by(sql string) *pgx.Conn {
	switch {
	case strings.HasPrefix(sql, "-- as superuser"):
		return s.superuser
	case strings.HasPrefix(sql, "-- as writer"):
		return s.writer
	}
	return s.owner
}

func describe(err error) string {
	var p *pgconn.PgError
	if !errors.As(err, &p) {
		return err.Error()
	}
	return p.Code + " " + p.Message
}

var clock = regexp.MustCompile(`"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"`)

// events are the new rows of event_log, a line each, without what differs from run to run: ids and times. Times before the year 2000
// are the case's own and stay.
func (s *script) events(t *testing.T) []string {
	t.Helper()
	rows, err := s.superuser.Query(context.Background(), `
		SELECT id, concat_ws(' ', kind, event, 'organization=' || organization_id, 'chat=' || chat_id, 'user=' || user_id,
		       'audience=' || audience::text, 'touched=' || touched::text,
		       CASE WHEN octet_length(payload::text) > 3000 THEN octet_length(payload::text) || ' bytes ' || right(payload::text, 60) ELSE payload::text END)
		FROM event_log WHERE id > $1 ORDER BY id`, s.seen)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	var line string
	_, err = pgx.ForEachRow(rows, []any{&s.seen, &line}, func() error {
		lines = append(lines, clock.ReplaceAllString(line, `"<time>"`))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}
