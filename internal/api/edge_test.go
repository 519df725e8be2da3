package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"roombell/internal/realtime"
)

// door is the edge in front of routes that do what a test wants of them, on a real server.
type door struct {
	*httptest.Server
	t        *testing.T
	log      *journal
	registry *prometheus.Registry
}

// journal is a log that a test reads while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func newDoor(t *testing.T, e Edge, routes map[string]http.HandlerFunc) *door {
	t.Helper()
	mux := http.NewServeMux()
	for pattern, f := range routes {
		mux.HandleFunc(pattern, f)
	}
	d := &door{t: t, log: &journal{}, registry: prometheus.NewRegistry()}
	a := &API{o: Options{Edge: e, Registerer: d.registry}, log: slog.New(slog.NewJSONHandler(d.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	handler, err := a.edge(mux)
	if err != nil {
		t.Fatal(err)
	}
	d.Server = httptest.NewServer(handler)
	t.Cleanup(d.Close)
	return d
}

func (d *door) request(method, path string, body io.Reader, header ...string) (*http.Response, string) {
	d.t.Helper()
	r, err := http.NewRequestWithContext(d.t.Context(), method, d.URL+path, body)
	if err != nil {
		d.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	resp, err := d.Client().Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return resp, string(text)
}

// wantProblem fails unless the answer is a problem of the code.
func wantProblem(t *testing.T, resp *http.Response, body string, status int, code string) {
	t.Helper()
	var p Problem
	if err := json.Unmarshal([]byte(body), &p); err != nil || resp.StatusCode != status || p.Status != status || p.Code != code ||
		resp.Header.Get("Content-Type") != problemType {
		t.Errorf("%d %s %s, want %d %s", resp.StatusCode, resp.Header.Get("Content-Type"), body, status, code)
	}
}

// eventually waits for what the server does after its answer.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	late := time.NewTimer(30 * time.Second)
	defer late.Stop()
	for !is() {
		select {
		case <-ticker.C:
		case <-late.C:
			t.Fatal("not in time: " + what)
		}
	}
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	d := newDoor(t, Edge{}, map[string]http.HandlerFunc{"GET /id": func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, requestID(r.Context())) }})
	long := strings.Repeat("x", 128)
	for _, test := range []struct {
		name, given string
		kept        bool
	}{
		{"a word", "req-1", true}, {"all that is visible", "!~\"{}=;,", true}, {"as long as may be", long, true},
		{"none", "", false}, {"too long", long + "x", false}, {"a space", "a b", false}, {"a letter beyond ASCII", "é", false}, {"a tab", "a\tb", false},
	} {
		resp, inside := d.request("GET", "/id", nil, "X-Request-Id", test.given)
		id := resp.Header.Get("X-Request-Id")
		if id != inside || (id == test.given) != test.kept || len(id) < 1 {
			t.Errorf("%s: the answer has %q, the route %q", test.name, id, inside)
		}
	}
	one, _ := d.request("GET", "/id", nil)
	two, _ := d.request("GET", "/nowhere", nil)
	if a, b := one.Header.Get("X-Request-Id"), two.Header.Get("X-Request-Id"); a == b || b == "" {
		t.Errorf("%q and %q", a, b)
	}
}

