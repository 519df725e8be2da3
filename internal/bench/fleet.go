package bench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Fleet is a number of connected clients that count what they hear.
type Fleet struct {
	mu        sync.Mutex
	listeners []*listener
	readers   sync.WaitGroup
	released  chan struct{}
	release   sync.Once
	closing   atomic.Bool
	frames    atomic.Int64 // all frames but pings
	arrivals  atomic.Int64 // rows heard for the first time, of all phases
	cut       atomic.Int64 // connections that ended before Close
}

// NewFleet returns an empty fleet.
func NewFleet() *Fleet { return &Fleet{released: make(chan struct{})} }

// dialers is how many handshakes are under way at once.
const dialers = 64

// Dial connects the seats and comes back when each of them hears its rooms. After an error the fleet must be closed. It
// returns how long each handshake took.
func (f *Fleet) Dial(ctx context.Context, seats []Seat) (Samples, error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(dialers)
	var took Samples
	for _, seat := range seats {
		g.Go(func() error {
			start := time.Now()
			l, err := f.dial(ctx, seat)
			if err != nil {
				return err
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			took.Add(time.Since(start))
			f.start(l)
			return nil
		})
	}
	err := g.Wait()
	took.Sort()
	return took, err
}

func (f *Fleet) start(l *listener) {
	f.listeners = append(f.listeners, l)
	f.readers.Go(func() {
		l.run()
		if !f.closing.Load() {
			f.cut.Add(1)
		}
	})
}

// Frames returns how many frames have come so far, of whatever event, pings left out.
func (f *Fleet) Frames() int64 { return f.frames.Load() }

// Cut returns how many connections have ended by themselves.
func (f *Fleet) Cut() int64 { return f.cut.Load() }

// Release lets the seats that hold read on.
func (f *Fleet) Release() { f.release.Do(func() { close(f.released) }) }

// Close ends all connections and waits for their readers.
func (f *Fleet) Close() {
	f.closing.Store(true)
	f.Release()
	f.mu.Lock()
	for _, l := range f.listeners {
		l.conn.Close()
	}
	f.mu.Unlock()
	f.readers.Wait()
}

// poll is how often a waiting loop looks.
const poll = 5 * time.Millisecond

// Await waits until every client that reads has what it should have of the phase, or until nothing new came for
// e.Timeout; what is missing then is lost. The phase is forgotten after it.
func (f *Fleet) Await(ctx context.Context, e Expect) (Delivery, error) {
	seen, since := f.arrivals.Load(), time.Now()
	for f.missing(e) > 0 {
		if err := sleep(ctx, poll); err != nil {
			return Delivery{}, fmt.Errorf("await phase %d: %w", e.Phase, err)
		}
		if n := f.arrivals.Load(); n != seen {
			seen, since = n, time.Now()
		}
		if time.Since(since) > e.Timeout {
			break
		}
	}
	return f.collect(e), nil
}

// missing is the number of arrivals that have not come yet.
func (f *Fleet) missing(e Expect) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	var n int64
	for _, l := range f.listeners {
		n += l.missing(e)
	}
	return n
}

func (f *Fleet) collect(e Expect) Delivery {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := Delivery{Cut: int(f.cut.Load())}
	for _, l := range f.listeners {
		l.collect(e, &d)
	}
	d.Delays.Sort()
	return d
}

// Quiet waits until no frame has come for d, or fails after limit.
func (f *Fleet) Quiet(ctx context.Context, d, limit time.Duration) error {
	start := time.Now()
	for frames, since := f.Frames(), start; time.Since(since) < d; {
		if time.Since(start) > limit {
			return fmt.Errorf("clients still hear events after %v", limit)
		}
		if err := sleep(ctx, poll); err != nil {
			return err
		}
		if n := f.Frames(); n != frames {
			frames, since = n, time.Now()
		}
	}
	return nil
}

// sleep waits, or returns the context's error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
