package eventlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"roombell/internal/postgres/dbtest"
)

// toxiproxy may leave a stage of a line behind when it takes a toxic away in the middle of a packet.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, dbtest.IgnoreServer(), goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run"))
}

// patience is how long a test waits for what must happen; nothing here takes a tenth of it.
const patience = 20 * time.Second

// recorder is a publisher that remembers.
type recorder struct {
	lock    sync.Mutex
	changed chan struct{} // closed and replaced whenever something was published
	events  []Event
	at      []time.Time
	batches []*Batch
	resets  []string
	block   chan struct{} // Publish waits for it, like a frozen process
}

func newRecorder() *recorder { return &recorder{changed: make(chan struct{})} }

func (r *recorder) Publish(b *Batch) {
	r.lock.Lock()
	r.events = append(r.events, b.Events...)
	for range b.Events {
		r.at = append(r.at, time.Now())
	}
	r.batches = append(r.batches, b)
	block := r.block
	r.signal()
	r.lock.Unlock()
	if block != nil {
		<-block
	}
}

func (r *recorder) Reset(reason string, _ Cursor) {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.resets = append(r.resets, reason)
	r.signal()
}

func (r *recorder) signal() {
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *recorder) freeze() (thaw func()) {
	r.lock.Lock()
	defer r.lock.Unlock()
	block := make(chan struct{})
	r.block = block
	return sync.OnceFunc(func() {
		r.lock.Lock()
		r.block = nil
		r.lock.Unlock()
		close(block)
	})
}

// until waits until done says so, which is asked whenever something was published.
func (r *recorder) until(t *testing.T, what string, done func() bool) {
	t.Helper()
	timeout := time.After(patience)
	for {
		r.lock.Lock()
		ok, changed := done(), r.changed
		r.lock.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			r.lock.Lock()
			defer r.lock.Unlock()
			t.Fatalf("waited in vain for %s; heard %s, resets %v", what, names(r.events), r.resets)
		}
	}
}

func (r *recorder) await(t *testing.T, want ...string) {
	t.Helper()
	r.until(t, strings.Join(want, " "), func() bool { return len(r.events) >= len(want) })
	r.lock.Lock()
	defer r.lock.Unlock()
	if got := names(r.events); !slices.Equal(got, want) {
		t.Fatalf("heard %v, want %v", got, want)
	}
}

func (r *recorder) awaitResets(t *testing.T, want ...string) {
	t.Helper()
	r.until(t, "reset", func() bool { return len(r.resets) >= len(want) })
	r.lock.Lock()
	defer r.lock.Unlock()
	if !slices.Equal(r.resets, want) {
		t.Fatalf("resets %v, want %v", r.resets, want)
	}
}

func names(events []Event) []string {
	list := []string{}
	for _, e := range events {
		list = append(list, e.Name)
	}
	return list
}

type node struct {
	*Tail
	*recorder
	stop     func() // and wait
	registry *prometheus.Registry
}

func (n *node) metric(t *testing.T, name string) float64 {
	t.Helper()
	families, err := n.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() == "roombell_eventlog_"+name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

// startNode runs a tail and returns when it stands at a position.
func startNode(t *testing.T, url, name string) *node {
	t.Helper()
	n := runNode(t, url, name)
	n.attached(t)
	return n
}

// runNode runs a tail until the test ends.
func runNode(t *testing.T, url, name string) *node {
	t.Helper()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{recorder: newRecorder(), registry: prometheus.NewRegistry()}
	n.Tail = New(Options{ConnConfig: config, Node: name, Registerer: n.registry, Logger: testLog(t, name)}, n.recorder)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run returned %v", err)
			}
		case <-time.After(patience):
			t.Error("Run does not end")
		}
	})
	t.Cleanup(n.stop)
	return n
}

func testLog(t testing.TB, node string) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", node)
}

// attached returns the position after a fresh read.
func (n *node) attached(t *testing.T) Cursor {
	t.Helper()
	type answer struct {
		c   Cursor
		err error
	}
	timeout := time.After(patience)
	for {
		answers := make(chan answer, 1)
		n.Attach(func(c Cursor, err error) { answers <- answer{c, err} })
		select {
		case a := <-answers:
			if a.err == nil {
				return a.c
			}
			if !errors.Is(a.err, ErrUnavailable) {
				t.Fatal(a.err)
			}
		case <-timeout:
			t.Fatal("no position")
		}
	}
}

