package realtime

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/zishang520/socket.io/parsers/engine/v3/packet"
	"github.com/zishang520/socket.io/servers/engine/v3/transports"
	"github.com/zishang520/socket.io/v3/pkg/types"
)

// leaveGrace is how long a client that said CLOSE may take to come for the answer. It sends CLOSE and the poll that is to
// be ended with NOOP at the same time, over two connections, and the poll may arrive second.
const leaveGrace = 100 * time.Millisecond

type pollingBuilder struct{ options *transportOptions }

func (b *pollingBuilder) New(ctx *types.HttpContext) transports.Transport {
	return newPolling(ctx, b.options)
}
func (*pollingBuilder) Name() string          { return transports.POLLING }
func (*pollingBuilder) HandlesUpgrades() bool { return false }
func (*pollingBuilder) UpgradesTo() []string  { return []string{transports.WEBSOCKET} }

// polling is the Engine.IO transport over HTTP long-polling: a GET waits for packets, a POST brings some. What is sent
// waits in one queue under the same cap as a WebSocket's; the goroutine of the GET takes it all, or waits.
//
// The library's transport fails the protocol's suite here (servers/engine/v3 v3.0.5 transports/polling.go): it answers a
// broken body with 200 (line 230 drops the error), never answers the first of two polls (425 closes the queue that CLOSE
// would take), and keeps a session whose poll was given up (133 forgets the poll before it is missed).
type polling struct {
	transports.Transport
	options *transportOptions

	mu        sync.Mutex
	handshake *types.HttpContext // the first request, answered by open
	heard     time.Time          // the start, or the last PONG
	patience  time.Duration      // after heard, to the next PONG
	queue     []frame
	pending   pending       // queue, and what is being written
	polled    bool          // a GET waits
	answer    answer        // what it is woken for, if not for the queue
	wake      chan struct{} // to the GET that waits
	posting   bool          // a POST is being read
	leaving   bool          // the client said CLOSE, and no poll was there
	state     state
	ended     types.Callable // of a close that waits for a poll
	handed    bool           // upgraded: what comes is kept for next
	next      *webSocket
}

// answer is how a poll ends.
type answer uint8

const (
	answerQueue  answer = iota
	answerNoop          // the client closed
	answerClose         // we close
	answerRefuse        // upgraded: there is nothing here any more
)

func newPolling(ctx *types.HttpContext, o *transportOptions) *polling {
	t := &polling{Transport: transports.MakeTransport(), options: o, heard: time.Now(), wake: make(chan struct{}, 1), pending: pending{metrics: o.Metrics}}
	t.Prototype(t)
	t.Construct(ctx)
	t.options.Metrics.connections.WithLabelValues(transports.POLLING).Inc()
	t.SetWritable(true)
	return t
}

func (*polling) Name() string { return transports.POLLING }

// OnRequest serves a request of the session. A poll returns when it is answered: it waits on the goroutine of its
// request, which has nothing else to do.
func (t *polling) OnRequest(ctx *types.HttpContext) {
	switch {
	case ctx.Method() == http.MethodGet && !ctx.Query().Has("sid"):
		t.handshake = ctx
	case ctx.Method() == http.MethodGet:
		t.poll(ctx)
	case ctx.Method() == http.MethodPost:
		t.post(ctx)
	default:
		refuse(ctx, http.StatusMethodNotAllowed)
	}
}

// open answers the handshake, now that everybody listens for what the client sends next.
func (t *polling) open(patience time.Duration) {
	t.mu.Lock()
	t.patience = patience
	packets, n := t.takeLocked()
	isOpen := t.state == open
	t.mu.Unlock()
	if !isOpen {
		refuse(t.handshake, http.StatusBadRequest)
		return
	}
	t.respond(t.handshake, packets, n)
	t.handshake = nil
}

func (t *polling) poll(ctx *types.HttpContext) {
	t.mu.Lock()
	switch {
	case t.leaving:
		t.mu.Unlock()
		t.leave()
		respondText(ctx, "6")
		return
	case t.state == closed || t.handed:
		t.mu.Unlock()
		refuse(ctx, http.StatusBadRequest)
		return
	case t.polled:
		t.mu.Unlock()
		t.OnError("overlap from client", errors.New("realtime: two polls at once"))
		refuse(ctx, http.StatusBadRequest)
		return
	case time.Since(t.heard) > t.patience: // the engine's timer is late: the client has given up as well
		t.mu.Unlock()
		t.OnError("ping timeout", errors.New("realtime: no pong"))
		refuse(ctx, http.StatusBadRequest)
		return
	}
	t.polled = true
	if t.state == closing {
		t.answer = answerClose
	}
	t.wakeLocked()
	t.mu.Unlock()
	_ = http.NewResponseController(ctx.Response()).SetReadDeadline(time.Time{}) // the server's would end the wait
	t.wait(ctx)
}

// wait answers the poll once there is something to say.
func (t *polling) wait(ctx *types.HttpContext) {
	for {
		select {
		case <-t.wake:
		case <-ctx.Context().Done():
			// The poll stays the session's until the session is gone: whoever polls in between overlaps, and is refused.
			t.OnError("poll closed by client", ctx.Context().Err())
			return
		}
		if t.answered(ctx) {
			return
		}
	}
}

