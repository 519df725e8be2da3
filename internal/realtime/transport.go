package realtime

import (
	"cmp"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
	"github.com/zishang520/socket.io/parsers/engine/v3/packet"
	"github.com/zishang520/socket.io/servers/engine/v3"
	"github.com/zishang520/socket.io/servers/engine/v3/transports"
	"github.com/zishang520/socket.io/servers/socket/v3"
	"github.com/zishang520/socket.io/v3/pkg/types"
)

const (
	writeTimeout = 30 * time.Second // transportOptions.writeTimeout
	closeTimeout = 5 * time.Second  // transportOptions.closeTimeout
	lingerTime   = 2 * time.Second  // for a client to close its side after we closed ours
	chunkSize    = 64 << 10         // bytes of one write of the flusher
)

// errSlowClient ends the connection of a client whose send queue is full.
var errSlowClient = errors.New("realtime: slow client")

// transportOptions is what the transports have to know of the server.
type transportOptions struct {
	SendQueue   int           // bytes that may already wait for a client when one more packet comes; with more it is cut
	PingTimeout time.Duration // the server's
	Metrics     *transportMetrics

	maxPacket    int           // bytes of a client's message; the engine's MaxHttpBufferSize
	writeTimeout time.Duration // for a client to take the next chunkSize bytes, or the answer to a poll
	closeTimeout time.Duration // for a client to take what waits when its connection is closed in order
}

// pingDelay is how long a PING is held back. The engine arms the timer that a PONG must stop only after it has handed
// over the PING (servers/engine/v3 v3.0.5 socket.go:255-256, schedulePing): a PONG that comes before counts for nothing,
// and its sender is thrown out for silence.
func (o *transportOptions) pingDelay() time.Duration {
	return min(o.PingTimeout/10, 100*time.Millisecond)
}

// newTransports gives the transports for ServerOptions.SetTransports: long-polling and WebSocket, both ours. The server
// must be mounted by mount, or nothing is ever read from a client, and must not offer compression.
func newTransports(o transportOptions) *types.Set[transports.TransportCtor] {
	if o.Metrics == nil {
		o.Metrics = newTransportMetrics(nil)
	}
	o.writeTimeout = cmp.Or(o.writeTimeout, writeTimeout)
	o.closeTimeout = cmp.Or(o.closeTimeout, closeTimeout)
	return types.NewSet[transports.TransportCtor](&pollingBuilder{&o}, &webSocketBuilder{&o})
}

// mount makes the handler of a server whose options carry newTransports. Listeners that io needs must be there before.
func mount(io *socket.Server, o *socket.ServerOptions) http.Handler {
	h := io.ServeHandler(o)
	openOnConnection(io.Engine())
	return slim(h)
}

// openOnConnection lets a transport read only once everybody who listens for its packets does: the engine announces a
// connection after it wrote OPEN, and Socket.IO begins to listen at the announcement. A CONNECT that is read in between
// is lost, and its client waits for 45 seconds.
func openOnConnection(e engine.BaseServer) {
	patience := e.Opts().PingInterval() + e.Opts().PingTimeout()
	if b, ok := e.TransportsByName()[transports.WEBSOCKET].(*webSocketBuilder); ok {
		b.options.maxPacket = int(e.Opts().MaxHttpBufferSize())
	}
	_ = e.On("connection", func(args ...any) {
		conn := args[0].(engine.Socket)
		switch t := conn.Transport().(type) {
		case *webSocket:
			t.start()
		case *polling:
			_ = conn.Once("upgrade", func(args ...any) {
				if ws, ok := args[0].(*webSocket); ok {
					t.handOver(ws)
				}
			})
			t.open(patience)
		}
	})
}

// sender is the side of a transport that the adapter sees. It takes packets in order, never blocks, and is safe for
// concurrent use.
type sender interface {
	// push hands over packets to be sent together, and reports whether the transport took them. It does not when it is
	// closed, when the send queue is full (the client is then cut), or when they are volatile and would have to wait.
	push(volatile bool, evs []*encodedEvent) bool
	// pushBurst hands over a burst for which room has made room: what of it waits does not count for the send queue. Its
	// bytes are kept when not all of them were written at once.
	pushBurst(b *burst) (taken, kept bool)
	// room returns nil when little waits or the transport has ended, else what is closed when that may have become so.
	room() <-chan struct{}
	// cut closes the connection at once, without a word to the client.
	cut(err error)
}

