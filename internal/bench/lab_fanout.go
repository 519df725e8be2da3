package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	fanoutClients = 1000
	fanoutRate    = 25
)

// fanout: the server's CPU for a million deliveries, 1,000 clients in one organization, 25 rows a second. A delivery is an
// event that a client got: Roombell's clients hear chat:updated, too.
func (l *Lab) fanout(ctx context.Context) (err error) {
	roombell, floor, err := l.startBoth(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, roombell.stop(), floor.stop()) }()
	for _, s := range []*side{roombell, floor} {
		if _, err := s.connect(ctx, []organization{l.large}, fanoutClients); err != nil {
			return err
		}
	}
	var ours, theirs fanoutRun
	for round := range l.options.Rounds {
		for _, t := range turns(round, fanoutTurn{roombell, &ours}, fanoutTurn{floor, &theirs}) {
			l.progress("fanout: %s, round %d of %d", t.side.name, round+1, l.options.Rounds)
			if err := l.fanoutTurn(ctx, t); err != nil {
				return fmt.Errorf("%s: %w", t.side.name, err)
			}
		}
	}
	l.reportFanout(ours, theirs)
	return nil
}

// fanoutRun is what one side gave, by round.
type fanoutRun struct {
	Delivery
	perFrame []float64 // CPU seconds for a million events of any kind
	perRow   []float64 // the same CPU for a million deliveries of a row
}

type fanoutTurn struct {
	side *side
	run  *fanoutRun
}

func (l *Lab) fanoutTurn(ctx context.Context, t fanoutTurn) error {
	w, err := openWriters(ctx, t.side.database.url, 4)
	if err != nil {
		return err
	}
	defer w.close(context.WithoutCancel(ctx))
	p := l.phase([]organization{l.large}, 1, 0)
	before, err := t.side.reading(ctx)
	if err != nil {
		return err
	}
	written, err := w.open(ctx, p, fanoutRate, int(fanoutRate*l.window.Seconds()), nil)
	if err != nil {
		return err
	}
	d, err := t.side.load.await(ctx, p.expect(written.rows))
	if err != nil {
		return err
	}
	// What follows the last row within a second is part of its price: the chat's counters.
	if err := t.side.load.quiet(ctx, time.Second, 10*time.Second); err != nil {
		return err
	}
	after, err := t.side.reading(ctx)
	if err != nil {
		return err
	}
	cpu := (after.cpu - before.cpu).Seconds()
	t.run.perFrame = append(t.run.perFrame, cpu/float64(after.frames-before.frames)*1e6)
	t.run.perRow = append(t.run.perRow, cpu/float64(d.Received)*1e6)
	t.run.add(d)
	return nil
}

// reading is what a side has used and delivered so far.
type reading struct {
	cpu    time.Duration
	frames int64
}

func (s *side) reading(ctx context.Context) (reading, error) {
	cpu, err := s.server.cpu()
	if err != nil {
		return reading{}, err
	}
	c, err := s.load.counts(ctx)
	return reading{cpu, c.Frames}, err
}

func (l *Lab) reportFanout(ours, theirs fanoutRun) {
	ratio := ratios(ours.perFrame, theirs.perFrame)
	l.report.add(Figure{
		Experiment: "fanout", Name: "1000 clients, 25/s, CPU per million deliveries", Unit: "s",
		Roombell: ptr(median(ours.perFrame)), Floor: ptr(median(theirs.perFrame)),
		Measured: ptr(median(ratio)), As: "of floor", Target: atMost(1.1), Losses: lossesOf(ours.Delivery, theirs.Delivery),
		Note: notes(spread("ratio", ratio), fmt.Sprintf("of rows alone %.3g s, %.3g of floor; p50/p99 %.1f/%.1f ms, floor %.1f/%.1f",
			median(ours.perRow), median(ratios(ours.perRow, theirs.perRow)), ms(ours.Delays.Quantile(0.5)), ms(ours.Delays.Quantile(0.99)),
			ms(theirs.Delays.Quantile(0.5)), ms(theirs.Delays.Quantile(0.99)))),
	})
}