func (t *polling) answered(ctx *types.HttpContext) bool {
	t.mu.Lock()
	answer := t.answer
	if answer == answerQueue && len(t.queue) == 0 {
		t.mu.Unlock()
		return false
	}
	t.polled = false
	var packets [][]byte
	n := 0
	switch answer {
	case answerQueue, answerClose:
		packets, n = t.takeLocked()
	case answerNoop:
		t.queue = nil
		t.pending.clear()
	}
	ended := t.ended
	t.ended = nil
	t.mu.Unlock()

	switch answer {
	case answerRefuse:
		refuse(ctx, http.StatusBadRequest)
	case answerNoop:
		respondText(ctx, "6")
	case answerClose:
		if ended != nil {
			t.finish(ended)
		}
		t.respond(ctx, append(packets, []byte("1")), n)
	default:
		t.respond(ctx, packets, n)
	}
	return true
}

// takeLocked takes the queue as packets of a payload. Their bytes keep counting as waiting until respond is through.
func (t *polling) takeLocked() ([][]byte, int) {
	packets := make([][]byte, 0, len(t.queue)+1)
	n := 0
	for _, f := range t.queue {
		packets = append(packets, f.text())
		n += len(f.ws)
	}
	t.queue = nil
	return packets, n
}

// respond writes a payload (Engine.IO protocol 4: packets joined by the record separator).
func (t *polling) respond(ctx *types.HttpContext, packets [][]byte, n int) {
	size := max(len(packets)-1, 0)
	for _, p := range packets {
		size += len(p)
	}
	body := make([]byte, 0, size)
	for i, p := range packets {
		if i > 0 {
			body = append(body, '\x1e')
		}
		body = append(body, p...)
	}
	h := ctx.ResponseHeaders()
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	t.Emit("headers", h, ctx)
	err := t.write(ctx, body)
	t.mu.Lock()
	t.pending.done(n)
	t.mu.Unlock()
	if err != nil {
		t.OnError("polling write error", err)
	}
}

// write writes to a client that has options.writeTimeout to take it.
func (t *polling) write(ctx *types.HttpContext, body []byte) error {
	rc := http.NewResponseController(ctx.Response())
	_ = rc.SetWriteDeadline(time.Now().Add(t.options.writeTimeout))
	defer func() { _ = rc.SetWriteDeadline(time.Time{}) }()
	if _, err := ctx.Write(body); err != nil {
		return err
	}
	return rc.Flush()
}

func respondText(ctx *types.HttpContext, body string) {
	h := ctx.ResponseHeaders()
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	h.Set("Cache-Control", "no-store")
	_, _ = ctx.Write([]byte(body))
}

// refuse answers as the engine answers a request that it does not take (server.go:390, abortRequest).
func refuse(ctx *types.HttpContext, status int) {
	ctx.ResponseHeaders().Set("Content-Type", "application/json")
	_ = ctx.SetStatusCode(status)
	_, _ = io.WriteString(ctx, `{"code":3,"message":"Bad request"}`)
}

// post reads packets. A body that cannot be read, is too long, or is no payload ends the session; packets before the
// broken one count.
func (t *polling) post(ctx *types.HttpContext) {
	t.mu.Lock()
	gone := t.state == closed || t.handed || t.leaving
	overlap := t.posting
	t.posting = t.posting || !gone
	t.mu.Unlock()
	if gone {
		refuse(ctx, http.StatusBadRequest)
		return
	}
	if overlap {
		t.reject(ctx, http.StatusBadRequest, errors.New("realtime: two posts at once"))
		return
	}
	status, err := t.receive(ctx)
	t.mu.Lock()
	t.posting = false
	t.mu.Unlock()
	if err != nil {
		t.reject(ctx, status, err)
		return
	}
	respondText(ctx, "ok")
}

func (t *polling) reject(ctx *types.HttpContext, status int, err error) {
	t.OnError("bad data request", err)
	refuse(ctx, status)
}

func (t *polling) receive(ctx *types.HttpContext) (status int, err error) {
	if ctx.Headers().Peek("Content-Type") == "application/octet-stream" {
		return http.StatusBadRequest, errors.New("realtime: binary body")
	}
	limit := t.MaxHttpBufferSize()
	body, err := io.ReadAll(io.LimitReader(ctx.Request().Body, limit+1))
	if err != nil {
		return http.StatusBadRequest, err
	}
	if int64(len(body)) > limit {
		return http.StatusRequestEntityTooLarge, errors.New("realtime: body too long")
	}
	packets, err := t.Parser().DecodePayload(types.NewStringBuffer(body))
	for _, p := range packets {
		switch p.Type {
		case packet.CLOSE:
			t.goodbye()
			return 0, nil
		case packet.PONG:
			t.mu.Lock()
			t.heard = time.Now()
			t.mu.Unlock()
		}
		t.OnPacket(p)
	}
	if err == nil && len(packets) == 0 {
		err = errors.New("realtime: no packets")
	}
	return http.StatusBadRequest, err
}

