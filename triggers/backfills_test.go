package triggers_test

import (
	"context"
	"fmt"
	"os"
	command "os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"roombell/internal/postgres/dbtest"
)

var sqlBlock = regexp.MustCompile("(?ms)^```sql ([a-z-]+)\n(.*?)^```")

// TestManualOfBackfills runs every block of the page for authors of backfills with psql, one after the other on one database, and compares
// what clients hear of each.
func TestManualOfBackfills(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../internal/web/manual/backfills.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := sqlBlock.FindAllStringSubmatch(string(page), -1)
	if n := strings.Count(string(page), "\n```sql"); n != len(blocks) || n < 10 {
		t.Fatalf("%d blocks of SQL, %d of them with a name", n, len(blocks))
	}
	want := heardOfBackfills()
	m := newManual(t)
	for _, block := range blocks {
		name, sql := block[1], block[2]
		m.run(t, name, sql)
		if got := m.heard(t); got != want[name] {
			t.Errorf("%s: clients hear %q, want %q", name, got, want[name])
		}
		delete(want, name)
	}
	for name := range want {
		t.Errorf("there is no block %s", name)
	}
	m.check(t)
}

// heardOfBackfills are, for each block, the events that it brings to clients, and how many. Chats 1 to 3 are organization 1's, 3 is restricted;
// 4 is organization 2's.
func heardOfBackfills() map[string]string {
	return map[string]string{
		"copy":                "chats:updated 3",     // organization 1, the circle of chat 3, organization 2
		"insert-select":       "chats:updated 3",     // as above
		"again":               "chats:updated 2",     // only chats with a channel: 1 and 4
		"each":                "message:updated 500", // singly, though more than 200
		"summary":             "chats:updated 2",
		"off":                 "",
		"thresholds":          "message:updated 766", // below the threshold of the transaction
		"batches":             "messages:read 3",
		"procedure":           "chats:updated 3",
		"chats-with-messages": "chat:new 3, chats:updated 1",
		"deleting":            "chat:deleted 2, chats:updated 2",
		"two-phase":           "chats:updated 1",
		"role":                "",
	}
}

// manual is a database as the page supposes one.
type manual struct {
	*script
	url, dir string
	role     string
}

func newManual(t *testing.T) *manual {
	t.Helper()
	d := dbtest.New(t)
	m := &manual{
		script: &script{owner: connect(t, d.URL), superuser: connect(t, d.AdminURL)},
		url:    d.AdminURL, // roles need more than the owner's rights
		dir:    t.TempDir(), role: "importer_" + d.Name,
	}
	t.Cleanup(func() {
		m.must(t, m.superuser, fmt.Sprintf(`DO $$ BEGIN
			IF EXISTS (SELECT FROM pg_roles WHERE rolname = '%[1]s') THEN REVOKE ALL ON messages FROM %[1]s; DROP ROLE %[1]s; END IF; END $$`, m.role))
	})
	setUp, err := os.ReadFile("testdata/inbox.sql")
	if err != nil {
		t.Fatal(err)
	}
	m.must(t, m.owner, string(setUp)+`
		UPDATE chats SET channel_id = organization_id WHERE id IN (1, 4);
		INSERT INTO chats (organization_id, status, last_message_at) VALUES (1, 'closed', now() - interval '6 years');
		CREATE TABLE public.old_messages (id bigint GENERATED ALWAYS AS IDENTITY, chat_id bigint, customer text, outgoing bool, text text, sent_at timestamptz);
		INSERT INTO old_messages (chat_id, customer, outgoing, text, sent_at)
			SELECT 1 + g % 4, NULL, g % 3 = 0, 'card 4111 1111', now() - interval '100 days' + g * interval '1 minute' FROM generate_series(1, 1000) g;
		INSERT INTO old_messages (customer, text, sent_at) SELECT 'customer ' || g % 3, 'm', now() FROM generate_series(1, 600) g;
		INSERT INTO messages (chat_id, content, timestamp) SELECT 1 + g, 'ancient', now() - interval '4 years' FROM generate_series(0, 2) g;
		INSERT INTO messages (chat_id, content, timestamp) SELECT 1 + g % 3, 'unread', now() - interval '1 year' FROM generate_series(1, 30) g;
		INSERT INTO messages (chat_id, media_url, timestamp) SELECT 1 + g % 4, 'http://old.example/' || g, now() FROM generate_series(1, 400) g`)
	m.events(t)
	csv := "organization_id,chat_id,from_me,status,is_read_by_operator,content,timestamp\n"
	for i := range 1000 {
		chat := 1 + i%4
		csv += fmt.Sprintf("%d,%d,%t,%s,t,\"line\none\",2020-01-02T03:04:05Z\n", 1+chat/4, chat, i%2 == 0, []string{"read", "received"}[i%2])
	}
	if err := os.WriteFile(filepath.Join(m.dir, "messages.csv"), []byte(csv), 0o600); err != nil {
		t.Fatal(err)
	}
	return m
}

// run gives the block to psql, as its reader would.
func (m *manual) run(t *testing.T, name, sql string) {
	t.Helper()
	cmd := command.Command("psql", m.url, "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1")
	cmd.Dir = m.dir
	// Roles and prepared transactions are the whole server's, which other tests use too.
	cmd.Stdin = strings.NewReader(strings.NewReplacer("importer", m.role, "import 1", m.role).Replace(sql))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// heard is what was recorded for clients since it was last asked: events and how many, by name.
func (m *manual) heard(t *testing.T) string {
	t.Helper()
	var heard string
	err := m.superuser.QueryRow(context.Background(), `SELECT coalesce(string_agg(event || ' ' || n, ', ' ORDER BY event), '')
		FROM (SELECT event, count(*) AS n FROM event_log WHERE id > $1 AND kind IN ('event', 'custom') GROUP BY 1) e`, m.seen).Scan(&heard)
	if err != nil {
		t.Fatal(err)
	}
	m.events(t)
	return heard
}

// check compares what the blocks have left with what the page promises.
func (m *manual) check(t *testing.T) {
	t.Helper()
	var pending, foreign, left int
	err := m.superuser.QueryRow(context.Background(), `SELECT
		(SELECT count(*) FROM messages WHERE status = 'pending'),
		(SELECT count(*) FROM messages m JOIN chats c ON c.id = m.chat_id WHERE c.organization_id <> m.organization_id),
		(SELECT count(*) FROM chats WHERE organization_id = 2)`).Scan(&pending, &foreign, &left)
	if err != nil {
		t.Fatal(err)
	}
	if pending+foreign+left > 0 {
		t.Errorf("%d messages would be sent, %d are of another organization, %d chats of the deleted one are left", pending, foreign, left)
	}
}
