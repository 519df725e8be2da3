package eventlog

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"roombell/internal/eventlog/internal/fault"
	"roombell/internal/postgres/dbtest"
)

// steps is a tail taken one step at a time: it does nothing that the test does not say.
type steps struct {
	*session
	*recorder
}

func openSession(t testing.TB, url string) *steps {
	t.Helper()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	r := newRecorder()
	tail := newTail(Options{ConnConfig: config, Logger: testLog(t, "steps"), Node: "steps"}, fault.None(), []Publisher{r})
	s := &steps{recorder: r}
	if s.session, err = tail.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.close(context.Background()) })
	return s
}

// again is another connection of the same tail.
func (s *steps) again(t *testing.T) *steps {
	t.Helper()
	s.close(t.Context())
	next, err := s.t.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { next.close(context.Background()) })
	return &steps{session: next, recorder: s.recorder}
}

func (s *steps) begin(t testing.TB) {
	t.Helper()
	if err := s.session.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (s *steps) read(t testing.TB, mode readMode) found {
	t.Helper()
	f, err := s.session.read(t.Context(), mode)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (s *steps) exec(t *testing.T, sql string) {
	t.Helper()
	if err := s.session.exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func (s *steps) listen(t *testing.T, d time.Duration) wake {
	t.Helper()
	w, err := s.session.listen(t.Context(), time.Now().Add(d))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// What is committed after LISTEN and before the first read is read, and rings; what is committed after the read rings.
func TestListenComesBeforeTheFirstRead(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	gate := newWriter(t, db.URL)
	gate.exec("SELECT pg_advisory_lock(7461, 0)") // writers ring, as beside a sleeping ringer
	s := openSession(t, db.URL)
	s.begin(t)
	s = s.again(t)
	w.tell("between LISTEN and read")
	s.begin(t)
	s.await(t, "between LISTEN and read")
	if s.bell {
		t.Error("what the read covered rings once more")
	}
	w.tell("after the read")
	if got := s.listen(t, patience); got != wakeBell {
		t.Fatalf("woken by %v", got)
	}
	s.read(t, readMode{})
	s.await(t, "between LISTEN and read", "after the read")
	if got := s.listen(t, time.Millisecond); got != wakeTime {
		t.Errorf("woken by %v with nothing new", got)
	}
}

// A writer was silent because the gate was open, and committed after the ringer's last read: arming must look once more.
func TestArmingFindsWhatASilentWriterLeft(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	s := openSession(t, db.URL)
	s.begin(t)
	open := newWriter(t, db.URL)
	open.exec("BEGIN")
	open.tell("open")
	if armed, err := s.arm(t.Context()); armed || err != nil {
		t.Fatalf("armed while a silent writer is open: %v, %v", armed, err)
	}
	open.exec("COMMIT")
	w.tell("silent")
	if armed, err := s.arm(t.Context()); !armed || err != nil {
		t.Fatalf("not armed: %v", err)
	}
	s.await(t, "open", "silent")
	w.tell("rings")
	if got := s.listen(t, patience); got != wakeBell {
		t.Fatalf("woken by %v", got)
	}
	s.read(t, readMode{})
	if err := s.disarm(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.tell("silent again")
	if got := s.listen(t, 10*time.Millisecond); got != wakeTime {
		t.Errorf("woken by %v after disarming", got)
	}
	if n := s.read(t, readMode{}).events; n != 1 {
		t.Errorf("%d events", n)
	}
}

func TestReadRingsWhenItFindsSomething(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	s, other := openSession(t, db.URL), openSession(t, db.URL)
	s.begin(t)
	other.begin(t)
	s.read(t, readMode{ring: true})
	if got := other.listen(t, 10*time.Millisecond); got != wakeTime {
		t.Errorf("an empty read woke the others: %v", got)
	}
	w.tell("silent")
	s.read(t, readMode{ring: true})
	if got := other.listen(t, patience); got != wakeBell {
		t.Errorf("the others were woken by %v", got)
	}
	if s.bell {
		t.Error("its own ring woke it")
	}
}

func TestOneLeader(t *testing.T) {
	t.Parallel()
	db, _ := setUp(t)
	a, b := openSession(t, db.URL), openSession(t, db.URL)
	a.begin(t)
	b.begin(t)
	if !a.read(t, readMode{lead: true}).leader {
		t.Error("nobody leads, and a does not either")
	}
	if b.read(t, readMode{lead: true}).leader {
		t.Error("two lead")
	}
	a.close(t.Context())
	eventually(t, "the lock is free", func() bool { return b.read(t, readMode{lead: true}).leader })
}

func TestPositionsOfAnotherServer(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	s := openSession(t, db.URL)
	s.begin(t)

	s.t.cursor.timeline = 9
	s = s.again(t)
	if err := s.session.begin(t.Context()); !errors.Is(err, errStale) {
		t.Errorf("a server on a lower timeline: %v", err)
	}
	s.t.cursor.timeline = 1

	s.t.cursor.system++
	w.tell("not missed, but unknown")
	s = s.again(t)
	s.begin(t)
	s.awaitResets(t, ResetUnknownCursor)
	if n := s.read(t, readMode{}).events; n != 0 {
		t.Errorf("%d events after a reset", n)
	}
}

func TestPromotion(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		to       int64
		switches string // of event_log_timelines
		lsn      uint64
		reset    bool
	}{
		{"nothing lost", 2, `(2, '0/500')`, 0x500, false},
		{"seen more than survived", 2, `(2, '0/500')`, 0x501, true},
		{"nobody recorded it", 2, ``, 0x100, true},
		{"two promotions", 3, `(2, '0/600'), (3, '0/500')`, 0x500, false},
		{"two promotions, lost in the second", 3, `(2, '0/600'), (3, '0/500')`, 0x550, true},
		{"two promotions, one not recorded", 3, `(3, '0/500')`, 0x100, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			db, w := setUp(t)
			s := openSession(t, db.URL)
			s.begin(t)
			if tc.switches != "" {
				w.exec(`INSERT INTO event_log_timelines (timeline, switch_lsn) VALUES ` + tc.switches)
			}
			s.t.cursor.lsn = tc.lsn
			if err := s.promoted(t.Context(), hello{timeline: tc.to}); err != nil {
				t.Fatal(err)
			}
			if got := len(s.resets) > 0; got != tc.reset || s.t.cursor.timeline != uint32(tc.to) {
				t.Errorf("reset %v, want %v; timeline %d", got, tc.reset, s.t.cursor.timeline)
			}
		})
	}
}

func TestLogOfAnotherCluster(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	w.tell("of the other cluster")
	highest := query[int64](t, db.Pool, `SELECT max(id) FROM event_log`)
	w.exec(`UPDATE event_log_state SET system_identifier = 1`)
	w.exec(`UPDATE event_log_trim SET max_id = $1, max_txid = '99999999' WHERE slot = 3`, highest+2<<sequenceBits)
	a, b := startNode(t, db.URL, "a"), startNode(t, db.URL, "b")
	if n := query[int](t, db.Pool, `SELECT count(*) FROM event_log`); n != 0 {
		t.Errorf("%d rows of the other cluster are left", n)
	}
	newWriter(t, db.URL).tell("ours")
	a.await(t, "ours")
	b.await(t, "ours")
	if id := a.events[0].ID; id <= highest+2<<sequenceBits {
		t.Errorf("id %d is not above all ids of the other cluster", id)
	}
	if era := a.events[0].ID >> sequenceBits; era != 4 {
		t.Errorf("era %d, want the next one", era)
	}
}

func TestRetentionEmptiesSlots(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	w.exec(`UPDATE roombell_settings SET retention = '80 seconds'`)
	w.exec(`INSERT INTO event_log (id, slot, created_at, kind, event)
		SELECT (1::bigint << 43) | nextval('event_log_seq'), slot, now() - age * interval '1 second', 'custom', 'old'
		FROM (VALUES (1, 200), (2, 100), (2, 90), (3, 70), (4, 0)) rows(slot, age)`)
	n := startNode(t, db.URL, "a")
	eventually(t, "two slots are emptied", func() bool { return n.metric(t, "slots_emptied_total") == 2 })
	if got := query[[]int16](t, db.Pool, `SELECT array_agg(DISTINCT slot ORDER BY slot) FROM event_log`); len(got) != 2 || got[0] != 3 || got[1] != 4 {
		t.Errorf("slots %v are left, want 3 and 4", got)
	}
	if got := query[int](t, db.Pool, `SELECT count(*) FROM event_log_trim WHERE max_id > 0`); got != 2 {
		t.Errorf("%d slots are recorded as emptied", got)
	}
}

func TestSlotThatCannotBeEmptiedIsReported(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	w.exec(`UPDATE roombell_settings SET retention = '80 seconds'`)
	w.exec(`INSERT INTO event_log (id, slot, created_at, kind, event)
		SELECT (1::bigint << 43) | nextval('event_log_seq'), slot, now() - age * interval '1 second', 'custom', 'old'
		FROM (VALUES (1, 86), (4, 0)) rows(slot, age)`)
	dump := newWriter(t, db.URL)
	dump.exec("BEGIN")
	dump.exec("SELECT count(*) FROM event_log_1")
	n := startNode(t, db.URL, "a")
	eventually(t, "it is reported", func() bool {
		return n.metric(t, "slots_overdue") == 1 && n.metric(t, "errors_total") > 0
	})
	dump.exec("COMMIT")
	eventually(t, "the slot is emptied after all", func() bool { return n.metric(t, "slots_emptied_total") == 1 && n.metric(t, "slots_overdue") == 0 })
}

// On a server of its own: a transaction of somebody else that is as old as the slot would make the position too old as well.
func TestNodeThatRetentionHasPassed(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	w := newWriter(t, c.url)
	s := openSession(t, c.url)
	s.begin(t)
	w.tell("too old")
	w.exec(`UPDATE event_log SET created_at = now() - interval '73 hours', slot = (slot + 1) % 10`)
	w.tell("still there")
	s = s.again(t)
	if !query[bool](t, c.pool, `SELECT bool_or(roombell.rotate_slot(slot)) FROM generate_series(0, 9) slot`) {
		t.Fatal("nothing was emptied")
	}
	s.begin(t)
	s.awaitResets(t, ResetRetention)
	w.tell("new")
	s.read(t, readMode{})
	s.await(t, "new")
	s = s.again(t) // what was removed before is not missed again
	s.begin(t)
	s.awaitResets(t, ResetRetention)
}

func TestLogOfAnEmptiedRingIsNotTooOldForNewcomers(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	w.exec(`UPDATE event_log_trim SET max_id = (1::bigint << 43) | 1000, max_txid = '5' WHERE slot = 3`)
	s := openSession(t, db.URL)
	s.begin(t)
	s = s.again(t)
	s.begin(t)
	if len(s.resets) > 0 {
		t.Errorf("resets %v", s.resets)
	}
}

// What the awake ringer pays every four milliseconds.
func BenchmarkReadOfNothing(b *testing.B) {
	db := dbtest.New(b)
	s := openSession(b, db.URL)
	s.begin(b)
	b.ReportAllocs()
	for b.Loop() {
		s.read(b, readMode{cause: causePoll, ring: true})
	}
}
