package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"
)

// Live is what the sockets of this node know: realtime.Server, by way of cmd/roombell.
type Live interface {
	// Presence lists who is not offline in an organization.
	Presence(organizationID int64) []Presence
	// Figures counts an organization's connections and events, everybody's with 0.
	Figures(ctx context.Context, organizationID int64) (Figures, error)
}

// Presence is whether somebody is there.
type Presence struct {
	UserID     int64     `json:"userId"`
	Status     string    `json:"status" enum:"online,away"`
	LastSeenAt time.Time `json:"lastSeenAt" doc:"When something was last heard of the user"`
}

// PresenceList is who is there.
type PresenceList struct {
	Users []Presence `json:"users" nullable:"false" doc:"Those who are not offline, by id; sockets of the node that answers"`
}

// Figures are counts of one node.
type Figures struct {
	Scope               string `json:"scope" enum:"organization,installation"`
	OrganizationID      *int64 `json:"organizationId,omitempty" doc:"Of the scope organization"`
	Connections         int    `json:"connections" doc:"Open sockets"`
	Streams             int    `json:"streams" doc:"Open event streams"`
	UsersOnline         int    `json:"usersOnline" doc:"Users who are not offline"`
	OrganizationsOnline *int   `json:"organizationsOnline,omitempty" doc:"Organizations with somebody online, of the scope installation"`
	EventsPerMinute     int    `json:"eventsPerMinute" doc:"Events of the last minute"`
	Node                string `json:"node" doc:"The node that answers: connections are its own"`
	Nodes               string `json:"nodes" enum:"all,partial" doc:"all: there is no other node. partial: others have connections of their own"`
}

type presenceOutput struct{ Body PresenceList }

type figuresOutput struct{ Body Figures }

func (a *API) liveRoutes() {
	handle(a, route{method: http.MethodGet, path: "/presence", tag: "live", summary: "Who is there"}, a.presence)
	handle(a, route{method: http.MethodGet, path: "/stats", tag: "live", summary: "Connections and the rate of events", who: keyHolders,
		description: "Of the user's own organization; with the admin key of the installation."}, a.stats)
}

func (a *API) presence(ctx context.Context, _ *struct{}) (*presenceOutput, error) {
	if a.o.Live == nil {
		return nil, errNoSockets()
	}
	return &presenceOutput{PresenceList{a.o.Live.Presence(viewer(ctx).OrganizationID)}}, nil
}

func errNoSockets() error { return refuse("unavailable", "This server has no sockets.") }

func (a *API) stats(ctx context.Context, _ *struct{}) (*figuresOutput, error) {
	if a.o.Live == nil {
		return nil, errNoSockets()
	}
	f, err := a.o.Live.Figures(ctx, viewer(ctx).OrganizationID)
	if err != nil {
		return nil, logProblem(err)
	}
	return &figuresOutput{f}, nil
}

// Installation serves the figures of the whole installation to whoever asks: for the admin address.
func (a *API) Installation() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out, err := a.stats(r.Context(), nil)
		if err != nil {
			var p *Problem
			if errors.As(a.problem(r.Context(), err), &p) {
				_ = sendProblem(w, p)
			}
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(out.Body)
	})
}
