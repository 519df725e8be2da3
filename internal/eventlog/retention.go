package eventlog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	longestCleaningPause  = 10 * time.Minute
	shortestCleaningPause = 250 * time.Millisecond
	rotateTimeout         = time.Minute

	lockNotAvailable = "55P03" // errcodes-appendix
)

// dueSlots asks where transactions stand now, and which slots may be emptied: what is in them is older than the retention by the clock, and by
// what was written since, because clocks jump. It looks at the newest event of each slot only; rotate_slot looks again, under a lock. Overdue
// is one that should have been empty for half a slot's time: writers will come back to it.
const dueSlots = `
	WITH newest AS (
	  SELECT g.slot, e.created_at FROM generate_series(0, 9) g(slot)
	  CROSS JOIN LATERAL (SELECT created_at FROM public.event_log WHERE slot = g.slot ORDER BY id DESC LIMIT 1) e)
	SELECT pg_current_snapshot()::text, s.slot_seconds,
	  n.slot, n.created_at < clock_timestamp() - s.retention - s.slot_seconds * interval '0.5 second'
	FROM public.roombell_settings s LEFT JOIN newest n
	  ON n.created_at < clock_timestamp() - s.retention AND n.created_at < (SELECT max(created_at) FROM newest) - s.retention
	ORDER BY n.created_at`

// unread asks, under the slot's lock, whether it holds events whose transactions ran still in a former snapshot. A transaction that was open
// for as long as the retention leaves events that look old at once: retention may stand in line for its locks at its commit, and would be
// faster than the tails. ORDER BY … LIMIT 1 is always answered by the index; a plain >= the planner would take for a reason to read the slot.
const unread = `
	SELECT coalesce((SELECT txid FROM public.event_log_%[1]d ORDER BY txid DESC LIMIT 1) >= pg_snapshot_xmax($1::text::pg_snapshot), false)
	    OR EXISTS (SELECT FROM pg_snapshot_xip($1::text::pg_snapshot) x
	      WHERE x = (SELECT txid FROM public.event_log_%[1]d WHERE txid >= x ORDER BY txid LIMIT 1))`

// cleaning is the retention's work under way, on a connection of its own: emptying a slot waits for a lock, and the ringer must not.
type cleaning struct {
	next     time.Time
	snapshot string // of the last look: what had ended then has been read by now, or its reader asks (gapAfter)
	cancel   context.CancelFunc
	done     chan struct{}
}

// look is what the log's slots look like.
type look struct {
	snapshot string
	slotTime time.Duration
	due      []int
	overdue  int
}

// stop ends it and waits.
func (c *cleaning) stop() {
	if c.done != nil {
		c.cancel()
		<-c.done
		c.done = nil
	}
}

// running also tidies up after one that has ended.
func (c *cleaning) running() bool {
	select {
	case <-c.done:
		c.stop()
	default:
	}
	return c.done != nil
}

// cleanUp looks now and then whether slots are to be emptied, and starts that. Only the ringer calls it.
func (s *session) cleanUp(ctx context.Context) error {
	if time.Now().Before(s.cleaning.next) || s.cleaning.running() {
		return nil
	}
	l, err := s.look(ctx)
	if err != nil {
		return fmt.Errorf("look for slots to empty: %w", err)
	}
	before := s.cleaning.snapshot
	s.cleaning.next, s.cleaning.snapshot = time.Now().Add(l.pause()), l.snapshot
	s.t.metrics.overdue.Set(float64(l.overdue))
	if l.overdue > 0 {
		s.t.log.Warn("slots of the event log hold events past the retention: a transaction or a dump keeps them locked", "slots", l.overdue)
	}
	if len(l.due) == 0 || before == "" {
		return nil
	}
	working, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	s.cleaning.cancel, s.cleaning.done = cancel, done
	go func() {
		defer close(done)
		s.t.empty(working, l.due, before)
	}()
	return nil
}

// pause is the time until the next look: more than gapAfter at every retention that may be set.
func (l look) pause() time.Duration {
	return min(longestCleaningPause, max(shortestCleaningPause, l.slotTime/16))
}

func (s *session) look(ctx context.Context) (look, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	rows, err := s.conn.Query(ctx, dueSlots)
	if err != nil {
		return look{}, err
	}
	var l look
	var seconds int64
	var slot *int
	var late *bool
	_, err = pgx.ForEachRow(rows, []any{&l.snapshot, &seconds, &slot, &late}, func() error {
		l.slotTime = time.Duration(seconds) * time.Second
		if slot != nil {
			l.due = append(l.due, *slot)
		}
		if late != nil && *late {
			l.overdue++
		}
		return nil
	})
	return l, err
}

// empty empties slots, each in a transaction of its own, but for what had not ended in the snapshot.
func (t *Tail) empty(ctx context.Context, slots []int, snapshot string) {
	ctx, cancel := context.WithTimeout(ctx, rotateTimeout)
	defer cancel()
	if err := t.rotate(ctx, slots, snapshot); err != nil && ctx.Err() == nil {
		t.metrics.errors.WithLabelValues(errorRetention).Inc()
		t.log.Warn("a slot of the event log was not emptied, trying again later", "err", err)
	}
}

func (t *Tail) rotate(ctx context.Context, slots []int, snapshot string) (err error) {
	config := t.config.Copy()
	config.RuntimeParams["application_name"] += " retention"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("connect for retention: %w", err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		err = errors.Join(err, conn.Close(closing))
		<-conn.PgConn().CleanupDone()
	}()
	for _, slot := range slots {
		emptied, e := rotateSlot(ctx, conn, slot, snapshot)
		var refused *pgconn.PgError
		switch {
		case errors.As(e, &refused) && refused.Code == lockNotAvailable:
			err = errors.Join(err, fmt.Errorf("empty slot %d: %w", slot, e))
		case e != nil:
			return fmt.Errorf("empty slot %d: %w", slot, e)
		case emptied:
			t.metrics.emptied.Inc()
			t.log.Info("emptied a slot of the event log", "slot", slot)
		}
	}
	return err
}

// rotateSlot takes the lock first, as rotate_slot would: nothing can be added to the slot between the question and the answer.
func rotateSlot(ctx context.Context, conn *pgx.Conn, slot int, snapshot string) (emptied bool, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		lock := fmt.Sprintf(`SET LOCAL lock_timeout = '200ms'; LOCK TABLE public.event_log_%d IN ACCESS EXCLUSIVE MODE`, slot)
		if _, err := tx.Exec(ctx, lock, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		var young bool
		if err := tx.QueryRow(ctx, fmt.Sprintf(unread, slot), snapshot).Scan(&young); err != nil || young {
			return err
		}
		return tx.QueryRow(ctx, `SELECT roombell.rotate_slot($1::integer)`, slot).Scan(&emptied)
	})
	return emptied, err
}
