package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// contentSize is how long the text of a row is, in characters, unless an experiment says otherwise.
const contentSize = 300

// insertMessage is what every writer writes, with triggers and without.
const insertMessage = "INSERT INTO messages (organization_id, chat_id, content) VALUES ($1, $2, $3)"

// writers are connections that insert messages, one row to a transaction.
type writers struct{ conns []*pgx.Conn }

func openWriters(ctx context.Context, databaseURL string, n int) (*writers, error) {
	w := &writers{}
	for range n {
		conn, err := pgx.Connect(ctx, databaseURL)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("connect a writer: %w", err), w.close(ctx))
		}
		w.conns = append(w.conns, conn)
	}
	return w, nil
}

func (w *writers) close(ctx context.Context) error {
	var errs []error
	for _, c := range w.conns {
		errs = append(errs, c.Close(ctx))
	}
	return errors.Join(errs...)
}

// phase is a run of writes: its number, where they go, and how long each text is.
type phase struct {
	number        int
	organizations []organization
	chats         int // of each organization; 0: all
	size          int // 0: contentSize
}

// target returns organization and chat of row seq: all organizations in turn, and in each of them all chats in turn.
func (p phase) target(seq int) (organizationID, chatID int64) {
	n := len(p.organizations)
	o := p.organizations[seq%n]
	chats := o.chats
	if p.chats > 0 {
		chats = chats[:p.chats]
	}
	return o.id, chats[seq/n%len(chats)]
}

func (p phase) insert(ctx context.Context, conn *pgx.Conn, seq int, due time.Time) error {
	size := p.size
	if size == 0 {
		size = contentSize
	}
	organizationID, chatID := p.target(seq)
	_, err := conn.Exec(ctx, insertMessage, organizationID, chatID, probe{p.number, seq, due}.content(size))
	if err != nil {
		return fmt.Errorf("insert row %d: %w", seq, err)
	}
	return nil
}

// written is what a run wrote.
type written struct {
	rows      int           // all, numbered from 0
	counted   int           // closed loop: those that were committed within the window
	window    time.Duration // closed loop
	firstDue  time.Time
	committed Samples // open loop: from due to committed; sorted
}

// rate returns rows a second within the window.
func (w written) rate() float64 { return float64(w.counted) / w.window.Seconds() }

// closed writes as fast as n connections can, each its next row when the one before is committed, for warm and then window.
func (w *writers) closed(ctx context.Context, p phase, n int, warm, window time.Duration) (written, error) {
	start := time.Now()
	from, to := start.Add(warm), start.Add(warm+window)
	var next, counted atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for _, conn := range w.conns[:n] {
		g.Go(func() error {
			for time.Now().Before(to) {
				if err := p.insert(ctx, conn, int(next.Add(1))-1, time.Now()); err != nil {
					return err
				}
				if now := time.Now(); now.After(from) && now.Before(to) {
					counted.Add(1)
				}
			}
			return nil
		})
	}
	err := g.Wait()
	return written{rows: int(next.Load()), counted: int(counted.Load()), window: window, firstDue: start}, err
}

// dueRow is a row of an open loop that waits for a connection.
type dueRow struct {
	seq int
	due time.Time
}

// open writes at a rate that does not depend on how fast the database is: row n is due n/rate after the start, and when
// all connections are busy it waits its turn while the clock runs. It ends after n rows, or once done is closed.
func (w *writers) open(ctx context.Context, p phase, rate float64, n int, done <-chan struct{}) (written, error) {
	queue := make(chan dueRow, n) // holds all: a full queue would slow the pace down
	result := written{firstDue: time.Now().Add(time.Millisecond)}
	each := make([]Samples, len(w.conns))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(queue)
		result.rows = pace(ctx, queue, result.firstDue, rate, n, done)
		return ctx.Err() // a run that was broken off measured nothing
	})
	for i, conn := range w.conns {
		g.Go(func() error {
			for r := range queue {
				if err := p.insert(ctx, conn, r.seq, r.due); err != nil {
					return err
				}
				each[i].Add(time.Since(r.due))
			}
			return nil
		})
	}
	err := g.Wait()
	result.committed = slices.Concat(each...)
	result.committed.Sort()
	return result, err
}

// pace queues n rows, each when it is due, and returns how many it queued before ctx or done ended it.
func pace(ctx context.Context, queue chan<- dueRow, start time.Time, rate float64, n int, done <-chan struct{}) int {
	for seq := range n {
		due := start.Add(time.Duration(float64(seq) / rate * float64(time.Second)))
		sleepUntil(due)
		select {
		case <-done:
			return seq
		case <-ctx.Done():
			return seq
		default:
			queue <- dueRow{seq, due}
		}
	}
	return n
}
