package realtime

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/zishang520/socket.io/servers/engine/v3"
	"github.com/zishang520/socket.io/servers/engine/v3/config"
	"github.com/zishang520/socket.io/servers/socket/v3"
)

var toEverybody = []socket.Room{"org_1"}

// A CONNECT that comes with the last byte of the handshake is read by nobody in the library: its transport reads before
// Socket.IO listens (servers/engine/v3 v3.0.5 transports/websocket.go:63).
func TestConnectRightBehindTheHandshakeIsHeard(t *testing.T) {
	t.Parallel()
	s := startRoomServer(t, 1<<20)
	const request = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n" +
		"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
	connect := []byte{0x81, 0x82, 0, 0, 0, 0, '4', '0'} // masked with zeros
	for range 300 {
		conn, err := net.Dial("tcp", s.http.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(request)); err != nil {
			t.Fatal(err)
		}
		// The first byte of the answer: the upgrade has happened, OPEN is about to be written.
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(connect); err != nil {
			t.Fatal(err)
		}
		s.socket()
		_ = conn.Close()
	}
}

// What a slow reader did not take waits in order, pongs take their turn between frames, and what was taken makes room.
func TestSlowReaderGetsEverythingInOrder(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*httptest.Server){
		"TCP": (*httptest.Server).Start, "TLS": (*httptest.Server).StartTLS,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const rounds, n = 3, 200
			pad := strings.Repeat("x", 50_000)
			s := newRoomServer(t, transportOptions{SendQueue: (rounds - 1) * n * len(pad)})
			start(s.http)
			c, _ := s.join("org_1")
			pongs := 0
			c.SetPongHandler(func(string) error { pongs++; return nil })
			for range rounds {
				for i := range n {
					s.adapter.deliver(toEverybody, "", encodeEvent("n", fmt.Appendf(nil, `{"i":%d,"pad":%q}`, i, pad)))
					if i%40 == 0 {
						_ = c.WriteControl(websocket.PingMessage, []byte("p"), time.Now().Add(time.Second))
					}
				}
				for i := range n {
					if got, want := c.next(), fmt.Sprintf(`42["n",{"i":%d,"pad":"x`, i); !strings.HasPrefix(got, want) {
						t.Fatalf("got %.40q, want %q", got, want)
					}
				}
			}
			c.write(`42["echo",1]`)
			c.expect(`42["echo",1]`)
			if pongs != rounds*n/40 {
				t.Errorf("%d pongs, want %d", pongs, rounds*n/40)
			}
		})
	}
}

// A deadline of the flusher that has passed must not end a connection that has nothing to flush any more.
func TestConnectionOutlivesTheDeadlineOfAWrite(t *testing.T) {
	t.Parallel()
	const deadline = 50 * time.Millisecond
	s := newRoomServer(t, transportOptions{SendQueue: 64 << 20, writeTimeout: deadline})
	s.http.Start()
	c, sock := s.join("org_1")
	ev := encodeEvent("x", []byte(`"`+strings.Repeat("x", 60_000)+`"`))
	sent := 0
	for ; waitingOf(sock) == 0; sent++ {
		s.adapter.deliver(toEverybody, "", ev)
	}
	for range sent {
		c.next()
	}
	until(t, "nothing waits", func() bool { return waitingOf(sock) == 0 })
	passed := time.After(2 * deadline)
	<-passed
	s.adapter.deliver(toEverybody, "", encodeEvent("after", nil))
	c.expect(`42["after"]`)
}

// A client that takes nothing for too long is cut, even if little waits.
func TestClientThatIsStuckIsCut(t *testing.T) {
	t.Parallel()
	s := newRoomServer(t, transportOptions{SendQueue: 64 << 20, writeTimeout: 50 * time.Millisecond})
	s.http.Start()
	_, sock := s.join("org_1")
	ev := encodeEvent("x", []byte(`"`+strings.Repeat("x", 60_000)+`"`))
	for waitingOf(sock) == 0 {
		s.adapter.deliver(toEverybody, "", ev)
	}
	if id := <-s.gone; id != sock.Id() {
		t.Error("somebody else was cut")
	}
}

