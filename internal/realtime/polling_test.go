package realtime

import (
	"bytes"
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/zishang520/socket.io/servers/socket/v3"
)

func TestPollWaitsForTheNextEvent(t *testing.T) {
	t.Parallel()
	s := startRoomServer(t, 1<<20)
	p, sock := s.joinPolling("org_1")
	got := make(chan []string, 1)
	go func() { got <- p.poll() }()
	until(t, "the poll waits", func() bool { return polls(sock) })
	ev, packet := number(1)
	s.adapter.deliver(toEverybody, "", ev)
	if g := <-got; !slices.Equal(g, []string{packet}) {
		t.Errorf("got %q", g)
	}
}

func polls(s *socket.Socket) bool {
	t := s.Conn().Transport().(*polling)
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.polled
}

func TestPollingRefusals(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, method, body string
		status             int
	}{
		{"no packet", http.MethodPost, "abc", http.StatusBadRequest},
		{"a packet, then none", http.MethodPost, "4hello\x1eabc", http.StatusBadRequest},
		{"empty", http.MethodPost, "", http.StatusBadRequest},
		{"only separators", http.MethodPost, "\x1e\x1e", http.StatusBadRequest},
		{"bad base64", http.MethodPost, "b!", http.StatusBadRequest},
		{"too long", http.MethodPost, "4" + strings.Repeat("x", protocolMaxPayload), http.StatusRequestEntityTooLarge},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := startRoomServer(t, 1<<20)
			p, _ := s.joinPolling("org_1")
			p.expect(test.method, test.body, test.status)
			<-s.gone
			p.expect(http.MethodGet, "", http.StatusBadRequest)
		})
	}
}

func TestPollingIgnoresOtherMethods(t *testing.T) {
	t.Parallel()
	s := startRoomServer(t, 1<<20)
	p, _ := s.joinPolling("org_1")
	p.expect(http.MethodDelete, "", http.StatusMethodNotAllowed)
	s.adapter.deliver(toEverybody, "", encodeEvent("x", nil))
	if got := p.poll(); !slices.Equal(got, []string{`42["x"]`}) {
		t.Errorf("got %q", got)
	}
}

// A poll that its client gives up ends the session, and no later request finds it: the library's transport takes the next
// poll (servers/engine/v3 v3.0.5 transports/polling.go:133).
func TestPollGivenUpEndsTheSession(t *testing.T) {
	t.Parallel()
	s := startRoomServer(t, 1<<20)
	for range 50 {
		p, sock := s.joinPolling("org_1")
		p.giveUp(sock)
		p.expect(http.MethodGet, "", http.StatusBadRequest) // at once
		<-s.gone

		p, sock = s.joinPolling("org_1")
		p.giveUp(sock)
		<-s.gone // without another request
	}
}

// giveUp polls, and hangs up when the poll waits.
func (c *pollingClient) giveUp(sock *socket.Socket) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.address("polling", c.sid), nil)
	if err != nil {
		c.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
			c.t.Error("answered")
		}
	}()
	until(c.t, "the poll waits", func() bool { return polls(sock) })
	cancel()
	<-done
}

// An orderly close waits for the poll that takes what is left and CLOSE; a close at once does not.
func TestPollingClose(t *testing.T) {
	t.Parallel()
	s := startRoomServer(t, 1<<20)

	p, sock := s.joinPolling("org_1")
	sock.Disconnect(true)
	if got := p.poll(); !slices.Equal(got, []string{"41", "1"}) {
		t.Errorf("an orderly close says %q", got)
	}
	p.expect(http.MethodGet, "", http.StatusBadRequest)

	p, sock = s.joinPolling("org_1")
	sock.Conn().Close(true)
	p.expect(http.MethodGet, "", http.StatusBadRequest)

	p, sock = s.joinPolling("org_1")
	got := make(chan []string, 1)
	go func() { got <- p.poll() }()
	until(t, "the poll waits", func() bool { return polls(sock) })
	sock.Conn().Close(true)
	if g := <-got; !slices.Equal(g, []string{"1"}) {
		t.Errorf("a poll that waits is told %q", g)
	}
}

