package eventlog

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"roombell/internal/eventlog/internal/fault"
)

// How long to wait before the next connection: doubling from first to longest.
const (
	firstBackoff   = 25 * time.Millisecond
	longestBackoff = 2 * time.Second
)

// Run follows the log until ctx ends; then it returns nil and has left nothing behind. While the database is away it tries again and again,
// keeping its position.
func (t *Tail) Run(ctx context.Context) error {
	var closing sync.WaitGroup
	defer closing.Wait()
	defer func() { t.requests.close().refuse() }()
	for failures := 0; ctx.Err() == nil; failures++ {
		began := time.Now()
		s, err := t.connect(ctx)
		if err == nil {
			err = s.run(ctx)
			s.setRole(false, false)
			closing.Go(func() { s.close(ctx) }) // a server that vanished must not hold up the next connection
		}
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) > longestBackoff {
			failures = 0
		}
		t.lost(err)
		t.pause(ctx, backoff(failures))
	}
	t.setStatus(func(s *Status) { s.Connected = false })
	t.metrics.connected.Set(0)
	return nil
}

// connect opens a session. Meanwhile those who ask for the position are refused when the database is known to be away.
func (t *Tail) connect(ctx context.Context) (*session, error) {
	type opened struct {
		s   *session
		err error
	}
	done := make(chan opened, 1)
	go func() {
		s, err := t.open(ctx)
		done <- opened{s, err}
	}()
	for {
		select {
		case o := <-done:
			return o.s, o.err
		case <-t.requests.wake:
			if t.Status().Err != "" || t.omit == fault.Fresh() {
				t.refuse(t.requests.take())
			}
		}
	}
}

// connected notes that the tail stands at a position of this connection.
func (t *Tail) connected() {
	t.mu.Lock()
	again := t.status.Err != ""
	t.status.Connected, t.status.Err = true, ""
	t.mu.Unlock()
	t.metrics.connected.Set(1)
	t.log.Info("listening for events", "again", again)
	if again {
		t.metrics.reconnects.Inc()
	}
}

// lost notes that there is no connection and why, and refuses those who wait for one.
func (t *Tail) lost(err error) {
	t.mu.Lock()
	before := t.status
	t.status.Connected, t.status.Err = false, err.Error()
	t.mu.Unlock()
	where := errorConnect
	if before.Connected {
		where = errorSession
	}
	t.metrics.errors.WithLabelValues(where).Inc()
	t.metrics.connected.Set(0)
	// A database that is away for hours says the same every two seconds.
	if before.Connected || before.Err != err.Error() {
		t.log.Warn("no connection to the event log, trying again", "err", err)
	}
	t.refuse(t.requests.take())
}

// refuse answers those who wait while there is no connection.
func (t *Tail) refuse(waiting taken) {
	if t.omit == fault.Fresh() {
		t.answerStale(&waiting)
	}
	waiting.refuse()
}

// answerStale is Fresh's fault: those who ask for the position are given the one where the tail stands, as if it had just read.
func (t *Tail) answerStale(waiting *taken) {
	if t.cursor.IsZero() {
		return
	}
	for _, attached := range waiting.attaches {
		attached(t.cursor, nil)
	}
	waiting.attaches = nil
}

// pause waits, refusing those who come.
func (t *Tail) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		case <-t.requests.wake:
			t.refuse(t.requests.take())
		}
	}
}

// backoff takes a random part, so that the nodes do not come back in one moment.
func backoff(failures int) time.Duration {
	d := min(longestBackoff, firstBackoff<<min(failures, 20))
	return d/2 + rand.N(d/2)
}

// reset tells every client to refetch.
func (t *Tail) reset(reason string) {
	t.metrics.resets.WithLabelValues(reason).Inc()
	t.log.Warn("clients are told to refetch", "reason", reason)
	for _, p := range t.publishers {
		p.Reset(reason, t.cursor)
	}
}
