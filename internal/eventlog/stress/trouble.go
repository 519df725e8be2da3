package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	crashEvery = 12 * time.Second
	// burnt is how many transaction ids are used up and forgotten before some of the crashes.
	burnt = 300
)

// trouble ends connections and crashes the server for the time of the run. The middle third has an unrelated transaction open that holds
// back every snapshot's xmin.
func (w *world) trouble(ctx context.Context) error {
	r := rand.New(rand.NewPCG(w.o.Seed, 1<<32))
	began := time.Now()
	end := began.Add(w.o.Time)
	crashes := max(2, int(w.o.Time/crashEvery))
	var blocker *pgx.Conn
	defer func() { closeConn(ctx, blocker) }()
	for n := 0; time.Now().Before(end); {
		if err := pause(ctx, time.Duration(50+r.IntN(350))*time.Millisecond); err != nil {
			return err
		}
		gone := time.Since(began)
		if blocker == nil && gone > w.o.Time/3 && gone < 2*w.o.Time/3 {
			blocker = w.holdXmin(ctx)
		} else if blocker != nil && gone > 2*w.o.Time/3 {
			closeConn(ctx, blocker)
			blocker = nil
		}
		if n < crashes && gone > time.Duration(n+1)*w.o.Time/time.Duration(crashes+1) {
			n++
			if err := w.crash(ctx, n%2 == 1); err != nil {
				return err
			}
			continue
		}
		if err := w.kill(ctx); err != nil {
			return err
		}
		if err := w.commitPrepared(ctx, 0.3); err != nil {
			return err
		}
	}
	return nil
}

// kill ends connections of tails and of writers.
func (w *world) kill(ctx context.Context) error {
	return persist(ctx, "end connections", func() error {
		var tails, writers int
		err := w.pool.QueryRow(ctx, `
			SELECT count(pg_terminate_backend(pid)) FILTER (WHERE application_name LIKE 'roombell listen%'),
			       count(pg_terminate_backend(pid)) FILTER (WHERE application_name = 'stress_writer')
			FROM (SELECT pid, application_name FROM pg_stat_activity
			      WHERE application_name LIKE 'roombell listen%' AND random() < 0.25 OR application_name = 'stress_writer' AND random() < 0.03
			      OFFSET 0) chosen`).Scan(&tails, &writers)
		w.count.killedTails.Add(int64(tails))
		w.count.killedWriters.Add(int64(writers))
		return err
	})
}

// crash stops the server where it stands and starts it again. Quiet ones wait until no transaction is open, burn transaction ids without a
// flush, and let the tails see them as ended: after the crash they are given out again, to events.
func (w *world) crash(ctx context.Context, quiet bool) error {
	if quiet {
		w.writing.Lock()
		defer w.writing.Unlock()
		if err := w.burn(ctx); err != nil {
			return err
		}
		if err := w.awaitTails(ctx); err != nil {
			return err
		}
	}
	w.count.crashes.Add(1)
	if err := w.server.Crash(ctx); err != nil {
		return err
	}
	return w.server.Restart(ctx)
}

func (w *world) burn(ctx context.Context) error {
	return persist(ctx, "burn transaction ids", func() error {
		conn, err := pgx.Connect(ctx, w.url)
		if err != nil {
			return err
		}
		defer closeConn(ctx, conn)
		for range burnt {
			if _, err := conn.Exec(ctx, "BEGIN; SELECT pg_current_xact_id(); ROLLBACK", pgx.QueryExecModeSimpleProtocol); err != nil {
				return err
			}
		}
		w.count.rollbacks.Add(burnt)
		return nil
	})
}

// holdXmin opens a transaction that does nothing. A crash may end it.
func (w *world) holdXmin(ctx context.Context) *pgx.Conn {
	conn, err := pgx.Connect(ctx, w.url)
	if err != nil {
		return nil
	}
	if _, err := conn.Exec(ctx, "BEGIN; SELECT pg_current_xact_id()", pgx.QueryExecModeSimpleProtocol); err != nil {
		closeConn(ctx, conn)
		return nil
	}
	return conn
}

// commitPrepared commits a part of the prepared transactions, each with this probability.
func (w *world) commitPrepared(ctx context.Context, probability float64) error {
	return persist(ctx, "commit prepared transactions", func() error {
		rows, err := w.pool.Query(ctx, `SELECT gid FROM pg_prepared_xacts WHERE random() < $1`, probability)
		if err != nil {
			return err
		}
		gids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		for _, gid := range gids {
			if _, err := w.pool.Exec(ctx, fmt.Sprintf(`COMMIT PREPARED '%s'`, gid)); err != nil {
				return err
			}
		}
		return nil
	})
}

func closeConn(ctx context.Context, conn *pgx.Conn) {
	if conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // it may be gone
}
