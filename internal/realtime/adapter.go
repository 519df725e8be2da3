package realtime

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gorilla/websocket"
	"github.com/zishang520/socket.io/parsers/socket/v3/parser"
	"github.com/zishang520/socket.io/servers/socket/v3"
	"github.com/zishang520/socket.io/v3/pkg/types"
)

// adapterBuilder makes the adapter of each namespace, for ServerOptions.SetAdapter.
type adapterBuilder struct {
	sendQueue int // as transportOptions.SendQueue, for sockets that are held
	metrics   *transportMetrics
}

func (b *adapterBuilder) New(nsp socket.Namespace) socket.Adapter { return newAdapter(nsp, b) }

// adapter keeps who is in which room, and delivers events to them. It stands in for the library's adapter, whose rooms
// can lose a socket that joins while the last one leaves. One lock covers joins and leaves; it is never held while
// something is written.
//
// A socket that joins a room in a middleware is held: what is sent to its rooms waits until release. So the rooms are
// complete before the first event, and the first event is the one that release is given. A socket that joins its first
// room later is never held.
//
// A socket that has missed events of the log is behind, from begin to catchUp: events of the log (publish) wait for it,
// others reach it at once. When more of the log comes than may wait, none of it is kept: the socket lapses, and is to be
// told of that stretch as it is of what it missed before.
//
// Order: two deliveries by one goroutine reach a socket in their order, and so do an Emit to a socket that has returned
// and a delivery after it. What one emits to a held socket past the adapter (Socket.Emit, acknowledgements) does not
// wait, and is before everything that does. Concurrent calls have no order, as in the library.
//
// The adapter emits none of the library's room events, and calls no OnAnyOutgoing listeners.
type adapter struct {
	socket.Adapter
	sendQueue int
	metrics   *transportMetrics
	encoder   parser.Encoder

	mu      sync.RWMutex
	members sync.Map // *member by socket.SocketId; changed under mu
	rooms   map[socket.Room]*roomMembers
	round   uint64 // of the last collect of several rooms
}

// member is a socket as rooms know it.
type member struct {
	id    socket.SocketId
	rooms []*roomMembers // guarded by adapter.mu; without the socket's own room
	round uint64         // guarded by adapter.mu; the last round that took it

	// A delivery to a thousand members costs as many walks through memory that nobody else keeps warm: socket, client,
	// engine socket, transport. So the last transport of a socket stands here once it was found.
	final  atomic.Pointer[webSocket]
	level  atomic.Int32                  // held, behind or abreast
	left   atomic.Bool                   // forgotten by the adapter
	socket atomic.Pointer[socket.Socket] // nil until the namespace has it

	mu      sync.Mutex
	waiting []waitingEvent
	bytes   int  // of waiting
	full    bool // more came than the send queue takes: it is cut
	expects bool // it has missed events: it will be behind, or is
	lapsed  bool // events of the log were not kept
}

// How far a socket has come, in this order.
const (
	held    int32 = iota // everything waits
	behind               // events of the log wait
	abreast              // nothing waits
)

type waitingEvent struct {
	*encodedEvent
	logged bool // of the log
}

// roomMembers is a room. Members only ever join at the end of list, so a snapshot stays as it was; a leave copies the
// list if somebody has taken one since the last copy.
type roomMembers struct {
	name   socket.Room
	list   []*member   // guarded by adapter.mu
	shared atomic.Bool // a snapshot of list is out
}

var _ socket.Adapter = (*adapter)(nil)

func newAdapter(nsp socket.Namespace, b *adapterBuilder) *adapter {
	a := &adapter{
		Adapter:   socket.MakeAdapter(),
		sendQueue: b.sendQueue,
		metrics:   b.metrics,
		encoder:   nsp.Server().Encoder(),
		rooms:     map[socket.Room]*roomMembers{},
	}
	if a.metrics == nil {
		a.metrics = newTransportMetrics(nil)
	}
	a.Prototype(a)
	a.Construct(nsp)
	return a
}

