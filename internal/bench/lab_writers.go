package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// writers: how much of their rate single-row inserts keep with Roombell's triggers and a server that listens and delivers
// every row, against the same tables without triggers and with nobody listening.
func (l *Lab) writers(ctx context.Context) (err error) {
	roombell, floor, err := l.startBoth(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, roombell.stop(), floor.stop()) }()
	run := &writersRun{lab: l, organizations: l.organizations[:50], figures: map[writersKey]*writersFigures{}}
	defer func() { err = errors.Join(err, run.close(ctx)) }()
	for _, s := range []*side{{name: "bare", database: l.databases.bare}, roombell, floor} {
		if err := run.join(ctx, s); err != nil {
			return err
		}
	}
	for round := range l.options.Rounds {
		for _, n := range []int{8, 32} {
			for _, s := range turns(round, run.sides...) {
				l.progress("writers: %d connections, %s, round %d of %d", n, s.name, round+1, l.options.Rounds)
				if err := run.measure(ctx, s, n); err != nil {
					return fmt.Errorf("%s: %w", s.name, err)
				}
			}
		}
	}
	run.report(8, 0.7)
	run.report(32, 0.45)
	return nil
}

// writersRun is what the turns of the experiment share.
type writersRun struct {
	lab           *Lab
	organizations []organization
	sides         []writersSide
	figures       map[writersKey]*writersFigures
}

type writersSide struct {
	*side
	writers *writers
}

type writersKey struct {
	side string
	n    int
}

type writersFigures struct {
	rates      []float64
	cpu        []float64     // of the server, microseconds a row
	behind     time.Duration // from the last commit to the last arrival, at worst
	deliveries []Delivery
}

// join opens the writers of a side, and connects a client for each organization where there is a server.
func (r *writersRun) join(ctx context.Context, s *side) error {
	w, err := openWriters(ctx, s.database.url, 32)
	if err != nil {
		return err
	}
	r.sides = append(r.sides, writersSide{s, w})
	if s.load == nil {
		return nil
	}
	_, err = s.connect(ctx, r.organizations, 1)
	return err
}

func (r *writersRun) close(ctx context.Context) error {
	var errs []error
	for _, s := range r.sides {
		errs = append(errs, s.writers.close(context.WithoutCancel(ctx)))
	}
	return errors.Join(errs...)
}

func (r *writersRun) measure(ctx context.Context, s writersSide, n int) error {
	p := r.lab.phase(r.organizations, 0, 0)
	before, err := s.serverCPU()
	if err != nil {
		return err
	}
	written, err := s.writers.closed(ctx, p, n, r.lab.window/16, r.lab.window*3/8)
	if err != nil {
		return err
	}
	end := time.Now()
	key := writersKey{s.name, n}
	f := r.figures[key]
	if f == nil {
		f = &writersFigures{}
		r.figures[key] = f
	}
	f.rates = append(f.rates, written.rate())
	if s.load == nil {
		return nil
	}
	d, err := s.load.await(ctx, p.expect(written.rows))
	if err != nil {
		return err
	}
	after, err := s.serverCPU()
	if err != nil {
		return err
	}
	f.cpu = append(f.cpu, float64((after-before).Microseconds())/float64(written.rows))
	f.behind = max(f.behind, d.Last.Sub(end))
	d.Delays = nil
	f.deliveries = append(f.deliveries, d)
	return nil
}

// serverCPU is the server's CPU time so far, where there is one.
func (s writersSide) serverCPU() (time.Duration, error) {
	if s.server == nil {
		return 0, nil
	}
	return s.server.cpu()
}

func (r *writersRun) report(n int, target float64) {
	bare, roombell, floor := r.figures[writersKey{"bare", n}], r.figures[writersKey{"roombell", n}], r.figures[writersKey{"floor", n}]
	kept := ratios(roombell.rates, bare.rates)
	r.lab.report.add(Figure{
		Experiment: "writers", Name: fmt.Sprintf("%d connections, rows committed", n), Unit: "/s",
		Roombell: ptr(median(roombell.rates)), Floor: ptr(median(floor.rates)), Bare: ptr(median(bare.rates)),
		Measured: ptr(median(kept)), As: "of bare", Target: atLeast(target),
		Losses: lossesOf(append(roombell.deliveries, floor.deliveries...)...),
		Note: notes(spread("kept", kept), fmt.Sprintf("floor %.2g of bare; last row in hand %.0f ms after the last commit; server CPU %.0f µs a row, floor %.0f",
			median(ratios(floor.rates, bare.rates)), ms(roombell.behind), median(roombell.cpu), median(floor.cpu))),
	})
}
