package realtime

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// colleagues are two users of organization 3 and one of organization 4, with a chat 5 that the first two see.
func colleagues() *house {
	h := newHouse(
		User{ID: 7, OrganizationID: 3, Email: "seven@example.org"},
		User{ID: 8, OrganizationID: 3, Email: "eight@example.org"},
		User{ID: 9, OrganizationID: 4, Email: "nine@example.org"})
	h.show(5, 7, 8)
	return h
}

func quick(o *Options) {
	o.timing.typing = 150 * time.Millisecond
	o.timing.offline = 150 * time.Millisecond
	o.timing.linger = 20 * time.Millisecond
}

func fast(o *Options) { o.RateEvents, o.RateBurst = 1e6, 1e6 }

func codeOf(t *testing.T, answer map[string]any) string {
	t.Helper()
	if answer["ok"] == true {
		return ""
	}
	f, _ := answer["error"].(map[string]any)
	if message, _ := f["message"].(string); message == "" {
		t.Errorf("an error without a message: %v", answer)
	}
	code, _ := f["code"].(string)
	return code
}

func TestSubscribe(t *testing.T) {
	n := startNode(t, colleagues(), fast)
	w := join(t, n, "7/3")
	for _, arg := range []any{5, "5", map[string]any{"chatId": 5}, map[string]any{"chatId": "5"}, "0005"} {
		if answer := w.ask("subscribe:chat", arg); answer["ok"] != true || answer["chatId"] != 5.0 {
			t.Errorf("subscribe %v: %v", arg, answer)
		}
		if event, ok := w.take("subscribed:chat"); !ok || event.body["chatId"] != 5.0 {
			t.Errorf("subscribe %v: the event was not there before the acknowledgement", arg)
		}
	}
	if answer := w.ask("unsubscribe:chat", "5"); answer["ok"] != true {
		t.Error(answer)
	}
	if event := w.wait("unsubscribed:chat"); event["chatId"] != 5.0 {
		t.Error(event)
	}
	w.emit("subscribe:chat", 5)
	w.wait("subscribed:chat")
}

func TestSubscribeRefused(t *testing.T) {
	h := colleagues()
	n := startNode(t, h, fast)
	w := join(t, n, "9/4")
	for _, chatID := range []any{5, 6, "9223372036854775807"} {
		if code := codeOf(t, w.ask("subscribe:chat", chatID)); code != "chat_not_found" {
			t.Errorf("subscribe %v: %s", chatID, code)
		}
	}
	w.emit("subscribe:chat", 5)
	if event := w.wait("error"); event["code"] != "chat_not_found" || event["event"] != "subscribe:chat" {
		t.Error(event)
	}
	if code := codeOf(t, w.ask("typing:start", 5)); code != "not_subscribed" {
		t.Error(code)
	}
	h.change(func() { h.away = errors.New("away") })
	if code := codeOf(t, w.ask("subscribe:chat", 5)); code != "unavailable" {
		t.Error(code)
	}
}

func TestTooManyChats(t *testing.T) {
	h := colleagues()
	for id := range int64(maxChats + 1) {
		h.show(100+id, 7)
	}
	n := startNode(t, h, fast)
	w := join(t, n, "7/3")
	for id := range maxChats {
		if answer := w.ask("subscribe:chat", 100+id); answer["ok"] != true {
			t.Fatal(id, answer)
		}
	}
	if code := codeOf(t, w.ask("subscribe:chat", 100+maxChats)); code != "too_many_chats" {
		t.Error(code)
	}
	if answer := w.ask("subscribe:chat", 100); answer["ok"] != true {
		t.Error("a chat it has already: ", answer)
	}
	w.ask("unsubscribe:chat", 100)
	if answer := w.ask("subscribe:chat", 100+maxChats); answer["ok"] != true {
		t.Error("after one was left: ", answer)
	}
}

// A right that is lost while it is being asked for must not be gained by the old answer.
func TestRightLostWhileSubscribing(t *testing.T) {
	h := colleagues()
	n := startNode(t, h, fast)
	w := join(t, n, "7/3")
	gate, asked := make(chan struct{}), make(chan int64, 4)
	h.change(func() { h.gate, h.asked = gate, asked })
	w.send(`421["subscribe:chat",5]`)
	<-asked
	h.show(5, 8)
	n.Publish(batchOf(chatDeleted(3, 5, "access", 7)))
	close(gate)
	if code := codeOf(t, w.wait("ack 1")); code != "chat_not_found" {
		t.Error(code)
	}
	if code := codeOf(t, w.ask("typing:start", 5)); code != "not_subscribed" {
		t.Error(code)
	}
}

