package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"roombell/db"
	"roombell/internal/auth"
	"roombell/internal/eventlog"
	"roombell/internal/inbox"
	"roombell/internal/postgres"
	"roombell/internal/postgres/dbtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, dbtest.IgnoreServer()) }

// limit is how long anything may take on a busy machine before a test gives up.
const limit = time.Minute

const secretOfTests = "hunter2, a secret of the tests with more than 32 bytes"

func check0(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func execute(t testing.TB, pool *pgxpool.Pool, statement string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(context.Background(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// asAdmin runs statements as the superuser.
func asAdmin(t testing.TB, d *dbtest.DB, statements ...string) {
	t.Helper()
	onConn(t, d.AdminURL, statements...)
}

func onConn(t testing.TB, url string, statements ...string) {
	t.Helper()
	conn := connect(t, url)
	for _, s := range statements {
		if _, err := conn.Exec(context.Background(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	check0(t, conn.Close(context.Background()))
}

// connect opens a connection that ends with the test.
func connect(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	check0(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// fill makes two organizations, each with two users and two chats with messages: the odd ids are the first one's.
func fill(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	for _, s := range []string{
		`INSERT INTO organizations (name) VALUES ('one'), ('two')`,
		`INSERT INTO users (organization_id, email) SELECT 2 - g % 2, g || '@example.com' FROM generate_series(1, 4) g`,
		`INSERT INTO channels (organization_id, provider) VALUES (1, 'none'), (2, 'none')`,
		`INSERT INTO chats (organization_id, name) SELECT 2 - g % 2, 'chat' FROM generate_series(1, 4) g`,
		`INSERT INTO messages (chat_id, content, sender_user_id) SELECT g, 'hello', g FROM generate_series(1, 4) g`,
		`INSERT INTO chat_members (chat_id, user_id) SELECT g, g FROM generate_series(1, 4) g`,
		`INSERT INTO notifications (user_id, message) SELECT g, 'hello' FROM generate_series(1, 4) g`,
	} {
		execute(t, pool, s)
	}
	execute(t, pool, recompute)
}

// position is how the command reads positions.
func position(text string) (func(int64, uint64) bool, error) {
	c, err := eventlog.ParseCursor(text)
	return c.Seen, err
}

func options(url string) Options {
	return Options{DatabaseURL: url, Tokens: auth.Options{Secret: []byte(secretOfTests)}, Position: position}
}

// newDoctor is one that ends with the test.
func newDoctor(t testing.TB, o Options) *Doctor {
	t.Helper()
	d, err := New(context.Background(), o)
	check0(t, err)
	t.Cleanup(d.Close)
	return d
}

// examine has a fresh doctor look, and checks what holds for every report.
func examine(t testing.TB, o Options, change ...func(*Doctor)) Report {
	t.Helper()
	d, err := New(context.Background(), o)
	check0(t, err)
	defer d.Close()
	d.limits.settle, d.limits.lock = 100*time.Millisecond, 200*time.Millisecond
	for _, f := range change {
		f(d)
	}
	r := d.Examine(t.Context())
	text, err := json.Marshal(r)
	check0(t, err)
	if strings.Contains(string(text), "hunter2") {
		t.Errorf("the report has a secret in it: %s", text)
	}
	for _, f := range r.Findings {
		if f.Check == "" || f.Code == "" || f.Title == "" {
			t.Errorf("a finding without check, code or title: %+v", f)
		}
		if f.Level > OK && f.Meaning == "" && f.Remedy == "" {
			t.Errorf("%s does not say what it means", f.Code)
		}
		if f.Level > Note && f.Remedy == "" && f.Command == "" {
			t.Errorf("%s does not say what mends it", f.Code)
		}
	}
	return r
}

// find returns the finding with a code, or the zero one.
func find(r Report, code string) Finding {
	i := slices.IndexFunc(r.Findings, func(f Finding) bool { return f.Code == code })
	if i < 0 {
		return Finding{}
	}
	return r.Findings[i]
}

// above lists what is worse than a level.
func above(r Report, l Level) []string {
	var codes []string
	for _, f := range r.Findings {
		if f.Level > l {
			codes = append(codes, f.Code)
		}
	}
	return codes
}

// careless are the findings of the shared test server, which does not flush.
var careless = []string{"fsync_off", "full_page_writes_off"}

// expect finds exactly these above the level of a note, the first at the level.
func expect(t testing.TB, r Report, l Level, codes ...string) Finding {
	t.Helper()
	if got := above(r, Note); l > Note && !slices.Equal(without(got, careless), codes) {
		t.Errorf("found %v above a note, want %v", got, codes)
	}
	f := find(r, codes[0])
	if f.Code == "" || f.Level != l {
		t.Fatalf("%s is %+v, want %s in %s", codes[0], f, l, describe(r))
	}
	return f
}

func without(codes, others []string) []string {
	return slices.DeleteFunc(codes, func(c string) bool { return slices.Contains(others, c) })
}

func describe(r Report) string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "\n%s %s: %s | %s | %s | %s %v", f.Level, f.Code, f.Title, f.Meaning, f.Remedy, f.Command, f.Err)
	}
	return b.String()
}

// mend runs the finding's command, as somebody who copies it from the terminal.
func mend(t testing.TB, url string, f Finding) {
	t.Helper()
	if f.Command == "" {
		t.Fatalf("%s has no command", f.Code)
	}
	for _, command := range strings.Split(f.Command, " && ") {
		if command == migrateUp {
			check0(t, db.Migrate(t.Context(), url, slog.New(slog.DiscardHandler)))
			continue
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
		cmd.Env = append(os.Environ(), "DATABASE_URL="+url)
		if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "ERROR") {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
	}
}

// node is a tail on its own.
func node(t testing.TB, url, name string, publishers ...eventlog.Publisher) *eventlog.Tail {
	t.Helper()
	config, err := pgx.ParseConfig(url)
	check0(t, err)
	tail := eventlog.New(eventlog.Options{ConnConfig: config, Node: name}, publishers...)
	background(t, tail.Run)
	eventually(t, "the tail connects", func() bool { return tail.Status().Connected })
	return tail
}

// service is a node that keeps the counters: all that a service is to the database.
func service(t testing.TB, url string) *eventlog.Tail {
	t.Helper()
	pool, err := db.Open(context.Background(), url)
	check0(t, err)
	t.Cleanup(pool.Close)
	var tail *eventlog.Tail
	projector := inbox.NewProjector(inbox.ProjectorOptions{
		Pool: pool, Logger: slog.New(slog.DiscardHandler), Ringer: func() bool { return tail.Status().Ringer },
	})
	tail = node(t, url, "test/1", projector)
	background(t, projector.Run)
	return tail
}

// background runs something that ends with the test, before what was registered earlier is taken away.
func background(t testing.TB, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(limit)
	for !f() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatal("never: ", what)
		}
	}
}

func value[T any](t testing.TB, pool *pgxpool.Pool, query string) (v T) {
	t.Helper()
	check0(t, pool.QueryRow(context.Background(), query).Scan(&v))
	return v
}

// A careful server, migrated, with a service that runs and rows in its tables.
func TestHealthyInstallation(t *testing.T) {
	t.Parallel()
	c := dbtest.Cluster(t)
	url := c.URL(postgres.Name)
	check0(t, db.Migrate(t.Context(), url, slog.New(slog.DiscardHandler)))
	pool, err := db.Open(context.Background(), url)
	check0(t, err)
	t.Cleanup(pool.Close)
	service(t, url)
	fill(t, pool)
	eventually(t, "the counters have a position", func() bool {
		return value[bool](t, pool, `SELECT projected IS NOT NULL FROM event_log_state`)
	})
	r := examine(t, options(url))
	for _, f := range r.Findings {
		if f.Level > OK {
			t.Errorf("a healthy installation has %s", f.Code)
		}
	}
	if t.Failed() {
		t.Log(describe(r))
	}
	names := map[string]bool{}
	for _, f := range r.Findings {
		names[f.Check] = true
	}
	for _, c := range checks {
		if !names[c.name] {
			t.Errorf("the check %s says nothing", c.name)
		}
	}
}

// Without a service there is less to be seen, and nothing wrong.
func TestMigratedDatabase(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	r := examine(t, options(d.URL))
	expect(t, r, Note, "nobody_listens")
	if got := without(above(r, Note), careless); len(got) > 0 {
		t.Errorf("found %v in %s", got, describe(r))
	}
}

func TestOptionsOfTheShell(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"a b": `'a b'`, "it's": `'it'\''s'`, "$HOME": `'$HOME'`} {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", "printf %s "+shellQuote(text)).Output()
		if got := shellQuote(text); got != want || err != nil || string(out) != text {
			t.Errorf("%q is quoted %s, which the shell reads as %q (%v)", text, got, out, err)
		}
	}
}

func TestClean(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"dial postgres://ann:hunter2@db/x: no\n route": "dial postgres://ann:…@db/x: no route",
		"host=db password=hunter2 user=ann":            "host=db password=… user=ann",
		"PASSWORD='hun ter2' user=ann":                 "PASSWORD=… user=ann",
		"fine":                                         "fine",
	} {
		if got := clean(fmt.Errorf("%s", text)); got != want {
			t.Errorf("%q is shown as %q", text, got)
		}
	}
}
