package api

import (
	"context"
	"encoding/json"
	"net/http"
)

// Signal is an event of the organization's own.
type Signal struct {
	Event string          `json:"event" doc:"1 to 255 characters; the names of Socket.IO and of Roombell's own events, but user:notification, are refused"`
	Data  json.RawMessage `json:"data,omitempty" doc:"At most 1 MB. What is no object arrives as {data: …}; eventId, cursor and timestamp are the server's"`
}

type (
	signalUserInput struct {
		ID   int64 `path:"id" minimum:"1"`
		Body Signal
	}
	signalOrganizationInput struct{ Body Signal }
)

func (a *API) signalRoutes() {
	codes := []string{"event_name_refused"}
	handle(a, route{method: http.MethodPost, path: "/users/{id}/events", tag: "events", summary: "Send an event to a user's sockets", who: managers,
		description: "Nothing is stored but the log.", status: http.StatusAccepted, codes: codes, maxBody: dataBody},
		func(ctx context.Context, in *signalUserInput) (*struct{}, error) {
			return nil, a.o.Inbox.SignalUser(ctx, viewer(ctx), in.ID, in.Body.Event, in.Body.Data)
		})
	handle(a, route{method: http.MethodPost, path: "/organizations/me/events", tag: "events", summary: "Send an event to the organization's sockets", who: managers,
		description: "Nothing is stored but the log.", status: http.StatusAccepted, codes: codes, maxBody: dataBody},
		func(ctx context.Context, in *signalOrganizationInput) (*struct{}, error) {
			return nil, a.o.Inbox.SignalOrganization(ctx, viewer(ctx), in.Body.Event, in.Body.Data)
		})
}