// roomFor is how many bytes may wait when the next burst is handed over.
const roomFor = 16 << 10

// pending counts the bytes that wait in a transport, whose mutex guards it.
type pending struct {
	bytes   int
	exempt  int           // of them those of bursts, which do not count for the send queue
	drained chan struct{} // of room; nil while nobody waits
	metrics *transportMetrics
}

func (p *pending) add(n int) {
	p.bytes += n
	p.metrics.queued.Add(float64(n))
}

func (p *pending) done(n int) {
	n = min(n, p.bytes) // it may have been cleared meanwhile
	p.bytes -= n
	p.metrics.queued.Sub(float64(n))
	if p.exempt = min(p.exempt, p.bytes); p.bytes <= roomFor {
		p.wake()
	}
}

// clear is for what is thrown away, or goes elsewhere.
func (p *pending) clear() { p.done(p.bytes) }

// room is sender.room of a transport that is open.
func (p *pending) room() <-chan struct{} {
	if p.bytes <= roomFor {
		return nil
	}
	if p.drained == nil {
		p.drained = make(chan struct{})
	}
	return p.drained
}

func (p *pending) wake() {
	if p.drained != nil {
		close(p.drained)
		p.drained = nil
	}
}

func (p *pending) full(limit int) bool { return p.bytes-p.exempt > limit }

var (
	_ sender = (*webSocket)(nil)
	_ sender = (*polling)(nil)
)

type webSocketBuilder struct{ options *transportOptions }

func (b *webSocketBuilder) New(ctx *types.HttpContext) transports.Transport {
	return newWebSocket(ctx, b.options)
}
func (*webSocketBuilder) Name() string          { return transports.WEBSOCKET }
func (*webSocketBuilder) HandlesUpgrades() bool { return true }
func (*webSocketBuilder) UpgradesTo() []string  { return nil }

// webSocket is the Engine.IO transport over one WebSocket connection. A frame is written by whoever sends it, as far as
// the connection takes it without waiting; the rest waits in a queue for a goroutine that lives as long as the queue.
//
// One goroutine reads, from start to the end of the connection, and closes it. The transport is always writable for the
// engine, so that the engine keeps no queue of its own, and an Emit that has returned is before every later push.
type webSocket struct {
	mu       sync.Mutex
	state    state
	flushing bool            // the flusher runs, and nobody else writes
	upgrade  bool            // from long-polling, not handed over yet
	pending  pending         // queue, and what the flusher is writing
	unsent   int             // what the kernel had not sent at the flusher's last look
	raw      syscall.RawConn // of a TCP connection; nil sends everything through the queue

	// tryWrite's arguments, results and the function that RawConn.Write calls: a closure for each write would be three
	// allocations for each delivery. Guarded by mu.
	write  func(fd uintptr) bool
	out    []byte
	outN   int
	outErr error

	options *transportOptions
	transports.Transport
	queue  [][]byte             // what the connection did not take yet; guarded by mu
	parked []frame              // what the engine sent to an upgrade before the polling transport handed over; guarded by mu
	conn   net.Conn             // *net.TCPConn or *tls.Conn
	in     messages             // of the reading goroutine
	reader sync.Once            // starts it, or releases a connection that was never read
	ended  atomic.Bool          // the engine knows that the connection is over
	ws     *types.WebSocketConn // the library's; let go of at start
	probed types.EventListener  // of an upgrade: the engine's listener for packets
}

type state uint8

const (
	open    state = iota
	closing       // nothing new is taken, what waits goes out
	closed
)

func newWebSocket(ctx *types.HttpContext, o *transportOptions) *webSocket {
	t := &webSocket{Transport: transports.MakeTransport(), options: o, pending: pending{metrics: o.Metrics}}
	t.Prototype(t)
	t.Construct(ctx)
	return t
}

// Construct takes over the connection of ctx. An upgrade (the request names a session) sends nothing but the answer to
// the probe until the polling transport hands over.
func (t *webSocket) Construct(ctx *types.HttpContext) {
	t.Transport.Construct(ctx)
	t.ws, t.unsent = ctx.Websocket, math.MaxInt
	t.upgrade = ctx.Query().Has("sid")
	t.conn = t.ws.NetConn()
	t.in.conn, t.in.limit = t.conn, t.options.maxPacket
	if tcp, ok := t.conn.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			t.raw, t.write = raw, t.writeOut
		}
	}
	t.options.Metrics.connections.WithLabelValues(transports.WEBSOCKET).Inc()
	t.SetWritable(true)
}