// goodbye ends the session that the client closed, at once when a poll waits, else with its next poll.
func (t *polling) goodbye() {
	t.mu.Lock()
	if t.state == closed {
		t.mu.Unlock()
		return
	}
	if !t.polled {
		t.leaving = true
		t.mu.Unlock()
		time.AfterFunc(leaveGrace, t.leave)
		return
	}
	t.mu.Unlock()
	t.leave()
}

// leave ends the session, and then the poll that waits: the client must not find the session again.
func (t *polling) leave() {
	t.Transport.OnClose()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closeLocked(answerNoop)
}

// closeLocked lets go of the queue, and ends the poll that waits with a.
func (t *polling) closeLocked(a answer) {
	if t.state == closed {
		return
	}
	t.state = closed
	t.pending.wake()
	t.options.Metrics.connections.WithLabelValues(transports.POLLING).Dec()
	if t.polled {
		t.answer = a
		t.wakeLocked()
		return
	}
	t.queue = nil
	t.pending.clear()
}

func (t *polling) wakeLocked() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// OnClose covers the closes that do not go through DoClose.
func (t *polling) OnClose() {
	t.Transport.OnClose()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closeLocked(answerClose)
}

// DoClose ends the transport. A poll that waits gets what is queued and CLOSE; without one, an orderly close waits for
// the next poll, for a while. A session that was upgraded keeps its queue for the WebSocket, see handOver.
func (t *polling) DoClose(ended types.Callable) {
	t.mu.Lock()
	switch {
	case t.state != open:
	case t.Discarded() && ended == nil:
		t.handed = true
		left := t.queue
		t.closeLocked(answerRefuse)
		t.queue = left
	case t.polled || t.Discarded() || ended == nil:
		t.closeLocked(answerClose)
	default:
		t.state, t.ended = closing, ended
		t.mu.Unlock()
		time.AfterFunc(t.options.closeTimeout, t.giveUp)
		return
	}
	t.mu.Unlock()
	t.finish(ended)
}

// finish tells the engine that the transport is closed.
func (t *polling) finish(ended types.Callable) {
	if ended != nil {
		ended()
	}
	t.OnClose()
}

// giveUp ends an orderly close that no poll came for.
func (t *polling) giveUp() {
	t.mu.Lock()
	ended := t.ended
	t.ended = nil
	t.mu.Unlock()
	if ended != nil {
		t.finish(ended)
	}
}

// handOver gives the queue to the WebSocket that the session was upgraded to, and sends what is still to come there.
func (t *polling) handOver(next *webSocket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	left := t.queue
	t.queue, t.next = nil, next
	t.pending.clear()
	next.adopt(left)
}

// Send takes the engine's packets. A NOOP (the engine hurries an upgrade) is only for a poll that waits.
func (t *polling) Send(packets []*packet.Packet) {
	for _, p := range packets {
		f, err := encodePacket(t, p)
		if err != nil {
			t.cut(err)
			return
		}
		switch p.Type {
		case packet.PING:
			time.AfterFunc(t.options.pingDelay(), func() { t.sendFrame(f) })
		case packet.NOOP:
			t.hurry(f)
		default:
			t.sendFrame(f)
		}
	}
	t.Emit("drain")
}

func (t *polling) hurry(noop frame) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.polled && len(t.queue) == 0 {
		t.queueLocked(noop)
	}
}

func (t *polling) sendFrame(f frame) bool {
	return t.send(false, func() { t.queueLocked(f) }, func(next *webSocket) bool { return next.sendFrame(f) })
}

func (t *polling) push(volatile bool, evs []*encodedEvent) bool {
	return t.send(volatile, func() {
		for _, ev := range evs {
			t.queueLocked(ev.frame)
			for _, f := range ev.attachments {
				t.queueLocked(f)
			}
		}
	}, func(next *webSocket) bool { return next.push(volatile, evs) })
}

func (t *polling) send(volatile bool, queue func(), forward func(*webSocket) bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.next != nil:
		return forward(t.next)
	case t.state != open && !t.handed, volatile && !t.polled:
		return false
	case t.pending.full(t.options.SendQueue) && !t.handed: // then nobody would hear of the cut
		t.options.Metrics.slow.Inc()
		t.cut(errSlowClient)
		return false
	}
	queue()
	return true
}

func (t *polling) pushBurst(b *burst) (taken, kept bool) {
	kept = true
	taken = t.send(false, func() {
		for _, f := range b.frames {
			t.queueLocked(f)
		}
		t.pending.exempt += len(b.bytes)
	}, func(next *webSocket) bool {
		taken, kept = next.pushBurst(b)
		return taken
	})
	return taken, kept
}

func (t *polling) room() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.next != nil {
		return t.next.room()
	}
	if t.state != open {
		return nil
	}
	return t.pending.room()
}

func (t *polling) queueLocked(f frame) {
	t.queue = append(t.queue, f)
	t.pending.add(len(f.ws))
	t.wakeLocked()
}

func (t *polling) cut(err error) { go t.OnError("polling cut", err) }
