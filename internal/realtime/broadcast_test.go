package realtime

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/zishang520/socket.io/servers/socket/v3"
	"github.com/zishang520/socket.io/v3/pkg/types"
)

var broadcastBody = []byte(`{"content":"` + strings.Repeat("x", 560) + `"}`)

// BenchmarkBroadcast sends one event to a room of connected clients. Its floor is the same with nothing but prepared
// frames. An operation is one broadcast; the clients' reading is in both.
func BenchmarkBroadcast(b *testing.B) {
	for _, clients := range []int{1, 10, 1000} {
		b.Run(fmt.Sprintf("clients=%d/roombell", clients), func(b *testing.B) { benchmarkBroadcast(b, clients) })
		b.Run(fmt.Sprintf("clients=%d/floor", clients), func(b *testing.B) { benchmarkPrepared(b, clients) })
	}
}

func benchmarkBroadcast(b *testing.B, clients int) {
	s := startRoomServer(b, 64<<20)
	for range clients {
		c, _ := s.join("org_1")
		go discard(c.NetConn())
	}
	rooms := []socket.Room{"org_1"}
	b.ReportAllocs()
	for b.Loop() {
		if n := s.adapter.deliver(rooms, "", encodeEvent("message:new", broadcastBody)); n != clients {
			b.Fatalf("reached %d clients", n)
		}
	}
	reportDeliveries(b, clients)
}

func benchmarkPrepared(b *testing.B, clients int) {
	conns := make(chan *websocket.Conn, clients)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			b.Error(err)
			return
		}
		conns <- conn
	}))
	defer server.Close()
	var all []*websocket.Conn
	for range clients {
		c, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http"), nil)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		go discard(c.NetConn())
		conn := <-conns
		defer conn.Close()
		all = append(all, conn)
	}
	packet := encodeEvent("message:new", broadcastBody).packet()
	b.ReportAllocs()
	for b.Loop() {
		message, err := websocket.NewPreparedMessage(websocket.TextMessage, packet)
		if err != nil {
			b.Fatal(err)
		}
		for _, conn := range all {
			if err := conn.WritePreparedMessage(message); err != nil {
				b.Fatal(err)
			}
		}
	}
	reportDeliveries(b, clients)
}

func discard(conn net.Conn) {
	_, _ = io.CopyBuffer(io.Discard, struct{ io.Reader }{conn}, make([]byte, 4096))
}

func reportDeliveries(b *testing.B, clients int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*clients), "ns/delivery")
}

// BenchmarkCollect finds the sockets of an event: of one room, and of the rooms of an audience.
func BenchmarkCollect(b *testing.B) {
	a := newTestAdapter()
	var audience []socket.Room
	for i := range 1000 {
		user := socket.Room(fmt.Sprintf("user_%d", i))
		a.AddAll(socket.SocketId(fmt.Sprint(i)), types.NewSet[socket.Room]("org_1", user))
		if i < 20 {
			audience = append(audience, user)
		}
	}
	b.Run("organization", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			a.collect([]socket.Room{"org_1"}, nil)
		}
	})
	b.Run("audience of 20", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			a.collect(audience, nil)
		}
	})
	b.Run("joins and leaves beside broadcasts", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			id := socket.SocketId(fmt.Sprintf("other %p", pb))
			for pb.Next() {
				a.AddAll(id, types.NewSet[socket.Room]("org_1"))
				a.collect([]socket.Room{"org_1"}, nil)
				a.DelAll(id)
			}
		})
	})
}