func (*webSocket) Name() string          { return transports.WEBSOCKET }
func (*webSocket) HandlesUpgrades() bool { return true }

// On notes the engine's listener for the packets of an upgrade, see giveUpUpgrade.
func (t *webSocket) On(event types.EventName, listeners ...types.EventListener) error {
	if t.upgrade && event == "packet" && len(listeners) > 0 {
		t.probed = listeners[0]
	}
	return t.Transport.On(event, listeners...)
}

// giveUpUpgrade has the engine clean up again after an upgrade that came to nothing. When the session ends while the probe
// is being answered, the engine's first clean-up may come before it starts the timer that hurries the upgrade, which then
// ticks for ever (servers/engine/v3 v3.0.5 socket.go:339). Any packet but a probe or UPGRADE makes it clean up; the reading
// goroutine, which brought the probe, is the only one to start that timer.
func (t *webSocket) giveUpUpgrade() {
	t.mu.Lock()
	pending := t.upgrade
	t.mu.Unlock()
	if pending && t.probed != nil {
		t.probed(&packet.Packet{Type: packet.NOOP, Data: types.NewStringBufferString("")})
	}
}

// Once starts an upgrade: the engine attaches the listener for "error" last (servers/engine/v3 v3.0.5
// socket.go:414, MaybeUpgrade).
func (t *webSocket) Once(event types.EventName, listeners ...types.EventListener) error {
	err := t.Transport.Once(event, listeners...)
	if t.upgrade && event == "error" {
		t.start()
	}
	return err
}

// OnRequest refuses a long-polling request that the engine had let pass before the session was upgraded
// (server.go:88, HandleRequest): nobody else would answer it.
func (t *webSocket) OnRequest(ctx *types.HttpContext) {
	if ctx.Websocket == nil {
		refuse(ctx, http.StatusBadRequest)
	}
}

// start begins to read. The library's connection has served: its buffers are larger than all that the transport has.
func (t *webSocket) start() {
	t.reader.Do(func() {
		t.ws.Conn, t.ws = nil, nil
		go t.read()
	})
}

func (t *webSocket) read() {
	defer t.end()
	for {
		opcode, data, err := t.in.next()
		if err != nil {
			t.fail(err)
			return
		}
		switch opcode {
		case websocket.TextMessage:
			t.receive(types.NewStringBuffer(data))
		case websocket.BinaryMessage:
			t.receive(types.NewBytesBuffer(data))
		case websocket.PingMessage:
			t.sendFrame(newFrame(websocket.PongMessage, data))
		case websocket.CloseMessage:
			t.fail(&protocolError{websocket.CloseNormalClosure, "closed by the client"})
			return
		}
	}
}

// receive passes a packet on while the transport is open. What comes after a close was under way and is dropped.
func (t *webSocket) receive(data types.BufferInterface) {
	t.mu.Lock()
	isOpen := t.state == open
	t.mu.Unlock()
	if !isOpen {
		return
	}
	p, _ := t.Parser().DecodePacket(data) // a packet that is none decodes to an ERROR packet: the engine closes
	if p.Type == packet.CLOSE {
		t.report(nil)
		t.shut(websocket.CloseNormalClosure)
		return
	}
	t.OnPacket(p)
}

// end closes the connection. After a close of ours it first gives the client the time to take what is under way: bytes
// that arrive at a closed socket make the kernel throw away what it had not sent.
func (t *webSocket) end() {
	t.mu.Lock()
	linger := t.state == closing
	t.mu.Unlock()
	if linger {
		_ = t.conn.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.Copy(io.Discard, t.conn)
	}
	t.release()
	t.giveUpUpgrade()
}

// release gives up the connection and what waits for it.
func (t *webSocket) release() {
	t.mu.Lock()
	t.state, t.queue, t.parked = closed, nil, nil
	t.pending.clear()
	t.mu.Unlock()
	_ = t.conn.Close()
	t.options.Metrics.connections.WithLabelValues(transports.WEBSOCKET).Dec()
}

// fail is the end of reading: the client has gone, closes, or sent what cannot be read. It hears why, if it can.
func (t *webSocket) fail(err error) {
	var said *protocolError
	if errors.As(err, &said) {
		t.shut(said.code)
		if said.code == websocket.CloseNormalClosure {
			err = nil
		}
	}
	t.mu.Lock()
	if t.state == open {
		t.state = closed
	}
	t.mu.Unlock()
	t.report(err)
}

