package inbox

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"roombell/db"
	"roombell/internal/postgres/dbtest"
)

func hashed(password string) (string, error) { return "hash of " + password, nil }

func TestDemo(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	wantOrigin(t, d.Pool, OriginEmpty)
	users, err := Demo(t.Context(), d.Pool, "secret", hashed)
	check(t, err)
	wantOrigin(t, d.Pool, OriginDemo)
	if len(users) != 5 {
		t.Fatalf("%d users, want 5", len(users))
	}
	organizations := map[int64]string{}
	for _, u := range users {
		organizations[u.OrganizationID] = u.Organization
		if u.ID == 0 || u.Email == "" || u.Name == "" || u.Role == "" || u.Organization == "" {
			t.Errorf("user %+v", u)
		}
	}
	if len(organizations) != 2 {
		t.Errorf("organizations %v, want 2", organizations)
	}
	for query, least := range map[string]int64{
		"SELECT count(*) FROM users WHERE password_hash = 'hash of secret'":                       5,
		"SELECT count(*) FROM chats":                                                              6,
		"SELECT count(*) FROM chat_members m JOIN chats c ON c.id = m.chat_id WHERE c.restricted": 1,
		"SELECT count(*) FROM messages WHERE from_me":                                             3,
		"SELECT count(*) FROM messages WHERE NOT from_me AND NOT is_read_by_operator":             3,
		"SELECT count(*) FROM channels WHERE provider = 'none'":                                   3,
	} {
		if n := number(t, d.Pool, query); n < least {
			t.Errorf("%s is %d, want at least %d", query, n, least)
		}
	}
	// Nothing may be sent to anybody.
	if n := number(t, d.Pool, "SELECT count(*) FROM messages WHERE status IN ('pending', 'sending')"); n != 0 {
		t.Errorf("%d messages wait to be sent", n)
	}
	if n := number(t, d.Pool, "SELECT count(*) FROM channels WHERE provider <> 'none'"); n != 0 {
		t.Errorf("%d channels lead outside", n)
	}
}

func TestDemoAgainChangesNothing(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	var g errgroup.Group
	all := make([][]DemoUser, 4)
	for i := range all {
		g.Go(func() (err error) {
			all[i], err = Demo(t.Context(), d.Pool, "secret", hashed)
			return err
		})
	}
	check(t, g.Wait())
	for _, users := range all[1:] {
		if !slices.Equal(users, all[0]) {
			t.Errorf("users %v and %v", users, all[0])
		}
	}
	if n := number(t, d.Pool, "SELECT count(*) FROM organizations"); n != 2 {
		t.Errorf("%d organizations", n)
	}
	exec(t, d.Pool, "DELETE FROM users WHERE id = $1", all[0][0].ID)
	users, err := Demo(t.Context(), d.Pool, "other", func(string) (string, error) { return "", errors.New("hashed again") })
	check(t, err)
	if !slices.Equal(users, all[0][1:]) {
		t.Errorf("after one was deleted the users are %v", users)
	}
}

func TestDemoRefusesAForeignDatabase(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	exec(t, d.Pool, "INSERT INTO organizations (name) VALUES ('somebody')")
	wantOrigin(t, d.Pool, OriginForeign)
	if _, err := Demo(t.Context(), d.Pool, "secret", hashed); !errors.Is(err, ErrForeign) {
		t.Errorf("demo data in a foreign database: %v", err)
	}
	if n := number(t, d.Pool, "SELECT count(*) FROM messages"); n != 0 {
		t.Errorf("%d messages were written", n)
	}
}

// Who adds an organization to dev's database finds it again at the next start.
func TestDemoBearsOrganizationsBesideItsOwn(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	users, err := Demo(t.Context(), d.Pool, "secret", hashed)
	check(t, err)
	exec(t, d.Pool, "INSERT INTO organizations (name) VALUES ('somebody')")
	exec(t, d.Pool, "INSERT INTO users (organization_id, email) SELECT max(id), 'some@body.example' FROM organizations")
	wantOrigin(t, d.Pool, OriginGrown)
	before := number(t, d.Pool, "SELECT count(*) FROM messages")
	again, err := Demo(t.Context(), d.Pool, "secret", hashed)
	check(t, err)
	if !slices.Equal(again, users) {
		t.Errorf("demo users are %v, were %v", again, users)
	}
	if after := number(t, d.Pool, "SELECT count(*) FROM messages"); after != before {
		t.Errorf("%d messages were written", after-before)
	}
}

