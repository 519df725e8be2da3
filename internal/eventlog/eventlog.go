// Package eventlog follows the log that the triggers write: it hears the bell, reads what its position has not seen, and hands batches to
// its publishers. realtime and the projector are publishers; eventlog calls Postgres and nobody else.
//
// A Tail has one connection, which listens, reads, holds the two advisory locks and rings. The rule of positions is in cursor.go: an event
// is seen when its id is at most the highest delivered one and its transaction had ended in the last snapshot. It is exact over lost
// connections, crashes of the server and promotions of a standby. What makes it so is in the log and in memory; nothing is written for it.
//
// The gate keeps writers fast. A transaction that NOTIFYs takes a lock of the whole database until its commit is flushed, so NOTIFY per
// commit ends group commit. One of all tails is the ringer. When things are quiet it holds the gate exclusively and sleeps, and writers
// that find the gate held ring with NOTIFY. When they are not, it lets go, reads every few milliseconds and rings for the others; a writer
// that got the gate shared is silent, and its share keeps the ringer from sleeping before its commit is visible.
//
//	eventlog.go  the tail's door: Options, Publisher, New, Attach, Status, RoundTrip
//	event.go     what the log holds          cursor.go, batch.go  positions
//	tail.go      connect, reconnect          session.go           a connection: LISTEN, what has changed about the server
//	read.go      the read                    gate.go              follower and ringer, awake and armed
//	history.go   Since, Read                 retention.go         emptying slots
//	failover.go  promotions, other clusters  stress/              the proof
//
// It promises every committed event once and in an order in which the changes of one row follow each other, to each publisher, for as
// long as the process lives; where that is impossible (retention has passed, a promotion lost commits, another cluster) it says Reset.
package eventlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"roombell/internal/eventlog/internal/fault"
)

// ErrUnavailable means that the tail has no connection to the database now.
var ErrUnavailable = errors.New("the event log is not available")

// Reasons of Publisher.Reset, as clients hear them.
const (
	ResetRetention     = "retention"      // the node was away for longer than the log is kept
	ResetFailover      = "failover"       // a promotion lost commits that clients may have seen
	ResetUnknownCursor = "unknown_cursor" // another cluster: restored from a dump, or upgraded
)

// Publisher hears what the tail reads. Both are called on the tail's goroutine, one at a time, and must not block: the ringer would sleep.
type Publisher interface {
	// Publish is given each event once, in order.
	Publish(b *Batch)
	// Reset says that positions before c cannot be made good by events. Events after c follow.
	Reset(reason string, c Cursor)
}

// Options of a tail.
type Options struct {
	// ConnConfig is a direct connection, no transaction-pooling proxy: LISTEN and session locks must stay on one backend.
	ConnConfig *pgx.ConnConfig
	Logger     *slog.Logger          // nil is silence
	Registerer prometheus.Registerer // nil means no metrics
	Node       string                // names the connection in pg_stat_activity
}

// Status is what a tail is doing.
type Status struct {
	Connected bool
	Ringer    bool // this node is the one that arms the gate and rings
	Armed     bool // the ringer sleeps: writers ring
	Cursor    Cursor
	LastRead  time.Time // when the last read was answered
	Err       string    // why there is no connection, empty when there is one
}

// Tail follows the log. Make it with New, then Run it.
type Tail struct {
	config     *pgx.ConnConfig
	log        *slog.Logger
	metrics    *metrics
	publishers []Publisher
	omit       fault.Step
	nonce      string // tells our pings from those of other nodes
	requests   requests

	// Touched by Run's goroutine only.
	cursor Cursor // zero before the first connection

	mu     sync.Mutex
	status Status
}

// New returns an idle tail. Publishers are called in the order given.
func New(o Options, publishers ...Publisher) *Tail {
	return newTail(o, omitted(), publishers)
}

// NewFaulty returns a tail that leaves a step of the algorithm out. For the stress program alone: nobody else can name a Step.
func NewFaulty(o Options, omit fault.Step, publishers ...Publisher) *Tail {
	return newTail(o, omit, publishers)
}

func newTail(o Options, omit fault.Step, publishers []Publisher) *Tail {
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	t := &Tail{
		config:     listenConfig(o.ConnConfig, o.Node),
		log:        log,
		metrics:    newMetrics(o.Registerer),
		publishers: publishers,
		omit:       omit,
		nonce:      fmt.Sprintf("%016x", rand.Uint64()),
	}
	t.requests.wake = make(chan struct{}, 1)
	return t
}

// Attach has f called once with the position of the tail, between two batches: what was published before is seen by it, what will be
// published is not, and it is not older than this call, because a read began after it. A sleeping tail is woken. Without a connection f is
// given ErrUnavailable, at once when the tail knows that there is none. f is called on the tail's goroutine and must not block; when Run
// has ended it is called by Attach.
func (t *Tail) Attach(f func(c Cursor, err error)) {
	if !t.requests.attach(f) {
		f(Cursor{}, ErrUnavailable)
	}
}

// RoundTrip has the tail send a NOTIFY and returns nil when the tail's own connection heard it: its LISTEN is in force, and no proxy
// swaps the backend behind it. ErrUnavailable without a connection, else ctx's error when nothing is heard.
func (t *Tail) RoundTrip(ctx context.Context) error {
	heard := make(chan error, 1)
	if !t.requests.ping(heard) {
		return ErrUnavailable
	}
	select {
	case err := <-heard:
		return err
	case <-ctx.Done():
		return fmt.Errorf("notification round trip: %w", ctx.Err())
	}
}

// Status returns what the tail is doing now.
func (t *Tail) Status() Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.status
}

func (t *Tail) setStatus(f func(s *Status)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f(&t.status)
}

// requests hands what other goroutines want to the tail's, and wakes it.
type requests struct {
	wake chan struct{} // holds one token when something is waiting

	mu        sync.Mutex
	attaches  []func(Cursor, error)
	pings     []chan<- error
	interrupt context.CancelFunc // ends the tail's waiting on its connection
	closed    bool
}

// taken is what was waiting when a read began.
type taken struct {
	attaches []func(Cursor, error)
	pings    []chan<- error
}

func (r *requests) attach(f func(Cursor, error)) bool {
	return r.add(func() { r.attaches = append(r.attaches, f) })
}

func (r *requests) ping(heard chan<- error) bool {
	return r.add(func() { r.pings = append(r.pings, heard) })
}

func (r *requests) add(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	f()
	if r.interrupt != nil {
		r.interrupt()
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return true
}

// await has interrupt called when something comes, and reports false when something is waiting already.
func (r *requests) await(interrupt context.CancelFunc) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.attaches) > 0 || len(r.pings) > 0 {
		return false
	}
	r.interrupt = interrupt
	return true
}

// awaited ends await and reports whether something is waiting.
func (r *requests) awaited() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.interrupt = nil
	return len(r.attaches) > 0 || len(r.pings) > 0
}

func (r *requests) take() taken {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.wake:
	default:
	}
	waiting := taken{attaches: r.attaches, pings: r.pings}
	r.attaches, r.pings = nil, nil
	return waiting
}

func (r *requests) close() taken {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	return r.take()
}

// refuse answers what was waiting with ErrUnavailable.
func (w taken) refuse() {
	for _, f := range w.attaches {
		f(Cursor{}, ErrUnavailable)
	}
	for _, heard := range w.pings {
		heard <- ErrUnavailable
	}
}