// deliver sends ev once to every socket that is in one of rooms and not in the room `except` (empty: no exception), and
// returns how many took it: a socket that is cut does not, one that is held does. No rooms means nobody. A socket's own
// room is its id. It does not block.
func (a *adapter) deliver(rooms []socket.Room, except socket.Room, ev *encodedEvent) int {
	if except == "" {
		return a.sendEvery(a.collect(rooms, nil), false, ev)
	}
	return a.sendEvery(a.collect(rooms, []socket.Room{except}), false, ev)
}

// deliverAll is deliver to every socket of the namespace.
func (a *adapter) deliverAll(ev *encodedEvent) int {
	return a.sendEvery(a.everybody(nil), false, ev)
}

// publish is deliver of an event of the log, to targets.
func (a *adapter) publish(targets []*member, ev *encodedEvent) int {
	return a.sendTo(targets, false, true, ev)
}

func (a *adapter) sendEvery(targets []*member, volatile bool, ev *encodedEvent) int {
	return a.sendTo(targets, volatile, false, ev)
}

func (a *adapter) sendTo(targets []*member, volatile, logged bool, ev *encodedEvent) int {
	n := 0
	evs := []*encodedEvent{ev}
	for _, m := range targets {
		var taken bool
		if m.hears(logged) {
			taken = m.push(volatile, evs)
		} else {
			taken = a.wait(m, volatile, logged, evs)
		}
		if taken {
			n++
		}
	}
	a.metrics.sent(n*ev.frames(), n*ev.size())
	return n
}

// hears reports whether such an event need not wait.
func (m *member) hears(logged bool) bool {
	l := m.level.Load()
	return l == abreast || l == behind && !logged
}

// wait keeps the one event in evs for a socket that does not hear it yet.
func (a *adapter) wait(m *member, volatile, logged bool, evs []*encodedEvent) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.hears(logged): // released in between
		return m.push(volatile, evs)
	case volatile || m.full || logged && m.lapsed:
		return false
	case logged && m.expects && m.bytes > a.sendQueue/2: // the half is for what may wait in the transport
		m.lapse()
		return false
	case m.bytes > a.sendQueue:
		a.metrics.slow.Inc()
		m.full, m.waiting = true, nil
		m.cut()
		return false
	}
	m.waiting = append(m.waiting, waitingEvent{evs[0], logged})
	m.bytes += evs[0].size()
	return true
}

// lapse lets go of the events of the log. mu is held.
func (m *member) lapse() {
	m.lapsed = true
	m.waiting = slices.DeleteFunc(m.waiting, func(ev waitingEvent) bool { return ev.logged })
	m.bytes = 0
	for _, ev := range m.waiting {
		m.bytes += ev.size()
	}
}

func (m *member) push(volatile bool, evs []*encodedEvent) bool {
	if m.left.Load() {
		return false
	}
	if t := m.final.Load(); t != nil {
		return t.push(volatile, evs)
	}
	t := m.transport()
	return t != nil && t.push(volatile, evs)
}

// transport is where the socket's packets go now; nil when it has gone.
func (m *member) transport() sender {
	s := m.socket.Load()
	if m.left.Load() || s == nil || !s.Connected() {
		return nil
	}
	switch t := s.Conn().Transport().(type) {
	case *webSocket:
		m.final.Store(t) // nothing is upgraded to but a WebSocket, and a WebSocket to nothing
		return t
	case sender:
		return t
	}
	return nil
}

func (m *member) cut() {
	if s := m.socket.Load(); s != nil {
		if t, ok := s.Conn().Transport().(sender); ok {
			t.cut(errSlowClient)
		}
	}
}

// expect says that a held socket has missed events, and what it gets of the log from now on is to wait for them. Called
// again, with the socket behind, it forgives a lapse: what waited is older than now.
func (a *adapter) expect(id socket.SocketId) {
	m := a.member(id)
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.expects {
		m.lapse()
	}
	m.expects, m.lapsed = true, false
}

// release ends the hold: the socket gets `first`, then what waited, and is live. It reports whether the transport took
// them: not when the socket has gone, or more waited than the send queue takes; the connection is then closed. Releasing
// a socket that is live sends it `first`.
func (a *adapter) release(id socket.SocketId, first ...*encodedEvent) bool {
	taken, _ := a.raise(id, abreast, first)
	return taken
}

