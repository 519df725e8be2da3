package realtime

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/zishang520/socket.io/servers/engine/v3"

	"roombell/internal/eventlog"
)

func TestSocketsPerUser(t *testing.T) {
	n := startNode(t, colleagues(), fast, func(o *Options) { o.MaxSocketsPerUser = 2 })
	first := join(t, n, "7/3")
	join(t, n, "7/3")
	third := dial(t, n, "7/3")
	third.waitClosed()
	if _, refused := third.take("packet 4"); refused {
		t.Error("refused: the client would not come back when there is room")
	}
	join(t, n, "8/3")
	_ = first.conn.Close()
	eventually(t, "there is room", func() bool { return n.count(7) == 1 })
	join(t, n, "7/3")
}

func TestSocketsPerAddress(t *testing.T) {
	n := startNode(t, colleagues(), fast, func(o *Options) {
		o.MaxSocketsPerAddress = 2
		o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	from := func(address string) http.Header { return http.Header{"X-Forwarded-For": {address}} }
	first := connect(t, n, from("192.0.2.1"))
	second := connect(t, n, from("192.0.2.1"))
	eventually(t, "both are counted", func() bool { return n.full(netip.MustParseAddr("192.0.2.1")) })
	second.send(`40{"token":"7/3"}`)
	second.wait("connected")
	address := "ws" + strings.TrimPrefix(n.url, "http") + "/socket.io/?EIO=4&transport=websocket"
	_, resp, err := websocket.DefaultDialer.Dial(address, from("192.0.2.1"))
	if err == nil || resp == nil || resp.StatusCode != http.StatusTooManyRequests {
		t.Fatal("a third was let in: ", err, resp)
	}
	connect(t, n, from("192.0.2.2"))
	_ = first.conn.Close()
	eventually(t, "there is room", func() bool { return !n.full(netip.MustParseAddr("192.0.2.1")) })
	connect(t, n, from("192.0.2.1"))
}

// Those who come at once pass the first look together, and are counted one by one.
func TestSocketsPerAddressAtOnce(t *testing.T) {
	n := startNode(t, colleagues(), func(o *Options) { o.MaxSocketsPerAddress = 2 })
	address := netip.MustParseAddr("192.0.2.1")
	var registered int
	for i := range 3 {
		if n.register(&client{conn: namedConn{id: fmt.Sprint(i)}, address: address}) {
			registered++
		}
	}
	if registered != 2 {
		t.Errorf("%d were let in", registered)
	}
	for _, c := range n.all() {
		n.gone(c)
	}
	if kept := remains(n); kept != "" {
		t.Error(kept)
	}
}

// namedConn is a connection of which only the name is asked.
type namedConn struct {
	engine.Socket
	id string
}

func (c namedConn) Id() string       { return c.id }
func (namedConn) ReadyState() string { return "open" }

func (s *Server) all() []*client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.clients))
}

func TestAddress(t *testing.T) {
	s := &Server{o: Options{TrustedProxies: []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("2001:db8::/32")}}}
	for _, test := range []struct{ name, remote, forwarded, want string }{
		{"no proxy", "192.0.2.1:5", "", "192.0.2.1"},
		{"a stranger's word", "192.0.2.1:5", "192.0.2.9", "192.0.2.1"},
		{"our proxy's word", "10.0.0.1:5", "192.0.2.9", "192.0.2.9"},
		{"two proxies", "10.0.0.1:5", "192.0.2.9, 10.0.0.2", "192.0.2.9"},
		{"a stranger's word before the proxy's", "10.0.0.1:5", "1.1.1.1, 192.0.2.9", "192.0.2.9"},
		{"nonsense before the proxy's word", "10.0.0.1:5", "zzz, 192.0.2.9", "192.0.2.9"},
		{"nonsense", "10.0.0.1:5", "zzz", "10.0.0.1"},
		{"only proxies", "10.0.0.1:5", "10.0.0.3, 10.0.0.2", "10.0.0.3"},
		{"with a port", "10.0.0.1:5", "192.0.2.9:443", "192.0.2.9"},
		{"IPv6", "[::1]:5", "2001:db9::1", "2001:db9::1"},
		{"IPv6 with a port", "[2001:db8::7]:5", "[2001:db9::1]:80", "2001:db9::1"},
		{"IPv4 in IPv6", "[::ffff:10.0.0.1]:5", "::ffff:192.0.2.9", "192.0.2.9"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = test.remote
		if test.forwarded != "" {
			r.Header.Set("X-Forwarded-For", test.forwarded)
		}
		if got := s.address(r).String(); got != test.want {
			t.Errorf("%s: %s", test.name, got)
		}
	}
}