func TestTyping(t *testing.T) {
	n := startNode(t, colleagues(), fast, quick)
	typer, twin, other := join(t, n, "7/3"), join(t, n, "7/3"), join(t, n, "8/3")
	for _, w := range []*wire{typer, twin, other} {
		w.ask("subscribe:chat", 5)
	}
	typer.emit("typing:start", 5)
	start := other.wait("typing:start")
	if start["chatId"] != 5.0 || start["userId"] != 7.0 || start["userEmail"] != "seven@example.org" || start["timestamp"] == "" {
		t.Error(start)
	}
	typer.ask("typing:stop", 5)
	other.wait("typing:stop")
	twin.silent("typing:start")
	typer.silent("typing:start")
	other.silent("typing:stop")
}

func TestTypingEndsByItself(t *testing.T) {
	n := startNode(t, colleagues(), fast, quick)
	typer, other := join(t, n, "7/3"), join(t, n, "8/3")
	typer.ask("subscribe:chat", 5)
	other.ask("subscribe:chat", 5)
	typer.ask("typing:start", 5)
	// Another start in time: the first one's end must not end it.
	began := time.Now()
	eventually(t, "half of the lease", func() bool { return time.Since(began) > 75*time.Millisecond })
	typer.ask("typing:start", 5)
	renewed := time.Now()
	other.wait("typing:start")
	other.wait("typing:start")
	other.wait("typing:stop")
	if took := time.Since(renewed); took < 140*time.Millisecond {
		t.Errorf("ended %v after the second start", took)
	}
	other.silent("typing:stop")
}

func TestTypingEndsWithItsSocket(t *testing.T) {
	n := startNode(t, colleagues(), fast)
	typer, twin, other := join(t, n, "7/3"), join(t, n, "7/3"), join(t, n, "8/3")
	for _, w := range []*wire{typer, twin, other} {
		w.ask("subscribe:chat", 5)
	}
	typer.ask("typing:start", 5)
	twin.ask("typing:start", 5)
	_ = typer.conn.Close()
	eventually(t, "the first socket is gone", func() bool { return n.count(7) == 1 })
	other.silent("typing:stop") // the user still types on the other
	twin.send("41")
	other.wait("typing:stop")
	other.wait("chat:left")
}

// count is how many sockets the user has.
func (s *Server) count(userID int64) int { return len(s.sockets(userID)) }

func TestJoinedOnceAUser(t *testing.T) {
	n := startNode(t, colleagues(), fast)
	other := join(t, n, "8/3")
	other.ask("subscribe:chat", 5)
	first, second := join(t, n, "7/3"), join(t, n, "7/3")
	first.ask("subscribe:chat", 5)
	if event := other.wait("chat:joined"); event["chatId"] != 5.0 || event["userId"] != 7.0 {
		t.Error(event)
	}
	second.ask("subscribe:chat", 5)
	other.silent("chat:joined")
	first.silent("chat:joined")
	first.ask("unsubscribe:chat", 5)
	other.silent("chat:left")
	_ = second.conn.Close()
	if event := other.wait("chat:left"); event["chatId"] != 5.0 || event["userId"] != 7.0 {
		t.Error(event)
	}
}

func TestRateLimit(t *testing.T) {
	n := startNode(t, colleagues(), func(o *Options) { o.RateEvents, o.RateBurst = 50, 5 })
	w := join(t, n, "7/3")
	limited := 0
	for range 20 {
		if codeOf(t, w.ask("presence:list", nil)) == "rate_limited" {
			limited++
		}
	}
	if limited == 0 {
		t.Error("twenty at once, all answered")
	}
	for range 20 {
		w.emit("nonsense", nil)
	}
	eventually(t, "error rate_limited", func() bool {
		h, ok := w.take("error")
		return ok && h.body["code"] == "rate_limited"
	})
	eventually(t, "the socket is usable again", func() bool { return w.ask("presence:list", nil)["ok"] == true })
}

