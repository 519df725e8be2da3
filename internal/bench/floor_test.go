package bench

import (
	"context"
	"errors"
	"io"
	"net"
	"net/rpc"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"roombell/internal/postgres/dbtest"
)

// startFloorServer furnishes a database as the floor's and serves it until the test ends.
func startFloorServer(t *testing.T) (*side, []organization, *pgx.Conn) {
	t.Helper()
	db := dbtest.New(t)
	conn, err := pgx.Connect(t.Context(), db.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.WithoutCancel(t.Context())) })
	if err := dropTriggers(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), floorTrigger); err != nil {
		t.Fatal(err)
	}
	organizations, err := seed(t.Context(), conn, "bench", 3, 4, 2)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- ServeFloor(ctx, db.URL, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("floor: %v", err)
		}
	})
	s := &side{name: "floor", database: &labDatabase{url: db.URL}, addr: l.Addr().String()}
	eventually(t, "the floor is ready", func() bool { return get(t.Context(), "http://"+s.addr+"/readyz") == nil })
	return s, organizations, conn
}

func testWriters(t *testing.T, s *side, n int) *writers {
	t.Helper()
	w, err := openWriters(t.Context(), s.database.url, n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return w
}

func TestFloorDeliversToItsOrganizations(t *testing.T) {
	t.Parallel()
	s, organizations, _ := startFloorServer(t)
	near, far := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- ServeLoad(t.Context(), far) }()
	s.load = &load{client: rpc.NewClient(near)}
	if _, err := s.connect(t.Context(), organizations, 4); err != nil {
		t.Fatal(err)
	}

	w, p := testWriters(t, s, 4), phase{number: 1, organizations: organizations}
	start := time.Now()
	written, err := w.open(t.Context(), p, 500, 100, nil)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); written.rows != 100 || len(written.committed) != 100 || took < 99*time.Second/500 {
		t.Errorf("%d rows, %d committed, in %v", written.rows, len(written.committed), took)
	}
	d, err := s.load.await(t.Context(), p.expect(written.rows))
	if err != nil {
		t.Fatal(err)
	}
	if d.Expected != 400 || d.Received != 400 || d.Lost+d.Duplicates+d.Strays != 0 || d.Cut != 0 || len(d.Delays) != 400 {
		t.Errorf("open loop: %+v", lossesOf(d))
	}

	p.number = 2
	if written, err = w.closed(t.Context(), p, 4, 20*time.Millisecond, 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if written.rows == 0 || written.counted == 0 || written.counted > written.rows {
		t.Errorf("closed loop: %d of %d rows", written.counted, written.rows)
	}
	if d, err = s.load.await(t.Context(), p.expect(written.rows)); err != nil || lossesOf(d).any() || d.Received != int64(4*written.rows) {
		t.Errorf("closed loop: %+v, %v", lossesOf(d), err)
	}
	if err := s.load.client.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

func TestLostRowsAreCounted(t *testing.T) {
	t.Parallel()
	s, organizations, conn := startFloorServer(t)
	seats, err := s.seats(organizations, 2)
	if err != nil {
		t.Fatal(err)
	}
	f := NewFleet()
	defer f.Close()
	if _, err := f.Dial(t.Context(), seats); err != nil {
		t.Fatal(err)
	}
	w, p := testWriters(t, s, 1), phase{number: 1, organizations: organizations}
	if _, err := w.open(t.Context(), p, 1000, 9, nil); err != nil {
		t.Fatal(err)
	}
	// Three rows that nobody hears of, and one that everybody of its organization hears twice.
	if _, err := conn.Exec(t.Context(), "ALTER TABLE messages DISABLE TRIGGER floor"); err != nil {
		t.Fatal(err)
	}
	for seq := 9; seq < 12; seq++ {
		if err := p.insert(t.Context(), conn, seq, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Exec(t.Context(), "SELECT pg_notify('floor', row_to_json(m)::text) FROM messages m WHERE organization_id = $1 ORDER BY id LIMIT 1",
		organizations[0].id); err != nil {
		t.Fatal(err)
	}
	e := p.expect(12)
	e.Timeout = 300 * time.Millisecond
	d, err := f.Await(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	if d.Expected != 24 || d.Lost != 6 || d.Duplicates != 2 || d.Strays != 0 {
		t.Errorf("got %+v", lossesOf(d))
	}
}

func TestOpenLoopCountsTheWaitForAConnection(t *testing.T) {
	t.Parallel()
	s, organizations, conn := startFloorServer(t)
	w, p := testWriters(t, s, 1), phase{number: 1, organizations: organizations}
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "LOCK TABLE messages"); err != nil {
		t.Fatal(err)
	}
	released := make(chan error, 1)
	go func() { released <- errors.Join(sleep(t.Context(), 200*time.Millisecond), tx.Rollback(t.Context())) }()
	written, err := w.open(t.Context(), p, 1000, 20, nil)
	if err := errors.Join(err, <-released); err != nil {
		t.Fatal(err)
	}
	// The first row waits for the table, all others for the only connection: none may look fast.
	if fastest := written.committed.Quantile(0); fastest < 150*time.Millisecond {
		t.Errorf("a row that waited in the queue counts as %v", fastest)
	}
}

func TestBrokenOffRunIsAnError(t *testing.T) {
	t.Parallel()
	s, organizations, _ := startFloorServer(t)
	w, p := testWriters(t, s, 1), phase{number: 1, organizations: organizations}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := w.open(ctx, p, 10, 1000, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("open loop: %v", err)
	}
}

func TestSlowSeatsHoldUntilReleased(t *testing.T) {
	t.Parallel()
	s, organizations, _ := startFloorServer(t)
	seats, err := s.seats(organizations[:1], 2)
	if err != nil {
		t.Fatal(err)
	}
	seats[1].Hold = true
	f := NewFleet()
	defer f.Close()
	if _, err := f.Dial(t.Context(), seats); err != nil {
		t.Fatal(err)
	}
	w, p := testWriters(t, s, 1), phase{number: 1, organizations: organizations[:1]}
	if _, err := w.open(t.Context(), p, 1000, 10, nil); err != nil {
		t.Fatal(err)
	}
	d, err := f.Await(t.Context(), p.expect(10))
	if err != nil || d.Received != 10 || d.Expected != 10 {
		t.Errorf("the one that reads: %+v, %v", lossesOf(d), err)
	}
	if n := f.Frames(); n != 10 {
		t.Errorf("%d frames were read before the release", n)
	}
	f.Release()
	eventually(t, "the other one reads what was kept", func() bool { return f.Frames() == 20 })
}

func TestForgetLeavesNothing(t *testing.T) {
	t.Parallel()
	s, organizations, conn := startFloorServer(t)
	w := testWriters(t, s, 1)
	if _, err := w.open(t.Context(), phase{organizations: organizations}, 1000, 10, nil); err != nil {
		t.Fatal(err)
	}
	if err := forget(t.Context(), conn, organizations); err != nil {
		t.Fatal(err)
	}
	var left int
	if err := conn.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM organizations) + (SELECT count(*) FROM users)
		+ (SELECT count(*) FROM chats) + (SELECT count(*) FROM messages)`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d rows left, %v", left, err)
	}
}
