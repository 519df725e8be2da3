package realtime

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"roombell/internal/auth"
	"roombell/internal/eventlog"
)

const patience = 10 * time.Second

// house is who there is and what they may see: the tests' own Attacher, Authenticator and Access. A token is
// "user/organization", optionally followed by "/seconds to live".
type house struct {
	mu    sync.Mutex
	users map[int64]User
	chats map[int64]map[int64]bool // by chat: who sees it
	away  error                    // what every question is answered with
	gate  chan struct{}            // when not nil, questions about chats wait for it
	asked chan int64               // when not nil, told of each question about a chat
}

func newHouse(users ...User) *house {
	h := &house{users: map[int64]User{}, chats: map[int64]map[int64]bool{}}
	for _, u := range users {
		u.Active = true
		h.users[u.ID] = u
	}
	return h
}

func (h *house) change(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

func (h *house) show(chatID int64, users ...int64) {
	h.change(func() {
		h.chats[chatID] = map[int64]bool{}
		for _, id := range users {
			h.chats[chatID][id] = true
		}
	})
}

func (h *house) Attach(f func(eventlog.Cursor, error)) { go f(eventlog.Cursor{}, nil) }

func (h *house) Verify(_ context.Context, token string) (auth.Identity, error) {
	id := auth.Identity{ExpiresAt: time.Now().Add(time.Hour)}
	seconds := 0.0
	switch n, _ := fmt.Sscanf(token, "%d/%d/%g", &id.UserID, &id.OrganizationID, &seconds); {
	case token == "":
		return id, auth.ErrNoToken
	case n < 2:
		return id, auth.ErrInvalidToken
	case n == 3:
		id.ExpiresAt = time.Now().Add(time.Duration(seconds * float64(time.Second)))
	}
	if id.ExpiresAt.Before(time.Now().Add(-leeway)) {
		return id, auth.ErrTokenExpired
	}
	return id, nil
}

func (h *house) Users(_ context.Context, ids []int64) ([]User, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away != nil {
		return nil, h.away
	}
	var users []User
	for _, id := range ids {
		if u, ok := h.users[id]; ok {
			users = append(users, u)
		}
	}
	return users, nil
}

// Rights takes every chat of the house for a restricted one.
func (h *house) Rights(_ context.Context, chatIDs []int64) ([]ChatRights, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away != nil {
		return nil, h.away
	}
	var rights []ChatRights
	for _, id := range chatIDs {
		if seers, ok := h.chats[id]; ok {
			rights = append(rights, ChatRights{ChatID: id, Restricted: true, Users: slices.Collect(maps.Keys(seers))})
		}
	}
	return rights, nil
}

func (h *house) Chat(ctx context.Context, userID, _, chatID int64) error {
	h.mu.Lock()
	err := h.away
	if err == nil && !h.chats[chatID][userID] {
		err = ErrNotFound
	}
	gate, asked := h.gate, h.asked
	h.mu.Unlock()
	if asked != nil {
		asked <- chatID
	}
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

func (h *house) Chats(_ context.Context, userID int64, chatIDs []int64) ([]int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away != nil {
		return nil, h.away
	}
	var seen []int64
	for _, id := range chatIDs {
		if h.chats[id][userID] {
			seen = append(seen, id)
		}
	}
	return seen, nil
}

// node is a running Server.
type node struct {
	*Server
	url  string
	stop context.CancelFunc
	done chan struct{}
}

// startNode runs a server until the test ends.
func startNode(t *testing.T, h *house, change ...func(*Options)) *node {
	t.Helper()
	o := Options{Tail: h, Tokens: h, Access: h, Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil))}
	for _, f := range change {
		f(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	n := &node{Server: s, stop: stop, done: make(chan struct{})}
	web := httptest.NewServer(s.Handler())
	n.url = web.URL
	go func() {
		defer close(n.done)
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		stop()
		<-n.done
		web.Close()
	})
	return n
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// wire is a client that knows Socket.IO 5 over Engine.IO 4 over a WebSocket, and nothing more: it can say anything.
type wire struct {
	t      *testing.T
	conn   *websocket.Conn
	mu     sync.Mutex
	events []heard       // all that came
	more   chan struct{} // signals events
	closed chan struct{}
	acks   atomic.Int64
}

// heard is a packet of the server: type 2 (EVENT) with its name, 3 (ACK) with its id as the name, 4 (CONNECT_ERROR).
type heard struct {
	name string
	body map[string]any
}

// dial opens a WebSocket and sends CONNECT with the token, if there is one.
func dial(t *testing.T, n *node, token string) *wire {
	t.Helper()
	w := connect(t, n, nil)
	if token != "" {
		w.send(`40{"token":"` + token + `"}`)
	}
	return w
}

func connect(t *testing.T, n *node, header http.Header) *wire {
	t.Helper()
	address := "ws" + strings.TrimPrefix(n.url, "http") + "/socket.io/?EIO=4&transport=websocket"
	conn, resp, err := websocket.DefaultDialer.Dial(address, header)
	if err != nil {
		t.Fatalf("dial: %v (%v)", err, resp)
	}
	w := &wire{t: t, conn: conn, more: make(chan struct{}, 1), closed: make(chan struct{})}
	go w.read()
	t.Cleanup(func() { _ = conn.Close() })
	return w
}

// join is dial that waits for connected.
func join(t *testing.T, n *node, token string) *wire {
	t.Helper()
	w := dial(t, n, token)
	w.wait("connected")
	return w
}

func (w *wire) send(packet string) {
	w.t.Helper()
	if err := w.conn.WriteMessage(websocket.TextMessage, []byte(packet)); err != nil {
		w.t.Fatalf("send: %v", err)
	}
}

func (w *wire) emit(event string, arg any) {
	w.t.Helper()
	w.send("42" + encode(w.t, []any{event, arg}))
}

// ask emits with an acknowledgement and returns it.
func (w *wire) ask(event string, arg any) map[string]any {
	w.t.Helper()
	id := w.acks.Add(1)
	w.send(fmt.Sprintf("42%d%s", id, encode(w.t, []any{event, arg})))
	return w.wait(fmt.Sprintf("ack %d", id))
}

func encode(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (w *wire) read() {
	defer close(w.closed)
	for {
		_, data, err := w.conn.ReadMessage()
		if err != nil {
			return
		}
		if string(data) == "2" {
			_ = w.conn.WriteMessage(websocket.TextMessage, []byte("3"))
			continue
		}
		if h, ok := parseHeard(string(data)); ok {
			w.mu.Lock()
			w.events = append(w.events, h)
			w.mu.Unlock()
			select {
			case w.more <- struct{}{}:
			default:
			}
		}
	}
}

func parseHeard(packet string) (heard, bool) {
	if len(packet) < 2 || packet[0] != '4' {
		return heard{}, false
	}
	body := strings.TrimLeft(packet[2:], "0123456789")
	id := packet[2 : len(packet)-len(body)]
	h := heard{name: "packet " + packet[1:2]}
	switch packet[1] {
	case '2':
		var args []json.RawMessage
		if json.Unmarshal([]byte(body), &args) != nil || len(args) < 2 {
			return heard{}, false
		}
		_ = json.Unmarshal(args[0], &h.name)
		_ = json.Unmarshal(args[1], &h.body)
	case '3':
		var args []map[string]any
		if json.Unmarshal([]byte(body), &args) != nil || len(args) != 1 {
			return heard{}, false
		}
		h.name, h.body = "ack "+id, args[0]
	default:
		_ = json.Unmarshal([]byte(body), &h.body)
	}
	return h, true
}

// wait takes the first packet of that name out of what came, and waits for it when there is none yet.
func (w *wire) wait(name string) map[string]any {
	w.t.Helper()
	deadline := time.After(patience)
	for {
		if h, ok := w.take(name); ok {
			return h.body
		}
		select {
		case <-w.more:
		case <-deadline:
			w.t.Fatalf("no %s; came: %v", name, w.names())
		case <-w.closed:
			if h, ok := w.take(name); ok {
				return h.body
			}
			w.t.Fatalf("closed before %s; came: %v", name, w.names())
		}
	}
}

func (w *wire) take(name string) (heard, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, h := range w.events {
		if h.name == name {
			w.events = append(w.events[:i:i], w.events[i+1:]...)
			return h, true
		}
	}
	return heard{}, false
}

func (w *wire) names() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for _, h := range w.events {
		names = append(names, h.name)
	}
	return names
}

// silent makes a round trip, and fails if an event of the name came before its end.
func (w *wire) silent(name string) {
	w.t.Helper()
	w.ask("presence:list", nil)
	if h, ok := w.take(name); ok {
		w.t.Errorf("heard %s %v", name, h.body)
	}
}

func (w *wire) waitClosed() {
	w.t.Helper()
	select {
	case <-w.closed:
	case <-time.After(patience):
		w.t.Fatalf("still open; came: %v", w.names())
	}
}

// eventually polls for what has no signal.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("never: ", what)
		}
		<-tick.C
	}
}