func TestConnectionWithoutConnectIsClosed(t *testing.T) {
	n := startNode(t, colleagues(), func(o *Options) { o.timing.connect = 100 * time.Millisecond })
	began := time.Now()
	silent := connect(t, n, nil)
	silent.waitClosed()
	if took := time.Since(began); took < 90*time.Millisecond {
		t.Errorf("closed after %v", took)
	}
	refused := dial(t, n, "x")
	refused.wait("packet 4")
	refused.waitClosed()
	stays := join(t, n, "7/3")
	began = time.Now()
	eventually(t, "the time of CONNECT is over", func() bool { return time.Since(began) > 200*time.Millisecond })
	stays.ask("presence:list", nil)
}

func TestSecondConnectClosesTheConnection(t *testing.T) {
	n := startNode(t, colleagues())
	w := join(t, n, "7/3")
	w.send(`40{"token":"7/3"}`)
	w.waitClosed()
	hasty := dial(t, n, "7/3")
	hasty.send(`40{"token":"7/3"}`)
	hasty.waitClosed()
	eventually(t, "nobody is left", func() bool { return n.count(7) == 0 })
}

// deadConn is a connection that closed without a word.
type deadConn struct{ engine.Socket }

func (deadConn) Id() string         { return "dead" }
func (deadConn) ReadyState() string { return "closed" }

func TestSweepFindsSocketsWhoseConnectionIsGone(t *testing.T) {
	n := startNode(t, colleagues(), func(o *Options) { o.timing.sweep = 10 * time.Millisecond })
	c := &client{conn: deadConn{}}
	if !n.register(c) {
		t.Fatal("not registered")
	}
	eventually(t, "swept", func() bool { return remains(n) == "" })
}

func TestOtherNamespaceIsRefused(t *testing.T) {
	n := startNode(t, colleagues())
	w := join(t, n, "7/3")
	w.send(`40/admin,{"token":"7/3"}`)
	eventually(t, "an answer", func() bool { return len(w.names()) > 0 })
	w.ask("presence:list", nil)
}

// A standard client never comes back after a refusal, and does after a close.
func TestDatabaseAwayClosesTheTransport(t *testing.T) {
	h := colleagues()
	h.change(func() { h.away = errors.New("connection refused") })
	n := startNode(t, h)
	w := dial(t, n, "7/3")
	w.waitClosed()
	if _, refused := w.take("packet 4"); refused {
		t.Error("refused")
	}

	still := &stillTail{attached: make(chan func(eventlog.Cursor, error), 1)}
	n = startNode(t, colleagues(), func(o *Options) { o.Tail = still })
	w = dial(t, n, "7/3")
	attached := <-still.attached
	attached(eventlog.Cursor{}, eventlog.ErrUnavailable)
	w.waitClosed()
	if _, refused := w.take("packet 4"); refused {
		t.Error("refused")
	}
	eventually(t, "nobody is left", func() bool { return n.count(7) == 0 })
}

