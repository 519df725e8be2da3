package main

import (
	"context"
	"errors"
	"time"

	"roombell/internal/api"
	"roombell/internal/eventlog"
	"roombell/internal/realtime"
)

// listening gives what realtime and eventlog know in the words of the API: history, streams, traces, presence and figures.
type listening struct {
	realtime *realtime.Server
	history  *eventlog.History
	node     string
}

var (
	_ api.Log  = listening{}
	_ api.Live = listening{}
)

func (l listening) Past(ctx context.Context, who api.Listener, cursor string, limit int) (api.Past, error) {
	past, err := l.realtime.Past(ctx, realtime.Listener(who), cursor, limit)
	return api.Past{Lines: linesOf(past.Lines), Cursor: past.Cursor, More: past.More, Failover: past.Failover}, err
}

func (l listening) Open(ctx context.Context, who api.Listener, cursor string) (api.Stream, error) {
	feed, err := l.realtime.Feed(ctx, realtime.Listener(who), cursor)
	if err != nil {
		return nil, feedError(err)
	}
	return stream{feed}, nil
}

type stream struct{ feed *realtime.Feed }

func (s stream) Close(cut bool) { s.feed.Close(cut) }

func (s stream) Next(ctx context.Context, patience time.Duration) ([]api.Line, error) {
	lines, err := s.feed.Next(ctx, patience)
	return linesOf(lines), feedError(err)
}

func linesOf(given []realtime.Line) []api.Line {
	lines := make([]api.Line, len(given))
	for i, line := range given {
		lines[i] = api.Line(line)
	}
	return lines
}

func feedError(err error) error {
	switch {
	case errors.Is(err, realtime.ErrTooManyFeeds):
		return api.ErrTooManyStreams
	case errors.Is(err, realtime.ErrStopping):
		return api.ErrStopping
	}
	return err
}

func (l listening) Trace(ctx context.Context, q eventlog.TraceQuestion) (api.Trace, error) {
	found, err := l.history.Trace(ctx, q)
	if err != nil {
		return api.Trace{}, err
	}
	nodes, err := l.nodes(ctx)
	if err != nil {
		return api.Trace{}, err
	}
	ids := make([]int64, len(found))
	for i, e := range found {
		ids[i] = e.ID
	}
	handed := l.realtime.Handed(ids)
	trace := api.Trace{Nodes: nodes, Events: make([]api.TracedEvent, len(found))}
	for i, e := range found {
		traced := api.TracedEvent{EventID: e.ID, Event: e.Name, RecordedAt: e.RecordedAt, CommittedAt: e.CommittedAt}
		if h, heard := handed[e.ID]; heard {
			traced.HeardAt, traced.Sockets, traced.Node = &h.HeardAt, &h.Sockets, &l.node
			if h.Sockets > 0 {
				traced.DeliveredAt = &h.DeliveredAt
			}
		}
		trace.Events[i] = traced
	}
	return trace, nil
}

func (l listening) nodes(ctx context.Context) (string, error) {
	n, err := l.history.Nodes(ctx)
	if n > 1 {
		return "partial", err
	}
	return "all", err
}

func (l listening) Presence(organizationID int64) []api.Presence {
	found := l.realtime.Presence(organizationID)
	list := make([]api.Presence, len(found))
	for i, p := range found {
		list[i] = api.Presence(p)
	}
	return list
}

func (l listening) Figures(ctx context.Context, organizationID int64) (api.Figures, error) {
	nodes, err := l.nodes(ctx)
	if err != nil {
		return api.Figures{}, err
	}
	f := l.realtime.Figures(organizationID)
	figures := api.Figures{Scope: "organization", OrganizationID: &organizationID, Connections: f.Sockets, Streams: f.Streams,
		UsersOnline: f.UsersOnline, EventsPerMinute: l.history.PerMinute(organizationID), Node: l.node, Nodes: nodes}
	if organizationID == 0 {
		figures.Scope, figures.OrganizationID, figures.OrganizationsOnline = "installation", nil, &f.Organizations
	}
	return figures, nil
}