// begin is release of a socket that expects what it missed: events of the log go on waiting.
func (a *adapter) begin(id socket.SocketId, first ...*encodedEvent) bool {
	taken, _ := a.raise(id, behind, first)
	return taken
}

// catchUp gives a socket that is behind its last events before those of the log that waited, and makes it live. It does
// not when the socket has lapsed.
func (a *adapter) catchUp(id socket.SocketId, last ...*encodedEvent) (taken, lapsed bool) {
	return a.raise(id, abreast, last)
}

func (a *adapter) raise(id socket.SocketId, to int32, first []*encodedEvent) (taken, lapsed bool) {
	m := a.member(id)
	if m == nil {
		return false, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.full {
		m.cut()
		return false, false
	}
	if to == abreast && m.lapsed {
		return false, true
	}
	evs := slices.Clip(first)
	rest := m.waiting[:0]
	for _, ev := range m.waiting {
		if to == behind && ev.logged {
			rest = append(rest, ev)
			continue
		}
		evs = append(evs, ev.encodedEvent)
		m.bytes -= ev.size()
	}
	if m.waiting = rest; len(rest) == 0 {
		m.waiting = nil
	}
	taken = m.push(false, evs)
	m.level.Store(to) // after the push: from here on senders do not take the lock
	if taken {
		for _, ev := range evs {
			a.metrics.sent(ev.frames(), ev.size())
		}
	}
	return taken, false
}

// burst sends a row of events to a socket that is behind, and reports false when its connection has ended. It does not
// count for the send queue; await comes before it. The burst is the adapter's from here on.
func (a *adapter) burst(id socket.SocketId, b *burst) bool {
	m := a.member(id)
	if m == nil {
		return false
	}
	t := m.transport()
	if t == nil {
		return false
	}
	if len(b.frames) == 0 {
		return true
	}
	frames, bytes := len(b.frames), len(b.bytes)
	taken, kept := t.pushBurst(b)
	if taken {
		a.metrics.sent(frames, bytes)
	}
	if !kept {
		b.reuse()
	}
	return taken
}

// await returns when little waits in the transport, or false when the connection has ended.
func (a *adapter) await(ctx context.Context, id socket.SocketId) bool {
	m := a.member(id)
	return m != nil && m.await(ctx)
}

func (m *member) await(ctx context.Context) bool {
	for {
		t := m.transport()
		if t == nil {
			return false
		}
		room := t.room()
		if room == nil {
			return true
		}
		select {
		case <-room: // it may have been upgraded, or have ended
		case <-ctx.Done():
			return false
		}
	}
}

// member takes no lock: thousands who catch up ask for every packet, and those who join would wait for each of them.
func (a *adapter) member(id socket.SocketId) *member {
	m, _ := a.members.Load(id)
	found, _ := m.(*member)
	return found
}

// collect returns who is in one of rooms and in none of except. The result is shared: it must not be written to.
func (a *adapter) collect(rooms, except []socket.Room) []*member {
	if len(rooms) == 1 && len(except) == 0 {
		return a.snapshot(rooms[0])
	}
	a.mu.Lock() // members carry the round's mark
	defer a.mu.Unlock()
	a.round++
	for _, r := range except {
		a.eachLocked(r, func(m *member) { m.round = a.round })
	}
	var targets []*member
	for _, r := range rooms {
		a.eachLocked(r, func(m *member) {
			if m.round != a.round {
				m.round = a.round
				targets = append(targets, m)
			}
		})
	}
	return targets
}

func (a *adapter) everybody(except []socket.Room) []*member {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.round++
	for _, r := range except {
		a.eachLocked(r, func(m *member) { m.round = a.round })
	}
	var targets []*member
	for _, m := range a.members.Range {
		if m := m.(*member); m.round != a.round {
			targets = append(targets, m)
		}
	}
	return targets
}

// eachLocked visits the members of a room. Every socket is alone in the room of its own id, which is not stored.
func (a *adapter) eachLocked(name socket.Room, visit func(*member)) {
	if m := a.member(socket.SocketId(name)); m != nil {
		visit(m)
	}
	if r := a.rooms[name]; r != nil {
		for _, m := range r.list {
			visit(m)
		}
	}
}

func (a *adapter) snapshot(name socket.Room) []*member {
	a.mu.RLock()
	defer a.mu.RUnlock()
	r := a.rooms[name]
	if own := a.member(socket.SocketId(name)); own != nil {
		if r == nil || slices.Contains(r.list, own) {
			return []*member{own}
		}
		return append([]*member{own}, r.list...)
	}
	if r == nil {
		return nil
	}
	r.shared.Store(true)
	return r.list
}

// AddAll joins the socket to rooms.
func (a *adapter) AddAll(id socket.SocketId, rooms *types.Set[socket.Room]) {
	s, _ := a.Nsp().Sockets().Load(id)
	a.mu.Lock()
	defer a.mu.Unlock()
	m := a.member(id)
	if m == nil {
		m = &member{id: id}
		if s != nil { // joins after the middlewares: nothing to wait for
			m.level.Store(abreast)
		}
		a.members.Store(id, m)
	}
	if s != nil {
		m.socket.Store(s)
	}
	for _, name := range rooms.Keys() {
		if name != socket.Room(id) {
			a.joinLocked(m, name)
		}
	}
}

func (a *adapter) joinLocked(m *member, name socket.Room) {
	r := a.rooms[name]
	if r == nil {
		r = &roomMembers{name: name}
		a.rooms[name] = r
	}
	if !slices.Contains(m.rooms, r) {
		m.rooms = append(m.rooms, r)
		r.list = append(r.list, m)
	}
}

func (a *adapter) leaveLocked(m *member, r *roomMembers) {
	if r.shared.Swap(false) {
		r.list = slices.Clone(r.list)
	}
	if i, last := slices.Index(r.list, m), len(r.list)-1; i >= 0 {
		r.list[i], r.list[last] = r.list[last], nil
		r.list = r.list[:last]
	}
	if len(r.list) == 0 {
		delete(a.rooms, r.name)
	}
}

// Del takes the socket out of a room.
func (a *adapter) Del(id socket.SocketId, name socket.Room) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m, r := a.member(id), a.rooms[name]
	if m == nil || r == nil {
		return
	}
	if i := slices.Index(m.rooms, r); i >= 0 {
		m.rooms = slices.Delete(m.rooms, i, i+1)
		a.leaveLocked(m, r)
	}
}

