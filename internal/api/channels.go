package api

import (
	"context"
	"net/http"

	"roombell/internal/inbox"
)

// Channel is an account through which chats come in. Its credentials are never returned.
type Channel struct {
	ID             int64   `json:"id"`
	OrganizationID int64   `json:"organizationId"`
	Provider       string  `json:"provider" enum:"whatsapp,waba,telegram,none"`
	Name           string  `json:"name"`
	Status         string  `json:"status"`
	ExternalID     *string `json:"externalId" doc:"What the provider calls the account"`
	CreatedAt      *string `json:"createdAt" format:"date-time" doc:"null: a time that RFC 3339 cannot say"`
	UpdatedAt      *string `json:"updatedAt" format:"date-time" doc:"null: a time that RFC 3339 cannot say"`
}

func channelOf(c inbox.Channel) Channel {
	return Channel{ID: c.ID, OrganizationID: c.OrganizationID, Provider: c.Provider, Name: c.Name, Status: c.Status, ExternalID: c.ExternalID,
		CreatedAt: orNull(c.CreatedAt), UpdatedAt: orNull(c.UpdatedAt)}
}

type (
	channelPath struct {
		ID int64 `path:"id" doc:"The channel"`
	}
	channelOutput      struct{ Body Channel }
	channelsOutput     struct{ Body List[Channel] }
	createChannelInput struct {
		Body struct {
			Provider   string `json:"provider" enum:"whatsapp,waba,telegram,none"`
			Name       string `json:"name,omitempty" maxLength:"200"`
			ExternalID string `json:"externalId,omitempty" maxLength:"200" doc:"What the provider calls the account"`
		}
	}
	updateChannelInput struct {
		ID   int64 `path:"id" doc:"The channel"`
		Body struct {
			Name       *string          `json:"name,omitempty" maxLength:"200"`
			ExternalID Optional[string] `json:"externalId,omitempty" maxLength:"200" doc:"null takes it away"`
		}
	}
)

func (a *API) channelRoutes() {
	handle(a, route{method: http.MethodGet, path: "/channels", tag: "channels", summary: "List the organization's channels"},
		func(ctx context.Context, in *Paging) (*channelsOutput, error) {
			page, err := in.page()
			if err != nil {
				return nil, err
			}
			channels, err := a.o.Inbox.Channels(ctx, viewer(ctx), page)
			return &channelsOutput{listOf(page, channels, func(c inbox.Channel) int64 { return c.ID }, channelOf)}, err
		})
	handle(a, route{method: http.MethodPost, path: "/channels", tag: "channels", summary: "Create a channel", who: admins, status: http.StatusCreated,
		description: "The record alone: it is connected by a call of its own."},
		func(ctx context.Context, in *createChannelInput) (*channelOutput, error) {
			c, err := a.o.Inbox.CreateChannel(ctx, viewer(ctx), inbox.NewChannel(in.Body))
			return &channelOutput{channelOf(c)}, err
		})
	handle(a, route{method: http.MethodGet, path: "/channels/{id}", tag: "channels", summary: "Read a channel"},
		func(ctx context.Context, in *channelPath) (*channelOutput, error) {
			c, err := a.o.Inbox.Channel(ctx, viewer(ctx), in.ID)
			return &channelOutput{channelOf(c)}, err
		})
	handle(a, route{method: http.MethodPatch, path: "/channels/{id}", tag: "channels", summary: "Change a channel", who: admins,
		description: "What is left out stays."}, a.updateChannel)
	handle(a, route{method: http.MethodDelete, path: "/channels/{id}", tag: "channels", summary: "Delete a channel", who: admins,
		description: "Its chats stay, without a channel."},
		func(ctx context.Context, in *channelPath) (*struct{}, error) {
			return nil, a.o.Inbox.DeleteChannel(ctx, viewer(ctx), in.ID)
		})
}

func (a *API) updateChannel(ctx context.Context, in *updateChannelInput) (*channelOutput, error) {
	change := inbox.ChannelChange{Name: in.Body.Name, ExternalID: in.Body.ExternalID.Value}
	if in.Body.ExternalID.Sent && change.ExternalID == nil {
		change.ExternalID = new(string)
	}
	c, err := a.o.Inbox.UpdateChannel(ctx, viewer(ctx), in.ID, change)
	return &channelOutput{channelOf(c)}, err
}