// report tells the engine, once, that the connection is over.
func (t *webSocket) report(err error) {
	if t.ended.Swap(true) {
		return // the engine's answer to a report is a close
	}
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		t.Transport.OnClose()
		return
	}
	t.OnError("websocket error", err)
}

// abort closes the connection at once: what waits, here and in the kernel, is thrown away.
func (t *webSocket) abort(err error) {
	t.mu.Lock()
	t.state, t.queue, t.parked = closed, nil, nil
	t.pending.clear()
	t.mu.Unlock()
	conn := t.conn
	if c, ok := conn.(*tls.Conn); ok {
		conn = c.NetConn() // a farewell in TLS would wait for the client
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
	t.report(err)
	t.reader.Do(t.release)
}

func (t *webSocket) cut(err error) { go t.abort(err) }

// DoClose lets go of the connection in order: what waits is sent, then a close frame. It does not wait for that; the
// engine's session ends now.
func (t *webSocket) DoClose(ended types.Callable) {
	t.shut(websocket.CloseNormalClosure)
	if ended != nil {
		ended()
	}
	t.report(nil)
}

// shut sends what waits and a close frame, and then closes our side.
func (t *webSocket) shut(code int) {
	t.mu.Lock()
	if t.state != open {
		t.mu.Unlock()
		return
	}
	t.state = closing
	t.writeLocked(newFrame(websocket.CloseMessage, websocket.FormatCloseMessage(code, "")).ws)
	flushing := t.flushing
	if flushing {
		_ = t.conn.SetWriteDeadline(time.Now().Add(t.options.closeTimeout))
	}
	t.mu.Unlock()
	if !flushing { // else it is the flusher's last act
		t.closeWrite()
	}
}

// closeWrite closes our side. mu is not held: TLS says farewell, and waits for the client to take it.
func (t *webSocket) closeWrite() {
	if c, ok := t.conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
	_ = t.conn.SetReadDeadline(time.Now().Add(lingerTime))
	t.reader.Do(func() { go t.release() })
}

// Send takes the engine's packets: acknowledgements, what is emitted to one socket, PING.
func (t *webSocket) Send(packets []*packet.Packet) {
	for _, p := range packets {
		f, err := encodePacket(t, p)
		if err != nil {
			t.cut(err)
			return
		}
		switch {
		case p.Type == packet.PING:
			time.AfterFunc(t.options.pingDelay(), func() { t.sendFrame(f) })
		case p.Type == packet.PONG: // the answer to an upgrade's probe
			t.mu.Lock()
			t.writeLocked(f.ws)
			t.mu.Unlock()
		default:
			t.sendFrame(f)
		}
	}
	t.Emit("drain")
}

func encodePacket(t transports.Transport, p *packet.Packet) (frame, error) {
	data, err := t.Parser().EncodePacket(p, t.SupportsBinary())
	if err != nil {
		return frame{}, err
	}
	if _, ok := data.(*types.StringBuffer); ok {
		return newFrame(websocket.TextMessage, data.Bytes()), nil
	}
	return newFrame(websocket.BinaryMessage, data.Bytes()), nil
}

func (t *webSocket) sendFrame(f frame) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.acceptLocked() {
		return false
	}
	t.sendLocked(f)
	t.options.Metrics.sent(1, len(f.ws))
	return true
}

func (t *webSocket) push(volatile bool, evs []*encodedEvent) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if volatile && (t.flushing || t.upgrade) || !t.acceptLocked() {
		return false
	}
	for _, ev := range evs {
		t.sendLocked(ev.frame)
		for _, f := range ev.attachments {
			t.sendLocked(f)
		}
	}
	return true
}

func (t *webSocket) pushBurst(b *burst) (taken, kept bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.acceptLocked() {
		return false, false
	}
	before := t.pending.bytes
	if t.upgrade {
		t.parked = append(t.parked, b.frames...)
		t.pending.add(len(b.bytes))
	} else {
		t.writeLocked(b.bytes)
	}
	waits := t.pending.bytes - before
	t.pending.exempt += waits
	return true, waits > 0
}

func (t *webSocket) room() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state != open {
		return nil
	}
	return t.pending.room()
}

