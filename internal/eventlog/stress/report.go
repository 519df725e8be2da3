package main

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// tally counts what a run goes through.
type tally struct {
	transactions, rollbacks, savepoints, long, prepared, broken atomic.Int64
	killedTails, killedWriters, crashes                         atomic.Int64
}

// report is what came of a run.
type report struct {
	o      options
	count  *tally
	events int
	tails  []verdict
	// unrecorded counts committed messages without their event in the log.
	unrecorded int
}

type verdict struct {
	name                      string
	heard                     int
	lost, dup, order, phantom int
	resets                    []string
}

func (w *world) judge(ctx context.Context) (report, error) {
	r := report{o: w.o, count: &w.count}
	truth, err := w.truth(ctx)
	if err != nil {
		return report{}, err
	}
	r.events = len(truth)
	for _, t := range w.tails {
		v := verdict{name: t.name}
		v.lost, v.phantom = t.compare(truth)
		t.mu.Lock()
		v.heard, v.dup, v.order, v.resets = len(t.heard), t.dup, t.order, t.resets
		t.mu.Unlock()
		r.tails = append(r.tails, v)
	}
	err = w.pool.QueryRow(ctx, `
		SELECT count(*) FROM messages m LEFT JOIN (
		  SELECT (payload->>'id')::bigint AS id, count(*) AS n FROM event_log WHERE event = 'message:new' GROUP BY 1) e USING (id)
		WHERE e.n IS DISTINCT FROM 1`).Scan(&r.unrecorded)
	if err != nil {
		return report{}, fmt.Errorf("compare messages with the log: %w", err)
	}
	return r, nil
}

// sums adds the tails up. What the triggers did not record is lost as well; what was heard and never committed is counted as heard twice.
func (r report) sums() (lost, dup, order int) {
	lost = r.unrecorded
	for _, v := range r.tails {
		lost += v.lost + len(v.resets)
		dup += v.dup + v.phantom
		order += v.order
	}
	return lost, dup, order
}

// least is what a minute must go through to prove something, and what this run did.
func (r report) least() []struct {
	what      string
	least, is int
} {
	share := func(perMinute int) int { return int(int64(perMinute) * int64(r.o.Time) / int64(time.Minute)) }
	return []struct {
		what      string
		least, is int
	}{
		{"events", share(20_000), r.events},
		{"rollbacks", share(500), int(r.count.rollbacks.Load() + r.count.savepoints.Load())},
		{"kills", share(50), int(r.count.killedTails.Load() + r.count.killedWriters.Load())},
		{"crashes", max(1, share(2)), int(r.count.crashes.Load())},
	}
}

// print writes the report and says whether the run proves that nothing is wrong.
func (r report) print(out io.Writer) bool {
	c := r.count
	p := func(format string, arguments ...any) { fmt.Fprintf(out, format+"\n", arguments...) }
	p("%v with %d writers and %d tails, seed %d", r.o.Time, r.o.Writers, r.o.Tails, r.o.Seed)
	if r.o.Omit.String() != "" {
		p("WITHOUT the step %q: this must fail", r.o.Omit)
	}
	p("events %d · transactions %d · rollbacks %d, of savepoints %d · long %d · prepared %d · broken off %d", r.events,
		c.transactions.Load(), c.rollbacks.Load(), c.savepoints.Load(), c.long.Load(), c.prepared.Load(), c.broken.Load())
	p("killed: tails %d, writers %d · crashes of the server %d", c.killedTails.Load(), c.killedWriters.Load(), c.crashes.Load())
	for _, v := range r.tails {
		p("%s: heard %d · lost %d · twice %d · out of order %d · never committed %d · resets %v", v.name, v.heard, v.lost, v.dup, v.order, v.phantom, v.resets)
	}
	if r.unrecorded > 0 {
		p("messages without their event: %d", r.unrecorded)
	}
	lost, dup, order := r.sums()
	p("LOST=%d DUP=%d ORDER=%d", lost, dup, order)
	proved := true
	for _, l := range r.least() {
		if l.is < l.least {
			p("proved nothing: %d %s, where %d are the least", l.is, l.what, l.least)
			proved = false
		}
	}
	return proved && lost == 0 && dup == 0 && order == 0
}
