package realtime

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zishang520/socket.io/servers/socket/v3"
	"github.com/zishang520/socket.io/v3/pkg/types"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func newTestAdapter() *adapter {
	o := socket.DefaultServerOptions()
	o.SetAdapter(&adapterBuilder{sendQueue: 1 << 20})
	return socket.NewServer(nil, o).Sockets().Adapter().(*adapter)
}

// An old tab closes while a new one opens: the library's adapter puts the new socket into a room that nobody finds any
// more (servers/socket/v3 v3.0.5 adapter.go:105-110 against :129-130).
func TestJoinWhileTheLastLeaves(t *testing.T) {
	t.Parallel()
	a := newTestAdapter()
	for range 20_000 {
		a.AddAll("old", types.NewSet[socket.Room]("user_1"))
		var both sync.WaitGroup
		both.Go(func() { a.DelAll("old") })
		both.Go(func() { a.AddAll("new", types.NewSet[socket.Room]("user_1")) })
		both.Wait()
		if got := memberIDs(a.collect([]socket.Room{"user_1"}, nil)); !slices.Equal(got, []string{"new"}) {
			t.Fatalf("in the room: %q", got)
		}
		a.DelAll("new")
	}
	if left := membersOf(a); left > 0 || len(a.rooms) > 0 {
		t.Errorf("%d members and %d rooms are left", left, len(a.rooms))
	}
}

// Rooms are what joins and leaves make of them, and a snapshot stays what it was when it was taken.
func TestRoomsAndSnapshots(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a := newTestAdapter()
		model := map[string]map[string]bool{} // sockets by room
		type taken struct {
			list []*member
			want []string
		}
		var snapshots []taken
		id := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"})
		room := rapid.SampledFrom([]string{"r", "s", "a"}) // a socket's own room is open to others
		inRoom := func(r string) []string {
			in := maps.Clone(model[r])
			if in == nil {
				in = map[string]bool{}
			}
			if a.member(socket.SocketId(r)) != nil {
				in[r] = true
			}
			return slices.Sorted(maps.Keys(in))
		}
		t.Repeat(map[string]func(*rapid.T){
			"join": func(t *rapid.T) {
				id, r := id.Draw(t, "id"), room.Draw(t, "room")
				a.AddAll(socket.SocketId(id), types.NewSet(socket.Room(r)))
				if model[r] == nil {
					model[r] = map[string]bool{}
				}
				if id != r {
					model[r][id] = true
				}
			},
			"leave": func(t *rapid.T) {
				id, r := id.Draw(t, "id"), room.Draw(t, "room")
				a.Del(socket.SocketId(id), socket.Room(r))
				delete(model[r], id)
			},
			"leave all": func(t *rapid.T) {
				id := id.Draw(t, "id")
				a.DelAll(socket.SocketId(id))
				for _, in := range model {
					delete(in, id)
				}
			},
			"snapshot": func(t *rapid.T) {
				r := room.Draw(t, "room")
				snapshots = append(snapshots, taken{a.snapshot(socket.Room(r)), inRoom(r)})
			},
			"": func(t *rapid.T) {
				for _, r := range []string{"r", "s", "a"} {
					if got, want := memberIDs(a.snapshot(socket.Room(r))), inRoom(r); !slices.Equal(got, want) {
						t.Fatalf("in %s: %q, want %q", r, got, want)
					}
				}
				union := map[string]bool{}
				for _, r := range []string{"r", "s"} {
					for _, id := range inRoom(r) {
						union[id] = true
					}
				}
				for _, id := range inRoom("a") {
					delete(union, id)
				}
				got := memberIDs(a.collect([]socket.Room{"r", "s"}, []socket.Room{"a"}))
				if want := slices.Sorted(maps.Keys(union)); !slices.Equal(got, want) {
					t.Fatalf("in r or s, not in a: %q, want %q", got, want)
				}
				for _, s := range snapshots {
					if got := memberIDs(s.list); !slices.Equal(got, s.want) {
						t.Fatalf("a snapshot of %q has become %q", s.want, got)
					}
				}
			},
		})
	})
}

func memberIDs(members []*member) []string {
	ids := []string{}
	for _, m := range members {
		ids = append(ids, string(m.id))
	}
	slices.Sort(ids)
	return ids
}