func TestHandshake(t *testing.T) {
	h := newHouse(User{ID: 7, OrganizationID: 3, Email: "a@x"}, User{ID: 8, OrganizationID: 3})
	h.change(func() {
		u := h.users[8]
		u.Active = false
		h.users[8] = u
	})
	n := startNode(t, h)
	for _, test := range []struct{ name, packet, code, message string }{
		{"no auth", `40`, "no_token", "Authentication error: No token provided"},
		{"empty token", `40{"token":""}`, "no_token", "Authentication error: No token provided"},
		{"null token", `40{"token":null}`, "no_token", "Authentication error: No token provided"},
		{"token of another type", `40{"token":{"a":1}}`, "invalid_token", "Authentication error: Invalid token"},
		{"garbage", `40{"token":"x"}`, "invalid_token", "Authentication error: Invalid token"},
		{"unknown user", `40{"token":"9/3"}`, "invalid_token", "Authentication error: Invalid token"},
		{"other organization", `40{"token":"7/4"}`, "invalid_token", "Authentication error: Invalid token"},
		{"expired", `40{"token":"7/3/-40"}`, "token_expired", "Authentication error: Token expired"},
		{"disabled", `40{"token":"8/3"}`, "user_disabled", "Authentication error: User disabled"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := dial(t, n, "")
			w.send(test.packet)
			refused := w.wait("packet 4")
			data, _ := refused["data"].(map[string]any)
			if refused["message"] != test.message || data["code"] != test.code {
				t.Errorf("refused with %v", refused)
			}
			// The connection is still good for a better token.
			w.send(`40{"token":"7/3"}`)
			w.wait("connected")
		})
	}
}

func TestConnectedIsFirst(t *testing.T) {
	n := startNode(t, newHouse(User{ID: 7, OrganizationID: 3}))
	w := join(t, n, "7/3")
	if names := w.names(); len(names) == 0 || names[0] != "packet 0" {
		t.Errorf("came: %v", names)
	}
	other := dial(t, n, "7/3")
	connected := other.wait("connected")
	if connected["userId"] != 7.0 || connected["organizationId"] != 3.0 || connected["resumed"] != false || connected["message"] == "" {
		t.Errorf("connected %v", connected)
	}
	if _, err := time.Parse(time.RFC3339, connected["timestamp"].(string)); err != nil {
		t.Error(err)
	}
}

func TestTokenInHeader(t *testing.T) {
	n := startNode(t, newHouse(User{ID: 7, OrganizationID: 3}))
	w := connect(t, n, http.Header{"Authorization": {"bearer 7/3"}})
	w.send("40")
	w.wait("connected")
}
