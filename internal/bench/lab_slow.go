package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	slowClients   = 20
	slowReaders   = 10
	slowSize      = 60_000
	slowRate      = 125
	slowRows      = 1000 // 60 MB
	slowRowsCalm  = 500
	slowAwaitsCut = 15 * time.Second
)

// slow: what 20 clients that do not read cost, while 60 MB pass them by: memory, and the latency of those who read. There
// is no floor: NOTIFY carries no row of that size.
func (l *Lab) slow(ctx context.Context) (err error) {
	s, err := l.startRoombell(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	organizations := l.organizations[:1]
	if _, err := s.connect(ctx, organizations, slowReaders); err != nil {
		return err
	}
	w, err := openWriters(ctx, s.database.url, 8)
	if err != nil {
		return err
	}
	defer w.close(context.WithoutCancel(ctx))
	l.progress("slow: without slow clients")
	calm, err := l.slowRun(ctx, s, w, slowRowsCalm)
	if err != nil {
		return err
	}
	idlers, err := l.dialIdlers(ctx, s, organizations[0])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, idlers.stop()) }()
	l.progress("slow: with %d slow clients", slowClients)
	during, err := l.slowRun(ctx, s, w, slowRows)
	if err != nil {
		return err
	}
	cut, err := awaitCut(ctx, idlers)
	if err != nil {
		return err
	}
	l.reportSlow(calm, during, cut)
	return nil
}

type slowFigures struct {
	Delivery
	peak int64
}

func (l *Lab) slowRun(ctx context.Context, s *side, w *writers, rows int) (f slowFigures, err error) {
	p, done, sampled := l.phase(l.organizations[:1], 0, slowSize), make(chan struct{}), make(chan error, 1)
	go func() {
		var err error
		f.peak, err = s.peakRSS(done)
		sampled <- err
	}()
	written, err := w.open(ctx, p, slowRate, rows, nil)
	if err == nil {
		f.Delivery, err = s.load.await(ctx, p.expect(written.rows))
	}
	close(done)
	return f, errors.Join(err, <-sampled)
}

// dialIdlers connects the clients that do not read, from a process of their own.
func (l *Lab) dialIdlers(ctx context.Context, s *side, o organization) (*load, error) {
	idlers, err := startLoad(l.options.Self("load"))
	if err != nil {
		return nil, err
	}
	var seats []Seat
	for _, user := range o.users[slowReaders : slowReaders+slowClients] {
		seat, err := s.seat(0, o.id, user)
		if err != nil {
			return nil, errors.Join(err, idlers.stop())
		}
		seat.Hold = true
		seats = append(seats, seat)
	}
	if _, err := idlers.dial(ctx, seats); err != nil {
		return nil, errors.Join(err, idlers.stop())
	}
	return idlers, nil
}

// awaitCut lets the slow ones read what the kernel holds for them, and returns how many the server had let go.
func awaitCut(ctx context.Context, idlers *load) (cut int64, err error) {
	if err := idlers.release(ctx); err != nil {
		return 0, err
	}
	for start := time.Now(); cut < slowClients && time.Since(start) < slowAwaitsCut; {
		c, err := idlers.counts(ctx)
		if err != nil {
			return 0, err
		}
		cut = c.Cut
		if err := sleep(ctx, poll); err != nil {
			return 0, err
		}
	}
	return cut, nil
}

func (l *Lab) reportSlow(calm, during slowFigures, cut int64) {
	losses := lossesOf(calm.Delivery, during.Delivery)
	cost := float64(during.peak-calm.peak) / (1 << 20)
	l.report.add(Figure{
		Experiment: "slow", Name: "20 clients do not read 60 MB each, memory", Unit: "MB", Roombell: &cost,
		Measured: &cost, As: "MB", Target: atMost(40), Losses: losses,
		Note: fmt.Sprintf("peak %.0f MB, %.0f without them; %d of %d cut", float64(during.peak)/(1<<20), float64(calm.peak)/(1<<20), cut, slowClients),
	})
	before, after := ms(calm.Delays.Quantile(0.99)), ms(during.Delays.Quantile(0.99))
	l.report.add(Figure{
		Experiment: "slow", Name: "the others' p99 due to hand", Unit: "ms", Roombell: &after,
		Measured: ptr(after / before), As: "of before", Target: atMost(2), Note: fmt.Sprintf("before %.2f ms, of the same events", before),
	})
}
