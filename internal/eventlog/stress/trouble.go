package main

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"roombell/internal/eventlog/internal/fault"
)

const (
	crashEvery = 12 * time.Second
	// burnt is how many transaction ids are used up and forgotten before some of the crashes.
	burnt = 300
)

// trouble ends connections, processes and servers for the time of the run. The middle third has an unrelated transaction open that holds back
// every snapshot's xmin.
func (w *world) trouble(ctx context.Context) error {
	r := rand.New(rand.NewPCG(w.o.Seed, 1<<32))
	began := time.Now()
	plan := w.plan()
	var blocker *pgx.Conn
	defer func() { closeConn(ctx, blocker) }()
	for (time.Since(began) < w.o.Time || len(plan) > 0 || w.tooLittle(time.Since(began))) && !w.failed() {
		if err := pause(ctx, time.Duration(50+r.IntN(350))*time.Millisecond); err != nil {
			return err
		}
		gone := time.Since(began)
		w.say(gone)
		if blocker == nil && gone > w.o.Time/3 && gone < 2*w.o.Time/3 {
			blocker = w.holdXmin(ctx)
		} else if blocker != nil && gone > 2*w.o.Time/3 {
			closeConn(ctx, blocker)
			blocker = nil
		}
		next := w.kill
		if len(plan) > 0 && gone > plan[0].at {
			next, plan = plan[0].do, plan[1:]
		}
		if err := next(ctx); err != nil {
			return err
		}
		if len(w.nodes) > 0 && r.IntN(8) == 0 {
			if err := w.killNode(ctx, r); err != nil {
				return err
			}
		}
		if err := w.commitPrepared(ctx, 0.3); err != nil {
			return err
		}
	}
	return nil
}

// say tells now and then how far a long run is.
func (w *world) say(gone time.Duration) {
	if w.o.Progress == nil || gone < w.said+time.Minute {
		return
	}
	w.said = gone
	fmt.Fprintf(w.o.Progress, "%v: events %d · deliveries %d · resumes %d · crashes %d · promotions %d\n", gone.Round(time.Second), w.soFar(),
		w.count.deliveries.Load(), w.count.resumes.Load(), w.count.crashes.Load(), w.count.promotions.Load())
}

// soFar is about how many events there are.
func (w *world) soFar() int {
	if len(w.tails) == 0 {
		return 0
	}
	w.tails[0].mu.Lock()
	defer w.tails[0].mu.Unlock()
	return w.tails[0].heard.n
}

// tooLittle reports whether a run that is to prove something should go on after its time: on a machine that others use it gets less done.
func (w *world) tooLittle(gone time.Duration) bool {
	if w.o.Omit != fault.None() || gone > 3*w.o.Time {
		return false
	}
	r := report{o: w.o, count: &w.count, events: w.soFar()}
	return len(r.lacks()) > 0
}

// failed reports whether a control has shown what it was to show: that clients hear events twice.
func (w *world) failed() bool {
	for _, v := range w.clients {
		v.mu.Lock()
		dup := v.dup
		v.mu.Unlock()
		if dup > 0 && w.o.Omit != fault.None() && w.o.Lossy == 0 {
			return true
		}
	}
	return false
}

// calamity is what happens to a database server at a time.
type calamity struct {
	at time.Duration
	do func(ctx context.Context) error
}

// plan spreads crashes and promotions over the run; a promotion that loses commits follows one that does not.
func (w *world) plan() []calamity {
	var plan []calamity
	spread := func(n int, shift time.Duration, do func(i int) func(context.Context) error) {
		for i := range n {
			plan = append(plan, calamity{w.o.Time*time.Duration(i+1)/time.Duration(n+1) + shift, do(i)})
		}
	}
	spread(max(2, int(w.o.Time/crashEvery)), 0, func(i int) func(context.Context) error {
		return func(ctx context.Context) error { return w.crash(ctx, i%2 == 0) }
	})
	spread(w.o.Clean+w.o.Lossy, w.o.Time/40, func(i int) func(context.Context) error {
		return func(ctx context.Context) error { return w.promote(ctx, w.o.Clean == 0 || i%2 == 1 && w.o.Lossy > 0) }
	})
	slices.SortFunc(plan, func(a, b calamity) int { return cmp.Compare(a.at, b.at) })
	return plan
}

// kill ends connections: of tails, of servers' pools and of writers.
func (w *world) kill(ctx context.Context) error {
	return persist(ctx, "end connections", func() error {
		var tails, writers, pools int
		err := w.pool.QueryRow(ctx, `
			SELECT count(pg_terminate_backend(pid)) FILTER (WHERE application_name LIKE 'roombell listen%'),
			       count(pg_terminate_backend(pid)) FILTER (WHERE application_name = 'stress_writer'),
			       count(pg_terminate_backend(pid)) FILTER (WHERE application_name = 'roombell')
			FROM (SELECT pid, application_name FROM pg_stat_activity
			      WHERE application_name LIKE 'roombell listen%' AND random() < 0.25 OR application_name = 'stress_writer' AND random() < 0.03
			      OR application_name = 'roombell' AND random() < 0.02
			      OFFSET 0) chosen`).Scan(&tails, &writers, &pools)
		w.count.killedTails.Add(int64(tails))
		w.count.killedWriters.Add(int64(writers))
		w.count.killedPools.Add(int64(pools))
		return err
	})
}

// killNode ends a server process, mostly without a word to it, and starts another in its place.
func (w *world) killNode(ctx context.Context, r *rand.Rand) error {
	n, signal := w.nodes[r.IntN(len(w.nodes))], syscall.SIGKILL
	if r.IntN(4) == 0 {
		signal = syscall.SIGTERM
		w.count.stoppedNodes.Add(1)
	} else {
		w.count.killedNodes.Add(1)
	}
	return n.replace(ctx, signal)
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
	if err := w.primary.Crash(ctx); err != nil {
		return err
	}
	return w.primary.Restart(ctx)
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
