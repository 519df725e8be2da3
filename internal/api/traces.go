package api

import (
	"context"
	"net/http"
	"time"

	"roombell/internal/eventlog"
)

// Trace says what became of the events of a message.
type Trace struct {
	MessageID int64         `json:"messageId"`
	Nodes     string        `json:"nodes" enum:"all,partial" doc:"all: the node that answers is the only one. partial: other nodes have clients of their own"`
	Events    []TracedEvent `json:"events" nullable:"false" doc:"In their order. What is older than the retention, and sums of bulk writes, are not among them"`
}

// TracedEvent is one of them.
type TracedEvent struct {
	EventID     int64      `json:"eventId"`
	Event       string     `json:"event" example:"message:new"`
	RecordedAt  time.Time  `json:"recordedAt" doc:"When the trigger wrote it, by the database's clock"`
	CommittedAt *time.Time `json:"committedAt,omitempty" doc:"Where the database keeps it: track_commit_timestamp"`
	HeardAt     *time.Time `json:"heardAt" doc:"When this node read it from the log, by its own clock; null: before its start, or too long ago"`
	DeliveredAt *time.Time `json:"deliveredAt" doc:"When it was in the queue of the last socket; null: no socket was to hear it, or as above"`
	Sockets     *int       `json:"sockets" doc:"How many sockets of this node were given it"`
	Node        *string    `json:"node" doc:"The node that answers, where it heard the event"`
}

type traceInput struct {
	ID int64 `path:"id" minimum:"1"`
}

type traceOutput struct{ Body Trace }

func (a *API) traceRoutes() {
	handle(a, route{method: http.MethodGet, path: "/messages/{id}/trace", tag: "messages", summary: "How a message was told",
		description: "When each of its events was recorded, committed, heard by this node, and handed to how many sockets."}, a.trace)
}

func (a *API) trace(ctx context.Context, in *traceInput) (*traceOutput, error) {
	v := viewer(ctx)
	span, err := a.o.Inbox.MessageSpan(ctx, v, in.ID)
	if err != nil {
		return nil, err
	}
	if a.o.Log == nil {
		return nil, refuse("unavailable", "This server has no event log.")
	}
	trace, err := a.o.Log.Trace(ctx, eventlog.TraceQuestion{OrganizationID: v.OrganizationID, ChatID: span.ChatID, MessageID: in.ID,
		From: span.WrittenAt, To: span.ChangedAt, Last: span.ChangedBy})
	if err != nil {
		return nil, logProblem(err)
	}
	trace.MessageID = in.ID
	return &traceOutput{trace}, nil
}
