package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// The JavaScript client's defaults: reconnectionDelay, reconnectionDelayMax, randomizationFactor.
const (
	firstDelay = time.Second
	mostDelay  = 5 * time.Second
	jitter     = 0.5
)

// Follower says what to do with a connection that Follow keeps.
type Follower struct {
	// Connected is called on each connection before its first event; it may Emit, but not read.
	Connected func(c *Conn) error
	// Event is called with each event, in order, on Follow's goroutine.
	Event func(e Event) error
	// Waiting is called when a connection ended or failed, before the next is tried after delay.
	Waiting func(cause error, delay time.Duration)

	first time.Duration // of the tests; 0: firstDelay
}

// Follow connects and calls f until ctx ends (then it returns nil), the server refuses (a *ConnectError or
// ErrDisconnected), the URL is none (ErrBadURL) or a call of f's returns an error. Other ends are survived: Follow comes back after a delay that
// doubles from one second to five, half of it random, and goes on from the last cursor whose event f has returned from.
func Follow(ctx context.Context, o Options, f Follower) error {
	delays := backoff{first: f.first}
	for {
		err := follow(ctx, &o, f, &delays)
		if ctx.Err() != nil {
			return nil
		}
		if final(err) {
			return err
		}
		delay := delays.next()
		f.Waiting(err, delay)
		if !sleep(ctx, delay) {
			return nil
		}
	}
}

// stopped is an error of the Follower's own, which no reconnect mends.
type stopped struct{ error }

func (s stopped) Unwrap() error { return s.error }

func final(err error) bool {
	var refused *ConnectError
	var own stopped
	return errors.As(err, &refused) || errors.As(err, &own) || errors.Is(err, ErrDisconnected) || errors.Is(err, ErrBadURL)
}

// follow is one connection's life. It moves o.Cursor.
func follow(ctx context.Context, o *Options, f Follower, delays *backoff) error {
	c, err := Dial(ctx, *o)
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Disconnect() })
	defer stop()
	delays.reset()
	if err := f.Connected(c); err != nil {
		return stopped{err}
	}
	for {
		event, err := c.Next()
		if err != nil {
			return err
		}
		if err := f.Event(event); err != nil {
			return stopped{err}
		}
		if event.Cursor != "" {
			o.Cursor = event.Cursor
		}
	}
}

// backoff gives the delays of the JavaScript client.
type backoff struct {
	first time.Duration
	tries int
}

func (b *backoff) reset() { b.tries = 0 }

func (b *backoff) next() time.Duration {
	first := b.first
	if first == 0 {
		first = firstDelay
	}
	delay := min(first<<min(b.tries, 10), mostDelay)
	b.tries++
	deviation := jitter * (2*rand.Float64() - 1)
	return min(delay+time.Duration(deviation*float64(delay)), mostDelay)
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
