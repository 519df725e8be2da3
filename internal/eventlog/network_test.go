package eventlog

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// noticed is the contract's: a tail knows within this time that its server does not answer.
const noticed = 12 * time.Second

// bridge carries TCP to a server's unix socket: the tests' servers have no other, and toxiproxy speaks TCP.
type bridge struct {
	listener net.Listener
	socket   atomic.Pointer[string] // where new connections go
	deaf     atomic.Bool            // the server is not told that a client has gone
	ended    chan struct{}
	open     sync.WaitGroup
}

func newBridge(t *testing.T, serverURL string) *bridge {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &bridge{listener: l, ended: make(chan struct{})}
	b.lead(t, serverURL)
	b.open.Go(b.accept)
	t.Cleanup(func() {
		l.Close()
		close(b.ended)
		b.open.Wait()
	})
	return b
}

// lead has new connections go to that server.
func (b *bridge) lead(t *testing.T, serverURL string) {
	t.Helper()
	u, err := url.Parse(serverURL)
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(u.Query().Get("host"), ".s.PGSQL."+u.Query().Get("port"))
	b.socket.Store(&socket)
}

func (b *bridge) accept() {
	for {
		client, err := b.listener.Accept()
		if err != nil {
			return
		}
		b.open.Go(func() { b.carry(client) })
	}
}

func (b *bridge) carry(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("unix", *b.socket.Load())
	if err != nil {
		return
	}
	defer server.Close()
	end := sync.OnceFunc(func() { client.Close(); server.Close() })
	gone := make(chan struct{})
	b.open.Go(func() {
		defer end()
		_, _ = io.Copy(client, server)
	})
	b.open.Go(func() {
		defer close(gone)
		_, _ = io.Copy(server, client)
	})
	select {
	case <-gone:
		if b.deaf.Load() {
			<-b.ended
		}
	case <-b.ended:
	}
	end()
}

// through is the address of the server's database at another host.
func through(t *testing.T, serverURL, host string) string {
	t.Helper()
	u, err := url.Parse(serverURL)
	if err != nil {
		t.Fatal(err)
	}
	u.Host, u.RawQuery = host, "sslmode=disable"
	return u.String()
}

// line is the network between a tail and its server, which toxiproxy makes worse.
type line struct {
	*toxiproxy.Proxy
	*bridge
	url string
}

func newLine(t *testing.T, serverURL string) *line {
	t.Helper()
	b := newBridge(t, serverURL)
	p := toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), t.Name(), "127.0.0.1:0", b.listener.Addr().String())
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return &line{Proxy: p, bridge: b, url: through(t, serverURL, p.Listen)}
}

// toxic is one thing that is wrong with a line, in toxiproxy's words.
type toxic struct{ kind, stream, attributes string }

func (l *line) spoil(t *testing.T, toxics ...toxic) {
	t.Helper()
	for _, x := range toxics {
		if _, err := l.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(`{"type": %q, "stream": %q, "attributes": {%s}}`, x.kind, x.stream, x.attributes))); err != nil {
			t.Fatal(err)
		}
	}
}

func (l *line) mend(t *testing.T) {
	t.Helper()
	l.Toxics.ResetToxics(t.Context())
}

// sideBySide runs tests that wait most of the time, more of them at once than the machine has processors.
func sideBySide(t *testing.T, tests map[string]func(*testing.T)) {
	var all sync.WaitGroup
	for name, test := range tests {
		all.Go(func() { t.Run(name, test) })
	}
	all.Wait()
}

func TestNetwork(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*testing.T){
		"latency":                     testLatency,
		"a slow answer is no silence": testSlowAnswer,
		"a ringer that does not read its answer is ended": testUnreadAnswer,
	}
	// The proxy's kernel goes on answering keepalives, so that the tail must notice by itself.
	for _, d := range deadLines {
		tests[d.name] = d.run
	}
	sideBySide(t, tests)
}

func testLatency(t *testing.T) {
	db, w := setUp(t)
	l := newLine(t, db.URL)
	n := startNode(t, l.url, "far")
	b := startNode(t, db.URL, "near")
	l.spoil(t, toxic{"latency", "upstream", `"latency": 100, "jitter": 50`}, toxic{"latency", "downstream", `"latency": 150, "jitter": 100`})
	want := sequence("e", 300)
	for i, name := range want {
		w.tell(name)
		if i%100 == 0 {
			n.until(t, name, func() bool { return len(n.events) > i })
		}
	}
	n.await(t, want...)
	b.await(t, want...)
	n.attached(t) // nothing comes twice in the next reads
	n.await(t, want...)
	if lost := n.metric(t, "reconnects_total"); lost > 0 {
		t.Errorf("a line that is only slow was given up %v times", lost)
	}
}

// swallowed is what toxiproxy calls a timeout: bytes go in, nothing comes out, nobody hangs up.
func swallowed(streams ...string) []toxic {
	var list []toxic
	for _, s := range streams {
		list = append(list, toxic{"timeout", s, `"timeout": 0`})
	}
	return list
}

// deadLine is one way in which a line goes dead.
type deadLine struct {
	name     string
	toxics   []toxic
	deaf     bool // the server is not told that the tail hung up: its backend stays, and its locks
	alone    bool // no other node can take over
	follower bool // the other node rings
}

