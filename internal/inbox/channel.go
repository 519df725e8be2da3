package inbox

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"roombell/db"
)

// Channel is an account through which chats come in, without its credentials.
type Channel struct {
	ID             int64
	OrganizationID int64
	Provider       string
	Name           string
	Status         string
	ExternalID     *string
	CreatedAt      string // as in the events; empty: it has no such form
	UpdatedAt      string
}

// Channel returns a channel of the viewer's organization, or ErrNotFound.
func (i *Inbox) Channel(ctx context.Context, v Viewer, id int64) (Channel, error) {
	row, err := i.queries.GetChannel(ctx, id, v.OrganizationID)
	if db.IsNotFound(err) {
		return Channel{}, ErrNotFound
	}
	if err != nil {
		return Channel{}, fmt.Errorf("read channel: %w", err)
	}
	return Channel(row), nil
}

// Channels returns the channels of the viewer's organization, the newest first, and one more than the page has when there are more.
func (i *Inbox) Channels(ctx context.Context, v Viewer, page Page) ([]Channel, error) {
	rows, err := i.queries.ListChannels(ctx, v.OrganizationID, page.After, int32(page.Limit+1))
	if err != nil {
		return nil, fmt.Errorf("read channels: %w", err)
	}
	channels := make([]Channel, len(rows))
	for n, row := range rows {
		channels[n] = Channel(row)
	}
	return channels, nil
}

// NewChannel is a channel to be made; the provider is one of channels.provider.
type NewChannel struct {
	Provider   string
	Name       string
	ExternalID string // empty: none
}

// CreateChannel makes a channel in the admin's organization. It is a record: nothing is connected by that.
func (i *Inbox) CreateChannel(ctx context.Context, v Viewer, n NewChannel) (c Channel, err error) {
	if err := checkChannel(v, &n.Name, &n.ExternalID); err != nil {
		return c, err
	}
	err = i.as(ctx, v, func(_ pgx.Tx, q *db.Queries) error {
		p := db.CreateChannelParams{OrganizationID: v.OrganizationID, Provider: n.Provider, Name: n.Name}
		if n.ExternalID != "" {
			p.ExternalID = &n.ExternalID
		}
		row, err := q.CreateChannel(ctx, p)
		if err != nil {
			return fmt.Errorf("create channel: %w", err)
		}
		c = Channel(row)
		return nil
	})
	return c, err
}

// ChannelChange says what of a channel is to be another; nil stays as it is.
type ChannelChange struct {
	Name       *string
	ExternalID *string // empty: none
}

// UpdateChannel changes a channel of the admin's organization.
func (i *Inbox) UpdateChannel(ctx context.Context, v Viewer, id int64, change ChannelChange) (c Channel, err error) {
	if err := checkChannel(v, change.Name, change.ExternalID); err != nil {
		return c, err
	}
	err = i.as(ctx, v, func(_ pgx.Tx, q *db.Queries) error {
		row, err := q.UpdateChannel(ctx, db.UpdateChannelParams{ChannelID: id, OrganizationID: v.OrganizationID, Name: change.Name, ExternalID: change.ExternalID})
		if db.IsNotFound(err) {
			return ErrNotFound
		}
		if err != nil {
			return fmt.Errorf("update channel: %w", err)
		}
		c = Channel(row)
		return nil
	})
	return c, err
}

// DeleteChannel deletes a channel of the admin's organization. Its chats stay, without one.
func (i *Inbox) DeleteChannel(ctx context.Context, v Viewer, id int64) error {
	if err := needAdmin(v); err != nil {
		return err
	}
	return i.as(ctx, v, func(_ pgx.Tx, q *db.Queries) error {
		n, err := q.DeleteChannel(ctx, id, v.OrganizationID)
		if err != nil {
			return fmt.Errorf("delete channel: %w", err)
		}
		if n == 0 {
			return ErrNotFound
		}
		return nil
	})
}

func checkChannel(v Viewer, name, externalID *string) error {
	if err := needAdmin(v); err != nil {
		return err
	}
	for field, text := range map[string]*string{"name": name, "externalId": externalID} {
		if text == nil {
			continue
		}
		if err := checkText(field, *text); err != nil {
			return err
		}
	}
	return nil
}
