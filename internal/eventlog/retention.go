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

// dueSlots asks which slots may be emptied: what is in them is older than the retention by the clock, and by what was written since, because
// clocks jump. It looks at the newest event of each slot only; rotate_slot looks again, under a lock. Overdue is one that should have been
// empty for half a slot's time: writers will come back to it.
const dueSlots = `
	WITH newest AS (
	  SELECT g.slot, e.created_at FROM generate_series(0, 9) g(slot)
	  CROSS JOIN LATERAL (SELECT created_at FROM public.event_log WHERE slot = g.slot ORDER BY id DESC LIMIT 1) e)
	SELECT n.slot, n.created_at < clock_timestamp() - s.retention - s.slot_seconds * interval '0.5 second', s.slot_seconds
	FROM public.roombell_settings s LEFT JOIN newest n
	  ON n.created_at < clock_timestamp() - s.retention AND n.created_at < (SELECT max(created_at) FROM newest) - s.retention
	ORDER BY n.created_at`

// cleaning is the retention's work under way, on a connection of its own: emptying a slot waits for a lock, and the ringer must not.
type cleaning struct {
	next   time.Time
	cancel context.CancelFunc
	done   chan struct{}
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
	due, overdue, slotTime, err := s.slots(ctx)
	if err != nil {
		return fmt.Errorf("look for slots to empty: %w", err)
	}
	s.cleaning.next = time.Now().Add(min(longestCleaningPause, max(shortestCleaningPause, slotTime/16)))
	s.t.metrics.overdue.Set(float64(overdue))
	if overdue > 0 {
		s.t.log.Warn("slots of the event log hold events past the retention: a transaction or a dump keeps them locked", "slots", overdue)
	}
	if len(due) == 0 {
		return nil
	}
	working, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	s.cleaning.cancel, s.cleaning.done = cancel, done
	go func() {
		defer close(done)
		s.t.empty(working, due)
	}()
	return nil
}

func (s *session) slots(ctx context.Context) (due []int, overdue int, slotTime time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	rows, err := s.conn.Query(ctx, dueSlots)
	if err != nil {
		return nil, 0, 0, err
	}
	var slot *int
	var late *bool
	var seconds int64
	_, err = pgx.ForEachRow(rows, []any{&slot, &late, &seconds}, func() error {
		slotTime = time.Duration(seconds) * time.Second
		if slot != nil {
			due = append(due, *slot)
		}
		if late != nil && *late {
			overdue++
		}
		return nil
	})
	return due, overdue, slotTime, err
}

// empty empties slots, each in a transaction of its own.
func (t *Tail) empty(ctx context.Context, slots []int) {
	ctx, cancel := context.WithTimeout(ctx, rotateTimeout)
	defer cancel()
	if err := t.rotate(ctx, slots); err != nil && ctx.Err() == nil {
		t.metrics.errors.WithLabelValues(errorRetention).Inc()
		t.log.Warn("a slot of the event log was not emptied, trying again later", "err", err)
	}
}

func (t *Tail) rotate(ctx context.Context, slots []int) (err error) {
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
		var emptied bool
		e := conn.QueryRow(ctx, `SELECT roombell.rotate_slot($1::integer)`, slot).Scan(&emptied)
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
