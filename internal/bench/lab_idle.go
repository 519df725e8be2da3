package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	idleConnections = 10_000
	idleReserve     = 500 // open files that are no connection
)

// idle: resident memory a connection, each of a user of its own, nothing written.
func (l *Lab) idle(ctx context.Context) error {
	n := min(idleConnections, int(l.files)-idleReserve) / labOrganizations
	ours, err := l.idleSide(ctx, l.startRoombell, n)
	if err != nil {
		return err
	}
	theirs, err := l.idleSide(ctx, l.startFloor, n)
	if err != nil {
		return err
	}
	f := Figure{
		Experiment: "idle", Name: fmt.Sprintf("%d connections, resident memory of each", n*labOrganizations), Unit: "KB",
		Roombell: &ours.memory, Floor: &theirs.memory, Measured: &ours.memory, As: "KB", Target: atMost(34),
		Losses: Losses{Cut: ours.cut + theirs.cut},
		Note: fmt.Sprintf("before the collection %.1f, floor %.1f; connected in %.1f s (p99 of a handshake %.0f ms), floor %.1f s", ours.asIs, theirs.asIs,
			ours.dial.All.Seconds(), ms(ours.dial.Each.Quantile(0.99)), theirs.dial.All.Seconds()),
	}
	if n*labOrganizations < idleConnections {
		f.Note += fmt.Sprintf("; the system allows %d open files only", l.files)
	}
	l.report.add(f)
	return nil
}

type idleFigures struct {
	memory float64 // KB a connection, after a garbage collection
	asIs   float64 // KB a connection, as it was when all had connected
	dial   DialReply
	cut    int
}

func (l *Lab) idleSide(ctx context.Context, start func(context.Context) (*side, error), n int) (f idleFigures, err error) {
	s, err := start(ctx)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	l.progress("idle: %s, %d connections", s.name, n*labOrganizations)
	before, err := s.settledRSS(ctx)
	if err != nil {
		return f, err
	}
	if f.dial, err = s.connect(ctx, l.organizations, n); err != nil {
		return f, err
	}
	asIs, err := s.server.rss()
	if err != nil {
		return f, err
	}
	after, err := s.settledRSS(ctx)
	if err != nil {
		return f, err
	}
	c, err := s.load.counts(ctx)
	each := func(rss int64) float64 { return float64(rss-before) / 1024 / float64(n*labOrganizations) }
	f.memory, f.asIs, f.cut = each(after), each(asIs), int(c.Cut)
	return f, err
}

// peakRSS samples the server's resident memory until done is closed, and returns the most.
func (s *side) peakRSS(done <-chan struct{}) (peak int64, err error) {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		rss, err := s.server.rss()
		if err != nil {
			return peak, err
		}
		peak = max(peak, rss)
		select {
		case <-done:
			return peak, nil
		case <-t.C:
		}
	}
}
