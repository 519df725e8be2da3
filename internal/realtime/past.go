package realtime

import (
	"context"
	"fmt"

	"roombell/internal/eventlog"
)

// pastLooked bounds how many events one Past looks at for those that the listener wants and may hear.
const pastLooked = 5000

// Past is a part of what the log has for a listener.
type Past struct {
	Lines  []Line
	Cursor string // the position after what was looked at: go on from there
	More   bool   // there is more now
	// Failover says that a promotion lost commits: some of what was heard before the given cursor may not exist.
	Failover bool
}

// Past reads the log from a cursor, or from the beginning of the retention when it is empty: up to limit events in their order, which a
// listener may hear by today's rights. A page may be short and have More all the same. eventlog.ErrCursor and ErrTooOld say that a
// cursor leads nowhere.
func (s *Server) Past(ctx context.Context, l Listener, cursor string, limit int) (Past, error) {
	ctx, cancel := context.WithTimeout(ctx, planTime)
	defer cancel()
	to, err := s.position(ctx, nil)
	if err != nil {
		return Past{}, err
	}
	missed, err := s.since(ctx, l, cursor, to)
	if err != nil {
		return Past{}, fmt.Errorf("read the history: %w", err)
	}
	p := Past{Lines: []Line{}, Cursor: to.String(), Failover: missed.Failover}
	r := &ear{user: l.UserID, organization: l.OrganizationID, admin: l.Admin, outside: true}
	for looked := 0; ; {
		batch, err := missed.Next(ctx)
		if err != nil {
			return Past{}, fmt.Errorf("read the history: %w", err)
		}
		if batch == nil {
			return p, nil
		}
		if err := s.askRights(ctx, r, chatsOf(batch.Events)); err != nil {
			return Past{}, err
		}
		lines := s.lines(r, batch, false, l.Wants)
		if room := limit - len(p.Lines); len(lines) > room {
			lines = lines[:room]
		}
		p.Lines = append(p.Lines, lines...)
		looked += len(batch.Events)
		switch {
		case len(p.Lines) == limit:
			p.Cursor, p.More = p.Lines[limit-1].Cursor, true
			return p, nil
		case looked >= pastLooked:
			p.Cursor, p.More = batch.Cursor(len(batch.Events)-1), true
			return p, nil
		}
	}
}

func (s *Server) since(ctx context.Context, l Listener, cursor string, to eventlog.Cursor) (*eventlog.Missed, error) {
	var from eventlog.Cursor
	var err error
	if cursor == "" {
		from, err = s.o.History.Beginning(ctx, to)
	} else {
		from, err = eventlog.ParseCursor(cursor)
	}
	if err != nil {
		return nil, err
	}
	return s.o.History.Missed(ctx, eventlog.Question{From: from, To: to, OrganizationID: l.OrganizationID, UserID: l.UserID})
}