func TestOrigins(t *testing.T) {
	n := startNode(t, colleagues(), func(o *Options) { o.Origins = []string{"https://app.example.org", "http://localhost:5173"} })
	all := startNode(t, colleagues(), func(o *Options) { o.Origins = []string{"*"} })
	same := startNode(t, colleagues())
	for _, test := range []struct {
		name   string
		node   *node
		origin string
		status int
		header string
	}{
		{"none", n, "", 200, ""},
		{"our own", n, n.url, 200, ""},
		{"listed", n, "https://app.example.org", 200, "https://app.example.org"},
		{"listed, its port spelled out", n, "https://app.example.org:443", 200, "https://app.example.org:443"},
		{"listed, another scheme", n, "http://app.example.org", 403, ""},
		{"listed, another port", n, "http://localhost:5174", 403, ""},
		{"foreign", n, "https://evil.example", 403, ""},
		{"null", n, "null", 403, ""},
		{"nonsense", n, "https://app.example.org@evil.example", 403, ""},
		{"foreign where all may", all, "https://evil.example", 200, "*"},
		{"null where all may", all, "null", 200, "*"},
		{"foreign by default", same, "https://app.example.org", 403, ""},
		{"our own by default", same, same.url, 200, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, test.node.url+"/socket.io/?EIO=4&transport=polling", nil)
			if err != nil {
				t.Fatal(err)
			}
			header := http.Header{}
			if test.origin != "" {
				header.Set("Origin", test.origin)
				r.Header = header
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != test.status || resp.Header.Get("Access-Control-Allow-Origin") != test.header {
				t.Errorf("polling: %d %q", resp.StatusCode, resp.Header.Get("Access-Control-Allow-Origin"))
			}
			address := "ws" + strings.TrimPrefix(test.node.url, "http") + "/socket.io/?EIO=4&transport=websocket"
			conn, resp, err := websocket.DefaultDialer.Dial(address, header)
			if allowed := err == nil; allowed != (test.status == 200) {
				t.Errorf("upgrade: %v", err)
			}
			if err == nil {
				_ = conn.Close()
			} else if resp == nil || resp.StatusCode != 403 {
				t.Errorf("upgrade: %v", resp)
			}
		})
	}
}

func TestPreflight(t *testing.T) {
	n := startNode(t, colleagues(), func(o *Options) { o.Origins = []string{"https://app.example.org"} })
	for origin, status := range map[string]int{"https://app.example.org": 204, "https://evil.example": 403} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, n.url+"/socket.io/?EIO=4&transport=polling", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Origin", origin)
		r.Header.Set("Access-Control-Request-Method", "GET")
		r.Header.Set("Access-Control-Request-Headers", "authorization")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("%s: %d", origin, resp.StatusCode)
		}
		if allowed := resp.Header.Get("Access-Control-Allow-Headers") == "authorization"; allowed != (status == 204) {
			t.Errorf("%s: %v", origin, resp.Header)
		}
	}
}

func TestOriginsAreChecked(t *testing.T) {
	for _, bad := range []string{"app.example.org", "https://", "https://a/path", "https://a?b", "https://u@a", ""} {
		if _, err := parseOrigins([]string{bad}); err == nil {
			t.Errorf("%q is an origin", bad)
		}
	}
}

func TestDrain(t *testing.T) {
	n := startNode(t, colleagues(), fast, func(o *Options) { o.Drain = 300 * time.Millisecond })
	var clients []*wire
	for range 4 {
		clients = append(clients, join(t, n, "7/3"))
	}
	began := time.Now()
	n.stop()
	var closes []time.Duration
	for _, w := range clients {
		w.waitClosed()
		closes = append(closes, time.Since(began))
		if _, ok := w.take("packet 1"); ok {
			t.Error("a disconnect packet: the client would not come back")
		}
	}
	<-n.done
	if took := time.Since(began); took < 200*time.Millisecond || took > 3*time.Second {
		t.Errorf("drained in %v, closes after %v", took, closes)
	}
	resp, err := http.Get(n.url + "/socket.io/?EIO=4&transport=polling")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a connection after the drain: %d", resp.StatusCode)
	}
}
