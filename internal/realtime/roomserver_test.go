package realtime

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/zishang520/socket.io/servers/socket/v3"
)

// roomServer is a Socket.IO server on our transports and adapter, without the house's rules. A socket joins the rooms that
// its auth names in a middleware, and so is held.
type roomServer struct {
	t       testing.TB
	io      *socket.Server
	adapter *adapter
	http    *httptest.Server
	sockets chan *socket.Socket // connected
	gone    chan socket.SocketId
}

func startRoomServer(t testing.TB, sendQueue int) *roomServer {
	t.Helper()
	s := newRoomServer(t, transportOptions{SendQueue: sendQueue})
	s.http.Start()
	return s
}

// newRoomServer makes a server that the test has to start. It ends with the test.
func newRoomServer(t testing.TB, wire transportOptions) *roomServer {
	t.Helper()
	wire.PingTimeout = 20 * time.Second
	o := socket.DefaultServerOptions()
	o.SetTransports(newTransports(wire))
	o.SetAdapter(&adapterBuilder{sendQueue: wire.SendQueue})
	o.SetPingInterval(25 * time.Second)
	o.SetPingTimeout(20 * time.Second)
	o.SetMaxHttpBufferSize(protocolMaxPayload)
	s := &roomServer{
		t: t, io: socket.NewServer(nil, o),
		sockets: make(chan *socket.Socket, 1<<12), gone: make(chan socket.SocketId, 1<<12),
	}
	s.adapter = s.io.Sockets().Adapter().(*adapter)
	s.io.Use(func(sock *socket.Socket, next func(*socket.ExtendedError)) {
		names, _ := sock.Handshake().Auth["rooms"].([]any)
		for _, name := range names {
			sock.Join(socket.Room(name.(string)))
		}
		next(nil)
	})
	_ = s.io.On("connection", func(args ...any) {
		sock := args[0].(*socket.Socket)
		_ = sock.On("disconnect", func(...any) { s.gone <- sock.Id() })
		_ = sock.On("echo", func(args ...any) { _ = sock.Emit("echo", args...) })
		s.sockets <- sock
	})
	s.http = httptest.NewUnstartedServer(mount(s.io, o))
	t.Cleanup(func() {
		s.io.Engine().Close()
		s.http.Close()
	})
	return s
}

// in is the server as a subtest, or the target of a fuzz test, uses it.
func (s *roomServer) in(t testing.TB) *roomServer {
	c := *s
	c.t = t
	return &c
}

// open connects a WebSocket client to rooms, and returns it with its socket, which is held if there are rooms.
func (s *roomServer) open(rooms ...string) (*rawClient, *socket.Socket) {
	s.t.Helper()
	c := s.dial("")
	c.next() // OPEN
	c.write(connectPacket(rooms))
	c.next() // CONNECT
	return c, s.socket()
}

func connectPacket(rooms []string) string {
	if len(rooms) == 0 {
		return "40"
	}
	return fmt.Sprintf(`40{"rooms":["%s"]}`, strings.Join(rooms, `","`))
}

// join is open that releases the socket.
func (s *roomServer) join(rooms ...string) (*rawClient, *socket.Socket) {
	s.t.Helper()
	c, sock := s.open(rooms...)
	s.adapter.release(sock.Id())
	return c, sock
}

func (s *roomServer) socket() *socket.Socket {
	s.t.Helper()
	select {
	case sock := <-s.sockets:
		return sock
	case <-time.After(10 * time.Second):
		s.t.Fatal("no socket has connected")
		return nil
	}
}

func (s *roomServer) address(transport, sid string) string {
	address := s.http.URL + "/socket.io/?EIO=4&transport=" + transport
	if sid != "" {
		address += "&sid=" + sid
	}
	return address
}

