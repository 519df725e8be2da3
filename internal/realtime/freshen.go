package realtime

import (
	"context"
	"time"

	"roombell/internal/eventlog"
)

// The contract gives a quiet client a position at least each quarter of the retention; half of that bears a missed turn.
// The retention is asked for again and again: it may be changed in the database.
const (
	freshenShare   = 8
	retentionCheck = time.Minute
)

// freshen keeps the positions of quiet clients from aging out of the log, until ctx ends.
func (s *Server) freshen(ctx context.Context) {
	if s.o.History == nil {
		return
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for last := time.Now(); ; {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		every, err := s.freshenEvery(ctx)
		switch {
		case err != nil:
			every = time.Second // the database is away: nobody can be told a position either
		case time.Since(last) >= every:
			s.tellPosition()
			last = time.Now()
		default:
			every -= time.Since(last)
		}
		timer.Reset(min(every, retentionCheck))
	}
}

func (s *Server) freshenEvery(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.timing.lookup)
	defer cancel()
	retention, err := s.o.History.Retention(ctx)
	return max(retention/freshenShare, 50*time.Millisecond), err
}

// tellPosition sends sync:cursor to everybody, between two batches.
func (s *Server) tellPosition() {
	s.attaches.join(func(at eventlog.Cursor, err error) {
		defer s.rescue("sync:cursor")
		if err == nil {
			s.adapter.publish(s.adapter.everybody(nil), encodeEvent("sync:cursor", body(cursorEvent{at.String()})))
			s.feeds.freshen()
		}
	})
}

type cursorEvent struct {
	Cursor string `json:"cursor"`
}