func TestBadInputLeavesTheSocketUsable(t *testing.T) {
	n := startNode(t, colleagues(), fast)
	w := join(t, n, "7/3")
	for i, args := range []string{
		`"subscribe:chat"`, `"subscribe:chat",null`, `"subscribe:chat",0`, `"subscribe:chat",-5`, `"subscribe:chat",5.5`,
		`"subscribe:chat",1152921504606846976`, `"subscribe:chat",9007199254740993`, `"subscribe:chat",1e300`,
		`"subscribe:chat","NaN"`, `"subscribe:chat","+5"`, `"subscribe:chat"," 5"`, `"subscribe:chat","0x5"`,
		`"subscribe:chat","9223372036854775808"`, `"subscribe:chat",[5]`, `"subscribe:chat",true`, `"subscribe:chat",{}`,
		`"subscribe:chat",{"chatId":{"chatId":5}}`, `"subscribe:chat",{"__proto__":{"chatId":5}}`,
		`"unsubscribe:chat","x"`, `"typing:start",{}`, `"typing:stop",[]`,
		`"presence:set"`, `"presence:set","away"`, `"presence:set",{"status":"offline"}`, `"presence:set",{"status":1}`,
		`"auth:refresh"`, `"auth:refresh","7/3"`, `"auth:refresh",{"token":5}`,
		`"__proto__",{}`, `"constructor",{}`, `"toString"`, `"chat:new",{"id":1}`, `"error",{}`, `"",{}`, `7,{}`, `"connection"`,
	} {
		w.send(fmt.Sprintf(`42%d[%s]`, 1000+i, args))
		if code := codeOf(t, w.wait(fmt.Sprintf("ack %d", 1000+i))); code != "bad_request" {
			t.Errorf("%s: %s", args, code)
		}
		w.send(fmt.Sprintf(`42[%s]`, args))
		if event := w.wait("error"); event["code"] != "bad_request" {
			t.Errorf("%s: %v", args, event)
		}
	}
	if w.ask("subscribe:chat", 5)["ok"] != true {
		t.Error("the socket is not usable")
	}
}

// A flood stops at the bound while an answer waits, and goes on after it.
func TestBacklog(t *testing.T) {
	h := colleagues()
	n := startNode(t, h, fast, func(o *Options) { o.timing.lookup = time.Minute })
	w := join(t, n, "7/3")
	gate, asked := make(chan struct{}), make(chan int64, 4)
	h.change(func() { h.gate, h.asked = gate, asked })
	w.send(`421["subscribe:chat",5]`)
	<-asked
	for range 10 * maxBacklog {
		w.emit("typing:start", 5)
	}
	c := n.sockets(7)[0]
	eventually(t, "the bound is reached", func() bool { return c.backlog.count() > maxBacklog })
	if got := c.backlog.count(); got > maxBacklog+1 {
		t.Errorf("%d packets wait", got)
	}
	close(gate)
	w.wait("ack 1")
	w.ask("presence:list", nil)
}

func (b *backlog) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waiting
}

func TestBacklogEndsWithTheConnection(t *testing.T) {
	h := colleagues()
	n := startNode(t, h, fast, func(o *Options) { o.timing.lookup = time.Minute })
	w := join(t, n, "7/3")
	gate, asked := make(chan struct{}), make(chan int64, 4)
	defer close(gate)
	h.change(func() { h.gate, h.asked = gate, asked })
	w.send(`421["subscribe:chat",5]`)
	<-asked
	for range 10 * maxBacklog {
		w.emit("typing:start", 5)
	}
	c := n.sockets(7)[0]
	eventually(t, "the bound is reached", func() bool { return c.backlog.count() > maxBacklog })
	n.shut(c)
	w.waitClosed()
	eventually(t, "nobody is left", func() bool { return n.count(7) == 0 })
}

type brittle struct{ *house }

func (brittle) Chat(context.Context, int64, int64, int64) error { panic("a bug") }

func TestPanicIsCaught(t *testing.T) {
	h := colleagues()
	n := startNode(t, h, func(o *Options) { o.Access = brittle{h} })
	w := join(t, n, "7/3")
	if code := codeOf(t, w.ask("subscribe:chat", 5)); code != "internal" {
		t.Error(code)
	}
	if w.ask("presence:list", nil)["ok"] != true {
		t.Error("the socket is not usable")
	}
}