var deadLines = []deadLine{
	{name: "black hole", toxics: swallowed("upstream", "downstream")},
	{name: "black hole, the only node", toxics: swallowed("upstream", "downstream"), alone: true},
	{name: "black hole, a follower", toxics: swallowed("upstream", "downstream"), follower: true},
	{name: "reset by peer", toxics: []toxic{{"reset_peer", "downstream", `"timeout": 0`}}, alone: true},
	{name: "half open, answers are lost", toxics: swallowed("downstream")},
	{name: "half open, answers are lost to a follower", toxics: swallowed("downstream"), follower: true},
	{name: "half open, questions are lost", toxics: swallowed("upstream"), alone: true},
	{name: "gone without FIN", toxics: swallowed("upstream", "downstream"), deaf: true},
	{name: "gone without FIN, the only node", toxics: swallowed("upstream", "downstream"), deaf: true, alone: true},
}

func (d deadLine) run(t *testing.T) {
	db, w := setUp(t)
	l := newLine(t, db.URL)
	nodes := d.start(t, db.URL, l.url)
	a := nodes[0]
	everybody := func(want ...string) {
		t.Helper()
		for _, n := range nodes {
			n.await(t, want...)
			n.attached(t) // nothing comes twice in the next read
			n.await(t, want...)
		}
	}
	w.tell("before")
	everybody("before")

	l.deaf.Store(d.deaf)
	l.spoil(t, d.toxics...)
	began := time.Now()
	w.tell("lost on the way")
	if !d.alone {
		nodes[1].await(t, "before", "lost on the way")
	}
	a.awaitLost(t, began)
	w.tell("while it knows")
	if !d.alone {
		nodes[1].await(t, "before", "lost on the way", "while it knows")
		nodes[1].awaitRinger(t)
	}

	l.mend(t)
	everybody("before", "lost on the way", "while it knows")
	eventually(t, "somebody rings, and sleeps", func() bool { return a.Status().Armed || nodes[len(nodes)-1].Status().Armed })
	w.tell("after")
	everybody("before", "lost on the way", "while it knows", "after")
	for _, n := range nodes {
		if len(n.resets) > 0 {
			t.Errorf("resets %v, though nothing was lost", n.resets)
		}
	}
}

// start returns the node at the end of the line, and the one beside it.
func (d deadLine) start(t *testing.T, straight, line string) []*node {
	t.Helper()
	if d.follower {
		b := startNode(t, straight, "b")
		b.awaitArmed(t)
		return []*node{startNode(t, line, "a"), b}
	}
	a := startNode(t, line, "a")
	a.awaitArmed(t)
	if d.alone {
		return []*node{a}
	}
	return []*node{a, startNode(t, straight, "b")}
}

func (n *node) awaitLost(t *testing.T, since time.Time) {
	t.Helper()
	ctx, cancel := context.WithDeadline(t.Context(), since.Add(noticed))
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for n.Status().Connected && n.metric(t, "reconnects_total") == 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("it has not noticed within %v", noticed)
		}
	}
	t.Logf("noticed after %v", time.Since(since))
}

// An answer that takes longer than the tail's patience with a silent server is no silence.
func testSlowAnswer(t *testing.T) {
	db, w := setUp(t)
	l := newLine(t, db.URL)
	n := startNode(t, l.url, "a")
	const rows, rate = 400, 400 // of 10 KB, KB/s
	late := newWriter(t, db.URL)
	late.exec("BEGIN")
	late.exec(`INSERT INTO event_log (id, slot, kind, event, payload) SELECT (1::bigint << 43) | nextval('event_log_seq'), 0, 'custom', 'late', json_build_object('a', repeat('x', 10000))
		FROM generate_series(1, $1)`, rows)
	w.tell("first")
	n.await(t, "first")
	l.spoil(t, toxic{"bandwidth", "downstream", fmt.Sprintf(`"rate": %d`, rate)})
	began := time.Now()
	late.exec("COMMIT")
	n.until(t, "all of it", func() bool { return len(n.events) > rows })
	if took := time.Since(began); took < queryTimeout {
		t.Fatalf("the answer took %v: this proves nothing", took)
	}
	w.tell("last")
	n.until(t, "the last", func() bool { return n.events[len(n.events)-1].Name == "last" })
	if len(n.events) != rows+2 || n.metric(t, "reconnects_total") > 0 {
		t.Errorf("%d events, %v reconnects", len(n.events), n.metric(t, "reconnects_total"))
	}
}

// A ringer that does not take in what it asked for, as one that was stopped in the middle of an answer, holds its lock with a busy backend.
func testUnreadAnswer(t *testing.T) {
	db, w := setUp(t)
	l := newLine(t, db.URL)
	a := startNode(t, l.url, "a")
	a.awaitArmed(t)
	b := startNode(t, db.URL, "b")
	l.spoil(t, toxic{"bandwidth", "downstream", `"rate": 1`})
	w.exec(`INSERT INTO event_log (id, slot, kind, event, payload) SELECT (1::bigint << 43) | nextval('event_log_seq'), 0, 'custom', 'large', json_build_object('a', repeat('x', 100000))
		FROM generate_series(1, 200)`)
	b.until(t, "all", func() bool { return len(b.events) == 200 })
	eventually(t, "it waits for its client", func() bool {
		return query[int](t, db.Pool, `SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite' AND application_name = 'roombell listen a' AND datname = current_database()`) == 1 ||
			b.Status().Ringer
	})
	b.awaitRinger(t)
	l.mend(t)
	w.tell("last")
	for _, n := range []*node{a, b} {
		n.until(t, "the last", func() bool { return len(n.events) > 0 && n.events[len(n.events)-1].Name == "last" })
		if len(n.events) != 201 {
			t.Errorf("%d events, want 201", len(n.events))
		}
	}
}