// DelAll forgets the socket.
func (a *adapter) DelAll(id socket.SocketId) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m := a.member(id)
	if m == nil {
		return
	}
	m.left.Store(true) // it may be in a snapshot
	m.final.Store(nil)
	a.members.Delete(id)
	for _, r := range m.rooms {
		a.leaveLocked(m, r)
	}
	m.rooms = nil
}

// Broadcast sends a packet of the library. No rooms means everybody.
func (a *adapter) Broadcast(p *parser.Packet, opts *socket.BroadcastOptions) {
	a.sendEvery(a.targets(opts), opts != nil && opts.Flags != nil && opts.Flags.Volatile, a.encode(p))
}

// BroadcastWithAck sends a packet whose answers go to ack, and reports to count how many it expects.
func (a *adapter) BroadcastWithAck(p *parser.Packet, opts *socket.BroadcastOptions, count func(uint64), ack socket.Ack) {
	id := a.Nsp().Ids()
	p.Id = &id
	var known []*member
	for _, m := range a.targets(opts) {
		if s := m.socket.Load(); s != nil && s.Connected() {
			s.Acks().Store(id, ack)
			known = append(known, m)
		}
	}
	a.sendEvery(known, false, a.encode(p))
	count(uint64(len(known)))
}

// encode makes a packet of the library into frames.
func (a *adapter) encode(p *parser.Packet) *encodedEvent {
	p.Nsp = a.Nsp().Name()
	parts := a.encoder.Encode(p)
	text := parts[0].Bytes()
	b, header := appendHeader(websocket.TextMessage, 1+len(text))
	ev := &encodedEvent{frame: frame{ws: append(append(b, '4'), text...), header: header}}
	for _, part := range parts[1:] {
		ev.attachments = append(ev.attachments, newFrame(websocket.BinaryMessage, part.Bytes()))
	}
	return ev
}