// A client that reads nothing is cut when more than the send queue waits; nobody else notices.
func TestClientThatDoesNotReadIsCut(t *testing.T) {
	t.Parallel()
	const sendQueue = 256 << 10
	for _, transport := range []string{"websocket", "websocket over TLS", "polling"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			s := newRoomServer(t, transportOptions{SendQueue: sendQueue})
			if transport == "websocket over TLS" {
				s.http.StartTLS()
			} else {
				s.http.Start()
			}
			var slow *socket.Socket
			if transport == "polling" {
				_, slow = s.joinPolling("org_1")
			} else {
				_, slow = s.join("org_1")
			}
			reader, _ := s.join("org_1")
			ev := encodeEvent("x", []byte(`"`+strings.Repeat("x", 60_000)+`"`))
			sent := 0
			for ; s.adapter.deliver(toEverybody, "", ev) == 2; sent++ {
				if len(reader.next()) < 60_000 {
					t.Fatal("the reader got something else")
				}
				if n := waitingOf(slow); n > sendQueue+ev.size() {
					t.Fatalf("%d bytes wait", n)
				}
			}
			if sent < sendQueue/60_000 {
				t.Errorf("cut after %d events", sent)
			}
			if id := <-s.gone; id != slow.Id() {
				t.Error("somebody else was cut")
			}
			if n := s.adapter.deliver(toEverybody, "", ev); n != 1 {
				t.Errorf("reached %d sockets afterwards", n)
			}
		})
	}
}

func waitingOf(s *socket.Socket) int {
	switch t := s.Conn().Transport().(type) {
	case *webSocket:
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.pending.bytes
	case *polling:
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.pending.bytes
	}
	return 0
}

// One event may be larger than the whole queue: the queue counts what waits already.
func TestEventLargerThanTheSendQueue(t *testing.T) {
	t.Parallel()
	s := startRoomServer(t, 1000)
	c, _ := s.join("org_1")
	p, _ := s.joinPolling("org_1")
	body := `"` + strings.Repeat("x", 8<<20) + `"`
	if n := s.adapter.deliver(toEverybody, "", encodeEvent("x", []byte(body))); n != 2 {
		t.Fatalf("reached %d sockets", n)
	}
	c.expect(`42["x",` + body + `]`)
	if got := p.poll(); len(got) != 1 || got[0] != `42["x",`+body+`]` {
		t.Errorf("long-polling got %d packets", len(got))
	}
}

// 20 clients leave 60 MB each unread.
func TestUnreadMegabytesCostLittleMemory(t *testing.T) {
	const clients, most = 20, 40 << 20
	s := startRoomServer(t, 1<<20)
	for range clients {
		s.join("org_1")
	}
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	peak := uint64(0)
	for i := range 1000 {
		s.adapter.deliver(toEverybody, "", encodeEvent("x", []byte(`"`+strings.Repeat("x", 60_000)+`"`)))
		if i%50 == 0 {
			runtime.ReadMemStats(&now)
			peak = max(peak, now.HeapInuse)
		}
	}
	if grown := int64(peak) - int64(before.HeapInuse); grown > most {
		t.Errorf("the heap grew by %d MB", grown>>20)
	}
	for range clients {
		<-s.gone
	}
}

func TestPacketOverTheLimitClosesTheConnection(t *testing.T) {
	t.Parallel()
	s := startRoomServer(t, 1<<20)
	c, _ := s.join("org_1")
	c.write(`42["echo","` + strings.Repeat("x", protocolMaxPayload-20) + `"]`) // just under it
	if got := len(c.next()); got < protocolMaxPayload-20 {
		t.Fatalf("the echo has %d bytes", got)
	}
	_ = c.WriteMessage(websocket.TextMessage, []byte(`42["echo","`+strings.Repeat("x", 4*protocolMaxPayload)+`"]`))
	if err := c.expectClosed(); !websocket.IsCloseError(err, websocket.CloseMessageTooBig) {
		t.Errorf("closed with %v", err)
	}
	<-s.gone
}

