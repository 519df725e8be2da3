package inbox

import (
	"context"
	"encoding/json"
	"fmt"

	"roombell/db"
)

// codeInvalidParameter is how roombell.check_event refuses a name.
const codeInvalidParameter = "22023"

// SignalUser sends an event of any name to all sockets of a user of the viewer's organization; nothing is stored but the log. ErrNotFound when
// there is no such user; ErrInvalid, with the code event_name_refused, for the names of the protocol and of Roombell itself.
func (i *Inbox) SignalUser(ctx context.Context, v Viewer, userID int64, event string, data json.RawMessage) error {
	if err := checkSignal(event, data); err != nil {
		return err
	}
	n, err := i.queries.NotifyUser(ctx, db.NotifyUserParams{Event: event, Data: data, UserID: userID, OrganizationID: v.OrganizationID})
	if err == nil && n == 0 {
		return ErrNotFound
	}
	return signalError(err)
}

// SignalOrganization is SignalUser for all sockets of the viewer's organization.
func (i *Inbox) SignalOrganization(ctx context.Context, v Viewer, event string, data json.RawMessage) error {
	if err := checkSignal(event, data); err != nil {
		return err
	}
	return signalError(i.queries.BroadcastToOrganization(ctx, v.OrganizationID, event, data))
}

// checkSignal looks at what cannot even be asked of Postgres; which names are refused is known there alone (roombell.check_event).
func checkSignal(event string, data json.RawMessage) error {
	if err := storable("event", event); err != nil {
		return err
	}
	return checkData(data)
}

func signalError(err error) error {
	switch {
	case err == nil:
		return nil
	case db.Code(err) == codeInvalidParameter:
		return &InvalidError{Field: "event", Code: "event_name_refused",
			Message: "The name is reserved, or does not have 1 to 255 characters."}
	case db.IsForeignKey(err, ""):
		return ErrNotFound
	case isValue(err):
		return errData
	}
	return fmt.Errorf("send an event: %w", err)
}