// dial opens a WebSocket, as the upgrade of a session unless sid is empty.
func (s *roomServer) dial(sid string) *rawClient {
	s.t.Helper()
	d := websocket.Dialer{}
	if tr, ok := s.http.Client().Transport.(*http.Transport); ok {
		d.TLSClientConfig = tr.TLSClientConfig.Clone()
	}
	if d.TLSClientConfig != nil {
		d.TLSClientConfig.NextProtos = nil // no HTTP/2
	}
	conn, _, err := d.Dial("ws"+strings.TrimPrefix(s.address("websocket", sid), "http"), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	return &rawClient{s.t, conn}
}

// rawClient is a client that sees every packet.
type rawClient struct {
	t testing.TB
	*websocket.Conn
}

func (c *rawClient) write(packet string) {
	c.t.Helper()
	if err := c.WriteMessage(websocket.TextMessage, []byte(packet)); err != nil {
		c.t.Fatal(err)
	}
}

// next is the next packet.
func (c *rawClient) next() string {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, p, err := c.ReadMessage()
	if err != nil {
		c.t.Fatal(err)
	}
	return string(p)
}

// expect reads these packets.
func (c *rawClient) expect(packets ...string) {
	c.t.Helper()
	for _, want := range packets {
		if got := c.next(); got != want {
			c.t.Fatalf("got %.200q, want %.200q", got, want)
		}
	}
}

// expectClosed reads until the connection ends.
func (c *rawClient) expectClosed() error {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		if _, _, err := c.ReadMessage(); err != nil {
			if isTimeout(err) {
				c.t.Fatal("the connection is still open")
			}
			return err
		}
	}
}

// pollingClient is a session over long-polling.
type pollingClient struct {
	*roomServer
	sid string
}

func (s *roomServer) openPolling() *pollingClient {
	s.t.Helper()
	_, body := (&pollingClient{s, ""}).do(http.MethodGet, "")
	sid, _, _ := strings.Cut(body[strings.Index(body, `"sid":"`)+len(`"sid":"`):], `"`)
	return &pollingClient{s, sid}
}

// joinPolling connects to rooms, and releases the socket.
func (s *roomServer) joinPolling(rooms ...string) (*pollingClient, *socket.Socket) {
	s.t.Helper()
	c := s.openPolling()
	c.expect(http.MethodPost, connectPacket(rooms), http.StatusOK)
	sock := s.socket()
	c.expect(http.MethodGet, "", http.StatusOK) // CONNECT
	s.adapter.release(sock.Id())
	return c, sock
}

func (c *pollingClient) do(method, body string) (status int, answer string) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.address("polling", c.sid), strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	resp, err := c.http.Client().Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func (c *pollingClient) expect(method, body string, status int) string {
	c.t.Helper()
	got, answer := c.do(method, body)
	if got != status {
		c.t.Fatalf("%s %.100q: status %d %q, want %d", method, body, got, answer, status)
	}
	return answer
}

// poll gives the packets of one poll.
func (c *pollingClient) poll() []string {
	c.t.Helper()
	return strings.Split(c.expect(http.MethodGet, "", http.StatusOK), "\x1e")
}

// number is an event with a number, and its packet.
func number(i int) (*encodedEvent, string) {
	packet := fmt.Sprintf(`42["n",{"i":%d}]`, i)
	return encodeEvent("n", fmt.Appendf(nil, `{"i":%d}`, i)), packet
}

// deliverUntil delivers numbers to org_1, one after the other, until ready is done and for a while after, and then `end`
// to so many sockets.
func (s *roomServer) deliverUntil(ready *sync.WaitGroup, sockets int) {
	s.t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); ready.Wait() }()
	for i, left := 0, 200; left > 0; i++ {
		select {
		case <-done:
			left--
		default:
		}
		ev, _ := number(i)
		s.adapter.deliver([]socket.Room{"org_1"}, "", ev)
		if i%10 == 0 {
			runtime.Gosched()
		}
	}
	if n := s.adapter.deliver([]socket.Room{"org_1"}, "", encodeEvent("end", nil)); n != sockets {
		s.t.Errorf("the end reached %d sockets of %d", n, sockets)
	}
}

// until waits for what gives no signal.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("never: ", what)
		}
	}
}
