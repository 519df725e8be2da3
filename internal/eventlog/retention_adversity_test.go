package eventlog

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// keep sets a retention so short that the log turns while a test waits. Each slot is written for a second, the ring is ten long.
func (w *writer) keep(retention string) {
	w.Helper()
	w.exec(`UPDATE roombell_settings SET retention = $1::text::interval`, retention)
}

// impatient makes a wait for a lock an error, when it is longer than retention ever makes a writer wait (200 ms), and than a busy machine
// stretches that.
func (w *writer) impatient() {
	w.Helper()
	w.exec("SET lock_timeout = '3s'")
}

// steadily has the writer tell of something every few milliseconds until done says so, and returns what it told.
func (w *writer) steadily(prefix string, done func() bool) []string {
	w.Helper()
	timeout := time.After(2 * patience)
	tick := time.NewTicker(15 * time.Millisecond)
	defer tick.Stop()
	var told []string
	for !done() {
		told = append(told, fmt.Sprint(prefix, " ", len(told)))
		w.tell(told[len(told)-1])
		select {
		case <-tick.C:
		case <-timeout:
			w.Fatalf("%s: waited in vain", prefix)
		}
	}
	return told
}

func (w *writer) steadilyFor(prefix string, d time.Duration) []string {
	w.Helper()
	until := time.Now().Add(d)
	return w.steadily(prefix, func() bool { return time.Now().After(until) })
}

func since(t *testing.T, pool *pgxpool.Pool, from Cursor) (told []string, tooOld bool) {
	t.Helper()
	events, _, tooOld, err := Since(t.Context(), pool, from)
	if err != nil {
		t.Fatal(err)
	}
	return names(events), tooOld
}

// Each on a server of its own: a transaction of another test would make positions look too old, because nobody knows what it wrote.
func TestTurnsOfTheLog(t *testing.T) {
	t.Parallel()
	sideBySide(t, map[string]func(*testing.T){
		"a quiet organization":                 testQuietOrganization,
		"a long transaction that holds a slot": testLongTransaction,
	})
}

// In a quiet organization nothing moves a client's position but the service itself, which hands out a fresh one now and then.
func testQuietOrganization(t *testing.T) {
	c := newCluster(t, nil)
	w := newWriter(t, c.url)
	w.keep("3 seconds")
	w.impatient()
	n := startNode(t, c.url, "a")
	quiet := query[int64](t, c.pool, `INSERT INTO organizations (name) VALUES ('quiet') RETURNING id`)
	say := func(name string) { w.exec(`SELECT broadcast_to_organization($1, $2, '{}')`, quiet, name) }
	say("long ago")
	n.await(t, "long ago")
	stale := n.attached(t)
	refreshed, fresh := stale, time.Now()

	turns := 12.0 // slots, more than there are
	if testing.Short() {
		turns = 3
	}
	want := []string{"long ago"}
	want = append(want, w.steadily("busy", func() bool {
		if time.Since(fresh) > 750*time.Millisecond { // a quarter of the retention
			if missed, tooOld := since(t, c.pool, refreshed); tooOld || slices.Contains(missed, "long ago") {
				t.Errorf("a position that is refreshed: too old %v, misses %d", tooOld, len(missed))
			}
			refreshed, fresh = n.attached(t), time.Now()
		}
		return n.metric(t, "slots_emptied_total") >= turns
	})...)
	if left := query[int](t, c.pool, `SELECT count(*) FROM event_log WHERE organization_id = $1`, quiet); left > 0 {
		t.Errorf("%d events of the quiet organization outlived the retention", left)
	}
	if missed, tooOld := since(t, c.pool, stale); !tooOld {
		t.Errorf("a position that was not refreshed is told of %d events and of no gap", len(missed))
	}
	say("at last")
	n.await(t, append(want, "at last")...)
	if missed, tooOld := since(t, c.pool, refreshed); tooOld || missed[len(missed)-1] != "at last" {
		t.Errorf("too old %v, missed %v", tooOld, missed)
	}
	if len(n.resets) > 0 {
		t.Errorf("resets %v", n.resets)
	}
}

// The transaction's event stays in a slot that should have been emptied, and writers come back to it.
func testLongTransaction(t *testing.T) {
	c := newCluster(t, nil)
	w := newWriter(t, c.url)
	w.keep("3 seconds")
	w.impatient()
	a := startNode(t, c.url, "a")
	a.awaitRinger(t)
	b := startNode(t, c.url, "b")
	long := newWriter(t, c.url)
	long.exec("BEGIN")
	long.tell("long")
	slot := query[int](t, c.pool, `SELECT roombell.slot()`)
	want := w.steadily("beside", func() bool { return a.metric(t, "slots_overdue") > 0 && a.metric(t, "errors_total") > 0 })
	if !testing.Short() {
		want = append(want, w.steadily("next", func() bool { return query[int](t, c.pool, `SELECT roombell.slot()`) == slot })...)
		want = append(want, w.steadilyFor("in the same slot", 1500*time.Millisecond)...)
		want = append(want, w.steadily("overdue again", func() bool { return a.metric(t, "slots_overdue") > 0 })...)
	}
	// Retention stands in line for the slot's lock at the moment of the commit: it gets it before anybody could have read.
	eventually(t, "retention waits for the lock", func() bool {
		return query[int](t, c.pool, `SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`) > 0
	})
	long.exec("COMMIT")
	for _, n := range []*node{a, b} {
		n.until(t, "the long transaction", func() bool { return slices.Contains(names(n.events), "long") })
	}
	want = append(want, w.steadily("after", func() bool {
		return a.metric(t, "slots_overdue") == 0 && query[int](t, c.pool, `SELECT count(*) FROM event_log WHERE event IN ('long', $1)`, want[0]) == 0
	})...)
	for _, n := range []*node{a, b} {
		n.until(t, "all", func() bool { return len(n.events) > len(want) })
		n.lock.Lock()
		got := names(n.events)
		n.lock.Unlock()
		at := slices.Index(got, "long")
		if got = slices.Delete(got, at, at+1); !slices.Equal(got, want) || len(n.resets) > 0 {
			t.Errorf("beside the long transaction's event %d were heard, want %d; resets %v", len(got), len(want), n.resets)
		}
	}
}

// Commits that nobody has read yet stay, however old they look.
func TestRetentionLeavesWhatHasJustBecomeVisible(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	w.keep("80 seconds")
	s := openSession(t, db.URL)
	s.begin(t)
	record := func(w *writer, slot, age int) {
		w.exec(`INSERT INTO event_log (id, slot, created_at, kind, event)
			VALUES ((1::bigint << 43) | nextval('event_log_seq'), $1, now() - $2::integer * interval '1 second', 'custom', 'e')`, slot, age)
	}
	record(w, 1, 86)
	look := func() {
		s.cleaning.next = time.Time{}
		if err := s.cleanUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s.cleaning.done != nil {
			<-s.cleaning.done
		}
	}
	left := func() int { return query[int](t, db.Pool, `SELECT count(*) FROM event_log_1`) }
	old := newWriter(t, db.URL)
	old.exec("BEGIN")
	record(old, 1, 85)
	record(w, 4, 0)
	look() // sees the second as running
	old.exec("COMMIT")
	look()
	if left() != 2 {
		t.Fatal("emptied before anybody can have read it")
	}
	look()
	if left() != 0 {
		t.Fatal("not emptied when everybody had the time to read it")
	}
}