// The engine arms the timer for PONG only after it has sent PING: a client that answers at once must not be thrown out.
func TestPongThatComesAtOnceCounts(t *testing.T) {
	t.Parallel()
	o := config.DefaultServerOptions()
	const interval, timeout = 600 * time.Millisecond, 500 * time.Millisecond // the next PING would hide a lost PONG
	o.SetPingInterval(interval)
	o.SetPingTimeout(timeout)
	o.SetTransports(newTransports(transportOptions{SendQueue: 1 << 20, PingTimeout: timeout}))
	e := engine.NewServer(o)
	openOnConnection(e)
	s := &roomServer{t: t, http: httptest.NewServer(slim(e))}
	t.Cleanup(func() { e.Close(); s.http.Close() })
	var all sync.WaitGroup
	for range 200 {
		c := s.dial("")
		all.Go(func() {
			c.next() // OPEN
			for range 3 {
				c.expect("2")
				c.write("3")
			}
		})
	}
	all.Wait()
}

// Disconnect(true) says so before it closes. The library's transport closes first.
func TestDisconnectPacketIsHeardBeforeTheClose(t *testing.T) {
	t.Parallel()
	s := startRoomServer(t, 1<<20)
	for range 100 {
		c, sock := s.join("org_1")
		c.write(`42["unanswered"]`) // unread bytes at the server when it closes
		sock.Disconnect(true)
		c.expect("41")
		if err := c.expectClosed(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			t.Fatalf("closed with %v", err)
		}
	}
}

// What waits is still sent when the connection is closed in order.
func TestCloseSendsWhatWaits(t *testing.T) {
	t.Parallel()
	s := startRoomServer(t, 64<<20)
	c, sock := s.join("org_1")
	const n = 200
	pad := strings.Repeat("x", 50_000)
	for i := range n {
		s.adapter.deliver(toEverybody, "", encodeEvent("n", fmt.Appendf(nil, `{"i":%d,"pad":%q}`, i, pad)))
	}
	if waitingOf(sock) == 0 {
		t.Fatal("nothing waits: the test shows nothing")
	}
	sock.Conn().Close(true)
	<-s.gone
	for i := range n {
		if want := fmt.Sprintf(`42["n",{"i":%d,`, i); !strings.HasPrefix(c.next(), want) {
			t.Fatalf("%d is missing", i)
		}
	}
	if err := c.expectClosed(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("closed with %v", err)
	}
}

// After a close the server does not wait for ever for a client that neither reads nor goes.
func TestCloseGivesUpOnAClientThatDoesNotRead(t *testing.T) {
	t.Parallel()
	s := newRoomServer(t, transportOptions{SendQueue: 64 << 20, closeTimeout: 100 * time.Millisecond})
	s.http.Start()
	_, sock := s.join("org_1")
	ev := encodeEvent("x", []byte(`"`+strings.Repeat("x", 60_000)+`"`))
	for waitingOf(sock) < 1<<20 {
		s.adapter.deliver(toEverybody, "", ev)
	}
	transport := sock.Conn().Transport().(*webSocket)
	sock.Conn().Close(true)
	until(t, "the connection is closed", func() bool {
		transport.mu.Lock()
		defer transport.mu.Unlock()
		return transport.state == closed && transport.queue == nil
	})
}

