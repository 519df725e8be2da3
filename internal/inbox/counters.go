package inbox

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"roombell/db"
)

const (
	// chunkMost is how many chats one transaction locks at most, and chunkTime how long it should hold them.
	chunkMost = 100
	chunkTime = 50 * time.Millisecond

	// roundMost is how many chats are looked up at a time; single writes get before bulk ones at each.
	roundMost = 1000

	// busyRetry and busyRetryMost bound the time until a chat that somebody has is tried again; perBusyChat stretches the upper one when a
	// bulk update has thousands of them.
	busyRetry     = 100 * time.Millisecond
	busyRetryMost = 500 * time.Millisecond
	perBusyChat   = time.Millisecond

	// errorRetryMost is for a chat whose computation fails alone.
	errorRetryMost = 30 * time.Second
)

// readCommitted is asked for, whatever the role's default is: the counts must be of a later snapshot than the locks.
var readCommitted = pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}

// chunk is how many chats the next transaction takes: fewer while their messages take long to count.
type chunk struct{ size int }

func newChunk() chunk { return chunk{size: chunkMost} }

func (c *chunk) took(chats int, d time.Duration) {
	switch {
	case d > chunkTime:
		c.size = max(1, chats/2)
	case d < chunkTime/2 && chats == c.size:
		c.size = min(chunkMost, 2*c.size)
	}
}

// computeDue computes the chats whose time has come, chunk by chunk. False when it had to stop.
func (p *Projector) computeDue(ctx context.Context) bool {
	began := time.Now()
	for {
		// Those due at the beginning: without an end to the round nothing else would get its turn beside many writers.
		due := p.due(began)
		if len(due) == 0 {
			return true
		}
		for len(due) > 0 {
			n := min(p.chunk.size, len(due))
			if !p.ringer() || !p.compute(ctx, due[:n]) {
				return false
			}
			due = due[n:]
		}
	}
}

func (p *Projector) due(now time.Time) []int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.touched.forget(now)
	p.metrics.pending.Set(float64(p.touched.pending))
	return p.touched.due(now, roundMost)
}

func (p *Projector) start(chats []int64) map[int64]touch {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.touched.start(chats)
}

// compute does one chunk. False when the database, and not a chat, was the reason that it failed.
func (p *Projector) compute(ctx context.Context, chats []int64) bool {
	began := time.Now()
	taken := p.start(chats)
	done, err := p.recompute(ctx, chats)
	took := time.Since(began)
	if err != nil {
		p.putBack(taken)
		p.chunk.size = 1 // so that a chat which cannot be computed does not take others along
		if db.IsUnavailable(err) || len(chats) > 1 {
			p.failed(ctx, fmt.Errorf("compute counters: %w", err))
		} else if ctx.Err() == nil {
			p.metrics.retries.WithLabelValues(retryReason(err)).Inc()
			p.log.Warn("counters of a chat wait", "chat", chats[0], "err", err)
		}
		return false
	}
	p.outage.note(p.log, "counters of chats", nil)
	p.chunk.took(len(chats), took)
	p.settle(done, taken, max(rest, 2*took))
	return true
}

// outcome is what became of a chunk; a chat that is in none was deleted.
type outcome struct {
	done    []int64
	busy    []int64
	updated int
}

func (p *Projector) recompute(ctx context.Context, chats []int64) (o outcome, err error) {
	err = pgx.BeginTxFunc(ctx, p.pool, readCommitted, func(tx pgx.Tx) error {
		o, err = recomputeIn(ctx, tx, chats)
		return err
	})
	return o, err
}

func recomputeIn(ctx context.Context, tx pgx.Tx, chats []int64) (o outcome, err error) {
	// Rows are never waited for; the time-outs are for tables that somebody locked. Each chat is told to its clients by an event of its own.
	_, err = tx.Exec(ctx, `SELECT set_config('lock_timeout', '200ms', true), set_config('statement_timeout', '60s', true),
		set_config('roombell.notify', 'each', true), set_config('roombell.actor', '', true)`)
	if err != nil {
		return o, err
	}
	queries := db.New(tx)
	if o.done, err = queries.LockChats(ctx, chats); err != nil {
		return o, err
	}
	updated, err := queries.RecomputeCounters(ctx, o.done)
	if err != nil {
		return o, err
	}
	o.updated = len(updated)
	if len(o.done) == len(chats) {
		return o, nil
	}
	there, err := queries.ListChatIDs(ctx, chats)
	o.busy = slices.DeleteFunc(there, func(chat int64) bool { return slices.Contains(o.done, chat) })
	return o, err
}

// settle notes the outcome of a chunk.
func (p *Projector) settle(o outcome, taken map[int64]touch, rest time.Duration) {
	now := time.Now()
	p.metrics.updated.Add(float64(o.updated))
	p.metrics.retries.WithLabelValues(retryBusy).Add(float64(len(o.busy)))
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, chat := range o.done {
		p.touched.finish(chat, now.Add(rest))
		if was, ok := taken[chat]; ok {
			p.metrics.lag.Observe(now.Sub(was.since).Seconds())
		}
	}
	most := max(busyRetryMost, time.Duration(p.touched.pending)*perBusyChat)
	for _, chat := range o.busy {
		was, ok := taken[chat]
		if !ok {
			continue // dropped meanwhile, when there was no room: all chats will be compared
		}
		p.touched.retry(chat, was, now.Add(min(most, busyRetry<<min(was.tries, 10))))
	}
}

func (p *Projector) putBack(taken map[int64]touch) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for chat, was := range taken {
		due := now
		if len(taken) == 1 {
			due = now.Add(min(errorRetryMost, busyRetry<<min(was.tries, 10)))
		}
		p.touched.retry(chat, was, due)
	}
}