func TestDeliver(t *testing.T) {
	t.Parallel()
	s := startRoomServer(t, 1<<20)
	a, socketA := s.join("org_1", "user_1", "chat_1")
	b, _ := s.join("org_1", "user_2")
	c, _ := s.join("org_2", "user_3", "chat_1")
	clients := map[string]*rawClient{"a": a, "b": b, "c": c}
	rooms := func(names ...socket.Room) []socket.Room { return names }

	for _, test := range []struct {
		name   string
		rooms  []socket.Room
		except socket.Room
		want   string
	}{
		{"one room", rooms("org_1"), "", "ab"},
		{"a socket in several of the rooms hears it once", rooms("org_1", "user_1", "chat_1", "user_2"), "", "abc"},
		{"but one", rooms("chat_1"), socket.Room(socketA.Id()), "c"},
		{"but those in a room", rooms("org_1", "org_2"), "chat_1", "b"},
		{"one socket by its own room", rooms(socket.Room(socketA.Id())), "", "a"},
		{"unknown room", rooms("org_3"), "", ""},
		{"no rooms is nobody", nil, "", ""},
		{"no rooms but one is nobody", nil, "user_1", ""},
	} {
		if n := s.adapter.deliver(test.rooms, test.except, encodeEvent(test.name, nil)); n != len(test.want) {
			t.Errorf("%s: reached %d sockets, want %d", test.name, n, len(test.want))
		}
		if n := s.adapter.deliverAll(encodeEvent("next", nil)); n != 3 {
			t.Errorf("deliverAll reached %d sockets", n)
		}
		for name, c := range clients {
			if strings.Contains(test.want, name) {
				c.expect(fmt.Sprintf("42[%q]", test.name))
			}
			c.expect(`42["next"]`)
		}
	}
}

// What the library's own calls send goes the same way.
func TestLibraryBroadcasts(t *testing.T) {
	t.Parallel()
	s := startRoomServer(t, 1<<20)
	c, sock := s.join("org_1")
	p, _ := s.joinPolling("org_1")

	if err := s.io.To("org_1").Emit("hello", map[string]any{"a": 1}); err != nil {
		t.Fatal(err)
	}
	c.expect(`42["hello",{"a":1}]`)
	if got := p.poll(); !slices.Equal(got, []string{`42["hello",{"a":1}]`}) {
		t.Errorf("long-polling got %q", got)
	}

	s.io.Emit("bytes", []byte{1, 2, 3, 4})
	c.expect(`451-["bytes",{"_placeholder":true,"num":0}]`, "\x01\x02\x03\x04")
	if got := p.poll(); !slices.Equal(got, []string{`451-["bytes",{"_placeholder":true,"num":0}]`, "bAQIDBA=="}) {
		t.Errorf("long-polling got %q", got)
	}

	if err := s.io.Except(socket.Room(sock.Id())).Emit("others"); err != nil {
		t.Fatal(err)
	}
	if got := p.poll(); !slices.Equal(got, []string{`42["others"]`}) {
		t.Errorf("long-polling got %q", got)
	}

	answers := make(chan []any, 1)
	s.io.To(socket.Room(sock.Id())).Timeout(10 * time.Second).EmitWithAck("ask")(func(args []any, err error) {
		if err != nil {
			t.Error(err)
		}
		answers <- args
	})
	c.expect(`420["ask"]`)
	c.write(`430["answer"]`)
	if got := fmt.Sprint(<-answers); got != "[answer]" {
		t.Errorf("acknowledged with %s", got)
	}
	if got := sock.Rooms().Keys(); len(got) != 2 || !sock.Rooms().Has("org_1") || !sock.Rooms().Has(socket.Room(sock.Id())) {
		t.Errorf("rooms of the socket: %q", got)
	}
}

func TestHeldSocketHearsWhatWaitedAfterTheFirst(t *testing.T) {
	t.Parallel()
	s := startRoomServer(t, 1<<20)
	c, sock := s.open("org_1")
	for i := range 3 {
		ev, _ := number(i)
		if n := s.adapter.deliver([]socket.Room{"org_1"}, "", ev); n != 1 {
			t.Fatalf("a held socket was not reached: %d", n)
		}
	}
	_ = sock.Emit("direct") // does not wait
	c.expect(`42["direct"]`)
	if !s.adapter.release(sock.Id(), encodeEvent("connected", []byte(`{"cursor":"x"}`))) {
		t.Fatal("not released")
	}
	s.adapter.deliver([]socket.Room{"org_1"}, "", encodeEvent("live", nil))
	c.expect(`42["connected",{"cursor":"x"}]`, `42["n",{"i":0}]`, `42["n",{"i":1}]`, `42["n",{"i":2}]`, `42["live"]`)
}