func TestMetricsCountWhatIsSent(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	m := newTransportMetrics(registry)
	o := config.DefaultServerOptions()
	o.SetTransports(newTransports(transportOptions{SendQueue: 1 << 20, PingTimeout: time.Second, Metrics: m}))
	e := engine.NewServer(o)
	conns := make(chan engine.Socket, 2)
	_ = e.On("connection", func(args ...any) { conns <- args[0].(engine.Socket) })
	openOnConnection(e)
	s := &roomServer{t: t, http: httptest.NewServer(slim(e))}
	t.Cleanup(func() { e.Close(); s.http.Close() })

	c := s.dial("")
	open := c.next()
	transport := (<-conns).Transport().(sender)
	ev := encodeEvent("x", []byte(`{}`))
	if !transport.push(false, []*encodedEvent{ev, ev}) {
		t.Fatal("not taken")
	}
	c.expect(`42["x",{}]`, `42["x",{}]`)
	if n := testutil.ToFloat64(m.frames); n != 1 { // OPEN; events are counted by the adapter, once a broadcast
		t.Errorf("%v frames", n)
	}
	if n := testutil.ToFloat64(m.bytes); n != float64(len(textFrame([]byte(open)))) {
		t.Errorf("%v bytes", n)
	}
	gauge := m.connections.WithLabelValues("websocket")
	if n := testutil.ToFloat64(gauge); n != 1 {
		t.Errorf("%v connections", n)
	}
	transport.cut(errSlowClient)
	_ = c.expectClosed()
	until(t, "no connection is counted", func() bool { return testutil.ToFloat64(gauge) == 0 })
	if _, err := registry.Gather(); err != nil {
		t.Error(err)
	}
}

// The library must not keep what net/http made for the request.
func TestSlimLetsGoOfTheRequest(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{})
	var kept http.ResponseWriter
	h := slim(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kept = w
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_ = conn.Close()
		go func() { <-r.Context().Done(); close(ended) }()
	}))
	server := httptest.NewServer(h)
	defer server.Close()
	s := &roomServer{t: t, http: server}
	_, _, _ = websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(s.address("websocket", ""), "http"), nil)
	<-ended
	if _, ok := kept.(*slimWriter).ResponseWriter.(goneWriter); !ok {
		t.Error("the response is kept")
	}
	if _, err := kept.Write(nil); !errors.Is(err, http.ErrHijacked) {
		t.Errorf("written: %v", err)
	}
}

// Whatever strangers send over a WebSocket, the server answers or closes, and goes on serving.
func FuzzWebSocketPackets(f *testing.F) {
	f.Add([]byte(`42["echo",{"__proto__":1},1e999]`), true)
	f.Add([]byte(`451-["echo",{"_placeholder":true,"num":0}]`), true)
	f.Add([]byte(`450-["echo",{"_placeholder":true,"num":-1}]`), true)
	f.Add([]byte(`459-["echo",{"_placeholder":true,"num":1e400}]`), true)
	f.Add([]byte("b!!!!"), true)
	f.Add([]byte("2probe"), true)
	f.Add([]byte("40"), true)
	f.Add([]byte("41"), true)
	f.Add([]byte("6"), true)
	f.Add([]byte{0xff, 0, 0x1e}, true)
	f.Add([]byte{1, 2, 3}, false)
	f.Add([]byte("42"+strings.Repeat("[", 20_000)), true)
	f.Add([]byte("4218446744073709551616[\"echo\"]"), true)
	server := startRoomServer(f, 1<<20)
	f.Fuzz(func(t *testing.T, data []byte, text bool) {
		s := server.in(t)
		kind := websocket.BinaryMessage
		if text {
			kind = websocket.TextMessage
		}
		for len(s.sockets) > 0 { // of a CONNECT in the packets before
			<-s.sockets
		}
		c, sock := s.open()
		if err := c.WriteMessage(kind, data); err != nil {
			t.Fatal(err)
		}
		c.expectPongOrClose()
		_ = c.Close()
		for <-s.gone != sock.Id() { // the library may tell twice of the one before
		}
	})
}

// expectPongOrClose reads until the server has read everything that was sent, or closed the connection.
func (c *rawClient) expectPongOrClose() {
	c.t.Helper()
	pong := errors.New("pong")
	c.SetPongHandler(func(string) error { return pong })
	_ = c.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second))
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		kind, p, err := c.ReadMessage()
		switch {
		case errors.Is(err, pong):
			return
		case err != nil:
			if isTimeout(err) {
				c.t.Fatal("neither read nor closed")
			}
			return
		case kind == websocket.TextMessage && bytes.HasPrefix(p, []byte("42")) && !json.Valid(p[2:]):
			c.t.Fatalf("the server sent %q", p)
		}
	}
}