// Everything that is sent while sessions are upgraded comes once and in order: over polls, then over the WebSocket.
func TestUpgradeKeepsOrder(t *testing.T) {
	t.Parallel()
	const clients = 10
	s := startRoomServer(t, 64<<20)
	var upgraded, all sync.WaitGroup
	var sessions []*pollingClient
	for range clients {
		p, _ := s.joinPolling("org_1")
		sessions = append(sessions, p)
	}
	upgraded.Add(clients)
	for _, p := range sessions {
		all.Go(func() {
			got := p.poll()
			c := s.dial(p.sid)
			c.write("2probe")
			c.expect("3probe")
			got = append(got, p.poll()...) // the poll that was under way; a client then polls no more
			c.write("5")
			got = append(got, c.next())
			upgraded.Done()
			for got[len(got)-1] != `42["end"]` {
				got = append(got, c.next())
			}
			for i, packet := range slices.DeleteFunc(got[:len(got)-1], func(packet string) bool { return packet == "6" }) {
				if _, want := number(i); packet != want {
					t.Errorf("got %q, want %q", packet, want)
					return
				}
			}
		})
	}
	s.deliverUntil(&upgraded, clients)
	all.Wait()
}

func TestUpgradeThatIsGivenUpLeavesTheSession(t *testing.T) {
	t.Parallel()
	s := startRoomServer(t, 1<<20)
	p, _ := s.joinPolling("org_1")
	c := s.dial(p.sid)
	c.write("2probe")
	c.expect("3probe")
	_ = c.Close()
	for i := range 3 {
		ev, packet := number(i)
		s.adapter.deliver(toEverybody, "", ev)
		got := slices.DeleteFunc(p.poll(), func(packet string) bool { return packet == "6" })
		for len(got) == 0 { // NOOP for the upgrade
			got = p.poll()
		}
		if !slices.Equal(got, []string{packet}) {
			t.Fatalf("got %q", got)
		}
	}
}

// The engine left a timer ticking for ever when a session ended while the probe of its upgrade was answered: TestMain finds what is left.
func TestSessionThatEndsInItsUpgradeLeavesNothing(t *testing.T) {
	t.Parallel()
	s := startRoomServer(t, 1<<20)
	var ended sync.WaitGroup
	for range 300 {
		p, sock := s.joinPolling("org_1")
		c := s.dial(p.sid)
		ended.Go(func() { c.write("2probe") })
		ended.Go(func() { sock.Conn().Close(true) })
	}
	ended.Wait()
}

// Whatever strangers post, the server answers it, and goes on serving.
func FuzzPollingPayload(f *testing.F) {
	f.Add([]byte("40"))
	f.Add([]byte("4hello\x1ebAQIDBA=="))
	f.Add([]byte("\x1e\x1e4\x1e"))
	f.Add([]byte("b"))
	f.Add([]byte("1\x1e4late"))
	f.Add([]byte("3\x1e3\x1e3"))
	f.Add([]byte("5"))
	f.Add([]byte("2probe"))
	f.Add([]byte("0{}"))
	f.Add([]byte{0xff, 0xfe, 0x1e, 0})
	f.Add(bytes.Repeat([]byte("4\x1e"), 5000))
	f.Add([]byte("4" + strings.Repeat("{\"a\":", 11_000)))
	server := startRoomServer(f, 1<<20)
	f.Fuzz(func(t *testing.T, body []byte) {
		s := server.in(t)
		p := s.openPolling()
		status, answer := p.do(http.MethodPost, string(body))
		switch status {
		case http.StatusOK:
			if answer != "ok" {
				t.Fatalf("answered %q", answer)
			}
		case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
			p.expect(http.MethodGet, "", http.StatusBadRequest)
		default:
			t.Fatalf("status %d", status)
		}
		if conn, ok := s.io.Engine().Clients().Load(p.sid); ok {
			conn.Close(true)
		}
		for len(s.sockets) > 0 {
			<-s.sockets
		}
		for len(s.gone) > 0 {
			<-s.gone
		}
	})
}