// The cases are those of realtime's TestAddress: a client has one address, whatever it asks.
func TestClientAddress(t *testing.T) {
	t.Parallel()
	g := &gate{Edge: Edge{TrustedProxies: []netip.Prefix{
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
		if got := g.address(r).String(); got != test.want {
			t.Errorf("%s: %s", test.name, got)
		}
	}
	d := newDoor(t, Edge{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, map[string]http.HandlerFunc{
		"GET /address": func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, clientAddress(r.Context())) }})
	if _, got := d.request("GET", "/address", nil, "X-Forwarded-For", "198.51.100.1", "X-Forwarded-For", "192.0.2.9"); got != "192.0.2.9" {
		t.Errorf("the route sees %s", got)
	}
}

func TestPathsAndMethods(t *testing.T) {
	t.Parallel()
	ok := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }
	d := newDoor(t, Edge{}, map[string]http.HandlerFunc{"GET /a/{id}": ok, "PATCH /a/{id}": ok, "POST /b": ok})
	for _, test := range []struct {
		method, path string
		status       int
		code, allow  string
	}{
		{"GET", "/a/1", 200, "", ""}, {"HEAD", "/a/1", 200, "", ""}, {"PATCH", "/a/1", 200, "", ""},
		{"DELETE", "/a/1", 405, "method_not_allowed", "GET, HEAD, PATCH, OPTIONS"},
		{"BREW", "/a/1", 405, "method_not_allowed", "GET, HEAD, PATCH, OPTIONS"},
		{"GET", "/b", 405, "method_not_allowed", "POST, OPTIONS"},
		{"OPTIONS", "/b", 204, "", "POST, OPTIONS"},
		{"OPTIONS", "/nowhere", 404, "not_found", ""},
		{"GET", "/", 404, "not_found", ""}, {"GET", "/a", 404, "not_found", ""}, {"POST", "/nowhere", 404, "not_found", ""},
	} {
		resp, body := d.request(test.method, test.path, nil)
		if resp.StatusCode != test.status || resp.Header.Get("Allow") != test.allow {
			t.Errorf("%s %s: %d, Allow %q", test.method, test.path, resp.StatusCode, resp.Header.Get("Allow"))
		}
		if test.code != "" {
			wantProblem(t, resp, body, test.status, test.code)
		}
	}
	if resp, body := d.request("HEAD", "/b", nil); resp.StatusCode != 405 || body != "" {
		t.Errorf("HEAD: %d %q", resp.StatusCode, body)
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	d := newDoor(t, Edge{}, map[string]http.HandlerFunc{"GET " + Prefix + "/x": func(http.ResponseWriter, *http.Request) {}, "GET /page": func(http.ResponseWriter, *http.Request) {}})
	for _, path := range []string{Prefix + "/x", Prefix + "/nowhere"} {
		resp, _ := d.request("GET", path, nil)
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY", "Cache-Control": "no-store",
			"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "Vary": "Origin",
			"Server": "", "X-Powered-By": "", "Strict-Transport-Security": "", "Access-Control-Allow-Origin": "",
		} {
			if got := resp.Header.Get(name); got != want {
				t.Errorf("%s: %s: %q, want %q", path, name, got, want)
			}
		}
	}
	if resp, _ := d.request("GET", "/page", nil); resp.Header.Get("Cache-Control") != "" {
		t.Error("a page may be kept")
	}
}

func TestPanicIsAProblem(t *testing.T) {
	t.Parallel()
	d := newDoor(t, Edge{}, map[string]http.HandlerFunc{
		"POST /panic": func(_ http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			_ = body[len(body)]
		},
		"GET /late": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(errors.New("in the middle"))
		},
	})
	resp, body := d.request("POST", "/panic?secret=of-the-query", strings.NewReader("of the body"), "X-Request-Id", "panic-1", "Authorization", "Bearer of-the-header")
	wantProblem(t, resp, body, 500, "internal")
	if strings.Contains(body, "out of range") || strings.Contains(body, "goroutine") {
		t.Errorf("the client sees %s", body)
	}
	text := d.log.String()
	for _, want := range []string{"panic-1", "index out of range", "edge_test.go"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log does not say %q: %s", want, text)
		}
	}
	for _, not := range []string{"of-the-query", "of the body", "of-the-header"} {
		if strings.Contains(text, not) {
			t.Errorf("the log says %q", not)
		}
	}
	// Half an answer must not look whole.
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.URL+"/late", nil)
	if err != nil {
		t.Fatal(err)
	}
	late, err := d.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = late.Body.Close() }()
	if text, err := io.ReadAll(late.Body); err == nil {
		t.Errorf("a broken answer looks whole: %q", text)
	}
	if got := testutil.ToFloat64(mustMetric[prometheus.Counter](d, newEdgeMetrics(nil).panics)); got != 2 {
		t.Errorf("%v panics counted", got)
	}
}

// mustMetric finds the registered collector that is described like c.
func mustMetric[C prometheus.Collector](d *door, c C) C {
	d.t.Helper()
	var already prometheus.AlreadyRegisteredError
	if !errors.As(d.registry.Register(c), &already) {
		d.t.Fatal("not registered")
	}
	return already.ExistingCollector.(C)
}

func TestTooManyRequests(t *testing.T) {
	t.Parallel()
	in, out := make(chan struct{}), make(chan struct{})
	d := newDoor(t, Edge{MaxRequests: 2}, map[string]http.HandlerFunc{
		"GET /wait": func(w http.ResponseWriter, r *http.Request) { in <- struct{}{}; <-out },
		"GET /stream": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
			in <- struct{}{}
			<-out
		},
		"GET /now": func(http.ResponseWriter, *http.Request) {},
	})
	var under sync.WaitGroup
	begin := func(path string) {
		under.Go(func() { d.request("GET", path, nil) })
		<-in
	}
	begin("/stream") // takes no place once it is known to be one
	begin("/stream")
	begin("/wait")
	if resp, _ := d.request("GET", "/now", nil); resp.StatusCode != 200 {
		t.Errorf("%d with one of two places taken", resp.StatusCode)
	}
	begin("/wait")
	resp, body := d.request("GET", "/now", nil)
	wantProblem(t, resp, body, 503, "overloaded")
	if resp.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if got := testutil.ToFloat64(mustMetric[prometheus.Counter](d, newEdgeMetrics(nil).overload)); got != 1 {
		t.Errorf("%v counted", got)
	}
	if got := testutil.ToFloat64(mustMetric[prometheus.Gauge](d, newEdgeMetrics(nil).inFlight)); got < 4 {
		t.Errorf("%v under way", got)
	}
	close(out)
	under.Wait()
	if resp, _ := d.request("GET", "/now", nil); resp.StatusCode != 200 {
		t.Errorf("%d afterwards", resp.StatusCode)
	}
}

