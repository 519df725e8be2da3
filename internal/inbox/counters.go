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
	// How many chats one transaction locks at most, and how long it should hold them: whoever changes one of them waits. A bulk write's chats are
	// told in one sum for each transaction and organization, so that fewer and larger ones are less for everybody to hear.
	singlesMost = 100
	singlesTime = 50 * time.Millisecond
	bulkFirst   = 250
	bulkMost    = 1000
	bulkTime    = 150 * time.Millisecond

	// roundTime is after how long the rest has to wait for the next turn: without an end nothing else would get its own beside many writers.
	roundTime = time.Second

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
type chunk struct {
	size, most int
	time       time.Duration
}

func newSingles() chunk { return chunk{size: singlesMost, most: singlesMost, time: singlesTime} }
func newBulk() chunk    { return chunk{size: bulkFirst, most: bulkMost, time: bulkTime} }

func (c *chunk) took(chats int, d time.Duration) {
	switch {
	case d > c.time:
		c.size = max(1, chats/2)
	case d < c.time/2 && chats == c.size:
		c.size = min(c.most, 2*c.size)
	}
}

// computeDue computes the chats whose time has come, chunk by chunk, single writes' before each of a bulk write. False when it had to stop.
func (p *Projector) computeDue(ctx context.Context) bool {
	for began := time.Now(); time.Since(began) < roundTime; {
		singles, bulk := p.due(time.Now())
		p.round = max(p.round, len(bulk), p.reconcile.found)
		work := work{chats: singles, chunk: &p.singles}
		if len(singles) == 0 {
			work = p.bulkWork(bulk)
		}
		if len(work.chats) == 0 {
			return true
		}
		work.chats = work.chats[:min(work.chunk.size, len(work.chats))]
		if !p.ringer() || !p.compute(ctx, work) {
			return false
		}
	}
	return true
}

// work is what one transaction computes.
type work struct {
	chats []int64
	chunk *chunk
	round int // of how many chats it is a part; 0: each is told by an event of its own
}

func (p *Projector) bulkWork(chats []int64) work {
	w := work{chats: chats, chunk: &p.bulk, round: p.round}
	if len(chats) == 0 {
		p.round = 0
	}
	return w
}

func (p *Projector) due(now time.Time) (singles, bulk []int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.touched.forget(now)
	p.metrics.pending.Set(float64(p.touched.pending))
	return p.touched.due(now, p.singles.size)
}

func (p *Projector) start(chats []int64) map[int64]touch {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.touched.start(chats)
}

// compute does one chunk. False when the database, and not a chat, was the reason that it failed.
func (p *Projector) compute(ctx context.Context, w work) bool {
	began, chats := time.Now(), w.chats
	taken := p.start(chats)
	done, err := p.recompute(ctx, w)
	took := time.Since(began)
	if err != nil {
		p.putBack(taken)
		w.chunk.size = 1 // so that a chat which cannot be computed does not take others along
		if db.IsUnavailable(err) || len(chats) > 1 {
			p.failed(ctx, fmt.Errorf("compute counters: %w", err))
		} else if ctx.Err() == nil {
			p.metrics.retries.WithLabelValues(retryReason(err)).Inc()
			p.log.Warn("counters of a chat wait", "chat", chats[0], "err", err)
		}
		return false
	}
	p.outage.note(p.log, "counters of chats", nil)
	w.chunk.took(len(chats), took)
	p.settle(done, taken, w.round > 0, took)
	return true
}

// outcome is what became of a chunk; a chat that is in none was deleted.
type outcome struct {
	done    []int64
	busy    []int64
	updated int
}

func (p *Projector) recompute(ctx context.Context, w work) (o outcome, err error) {
	var txid uint64
	err = pgx.BeginTxFunc(ctx, p.pool, readCommitted, func(tx pgx.Tx) error {
		// Rows are never waited for; the time-outs are for tables that somebody locked. A bulk write is answered as it would be counted
		// itself. The transaction has a number at the latest when it locks.
		err := tx.QueryRow(ctx, `SELECT set_config('lock_timeout', '200ms', true), set_config('statement_timeout', '60s', true), `+planGuards+`,
			set_config('roombell.notify', CASE WHEN $1::bigint > roombell.bulk_rows() THEN 'summary' ELSE 'each' END, true),
			set_config('roombell.actor', '', true), pg_current_xact_id()`, w.round).Scan(nil, nil, nil, nil, nil, nil, &txid)
		if err != nil {
			return err
		}
		p.owns(txid)
		o, err = recomputeIn(ctx, tx, w.chats)
		return err
	})
	if err != nil && txid > 0 {
		p.disowns(txid)
	}
	return o, err
}

// owns must be called before the transaction ends: its events may be published before we hear of that.
func (p *Projector) owns(txid uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.own.add(txid)
}

func (p *Projector) disowns(txid uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.own.forget(txid)
}

// planGuards keep a plan that was made beside an empty table, or by the statistics before a bulk write, from reading all messages for each
// chat; and the planner from compiling what it believes to be expensive then.
const planGuards = `set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true)`

func recomputeIn(ctx context.Context, tx pgx.Tx, chats []int64) (o outcome, err error) {
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
func (p *Projector) settle(o outcome, taken map[int64]touch, bulk bool, took time.Duration) {
	now := time.Now()
	p.metrics.updated.Add(float64(o.updated))
	p.metrics.retries.WithLabelValues(retryBusy).Add(float64(len(o.busy)))
	p.mu.Lock()
	defer p.mu.Unlock()
	rest := max(p.touched.rest(bulk), 2*took)
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
