package inbox

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"roombell/db"
	"roombell/internal/eventlog"
)

const (
	// tick is how long writes are collected before they are computed.
	tick = 50 * time.Millisecond

	// memory is how long a follower remembers touched chats. A dead ringer is followed in a quarter of a second.
	memory = 10 * time.Second

	// saveEvery is how often the position is stored, and so what the next ringer has to read again.
	saveEvery = 5 * time.Second

	// stopTime is what storing the position at the end may take.
	stopTime = 2 * time.Second

	// reconcileRoom is how many chats may wait while reconciling goes on to look for more, and reconcileTime for how long it does so in one turn.
	reconcileRoom = 1000
	reconcileTime = 200 * time.Millisecond
)

var _ eventlog.Publisher = (*Projector)(nil)

// ProjectorOptions are what a Projector needs. Registerer may be nil.
type ProjectorOptions struct {
	Pool       *pgxpool.Pool
	Ringer     func() bool // whether this node is the one that keeps the counters; asked twenty times a second
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Projector keeps chats.unread_count and last_message_at, on one node of all. It hears which chats were written to, reads their messages and writes
// the figures where they differ; clients hear of it by the triggers of chats. Doing a chat twice changes nothing, so two nodes that
// both believe to be the ringer do no harm.
//
// It takes a row's lock only if nobody has it, for some milliseconds, and a chat that somebody works on gets its turn later.
type Projector struct {
	pool    *pgxpool.Pool
	queries *db.Queries
	ringer  func() bool
	log     *slog.Logger
	metrics *metrics

	mu       sync.Mutex
	touched  *touched
	position eventlog.Cursor // after the last batch
	drifted  bool            // any chat may be wrong: all are to be compared
	own      transactions    // what they tell of counters is our own doing

	// Of Run alone.
	leading   bool // took over, and did not lose the part since
	reconcile reconcile
	singles   chunk
	bulk      chunk
	round     int // chats of a bulk write that waited at once, the most of them since none did
	outage    outage
	saved     string
	savedAt   time.Time
}

// NewProjector returns an idle projector: give it to the tail as a publisher, and Run it.
func NewProjector(o ProjectorOptions) *Projector {
	return &Projector{
		pool:    o.Pool,
		queries: db.New(o.Pool),
		ringer:  o.Ringer,
		log:     o.Logger,
		metrics: newMetrics(o.Registerer),
		touched: newTouched(),
		singles: newSingles(),
		bulk:    newBulk(),
	}
}

// Publish notes the chats of a batch. It does not block.
func (p *Projector) Publish(b *eventlog.Batch) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range b.Events {
		p.note(&b.Events[i], now)
	}
	p.position = b.End()
}

// Reset notes that events may have been missed.
func (p *Projector) Reset(_ string, c eventlog.Cursor) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drifted = true
	p.position = c
	p.own.clear()
}

// note needs p.mu.
func (p *Projector) note(e *eventlog.Event, now time.Time) {
	if p.own.has(e.TxID) {
		return
	}
	switch e.Kind {
	case eventlog.KindTruncate:
		p.drifted = true
	case eventlog.KindTouch:
		p.touch(e.ChatID, now, true)
	case eventlog.KindEvent:
		switch e.Name {
		case "message:new", "message:deleted", "messages:read":
			p.touch(e.ChatID, now, false)
		case "chat:new", "chat:updated":
			if claimsCounters(e) {
				p.touch(e.ChatID, now, false)
			}
		}
	case eventlog.KindChats:
		return // its Touched are about rights
	}
	// A sum of few chats may be one of hundreds, of a statement that reached as many organizations or of a script that writes row by row.
	bulk := e.Kind == eventlog.KindTouch || e.Name == "chats:updated"
	for _, chat := range e.Touched {
		p.touch(chat, now, bulk)
	}
}

// claimsCounters reports whether a chat was written with figures of the writer's own, as those do who store whole rows. What is not
// recognized counts as such: a chat that is right costs no more than a look.
func claimsCounters(e *eventlog.Event) bool {
	if e.Name == "chat:new" {
		return !bytes.Contains(e.Payload, []byte(`"unreadCount" : 0, "lastMessageAt" : null`))
	}
	return bytes.Contains(e.Payload, []byte(`"unreadCount"`)) || bytes.Contains(e.Payload, []byte(`"lastMessageAt"`))
}

// touch needs p.mu. When there is no room everything is dropped: comparing all chats finds them again.
func (p *Projector) touch(chat int64, now time.Time, bulk bool) {
	if chat == 0 || p.touched.add(chat, now, bulk) {
		return
	}
	p.touched.clear()
	p.drifted = true
}

// Run keeps the counters while this node is the ringer, until ctx ends; then it stores its position. It returns nil. What a database that is
// away, or busy, does not let it do stays noted.
func (p *Projector) Run(ctx context.Context) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			p.stop(ctx)
			return nil
		case <-ticker.C:
			p.turn(ctx)
		}
	}
}

func (p *Projector) stop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	if !p.leading {
		return
	}
	// Another node may be the ringer by now, and further: an older position is as true as its own.
	if err := p.save(ctx); err != nil {
		p.log.Warn("the next ringer reads more of the log", "err", err)
	}
}

// turn does what is to be done now.
func (p *Projector) turn(ctx context.Context) {
	if !p.ringer() {
		p.follow()
		return
	}
	if p.outage.waiting() {
		return
	}
	if !p.leading {
		if err := p.takeOver(ctx); err != nil {
			p.failed(ctx, err)
			return
		}
		p.leading, p.savedAt = true, time.Now()
	}
	p.lead(ctx)
}

// follow forgets what the ringer must have done by now.
func (p *Projector) follow() {
	p.leading = false
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.touched.expire(now.Add(-memory), now)
	p.metrics.pending.Set(0)
}

func (p *Projector) lead(ctx context.Context) {
	if !p.computeDue(ctx) {
		return
	}
	for began, more := time.Now(), true; more && time.Since(began) < reconcileTime; {
		var err error
		if more, err = p.reconcileStep(ctx); err != nil {
			p.failed(ctx, err)
			return
		}
	}
	if time.Since(p.savedAt) < saveEvery {
		return
	}
	if err := p.save(ctx); err != nil {
		p.failed(ctx, err)
	}
}

// failed notes an error of the database that is no single chat's, and waits a while.
func (p *Projector) failed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	p.metrics.retries.WithLabelValues(retryReason(err)).Inc()
	p.outage.note(p.log, "counters of chats", err)
}

func retryReason(err error) string {
	switch {
	case db.IsLocked(err):
		return retryLocked
	case db.IsRetryable(err):
		return retryDeadlock
	case db.IsUnavailable(err):
		return retryUnavailable
	}
	return retryError
}

// outage is the time in which the database does not answer. The zero value is none.
type outage struct {
	failures int
	until    time.Time
}

func (o *outage) waiting() bool { return time.Now().Before(o.until) }

// note logs the first failure and the end, and doubles the wait up to a second.
func (o *outage) note(log *slog.Logger, what string, err error) {
	if err == nil {
		if o.failures > 0 {
			log.Info(what+" are written again", "failures", o.failures)
		}
		*o = outage{}
		return
	}
	if o.failures == 0 {
		log.Warn(what+" have to wait", "err", err)
	}
	o.until = time.Now().Add(min(time.Second, 125*time.Millisecond<<min(o.failures, 5)))
	o.failures++
}