// A socket that has missed events hears what is said beside the log at once, and the log after what it missed.
func TestTheLogWaitsForWhoIsBehind(t *testing.T) {
	t.Parallel()
	s := startRoomServer(t, 1<<20)
	c, sock := s.open("org_1")
	room := s.adapter.collect([]socket.Room{"org_1"}, nil)
	s.adapter.expect(sock.Id())
	s.adapter.publish(room, encodeEvent("logged 1", nil))
	s.adapter.deliver([]socket.Room{"org_1"}, "", encodeEvent("said 1", nil))
	if !s.adapter.begin(sock.Id(), encodeEvent("connected", nil)) {
		t.Fatal("not begun")
	}
	s.adapter.deliver([]socket.Room{"org_1"}, "", encodeEvent("said 2", nil))
	s.adapter.publish(room, encodeEvent("logged 2", nil))
	b := &burst{}
	b.add("missed 1", []byte("{}"))
	b.add("missed 2", []byte("{}"))
	b.seal()
	if !s.adapter.burst(sock.Id(), b) {
		t.Fatal("not replayed")
	}
	if taken, lapsed := s.adapter.catchUp(sock.Id(), encodeEvent("complete", nil)); !taken || lapsed {
		t.Fatal(taken, lapsed)
	}
	s.adapter.publish(room, encodeEvent("logged 3", nil))
	c.expect(`42["connected"]`, `42["said 1"]`, `42["said 2"]`, `42["missed 1",{}]`, `42["missed 2",{}]`, `42["complete"]`,
		`42["logged 1"]`, `42["logged 2"]`, `42["logged 3"]`)
}

// When more of the log comes than may wait none of it is kept, and the socket is not cut.
func TestWhoIsBehindLapses(t *testing.T) {
	t.Parallel()
	s := startRoomServer(t, 1000)
	c, sock := s.open("org_1")
	room := s.adapter.collect([]socket.Room{"org_1"}, nil)
	s.adapter.expect(sock.Id())
	s.adapter.begin(sock.Id())
	for i := range 100 {
		s.adapter.publish(room, encodeEvent("logged", fmt.Appendf(nil, `{"i":%d}`, i)))
	}
	if taken, lapsed := s.adapter.catchUp(sock.Id(), encodeEvent("complete", nil)); taken || !lapsed {
		t.Fatal(taken, lapsed)
	}
	s.adapter.expect(sock.Id()) // from here on again
	s.adapter.publish(room, encodeEvent("last", nil))
	if taken, lapsed := s.adapter.catchUp(sock.Id(), encodeEvent("complete", nil)); !taken || lapsed {
		t.Fatal(taken, lapsed)
	}
	c.expect(`42["complete"]`, `42["last"]`)
}

// Sockets join, are held and released while numbers go to their room: each hears `connected`, then every number from
// some one on.
func TestNothingIsLostOrEarlyWhileSocketsConnect(t *testing.T) {
	t.Parallel()
	const clients = 50
	s := startRoomServer(t, 64<<20)
	go func() {
		for range clients {
			s.adapter.release(s.socket().Id(), encodeEvent("connected", nil))
		}
	}()
	var live, all sync.WaitGroup
	live.Add(clients)
	for range clients {
		all.Go(func() {
			c := s.dial("")
			c.next() // OPEN
			c.write(connectPacket([]string{"org_1"}))
			c.next() // CONNECT
			c.expect(`42["connected"]`)
			first := 0
			if _, err := fmt.Sscanf(c.next(), `42["n",{"i":%d}]`, &first); err != nil {
				t.Error(err)
			}
			live.Done()
			for i := first + 1; ; i++ {
				got := c.next()
				if got == `42["end"]` {
					return
				}
				if _, want := number(i); got != want {
					t.Errorf("got %q, want %q", got, want)
					return
				}
			}
		})
	}
	s.deliverUntil(&live, clients)
	all.Wait()
}