// acceptLocked reports whether one more packet may be queued, and cuts the client whose queue is full.
func (t *webSocket) acceptLocked() bool {
	if t.state != open {
		return false
	}
	if !t.pending.full(t.options.SendQueue) {
		return true
	}
	t.state = closed
	t.options.Metrics.slow.Inc()
	t.cut(errSlowClient)
	return false
}

func (t *webSocket) sendLocked(f frame) {
	if f.binary && !t.SupportsBinary() {
		f = newFrame(websocket.TextMessage, f.text())
	}
	if t.upgrade {
		t.parked = append(t.parked, f)
		t.pending.add(len(f.ws))
		return
	}
	t.writeLocked(f.ws)
}

// adopt ends an upgrade: what the polling transport had not delivered, then what came since, then live.
func (t *webSocket) adopt(left []frame) {
	t.mu.Lock()
	defer t.mu.Unlock()
	parked := t.parked
	t.parked, t.upgrade = nil, false
	t.pending.clear()
	if t.state != open {
		return
	}
	for _, f := range left {
		t.sendLocked(f)
	}
	for _, f := range parked {
		t.sendLocked(f)
	}
}

// writeLocked writes b as far as the connection takes it now, if nothing waits before it, and queues the rest.
func (t *webSocket) writeLocked(b []byte) {
	if !t.flushing && t.raw != nil {
		n, err := t.tryWrite(b)
		if n == len(b) {
			return
		}
		if err != nil {
			t.state = closed
			t.cut(err)
			return
		}
		b = b[n:]
	}
	t.queue = append(t.queue, b)
	t.pending.add(len(b))
	if !t.flushing {
		t.flushing = true
		go t.flush()
	}
}

// tryWrite writes without waiting. A full connection is no error.
func (t *webSocket) tryWrite(b []byte) (int, error) {
	t.out, t.outN, t.outErr = b, 0, nil
	err := t.raw.Write(t.write)
	t.out = nil
	if err == nil {
		err = t.outErr
	}
	return t.outN, err
}

func (t *webSocket) writeOut(fd uintptr) bool {
	t.outN, t.outErr = writeNow(fd, t.out)
	return true // never wait
}

// flush writes the queue until it is empty. It gives up on a client that takes nothing for options.writeTimeout.
func (t *webSocket) flush() {
	for {
		chunk, n, last := t.nextChunk()
		if last {
			t.closeWrite()
		}
		if n == 0 {
			return
		}
		written, err := chunk.WriteTo(t.conn)
		if err != nil && !t.patient(err, int(written)) {
			if isTimeout(err) {
				t.options.Metrics.slow.Inc()
			}
			t.abort(err)
			return
		}
		t.wrote(chunk, int(written))
	}
}

// wrote puts back what was not written of a chunk.
func (t *webSocket) wrote(rest net.Buffers, written int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(rest) > 0 {
		t.queue = append(rest, t.queue...)
	}
	t.pending.done(written)
}

// patient reports whether a write that met its deadline is to be gone on with: the client takes something, if not as fast
// as the kernel wants to have room again. A close does not wait for long, and a record of TLS cannot be gone on with.
func (t *webSocket) patient(err error, written int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !isTimeout(err) || t.state != open || t.raw == nil {
		return false
	}
	before := t.unsent
	_ = t.raw.Control(func(fd uintptr) { t.unsent = unsent(fd) })
	return written > 0 || t.unsent < before
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// nextChunk takes up to chunkSize bytes from the queue. With none left the flusher ends: from then on senders write
// again, but if the transport closes, those were the last.
func (t *webSocket) nextChunk() (chunk net.Buffers, n int, last bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) == 0 {
		t.queue, t.flushing, t.unsent = nil, false, math.MaxInt
		_ = t.conn.SetWriteDeadline(time.Time{}) // tryWrite would fail at a deadline that has passed
		return nil, 0, t.state == closing
	}
	timeout := t.options.writeTimeout
	if t.state == closing {
		timeout = t.options.closeTimeout
	}
	_ = t.conn.SetWriteDeadline(time.Now().Add(timeout))
	for len(t.queue) > 0 && n < chunkSize {
		b := t.queue[0]
		if room := chunkSize - n; len(b) > room {
			chunk, n = append(chunk, b[:room]), n+room
			t.queue[0] = b[room:]
			break
		}
		chunk, n = append(chunk, b), n+len(b)
		t.queue[0] = nil
		t.queue = t.queue[1:]
	}
	return chunk, n, false
}
