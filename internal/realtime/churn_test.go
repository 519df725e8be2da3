package realtime

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// Sockets that come, subscribe, type and go, in every way and all at once, under events and changes of rights: nothing
// stays behind.
func TestNothingStaysBehind(t *testing.T) {
	h := colleagues()
	for id := range int64(20) {
		h.show(100+id, 7, 8)
	}
	n := startNode(t, h, fast, quick, func(o *Options) { o.MaxSocketsPerUser, o.MaxSocketsPerAddress = 30, 100 })
	done := make(chan struct{})
	var publishing, coming sync.WaitGroup
	publishing.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			chatID := 100 + rand.Int64N(20)
			n.Publish(batchOf(messageNew(3, `{}`), messageNew(3, `{}`, 7), chatsChanged(chatID, chatID+1),
				chatDeleted(3, chatID, "access", 7), userChanged(8, true)))
		}
	})
	for range 40 {
		coming.Go(func() {
			for range 15 {
				comeAndGo(t, n)
			}
		})
	}
	coming.Wait()
	close(done)
	publishing.Wait()
	eventually(t, "nothing is left", func() bool { return remains(n) == "" })
}

// comeAndGo does what clients do, and ends in one of the ways in which they end.
func comeAndGo(t *testing.T, n *node) {
	address := "ws" + strings.TrimPrefix(n.url, "http") + "/socket.io/?EIO=4&transport=websocket"
	conn, _, err := websocket.DefaultDialer.Dial(address, nil)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = conn.Close() }()
	say := func(packet string) { _ = conn.WriteMessage(websocket.TextMessage, []byte(packet)) }
	say([]string{`40{"token":"7/3"}`, `40{"token":"8/3"}`, `40{"token":"x"}`}[rand.IntN(3)])
	if rand.IntN(4) == 0 {
		return
	}
	for _, _, err = conn.ReadMessage(); err == nil && rand.IntN(3) > 0; _, _, err = conn.ReadMessage() {
		say(fmt.Sprintf(`420["subscribe:chat",%d]`, 100+rand.IntN(20)))
		say(fmt.Sprintf(`421["typing:start",%d]`, 100+rand.IntN(20)))
		say(`422["presence:set",{"status":"away"}]`)
	}
	switch rand.IntN(4) {
	case 0:
		say("41")
	case 1:
		say("1")
	case 2:
		say("nonsense")
	}
}

// remains names what the server still keeps, empty for nothing.
func remains(n *node) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.alarms.mu.Lock()
	defer n.alarms.mu.Unlock()
	n.adapter.mu.Lock()
	defer n.adapter.mu.Unlock()
	var kept []string
	for what, count := range map[string]int{
		"clients": len(n.clients), "people": len(n.people), "organizations": len(n.organizations), "chats": len(n.chats),
		"checks": len(n.checks), "doubts": len(n.doubts), "addresses": len(n.addresses), "outbox": len(n.outbox),
		"alarms": len(n.alarms.heap), "closing": n.closing, "members": membersOf(n.adapter), "rooms": len(n.adapter.rooms),
		"connections": int(n.io.Engine().ClientsCount()), "sockets": n.io.Sockets().Sockets().Len(),
	} {
		if count != 0 {
			kept = append(kept, fmt.Sprint(what, ": ", count))
		}
	}
	return strings.Join(kept, ", ")
}

// FuzzPackets says anything to a socket that was let in: it is answered or closed, and the server lives on.
func FuzzPackets(f *testing.F) {
	for _, seed := range []string{
		`42["subscribe:chat",5]`, `420["subscribe:chat",{"chatId":"5"}]`, `421[`, `42{}`, `42`, `4`, ``, `3`, `2probe`, `5`, `6`, `b`,
		`40`, `40/x,{}`, `41`, `41/x,`, `43[1]`, `4399999999999999999999[1]`, `4318446744073709551615[1]`, `44{"message":"x"}`,
		`451-["subscribe:chat",{"_placeholder":true,"num":0}]`, `450-["x"]`, `451-["x",{"_placeholder":true,"num":-1}]`,
		`4599999-[]`, `46`, `49`, `42["disconnect"]`, `42["connect",{}]`, `42[null]`, `42[1152921504606846976,1e999]`,
		`42["__proto__",{"__proto__":{"__proto__":1}}]`, `42["a","` + strings.Repeat(`\u0000`, 100) + `"]`,
		`42["x",` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `]`,
	} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	f.Fuzz(func(t *testing.T, packet string, binary bool) {
		n := startNode(t, colleagues(), fast)
		w := join(t, n, "7/3")
		kind := websocket.TextMessage
		if binary {
			kind = websocket.BinaryMessage
		}
		_ = w.conn.WriteMessage(kind, []byte(packet))
		_ = w.conn.WriteMessage(websocket.TextMessage, []byte(`4277["presence:list"]`))
		if !w.answeredOrClosed("ack 77") {
			t.Fatalf("neither answered nor closed; came: %v", w.names())
		}
		join(t, n, "8/3").ask("presence:list", nil)
	})
}

func (w *wire) answeredOrClosed(name string) bool {
	for {
		if _, ok := w.take(name); ok {
			return true
		}
		select {
		case <-w.more:
		case <-w.closed:
			return true
		case <-time.After(patience):
			return false
		}
	}
}