func TestRequestsAreCounted(t *testing.T) {
	t.Parallel()
	d := newDoor(t, Edge{}, map[string]http.HandlerFunc{"GET " + Prefix + "/chats/{id}": func(http.ResponseWriter, *http.Request) {}})
	d.request("GET", Prefix+"/chats/4711?q=secret-of-the-query", nil, "Authorization", "Bearer secret-of-the-header")
	d.request("GET", Prefix+"/chats/4712", nil)
	d.request("BREW", "/secret-of-the-path", nil)
	eventually(t, "all are logged", func() bool { return strings.Count(d.log.String(), `"msg":"request"`) == 3 })
	for _, c := range []struct {
		method, route, code string
		want                float64
	}{{"GET", Prefix + "/chats/{id}", "200", 2}, {"other", "none", "404", 1}} {
		if got := testutil.ToFloat64(mustMetric[*prometheus.CounterVec](d, newEdgeMetrics(nil).requests).WithLabelValues(c.method, c.route, c.code)); got != c.want {
			t.Errorf("%v: %v", c, got)
		}
	}
	if n := testutil.CollectAndCount(mustMetric[*prometheus.HistogramVec](d, newEdgeMetrics(nil).seconds)); n != 2 {
		t.Errorf("%d histograms", n)
	}
	if text := d.log.String(); strings.Contains(text, "secret-of") || strings.Contains(text, "4711") || !strings.Contains(text, `"route":"/api/v1/chats/{id}","status":200`) {
		t.Errorf("the log says %s", text)
	}
}

// open is a connection on which a test writes what it likes.
func (d *door) open(text string) (net.Conn, *bufio.Reader) {
	d.t.Helper()
	conn, err := net.Dial("tcp", d.Listener.Addr().String())
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, text); err != nil {
		d.t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

// A client that sends its body byte by byte would hold a place for hours.
func TestSlowSenderIsCut(t *testing.T) {
	t.Parallel()
	d := newDoor(t, Edge{BodyTime: 300 * time.Millisecond}, map[string]http.HandlerFunc{
		"POST /read": func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.ReadAll(r.Body); err != nil {
				_ = sendProblem(w, bodyProblem(err))
			}
		},
		"POST /leave": func(http.ResponseWriter, *http.Request) {},
	})
	for path, status := range map[string]int{"/read": 408, "/leave": 200, "/nowhere": 404} {
		conn, answers := d.open("POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{")
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
					_, _ = io.WriteString(conn, " ")
				}
			}
		}()
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != status {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
		if status == 408 {
			wantProblem(t, resp, string(body), 408, "timeout")
		}
		if _, err := answers.ReadByte(); err == nil {
			t.Errorf("%s: the connection goes on", path)
		}
		close(stop)
		<-stopped
	}
}

// A client that does not read its answer is cut; one that reads a stream slowly is the stream's business.
func TestSlowReaderIsCut(t *testing.T) {
	t.Parallel()
	wrote := make(chan error, 1)
	d := newDoor(t, Edge{AnswerTime: 100 * time.Millisecond}, map[string]http.HandlerFunc{
		"GET /much": func(w http.ResponseWriter, _ *http.Request) {
			piece := make([]byte, 1<<20)
			for range 1000 { // more than all buffers in between hold
				if _, err := w.Write(piece); err != nil {
					wrote <- err
					return
				}
			}
			wrote <- nil
		},
	})
	d.open("GET /much HTTP/1.1\r\nHost: x\r\n\r\n")
	if err := <-wrote; err == nil {
		t.Error("a gigabyte was written to a client that reads nothing")
	}
}

// A body that has come leaves no deadline behind: net/http would take its passing for the client's leaving.
func TestDeadlineEndsWithTheBody(t *testing.T) {
	t.Parallel()
	left := make(chan error, 1)
	d := newDoor(t, Edge{BodyTime: 50 * time.Millisecond}, map[string]http.HandlerFunc{
		"POST /work": func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadAll(r.Body)
			timer := time.NewTimer(200 * time.Millisecond)
			defer timer.Stop()
			select {
			case <-timer.C:
				left <- nil
			case <-r.Context().Done():
				left <- context.Cause(r.Context())
			}
		},
	})
	d.request("POST", "/work", strings.NewReader(`{"a": 1}`))
	if err := <-left; err != nil {
		t.Errorf("the request ended: %v", err)
	}
}

