package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// latency: how long after it was due a row is in a client's hand, with 500 clients in 50 organizations.
func (l *Lab) latency(ctx context.Context) (err error) {
	roombell, floor, err := l.startBoth(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, roombell.stop(), floor.stop()) }()
	organizations := l.organizations[:50]
	for _, s := range []*side{roombell, floor} {
		if _, err := s.connect(ctx, organizations, 10); err != nil {
			return err
		}
	}
	pair := &latencyPair{lab: l, organizations: organizations}
	for _, rate := range []int{100, 1000, 2000} {
		rounds := 1
		if rate == 100 { // the one whose figures are divided
			rounds = l.options.Rounds
		}
		ours, theirs, err := pair.measure(ctx, roombell, floor, rate, rounds)
		if err != nil {
			return err
		}
		l.reportLatency(rate, ours, theirs)
	}
	return nil
}

type latencyPair struct {
	lab           *Lab
	organizations []organization
}

// latencyRun is what one side gave at one rate.
type latencyRun struct {
	Delivery
	committed time.Duration // p99 from due to committed
	rate      float64       // rows a second, from the first one due to the last one in hand; the slowest round
}

func (p *latencyPair) measure(ctx context.Context, roombell, floor *side, rate, rounds int) (ours, theirs latencyRun, err error) {
	for round := range rounds {
		for _, t := range turns(round, latencyTurn{roombell, &ours}, latencyTurn{floor, &theirs}) {
			p.lab.progress("latency: %d/s, %s, round %d of %d", rate, t.side.name, round+1, rounds)
			if err := p.run(ctx, t, rate); err != nil {
				return ours, theirs, fmt.Errorf("%s: %w", t.side.name, err)
			}
		}
	}
	return ours, theirs, nil
}

type latencyTurn struct {
	side *side
	run  *latencyRun
}

// latencyWriters is how many connections share the writing: enough that they are no queue of their own.
const latencyWriters = 32

func (p *latencyPair) run(ctx context.Context, t latencyTurn, rate int) error {
	w, err := openWriters(ctx, t.side.database.url, latencyWriters)
	if err != nil {
		return err
	}
	defer w.close(context.WithoutCancel(ctx))
	// A connection's first insert is planned and its second prepared: not what is measured.
	warm := p.lab.phase(p.organizations, 0, 0)
	r, err := w.open(ctx, warm, 200, 2*latencyWriters, nil)
	if err != nil {
		return err
	}
	warmed, err := t.side.load.await(ctx, warm.expect(r.rows))
	if err != nil {
		return err
	}
	run := p.lab.phase(p.organizations, 0, 0)
	r, err = w.open(ctx, run, float64(rate), int(float64(rate)*p.lab.window.Seconds()), nil)
	if err != nil {
		return err
	}
	d, err := t.side.load.await(ctx, run.expect(r.rows))
	if err != nil {
		return err
	}
	achieved := float64(r.rows) / d.Last.Sub(r.firstDue).Seconds()
	if t.run.rate == 0 || achieved < t.run.rate {
		t.run.rate = achieved
	}
	t.run.committed = max(t.run.committed, r.committed.Quantile(0.99))
	warmed.Delays = nil
	t.run.add(warmed)
	t.run.add(d)
	return nil
}

func (l *Lab) reportLatency(rate int, ours, theirs latencyRun) {
	losses := lossesOf(ours.Delivery, theirs.Delivery)
	figure := func(name string, q float64) Figure {
		a, b := ms(ours.Delays.Quantile(q)), ms(theirs.Delays.Quantile(q))
		return Figure{Experiment: "latency", Name: fmt.Sprintf("500 clients, %d/s, %s due to hand", rate, name), Unit: "ms",
			Roombell: &a, Floor: &b, Losses: losses,
			Note: fmt.Sprintf("worst %.0f; floor %.0f; p99 due to committed %.1f, floor %.1f", ms(ours.Delays.Max()), ms(theirs.Delays.Max()),
				ms(ours.committed), ms(theirs.committed))}
	}
	p50, p99 := figure("p50", 0.5), figure("p99", 0.99)
	p50.Note, p50.Losses = "", Losses{}
	switch rate {
	case 100:
		p50.Measured, p50.As, p50.Target = ptr(*p50.Roombell / *p50.Floor), "of floor", atMost(1.5)
		p99.Measured, p99.As, p99.Target = ptr(*p99.Roombell / *p99.Floor), "of floor", atMost(2)
	case 1000:
		p99.Measured, p99.As, p99.Target = p99.Roombell, "ms", atMost(50)
	}
	l.report.add(p50)
	l.report.add(p99)
	if rate == 2000 {
		l.report.add(Figure{Experiment: "latency", Name: "500 clients, 2000/s asked, in hand", Unit: "/s", Roombell: &ours.rate, Floor: &theirs.rate,
			Measured: &ours.rate, As: "/s", Target: atLeast(1980), Note: "from the first one due to the last one in hand"})
	}
}
