package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// tally counts what a run goes through.
type tally struct {
	transactions, rollbacks, savepoints, long, prepared, broken        atomic.Int64
	killedTails, killedWriters, killedPools, killedNodes, stoppedNodes atomic.Int64
	crashes, promotions, losses                                        atomic.Int64
	packets, deliveries, connects, resumes, cuts, unreachable          atomic.Int64
	stalled                                                            atomic.Int64 // now
}

// report is what came of a run.
type report struct {
	o      options
	count  *tally
	phases []string
	events int
	all    []verdict
	// unrecorded counts committed messages without their event in the log.
	unrecorded int
}

func (w *world) judge(ctx context.Context) (r report, err error) {
	r = report{o: w.o, count: &w.count, phases: w.phases}
	if r.all, r.events, err = w.compare(ctx); err != nil {
		return report{}, err
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

// sum is the verdict on the whole run.
type sum struct{ lost, dup, order, leak int }

func (s sum) clean() bool { return s == sum{} }

// sums adds it all up. What the triggers did not record is lost as well, and so is whoever was told to refetch without need, was not told
// when he had to be, or was sent away for good; what was heard and never committed is counted as heard twice.
func (r report) sums() sum {
	s := sum{lost: r.unrecorded}
	for _, v := range r.all {
		s.lost += v.lost + v.unjust + v.silence + len(v.complaints)
		s.dup += v.dup + v.phantom
		s.order += v.order
		s.leak += v.leak
	}
	return s
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
		{"kills", share(50), r.kills()},
		{"crashes", max(1, share(2)), int(r.count.crashes.Load())},
		{"resumes", share(200) * min(1, r.o.Clients), int(r.count.resumes.Load())},
		{"promotions", r.o.Clean + r.o.Lossy, int(r.count.promotions.Load())},
	}
}

// lacks is what the run does not have enough of.
func (r report) lacks() (lacks []string) {
	for _, l := range r.least() {
		if l.is < l.least {
			lacks = append(lacks, fmt.Sprintf("%d %s, where %d are the least", l.is, l.what, l.least))
		}
	}
	return lacks
}

func (r report) kills() int {
	c := r.count
	return int(c.killedTails.Load() + c.killedWriters.Load() + c.killedPools.Load() + c.killedNodes.Load() + c.stoppedNodes.Load())
}

// print writes the report and says whether the run proves that nothing is wrong.
func (r report) print(out io.Writer) bool {
	c := r.count
	p := func(format string, arguments ...any) { fmt.Fprintf(out, format+"\n", arguments...) }
	p("%v with %d writers, %d tails, %d servers and %d clients, seed %d", r.o.Time, r.o.Writers, r.o.Tails, r.o.Nodes, r.o.Clients, r.o.Seed)
	if r.o.Omit.String() != "" {
		p("WITHOUT the step %q: this must fail", r.o.Omit)
	}
	p("%s", strings.Join(r.phases, " · "))
	p("events %d · transactions %d · rollbacks %d, of savepoints %d · long %d · prepared %d · broken off %d", r.events,
		c.transactions.Load(), c.rollbacks.Load(), c.savepoints.Load(), c.long.Load(), c.prepared.Load(), c.broken.Load())
	p("clients: deliveries %d · connects %d · resumes %d · broken off %d · nobody there %d · resets %s", c.deliveries.Load(), c.connects.Load(),
		c.resumes.Load(), c.cuts.Load(), c.unreachable.Load(), r.resets())
	p("killed: tails %d, writers %d, other connections %d, servers %d · servers stopped %d", c.killedTails.Load(), c.killedWriters.Load(),
		c.killedPools.Load(), c.killedNodes.Load(), c.stoppedNodes.Load())
	p("Postgres: crashes %d · promotions %d, %d of them with loss", c.crashes.Load(), c.promotions.Load(), c.losses.Load())
	for _, v := range r.all {
		v.print(p)
	}
	if r.unrecorded > 0 {
		p("messages without their event: %d", r.unrecorded)
	}
	s := r.sums()
	p("LOST=%d DUP=%d ORDER=%d LEAK=%d", s.lost, s.dup, s.order, s.leak)
	lacks := r.lacks()
	for _, l := range lacks {
		p("proved nothing: %s", l)
	}
	return len(lacks) == 0 && s.clean()
}

// print says what is wrong with a hearing, if anything is.
func (v verdict) print(p func(format string, arguments ...any)) {
	alone := report{all: []verdict{v}}
	if alone.sums().clean() {
		return
	}
	p("%s: heard %d · lost %d · twice %d · out of order %d · not for it %d · never committed %d %v · resets %v, without need %d · not told of a loss %d",
		v.name, v.heard, v.lost, v.dup, v.order, v.leak, v.phantom, v.phantoms, v.resets, v.unjust, v.silence)
	for _, e := range v.missing {
		p("%s: lost %d (era %d, sequence %d) of organization %d, chat %d, user %d, audience %v, %s", v.name, e.id, era(e.id), e.id&(1<<43-1), e.organization, e.chat, e.user, e.audience, e.at)
	}
	for _, c := range v.complaints[:min(3, len(v.complaints))] {
		p("%s: %s", v.name, c)
	}
}

// resets are counted by reason.
func (r report) resets() string {
	n := map[string]int{}
	for _, v := range r.all {
		for reason, times := range v.resets {
			n[reason] += times
		}
	}
	if len(n) == 0 {
		return "none"
	}
	var parts []string
	for _, reason := range slices.Sorted(maps.Keys(n)) {
		parts = append(parts, fmt.Sprint(reason, " ", n[reason]))
	}
	return strings.Join(parts, ", ")
}