func TestCrossOrigin(t *testing.T) {
	t.Parallel()
	routes := map[string]http.HandlerFunc{"GET /x": func(http.ResponseWriter, *http.Request) {}}
	listed := newDoor(t, Edge{Origins: []string{"https://app.example.org", "http://localhost:5173"}}, routes)
	all := newDoor(t, Edge{Origins: []string{"*"}}, routes)
	same := newDoor(t, Edge{}, routes)
	sockets := map[*door]*httptest.Server{listed: newSockets(t, "https://app.example.org", "http://localhost:5173"), all: newSockets(t, "*"), same: newSockets(t)}
	for _, test := range []struct {
		name   string
		door   *door
		origin string // "own" is the door's own
		status int
		header string
	}{
		{"none", listed, "", 200, ""},
		{"our own", listed, "own", 200, ""},
		{"listed", listed, "https://app.example.org", 200, "https://app.example.org"},
		{"listed, its port spelled out", listed, "https://app.example.org:443", 200, "https://app.example.org:443"},
		{"listed, another scheme", listed, "http://app.example.org", 403, ""},
		{"listed, another port", listed, "http://localhost:5174", 403, ""},
		{"foreign", listed, "https://evil.example", 403, ""},
		{"null", listed, "null", 403, ""},
		{"nonsense", listed, "https://app.example.org@evil.example", 403, ""},
		{"a path", listed, "https://app.example.org/x", 403, ""},
		{"foreign where all may", all, "https://evil.example", 200, "*"},
		{"null where all may", all, "null", 200, "*"},
		{"foreign by default", same, "https://app.example.org", 403, ""},
		{"our own by default", same, "own", 200, ""},
	} {
		origin := test.origin
		header := func(server string) []string {
			switch origin {
			case "":
				return nil
			case "own":
				return []string{"Origin", server}
			}
			return []string{"Origin", origin}
		}
		resp, body := test.door.request("GET", "/x", nil, header(test.door.URL)...)
		if resp.StatusCode != test.status || resp.Header.Get("Access-Control-Allow-Origin") != test.header || resp.Header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s: %d %v", test.name, resp.StatusCode, resp.Header)
		}
		if test.status == 403 {
			wantProblem(t, resp, body, 403, "origin_not_allowed")
		}
		// The same question to the handshake.
		socket := &door{t: t, Server: sockets[test.door]}
		if resp, _ := socket.request("GET", "/socket.io/?EIO=4&transport=polling", nil, header(socket.URL)...); (resp.StatusCode == 403) != (test.status == 403) {
			t.Errorf("%s: the handshake answers %d", test.name, resp.StatusCode)
		}
	}
	for _, bad := range []string{"app.example.org", "https://", "https://a/path", "https://a?b", "https://u@a", ""} {
		if _, err := parseOrigins([]string{bad}); err == nil {
			t.Errorf("%q is an origin", bad)
		}
	}
}

// newSockets is the real Socket.IO server with these origins; nobody gets beyond its first request.
func newSockets(t *testing.T, origins ...string) *httptest.Server {
	t.Helper()
	s, err := realtime.New(realtime.Options{Tail: nobody{}, Tokens: nobody{}, Access: nobody{}, Origins: origins})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	server := httptest.NewServer(s.Handler())
	t.Cleanup(func() {
		stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
		server.CloseClientConnections()
		server.Close()
	})
	return server
}

type nobody struct {
	realtime.Attacher
	realtime.Authenticator
	realtime.Access
}

func TestPreflight(t *testing.T) {
	t.Parallel()
	d := newDoor(t, Edge{Origins: []string{"https://app.example.org"}}, map[string]http.HandlerFunc{"POST /x": func(http.ResponseWriter, *http.Request) { t.Error("called") }})
	ask := func(origin string) (*http.Response, string) {
		return d.request("OPTIONS", "/x", nil, "Origin", origin, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,idempotency-key")
	}
	resp, _ := ask("https://app.example.org")
	allowed := strings.ToLower(resp.Header.Get("Access-Control-Allow-Headers"))
	for _, name := range []string{"authorization", "idempotency-key", "last-event-id", "content-type"} {
		if !strings.Contains(allowed, name) {
			t.Errorf("%s is not allowed: %s", name, allowed)
		}
	}
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
		if !strings.Contains(resp.Header.Get("Access-Control-Allow-Methods"), method) {
			t.Errorf("%s is not allowed", method)
		}
	}
	exposed := resp.Header.Get("Access-Control-Expose-Headers")
	if resp.StatusCode != 204 || resp.Header.Get("Access-Control-Allow-Origin") != "https://app.example.org" || !strings.Contains(exposed, "X-Request-Id") || !strings.Contains(exposed, "Retry-After") {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	resp, body := ask("https://evil.example")
	wantProblem(t, resp, body, 403, "origin_not_allowed")
}