func (a *adapter) targets(opts *socket.BroadcastOptions) []*member {
	var rooms, except []socket.Room
	if opts != nil && opts.Rooms != nil {
		rooms = opts.Rooms.Keys()
	}
	if opts != nil && opts.Except != nil {
		except = opts.Except.Keys()
	}
	if len(rooms) == 0 {
		return a.everybody(except)
	}
	return a.collect(rooms, except)
}

// connected returns the sockets among targets.
func (a *adapter) connected(opts *socket.BroadcastOptions) []*socket.Socket {
	var sockets []*socket.Socket
	for _, m := range a.targets(opts) {
		if s := m.socket.Load(); s != nil && s.Connected() {
			sockets = append(sockets, s)
		}
	}
	return sockets
}

// Sockets returns the ids of the sockets in rooms.
func (a *adapter) Sockets(rooms *types.Set[socket.Room]) *types.Set[socket.SocketId] {
	ids := types.NewSet[socket.SocketId]()
	for _, s := range a.connected(&socket.BroadcastOptions{Rooms: rooms}) {
		ids.Add(s.Id())
	}
	return ids
}

// FetchSockets returns the matching sockets.
func (a *adapter) FetchSockets(opts *socket.BroadcastOptions) func(func([]socket.SocketDetails, error)) {
	return func(callback func([]socket.SocketDetails, error)) {
		details := []socket.SocketDetails{}
		for _, s := range a.connected(opts) {
			details = append(details, s)
		}
		callback(details, nil)
	}
}

// AddSockets makes the matching sockets join rooms.
func (a *adapter) AddSockets(opts *socket.BroadcastOptions, rooms []socket.Room) {
	for _, s := range a.connected(opts) {
		s.Join(rooms...)
	}
}

// DelSockets makes the matching sockets leave rooms.
func (a *adapter) DelSockets(opts *socket.BroadcastOptions, rooms []socket.Room) {
	for _, s := range a.connected(opts) {
		for _, r := range rooms {
			s.Leave(r)
		}
	}
}

// DisconnectSockets disconnects the matching sockets.
func (a *adapter) DisconnectSockets(opts *socket.BroadcastOptions, status bool) {
	for _, s := range a.connected(opts) {
		s.Disconnect(status)
	}
}

// SocketRooms returns a copy of the rooms that the socket is in, its own included, or nil for an unknown socket.
func (a *adapter) SocketRooms(id socket.SocketId) *types.Set[socket.Room] {
	a.mu.RLock()
	defer a.mu.RUnlock()
	m := a.member(id)
	if m == nil {
		return nil
	}
	return m.roomsLocked()
}

func (m *member) roomsLocked() *types.Set[socket.Room] {
	rooms := types.NewSet(socket.Room(m.id))
	for _, r := range m.rooms {
		rooms.Add(r.name)
	}
	return rooms
}

// Rooms returns a copy of who is in which room. Rooms of a socket's own id are not in it.
func (a *adapter) Rooms() *types.Map[socket.Room, *types.Set[socket.SocketId]] {
	a.mu.RLock()
	defer a.mu.RUnlock()
	rooms := &types.Map[socket.Room, *types.Set[socket.SocketId]]{}
	for name, r := range a.rooms {
		ids := types.NewSet[socket.SocketId]()
		for _, m := range r.list {
			ids.Add(m.id)
		}
		rooms.Store(name, ids)
	}
	return rooms
}

// Sids returns a copy of the rooms of each socket.
func (a *adapter) Sids() *types.Map[socket.SocketId, *types.Set[socket.Room]] {
	a.mu.RLock()
	defer a.mu.RUnlock()
	sids := &types.Map[socket.SocketId, *types.Set[socket.Room]]{}
	for id, m := range a.members.Range {
		sids.Store(id.(socket.SocketId), m.(*member).roomsLocked())
	}
	return sids
}