// eventually polls what no signal tells.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	timeout := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatal("waited in vain: ", what)
		}
	}
}

func (n *node) awaitRinger(t *testing.T) {
	t.Helper()
	eventually(t, "the node rings", func() bool { return n.Status().Ringer })
}

func (n *node) awaitArmed(t *testing.T) {
	t.Helper()
	eventually(t, "the gate is armed", func() bool { return n.Status().Armed })
}

func query[T any](t *testing.T, pool *pgxpool.Pool, sql string, arguments ...any) T {
	t.Helper()
	var v T
	if err := pool.QueryRow(t.Context(), sql, arguments...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// writer is a session that writes events.
type writer struct {
	*testing.T
	*pgx.Conn
}

func newWriter(t *testing.T, url string) *writer {
	t.Helper()
	w := &writer{T: t}
	eventually(t, "the database takes connections", func() bool {
		var err error
		w.Conn, err = pgx.Connect(t.Context(), url)
		return err == nil
	})
	t.Cleanup(func() { w.Close(context.Background()) })
	return w
}

func (w *writer) exec(sql string, arguments ...any) {
	w.Helper()
	if _, err := w.Exec(w.T.Context(), sql, arguments...); err != nil {
		w.Fatalf("%s: %v", sql, err)
	}
}

// tell writes an event of that name for everybody in the organization, by the function that any writer has.
func (w *writer) tell(names ...string) {
	w.Helper()
	for _, name := range names {
		w.exec(`SELECT broadcast_to_organization((SELECT min(id) FROM organizations), $1, '{"a": 1}')`, name)
	}
}

func (w *writer) organization() {
	w.Helper()
	w.exec(`INSERT INTO organizations (name) VALUES ('one')`)
}

func setUp(t *testing.T) (*dbtest.DB, *writer) {
	t.Helper()
	db := dbtest.New(t)
	w := newWriter(t, db.URL)
	w.organization()
	return db, w
}

func sequence(prefix string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprint(prefix, i)
	}
	return list
}

func TestEventsAreHeardAsTheyWereRecorded(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	n := startNode(t, db.URL, "a")
	w.exec(`INSERT INTO users (organization_id, email, role) VALUES (1, 'a@example.com', 'admin')`)
	w.exec(`INSERT INTO chats (organization_id, name, restricted) VALUES (1, 'c', true)`)
	n.until(t, "chat:new", func() bool { return slices.Contains(names(n.events), "chat:new") })
	n.lock.Lock()
	defer n.lock.Unlock()
	e := n.events[slices.Index(names(n.events), "chat:new")]
	if e.Kind != KindEvent || e.OrganizationID != 1 || e.ChatID != 1 || !slices.Equal(e.Audience, []int64{1}) {
		t.Errorf("%+v", e)
	}
	var payload string
	var recorded time.Time
	if err := w.QueryRow(t.Context(), `SELECT payload::text, created_at FROM event_log WHERE id = $1`, e.ID).Scan(&payload, &recorded); err != nil {
		t.Fatal(err)
	}
	if string(e.Payload) != payload || !e.RecordedAt.Equal(recorded) {
		t.Errorf("payload %s at %v, want %s at %v", e.Payload, e.RecordedAt, payload, recorded)
	}
}

func TestFirstStartHearsNothingOld(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	w.tell("old")
	n := startNode(t, db.URL, "a")
	w.tell("new")
	n.await(t, "new")
}

func TestCommitsThatWereInOpenTransactionsAtTheStart(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	w.exec("BEGIN")
	w.tell("begun before")
	other := newWriter(t, db.URL)
	other.tell("older, with a higher id")
	n := startNode(t, db.URL, "a")
	w.exec("COMMIT")
	n.await(t, "begun before")
}

func TestLateCommitBelowTheHighestID(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	n := startNode(t, db.URL, "a")
	n.awaitRinger(t)
	late := newWriter(t, db.URL)
	late.exec("BEGIN")
	late.tell("late 1", "late 2")
	w.tell("first", "second")
	n.await(t, "first", "second")
	late.exec("COMMIT")
	n.await(t, "first", "second", "late 1", "late 2")
	n.lock.Lock()
	defer n.lock.Unlock()
	last := n.batches[len(n.batches)-1]
	middle, err := ParseCursor(last.Cursor(0))
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range n.events {
		if seen := middle.Seen(e.ID, e.TxID); seen != (i != 3) {
			t.Errorf("after the first late event: %s seen is %v", e.Name, seen)
		}
	}
}

func TestRolledBackWritesLeaveGapsOnly(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	n := startNode(t, db.URL, "a")
	w.tell("1")
	w.exec("BEGIN")
	w.tell("lost")
	w.exec("ROLLBACK")
	w.exec("BEGIN")
	w.tell("2")
	w.exec("SAVEPOINT s")
	w.tell("lost too")
	w.exec("ROLLBACK TO s")
	w.tell("3")
	w.exec("COMMIT")
	n.await(t, "1", "2", "3")
}

// The tail is thrown out again and again, so that commits fall into every part of its connecting.
func TestReconnectAfterTerminatedBackend(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	n := startNode(t, db.URL, "a")
	var want []string
	for i := range 60 {
		if i%3 == 0 {
			w.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'roombell listen a' AND datname = current_database()`)
		}
		want = append(want, fmt.Sprint("e", i))
		w.tell(want[i])
	}
	n.await(t, want...)
	// What was missed is delivered before the session counts as connected again.
	eventually(t, "a reconnect to be counted", func() bool { return n.metric(t, "reconnects_total") > 0 })
}

func TestNotifyWakesTheSleepingRinger(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	n := startNode(t, db.URL, "a")
	slow := 0
	for i := range 20 {
		n.awaitArmed(t)
		began := time.Now()
		w.tell(fmt.Sprint(i))
		n.until(t, "the event", func() bool { return len(n.events) == i+1 })
		if time.Since(began) > armedSafety/2 { // the safety read finds it too, up to a second later
			slow++
		}
	}
	if wakes := n.metric(t, "wakes_total"); wakes < 20 || slow > 2 {
		t.Errorf("%v wakes for 20 events, %d of them late", wakes, slow)
	}
}

func (n *node) awaitReads(t *testing.T, more float64) {
	t.Helper()
	enough := n.metric(t, "reads_total") + more
	eventually(t, "reads", func() bool { return n.metric(t, "reads_total") >= enough })
}

func TestRingerStaysAwakeWhileASilentWriterIsOpen(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	w.exec("BEGIN")
	w.tell("silent") // the gate is open: there is no ringer yet
	n := startNode(t, db.URL, "a")
	n.awaitRinger(t)
	n.awaitReads(t, 100)
	if n.Status().Armed {
		t.Fatal("asleep while a silent writer is open")
	}
	w.exec("COMMIT")
	n.await(t, "silent")
	n.awaitArmed(t)
}

func TestTrafficOpensTheGateAndQuietClosesIt(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	n := startNode(t, db.URL, "a")
	n.awaitArmed(t)
	var want []string
	for n.Status().Armed {
		want = append(want, fmt.Sprint(len(want)))
		w.tell(want[len(want)-1])
		if len(want) > 20000 {
			t.Fatal("20,000 transactions did not open the gate")
		}
	}
	n.await(t, want...)
	n.awaitArmed(t)
}

// With the gate open nobody but the ringer tells a follower of an event.
func TestRingerRingsForFollowers(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	open := newWriter(t, db.URL)
	open.exec("BEGIN")
	open.tell("open") // keeps the gate
	a := startNode(t, db.URL, "a")
	a.awaitRinger(t)
	b, c := startNode(t, db.URL, "b"), startNode(t, db.URL, "c")
	for i := range 10 {
		w.tell(fmt.Sprint(i))
		for _, n := range []*node{a, b, c} {
			n.await(t, sequence("", i+1)...)
		}
	}
	if b.metric(t, "wakes_total") < 5 {
		t.Errorf("the follower was woken %v times by 10 events", b.metric(t, "wakes_total"))
	}
}

func TestFollowerTakesOverFromADeadRinger(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	a := startNode(t, db.URL, "a")
	a.awaitArmed(t)
	b, c := startNode(t, db.URL, "b"), startNode(t, db.URL, "c")
	a.stop()
	var want []string // some of them are silent and fall between the ringers
	for i := 0; !b.Status().Ringer && !c.Status().Ringer; i++ {
		want = append(want, fmt.Sprint(i))
		w.tell(want[i])
	}
	b.await(t, want...)
	c.await(t, want...)
}

func TestFrozenRingerIsEnded(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	open := newWriter(t, db.URL)
	open.exec("BEGIN")
	open.tell("open") // keeps the gate: the ringer stays awake, writers are silent
	a := startNode(t, db.URL, "a")
	a.awaitRinger(t)
	b := startNode(t, db.URL, "b")
	thaw := a.freeze()
	defer thaw()
	w.tell("0")
	a.await(t, "0") // and stands still in Publish
	want := []string{"0"}
	for !b.Status().Ringer {
		b.await(t, want...)
		want = append(want, fmt.Sprint(len(want)))
		w.tell(want[len(want)-1])
	}
	b.await(t, want...)
	if b.metric(t, "fenced_total") == 0 {
		t.Error("the new ringer did not end the old one")
	}
	thaw()
	a.await(t, want...)
}

// A frozen ringer that holds the gate loses nothing, since every writer rings; but they should not have to for ever.
func TestFrozenRingerThatHoldsTheGateIsEnded(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	a := startNode(t, db.URL, "a")
	a.awaitArmed(t)
	b := startNode(t, db.URL, "b")
	thaw := a.freeze()
	defer thaw()
	w.tell("0")
	a.await(t, "0") // and stands still in Publish
	b.await(t, "0")
	b.awaitRinger(t)
	w.tell("1")
	b.await(t, "0", "1")
	thaw()
	a.await(t, "0", "1")
}

func TestUsersWordsAreNoLabels(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	n := startNode(t, db.URL, "a")
	w.tell("a word of a user")
	w.exec(`INSERT INTO chats (organization_id) VALUES (1)`)
	n.await(t, "a word of a user", "chat:new")
	families, err := n.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var counted []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "roombell_eventlog_events_total" && m.GetCounter().GetValue() > 0 {
				counted = append(counted, m.GetLabel()[0].GetValue()+" as "+m.GetLabel()[1].GetValue())
			}
		}
	}
	slices.Sort(counted)
	if want := []string{"chat:new as event", "custom as custom"}; !slices.Equal(counted, want) {
		t.Errorf("counted %q, want %q", counted, want)
	}
	if n.metric(t, "lag_seconds") != 2 || n.metric(t, "batches_total") == 0 || n.metric(t, "connected") != 1 {
		t.Error("lag, batches or connected are not counted")
	}
}

// A writer that neither rings nor keeps the ringer awake: two-phase, or beside a full queue of notifications.
func TestUnrungEventsAreFoundByTheNextRead(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	a := startNode(t, db.URL, "a")
	a.awaitArmed(t)
	b := startNode(t, db.URL, "b")
	for i := range 6 {
		w.exec("BEGIN")
		w.exec("SET LOCAL roombell.two_phase = 'on'")
		w.tell(fmt.Sprint(i))
		w.exec("COMMIT")
		a.await(t, sequence("", i+1)...)
		b.await(t, sequence("", i+1)...)
	}
	if n := b.metric(t, "fenced_total"); n > 0 {
		t.Errorf("a healthy ringer was ended %v times", n)
	}
}

func TestSeveralTailsOfOneProcess(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	var nodes []*node
	for i := range 4 {
		nodes = append(nodes, startNode(t, db.URL, fmt.Sprint(i)))
	}
	want := sequence("e", 300)
	w.tell(want...)
	ringers := 0
	for _, n := range nodes {
		n.await(t, want...)
		if n.Status().Ringer {
			ringers++
		}
	}
	if ringers != 1 {
		t.Errorf("%d ringers", ringers)
	}
}

func TestAttachIsBetweenBatchesAndFresh(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	n := startNode(t, db.URL, "a")
	type place struct {
		c       Cursor
		heard   int // events published before
		written int // events committed before Attach was called
	}
	var places []place
	var pending sync.WaitGroup
	for i := range 200 {
		w.tell(fmt.Sprint(i))
		pending.Add(1)
		n.Attach(func(c Cursor, err error) { // on the tail's goroutine, so that n.events stands still
			defer pending.Done()
			if err != nil {
				t.Error(err)
			}
			n.lock.Lock()
			defer n.lock.Unlock()
			places = append(places, place{c, len(n.events), i + 1})
		})
	}
	pending.Wait()
	n.await(t, sequence("", 200)...)
	for _, p := range places {
		if p.heard < p.written {
			t.Fatalf("position after %d events, when %d were committed before it was asked for", p.heard, p.written)
		}
		for i, e := range n.events {
			if p.c.Seen(e.ID, e.TxID) != (i < p.heard) {
				t.Fatalf("event %d of position %d: seen is %v", i, p.heard, !(i < p.heard))
			}
		}
	}
}

func TestAttachWakesASleepingTail(t *testing.T) {
	t.Parallel()
	db, _ := setUp(t)
	n := startNode(t, db.URL, "a")
	n.awaitArmed(t)
	began := time.Now()
	for range 50 {
		n.attached(t)
	}
	if took := time.Since(began); took > 50*armedSafety/2 {
		t.Errorf("50 positions took %v", took)
	}
}

func TestAttachWithoutADatabase(t *testing.T) {
	t.Parallel()
	db := dbtest.Empty(t)
	n := runNode(t, db.URL, "a")
	eventually(t, "it says why there is no connection", func() bool { return n.Status().Err != "" })
	answers := make(chan error, 1)
	n.Attach(func(_ Cursor, err error) { answers <- err })
	if err := <-answers; !errors.Is(err, ErrUnavailable) {
		t.Errorf("Attach gave %v", err)
	}
	if err := n.RoundTrip(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("RoundTrip gave %v", err)
	}
	n.stop()
	n.Attach(func(_ Cursor, err error) { answers <- err })
	if err := <-answers; !errors.Is(err, ErrUnavailable) {
		t.Errorf("Attach gave %v after the end", err)
	}
	if err := n.RoundTrip(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("RoundTrip gave %v after the end", err)
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	db, _ := setUp(t)
	a, b := startNode(t, db.URL, "a"), startNode(t, db.URL, "b")
	for range 20 {
		for _, n := range []*node{a, b} {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			if err := n.RoundTrip(ctx); err != nil {
				t.Error(err)
			}
			cancel()
		}
	}
}

func TestRoundTripOfAConnectionThatDoesNotListen(t *testing.T) {
	t.Parallel()
	db, _ := setUp(t)
	s := openSession(t, db.URL)
	s.begin(t)
	s.exec(t, "UNLISTEN *")
	heard := make(chan error, 1)
	if err := s.ping(t.Context(), []chan<- error{heard}); err != nil {
		t.Fatal(err)
	}
	s.read(t, readMode{})
	select {
	case err := <-heard:
		t.Errorf("heard %v", err)
	default:
	}
}

func TestBulkIsReadInChunks(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	n := startNode(t, db.URL, "a")
	rows := 3*chunk + chunk/2
	late := newWriter(t, db.URL)
	late.exec("BEGIN")
	late.exec(`INSERT INTO event_log (id, slot, kind, event) SELECT (1::bigint << 43) | nextval('event_log_seq'), 0, 'custom', 'late' FROM generate_series(1, $1)`, rows)
	w.exec(`INSERT INTO event_log (id, slot, kind, event) SELECT (1::bigint << 43) | nextval('event_log_seq'), 0, 'custom', 'e' FROM generate_series(1, $1)`, rows)
	n.until(t, "the first half", func() bool { return len(n.events) >= rows })
	n.lock.Lock()
	for i, b := range n.batches {
		if len(b.Events) > chunk {
			t.Errorf("batch %d has %d events", i, len(b.Events))
		}
		if end := b.End(); end.hi != b.Events[len(b.Events)-1].ID {
			t.Errorf("batch %d ends at %d, its last event is %d", i, end.hi, b.Events[len(b.Events)-1].ID)
		}
	}
	n.lock.Unlock()
	late.exec("COMMIT")
	n.until(t, "the late half", func() bool { return len(n.events) >= 2*rows })
	ids := map[int64]bool{}
	for _, e := range n.events {
		ids[e.ID] = true
	}
	if len(ids) != 2*rows || len(n.events) != 2*rows {
		t.Errorf("%d events, %d of them different, want %d", len(n.events), len(ids), 2*rows)
	}
}

func TestQuietTailsRest(t *testing.T) {
	t.Parallel()
	db, _ := setUp(t)
	a := startNode(t, db.URL, "a")
	a.awaitArmed(t)
	b := startNode(t, db.URL, "b")
	began, reads := time.Now(), a.metric(t, "reads_total")
	b.awaitReads(t, 8) // two seconds of a follower
	if n, most := a.metric(t, "reads_total")-reads, 2+time.Since(began).Seconds(); n > most {
		t.Errorf("a sleeping ringer read %v times in %v", n, time.Since(began))
	}
	if state := query[string](t, db.Pool, `SELECT string_agg(DISTINCT state, ' ') FROM pg_stat_activity WHERE application_name LIKE 'roombell listen%' AND datname = current_database()`); state != "idle" {
		t.Errorf("connections are %s", state)
	}
}