func TestDemoFailsAsAWhole(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	broken, calls := errors.New("broken"), 0
	_, err := Demo(t.Context(), d.Pool, "secret", func(string) (string, error) {
		if calls++; calls > 3 {
			return "", broken
		}
		return "x", nil
	})
	if !errors.Is(err, broken) {
		t.Errorf("error is %v", err)
	}
	wantOrigin(t, d.Pool, OriginEmpty)
}

func TestDemoGoesWithTheMigrations(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	_, err := Demo(t.Context(), d.Pool, "secret", hashed)
	check(t, err)
	for err = nil; err == nil; err = db.Down(t.Context(), d.URL, nil) {
	}
	if !errors.Is(err, db.ErrNothingApplied) {
		t.Fatal(err)
	}
	if n := number(t, d.Pool, "SELECT count(*) FROM pg_class WHERE relname = 'demo'"); n != 0 {
		t.Error("the mark is still there")
	}
}

func TestTraffic(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	users, err := Demo(t.Context(), d.Pool, "secret", hashed)
	check(t, err)
	// An organization of somebody's, made since, and a demo chat that leads outside: nothing is written to either.
	foreign := number(t, d.Pool, `WITH o AS (INSERT INTO organizations (name) VALUES ('somebody') RETURNING id)
		INSERT INTO chats (organization_id) SELECT id FROM o RETURNING id`)
	outside := number(t, d.Pool, `WITH h AS (INSERT INTO channels (organization_id, provider) VALUES ($1, 'telegram') RETURNING id, organization_id)
		INSERT INTO chats (organization_id, channel_id) SELECT organization_id, id FROM h RETURNING id`, users[0].OrganizationID)

	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error { return Traffic(ctx, d.Pool, 500, slog.New(slog.NewTextHandler(t.Output(), nil))) })
	kinds := func(event string) bool {
		return number(t, d.Pool, "SELECT count(*) FROM event_log WHERE event = $1", event) > 3
	}
	for _, event := range []string{"message:new", "message:status", "messages:read"} {
		eventually(t, event, func() bool { return kinds(event) })
	}
	eventually(t, "answers that the customer has read", func() bool {
		return number(t, d.Pool, "SELECT count(*) FROM messages WHERE from_me AND status = 'read' AND id > 20") > 3
	})
	// A chat that goes away is no error. Whoever deletes it beside a writer of its messages may meet him in a deadlock, as on any tables.
	check(t, db.InTx(t.Context(), d.Pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), "DELETE FROM chats WHERE id IN (SELECT chat_id FROM messages WHERE from_me LIMIT 1)")
		return err
	}))
	seen := number(t, d.Pool, "SELECT max(id) FROM messages")
	eventually(t, "traffic to go on", func() bool { return number(t, d.Pool, "SELECT max(id) FROM messages") > seen+20 })
	cancel()
	check(t, g.Wait())
	if n := number(t, d.Pool, "SELECT count(*) FROM messages WHERE chat_id = ANY($1)", []int64{foreign, outside}); n != 0 {
		t.Errorf("%d messages were written where none may be", n)
	}
}

func TestTrafficKeepsItsRate(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	_, err := Demo(t.Context(), d.Pool, "secret", hashed)
	check(t, err)
	before := number(t, d.Pool, "SELECT max(id) FROM messages")
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error { return Traffic(ctx, d.Pool, 20, slog.New(slog.DiscardHandler)) })
	began := number(t, d.Pool, "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
	eventually(t, "20 messages", func() bool { return number(t, d.Pool, "SELECT max(id) FROM messages") >= before+20 })
	took := number(t, d.Pool, "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint") - began
	cancel()
	check(t, g.Wait())
	if took < 700 {
		t.Errorf("20 messages at 20 a second took %d ms", took)
	}
}

func TestTrafficWithoutDemoData(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	if err := Traffic(t.Context(), d.Pool, 10, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrNoDemo) {
		t.Errorf("without demo data: %v", err)
	}
	check(t, Traffic(t.Context(), d.Pool, 0, slog.New(slog.DiscardHandler)))
}

func wantOrigin(t *testing.T, pool *pgxpool.Pool, want Origin) {
	t.Helper()
	got, err := DemoOrigin(t.Context(), pool)
	check(t, err)
	if got != want {
		t.Errorf("origin %d, want %d", got, want)
	}
}
