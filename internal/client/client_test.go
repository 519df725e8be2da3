package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	openPacket    = `0{"sid":"engine","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}`
	connectPacket = `40{"sid":"socket"}`
)

// peer is the server's end of one connection, as a script sees it.
type peer struct {
	t  *testing.T
	ws *websocket.Conn
	r  *http.Request
}

func (p *peer) send(packets ...string) {
	for _, packet := range packets {
		if err := p.ws.WriteMessage(websocket.TextMessage, []byte(packet)); err != nil {
			p.t.Logf("server: %v", err)
		}
	}
}

// next returns what the client sent next, or nothing when it left.
func (p *peer) next() string {
	_, data, err := p.ws.ReadMessage()
	if err != nil {
		return ""
	}
	return string(data)
}

// accept does the handshake and returns the auth of the client's CONNECT.
func (p *peer) accept() string {
	p.send(openPacket)
	auth := strings.TrimPrefix(p.next(), "40")
	p.send(connectPacket)
	return auth
}

// serve runs one script per connection, in turn; the last one again and again. The connection closes with its script.
func serve(t *testing.T, scripts ...func(*peer)) string {
	t.Helper()
	turns := make(chan func(*peer), len(scripts))
	for _, script := range scripts[:len(scripts)-1] {
		turns <- script
	}
	upgrader := websocket.Upgrader{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ws.Close()
		script := scripts[len(scripts)-1]
		select {
		case script = <-turns:
		default:
		}
		script(&peer{t: t, ws: ws, r: r})
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func dial(t *testing.T, o Options) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestDialHandshake(t *testing.T) {
	t.Parallel()
	seen := make(chan string, 3)
	url := serve(t, func(p *peer) {
		seen <- p.r.URL.String()
		seen <- p.accept()
		p.next()
	})
	c := dial(t, Options{URL: url, Token: `a"b`, Cursor: "c1"})
	if got := <-seen; got != "/socket.io/?EIO=4&transport=websocket" {
		t.Errorf("asked for %s", got)
	}
	if got := <-seen; got != `{"cursor":"c1","token":"a\"b"}` {
		t.Errorf("auth %s", got)
	}
	if c.ID() != "socket" {
		t.Errorf("id %q", c.ID())
	}
}

func TestEmptyCursorIsNotSent(t *testing.T) {
	t.Parallel()
	auth := make(chan string, 1)
	url := serve(t, func(p *peer) { auth <- p.accept() })
	dial(t, Options{URL: url, Token: "t"})
	if got := <-auth; got != `{"token":"t"}` {
		t.Errorf("auth %s", got)
	}
}

func TestNextReadsEventsAndAnswersPings(t *testing.T) {
	t.Parallel()
	url := serve(t, func(p *peer) {
		p.accept()
		p.send("2")
		if got := p.next(); got != "3" {
			t.Errorf("a ping was answered with %q", got)
		}
		p.send("6", `42["message:new",{"id":1,"content":"a \"cursor\":\"no\"","data":{"cursor":"nested"},"cursor":"c7"}]`, `42["bare"]`, `427["asks",[1]]`)
		p.next()
	})
	c := dial(t, Options{URL: url, Token: "t"})
	want := []Event{
		{Name: "message:new", Payload: json.RawMessage(`{"id":1,"content":"a \"cursor\":\"no\"","data":{"cursor":"nested"},"cursor":"c7"}`), Cursor: "c7"},
		{Name: "bare"},
		{Name: "asks", Payload: json.RawMessage(`[1]`)},
	}
	for _, w := range want {
		got, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		if got.Name != w.Name || !bytes.Equal(got.Payload, w.Payload) || got.Cursor != w.Cursor {
			t.Errorf("got %+v, want %+v", got, w)
		}
	}
}

func TestNextFrameIsAsItCame(t *testing.T) {
	t.Parallel()
	const frame = `42["message:new",{ "id" : 1 }]`
	url := serve(t, func(p *peer) {
		p.accept()
		p.send("2", frame)
		p.next()
		p.next()
	})
	got, err := dial(t, Options{URL: url, Token: "t"}).NextFrame()
	if err != nil || string(got) != frame {
		t.Fatalf("got %q, %v", got, err)
	}
}

// The buffer is used again for each frame, and one of a megabyte is let go: neither may mix up the bytes.
func TestFramesOfAllSizes(t *testing.T) {
	t.Parallel()
	sizes := []int{0, 1, 100, 3000, 70_000, 1_000_000, 10, 200_000, 5}
	url := serve(t, func(p *peer) {
		p.accept()
		for _, size := range sizes {
			p.send(`42["x","` + strings.Repeat("a", size) + `"]`)
		}
		p.next()
	})
	c := dial(t, Options{URL: url, Token: "t"})
	for _, size := range sizes {
		event, err := c.Next()
		if err != nil || len(event.Payload) != size+2 {
			t.Fatalf("size %d: payload of %d, %v", size, len(event.Payload), err)
		}
	}
}

func TestEmitAndAcknowledgement(t *testing.T) {
	t.Parallel()
	emitted := make(chan string, 3)
	url := serve(t, func(p *peer) {
		p.accept()
		for range 3 {
			emitted <- p.next()
		}
		p.send(`432[{"ok":false}]`, `431[]`, `4399[{"nobody":"asked"}]`, `42["end"]`)
		p.next()
	})
	c := dial(t, Options{URL: url, Token: "t"})
	var first, second []string
	note := func(to *[]string) func(json.RawMessage) {
		return func(answer json.RawMessage) { *to = append(*to, string(answer)) }
	}
	for _, err := range []error{
		c.Emit("subscribe:chat", 42, note(&first)),
		c.Emit("subscribe:chat", map[string]int{"chatId": 43}, note(&second)),
		c.Emit("typing:start", "42", nil),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{`421["subscribe:chat",42]`, `422["subscribe:chat",{"chatId":43}]`, `42["typing:start","42"]`} {
		if got := <-emitted; got != want {
			t.Errorf("sent %s, want %s", got, want)
		}
	}
	if event, err := c.Next(); err != nil || event.Name != "end" {
		t.Fatalf("got %+v, %v", event, err)
	}
	if len(first) != 1 || first[0] != "" || len(second) != 1 || second[0] != `{"ok":false}` {
		t.Errorf("acknowledged with %q and %q", first, second)
	}
}

func TestDialRefused(t *testing.T) {
	t.Parallel()
	url := serve(t, func(p *peer) {
		p.send(openPacket)
		p.next()
		p.send(`44{"message":"Authentication error: Token expired","data":{"code":"token_expired"}}`)
		p.next()
	})
	_, err := Dial(t.Context(), Options{URL: url, Token: "t"})
	var refused *ConnectError
	if !errors.As(err, &refused) || refused.Code != "token_expired" || refused.Message != "Authentication error: Token expired" {
		t.Fatalf("got %v", err)
	}
}

func TestDialErrors(t *testing.T) {
	t.Parallel()
	notFound := httptest.NewServer(http.NotFoundHandler())
	defer notFound.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	tests := []struct {
		name string
		url  string
		want func(error) bool
	}{
		{"404", notFound.URL, func(err error) bool { var s *StatusError; return errors.As(err, &s) && s.Status == 404 }},
		{"nobody listens", gone.URL, func(err error) bool { return err != nil }},
		{"no scheme", "localhost:3000", func(err error) bool { return err != nil }},
		{"ftp", "ftp://localhost", func(err error) bool { return err != nil }},
		{"no host", "http://", func(err error) bool { return err != nil }},
		{"engine 3's open packet", serve(t, func(p *peer) { p.send("0{}"); p.next() }), func(err error) bool { return errors.Is(err, ErrProtocol) }},
		{"connect without an id", serve(t, func(p *peer) { p.send(openPacket); p.next(); p.send("40"); p.next() }), func(err error) bool { return errors.Is(err, ErrProtocol) }},
		{"an event first", serve(t, func(p *peer) { p.send(openPacket); p.next(); p.send(`42["x"]`); p.next() }), func(err error) bool { return errors.Is(err, ErrProtocol) }},
		{"closed before the answer", serve(t, func(p *peer) { p.send(openPacket) }), func(err error) bool { return err != nil }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Dial(t.Context(), Options{URL: test.url, Token: "t"})
			if !test.want(err) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

// A server that upgrades and then says nothing is given up when the context ends.
func TestDialEndsWithContext(t *testing.T) {
	t.Parallel()
	url := serve(t, func(p *peer) { p.next() })
	_, err := Dial(t.Context(), Options{URL: url, Token: "t", ConnectTimeout: 50 * time.Millisecond})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}

func TestEndpoint(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"http://localhost:3000":         "ws://localhost:3000/socket.io/?EIO=4&transport=websocket",
		"http://localhost:3000/":        "ws://localhost:3000/socket.io/?EIO=4&transport=websocket",
		"https://example.com/rt":        "wss://example.com/rt/?EIO=4&transport=websocket",
		"wss://example.com/socket.io/":  "wss://example.com/socket.io/?EIO=4&transport=websocket",
		"ws://[::1]:3000#fragment":      "ws://[::1]:3000/socket.io/?EIO=4&transport=websocket",
		"http://example.com/socket.io?": "ws://example.com/socket.io/?EIO=4&transport=websocket",
	}
	for base, want := range tests {
		if got, err := endpoint(base); err != nil || got != want {
			t.Errorf("%s: got %s, %v; want %s", base, got, err, want)
		}
	}
}

func TestConnectionEnds(t *testing.T) {
	t.Parallel()
	short := strings.Replace(strings.Replace(openPacket, "25000", "20", 1), "20000", "30", 1)
	after := func(packets ...string) func(*peer) {
		return func(p *peer) { p.accept(); p.send(packets...); p.next() }
	}
	tests := []struct {
		name   string
		script func(*peer)
		want   func(error) bool
	}{
		{"disconnect packet", after("41"), func(err error) bool { return errors.Is(err, ErrDisconnected) }},
		{"engine close packet", after("1"), func(err error) bool { return errors.Is(err, io.EOF) }},
		{"transport closed", func(p *peer) { p.accept() }, func(err error) bool { return err != nil && !final(err) }},
		{"no ping in time", func(p *peer) { p.send(short); p.next(); p.send(connectPacket); p.next() }, func(err error) bool { return errors.Is(err, ErrPingTimeout) }},
		{"binary event", after(`451-["x",{"_placeholder":true,"num":0}]`), func(err error) bool { return errors.Is(err, ErrBinary) }},
		{"binary frame", func(p *peer) { p.accept(); _ = p.ws.WriteMessage(websocket.BinaryMessage, []byte("x")); p.next() }, func(err error) bool { return errors.Is(err, ErrBinary) }},
		{"empty packet", after(""), func(err error) bool { return errors.Is(err, ErrProtocol) }},
		{"empty message", after("4"), func(err error) bool { return errors.Is(err, ErrProtocol) }},
		{"unknown engine packet", after("9"), func(err error) bool { return errors.Is(err, ErrProtocol) }},
		{"unknown socket packet", after("49"), func(err error) bool { return errors.Is(err, ErrProtocol) }},
		{"event that is no list", after(`42{"a":1}`), func(err error) bool { return errors.Is(err, ErrProtocol) }},
		{"event with a number as name", after(`42[1]`), func(err error) bool { return errors.Is(err, ErrProtocol) }},
		{"event cut short", after(`42["x",{`), func(err error) bool { return errors.Is(err, ErrProtocol) }},
		{"acknowledgement without a number", after(`43[]`), func(err error) bool { return errors.Is(err, ErrProtocol) }},
		{"acknowledgement that is no list", after(`431{}`), func(err error) bool { return errors.Is(err, ErrProtocol) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := dial(t, Options{URL: serve(t, test.script), Token: "t"})
			if event, err := c.Next(); !test.want(err) {
				t.Fatalf("got %+v, %v", event, err)
			}
		})
	}
}

func TestDisconnectSaysSo(t *testing.T) {
	t.Parallel()
	heard := make(chan string, 1)
	url := serve(t, func(p *peer) { p.accept(); heard <- p.next() })
	c := dial(t, Options{URL: url, Token: "t"})
	if err := c.Disconnect(); err != nil {
		t.Fatal(err)
	}
	if got := <-heard; got != "41" {
		t.Fatalf("heard %q", got)
	}
}

func FuzzParseEvent(f *testing.F) {
	f.Add([]byte(`42["message:new",{"id":1,"cursor":"c"}]`))
	f.Add([]byte(`4217["x"]`))
	f.Add([]byte(`42[null,1]`))
	f.Add([]byte(`42[]`))
	f.Fuzz(func(t *testing.T, packet []byte) {
		event, err := ParseEvent(packet)
		if err == nil && event.Payload != nil && !json.Valid(event.Payload) {
			t.Fatalf("payload %q", event.Payload)
		}
	})
}