func TestHeldSocketIsCutWhenTooMuchWaits(t *testing.T) {
	t.Parallel()
	const sendQueue = 10_000
	s := startRoomServer(t, sendQueue)
	c, sock := s.open("org_1")
	ev := encodeEvent("x", []byte(`"`+strings.Repeat("x", 6_000)+`"`))
	rooms := []socket.Room{"org_1"}
	for i, want := range []int{1, 1, 0, 0} { // the second one is taken with 6,000 bytes waiting, the third is not
		if n := s.adapter.deliver(rooms, "", ev); n != want {
			t.Errorf("delivery %d reached %d sockets, want %d", i, n, want)
		}
	}
	_ = c.expectClosed()
	if s.adapter.release(sock.Id(), encodeEvent("connected", nil)) {
		t.Error("a socket that was cut was released")
	}
}

// A delivery that has found its sockets may come to one that has left in the meantime.
func TestSocketThatHasLeftIsNotReached(t *testing.T) {
	t.Parallel()
	s := startRoomServer(t, 1<<20)
	c, sock := s.join("org_1")
	ev := encodeEvent("x", nil)
	s.adapter.deliver([]socket.Room{"org_1"}, "", ev)
	c.expect(`42["x"]`)
	found := s.adapter.collect([]socket.Room{"org_1"}, nil)
	sock.Disconnect(false) // the connection stays
	if n := s.adapter.sendEvery(found, false, ev); len(found) != 1 || n != 0 {
		t.Errorf("found %d sockets, reached %d", len(found), n)
	}
	c.expect("41")
}

func TestReleaseOfAnUnknownSocket(t *testing.T) {
	t.Parallel()
	if newTestAdapter().release("nobody", encodeEvent("connected", nil)) {
		t.Error("released")
	}
}

// An Emit that has returned is before every later delivery, over both transports.
func TestOrderOfEmitsAndDeliveries(t *testing.T) {
	t.Parallel()
	const n = 1000
	s := startRoomServer(t, 1<<20)
	send := func(sock *socket.Socket, i int) {
		if i%2 == 0 {
			_ = sock.Emit("n", map[string]any{"i": i})
			return
		}
		ev, _ := number(i)
		s.adapter.deliver([]socket.Room{socket.Room(sock.Id())}, "", ev)
	}
	c, sock := s.join("org_1")
	p, polled := s.joinPolling("org_1")
	for i := range n {
		send(sock, i)
		send(polled, i)
	}
	var got []string
	for len(got) < n {
		got = append(got, p.poll()...)
	}
	for i := range n {
		_, want := number(i)
		c.expect(want)
		if got[i] != want {
			t.Fatalf("long-polling got %q, want %q", got[i], want)
		}
	}
}

// Clients come, join, leave and go while everything is sent to: nothing of them stays.
func TestChurnLeavesNothing(t *testing.T) {
	before := goleak.IgnoreCurrent()
	const workers, rounds = 16, 12
	s := startRoomServer(t, 1<<20)
	done := make(chan struct{})
	var senders, all sync.WaitGroup
	senders.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
				ev, _ := number(i)
				s.adapter.deliver([]socket.Room{"org_1", "shared"}, "", ev)
			}
		}
	})
	senders.Go(func() {
		for {
			select {
			case <-done:
				return
			case sock := <-s.sockets:
				s.adapter.release(sock.Id(), encodeEvent("connected", nil))
				sock.Join("shared")
				sock.Leave("org_1")
			}
		}
	})
	for w := range workers {
		all.Go(func() {
			for round := range rounds {
				c := s.dial("")
				c.next()
				c.write(connectPacket([]string{"org_1", fmt.Sprintf("user_%d", w)}))
				for !strings.HasPrefix(c.next(), `42["n"`) {
				}
				if round%2 == 0 {
					c.write("41") // goes in order
				}
				_ = c.Close()
			}
		})
	}
	all.Wait()
	close(done)
	senders.Wait()
	until(t, "every connection is gone", func() bool { return s.io.Engine().ClientsCount() == 0 })
	until(t, "every member is gone", func() bool {
		s.adapter.mu.RLock()
		defer s.adapter.mu.RUnlock()
		return membersOf(s.adapter) == 0 && len(s.adapter.rooms) == 0
	})
	s.http.CloseClientConnections()
	s.http.Close()
	goleak.VerifyNone(t, before)
}

func membersOf(a *adapter) (n int) {
	for range a.members.Range {
		n++
	}
	return n
}
