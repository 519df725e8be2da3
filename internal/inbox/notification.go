package inbox

import (
	"context"
	"encoding/json"
	"fmt"

	"roombell/db"
)

// dataMost is how many bytes the data of a notification or an event has at most.
const dataMost = 1 << 20

// Notification is a personal notice. Times are as in the events, nil where they have no RFC 3339 form.
type Notification struct {
	ID        int64
	Type      string
	Message   string
	Data      json.RawMessage // an object, mostly: SQL may write others
	ReadAt    *string
	CreatedAt *string
}

// Notify writes a notification for a user of the viewer's organization, who may be anybody in it; ErrNotFound when there is none.
func (i *Inbox) Notify(ctx context.Context, v Viewer, userID int64, kind, message string, data json.RawMessage) (Notification, error) {
	for field, text := range map[string]string{"type": kind, "message": message} {
		if err := storable(field, text); err != nil {
			return Notification{}, err
		}
	}
	if err := checkData(data); err != nil {
		return Notification{}, err
	}
	row, err := i.queries.CreateNotification(ctx, db.CreateNotificationParams{Type: kind, Message: message, Data: data,
		UserID: userID, OrganizationID: v.OrganizationID})
	switch {
	case db.IsNotFound(err), db.IsForeignKey(err, ""):
		return Notification{}, ErrNotFound
	case isValue(err):
		return Notification{}, errData
	case err != nil:
		return Notification{}, fmt.Errorf("write a notification: %w", err)
	}
	return notificationOf(db.ListNotificationsRow(row)), nil
}

// Notifications returns up to most of the viewer's own below the place, newest first by (created_at, id).
func (i *Inbox) Notifications(ctx context.Context, v Viewer, unread bool, below Place, most int) ([]Placed[Notification], error) {
	before, id := below.key()
	rows, err := i.queries.ListNotifications(ctx, db.ListNotificationsParams{UserID: v.ID, Before: before, BeforeID: id, Unread: unread, Most: int32(most)})
	if isValue(err) {
		return nil, &InvalidError{Field: "cursor", Message: "not a nextCursor"}
	}
	if err != nil {
		return nil, fmt.Errorf("read notifications: %w", err)
	}
	found := make([]Placed[Notification], len(rows))
	for n, row := range rows {
		found[n] = Placed[Notification]{notificationOf(row), Place{row.Position, row.ID}}
	}
	return found, nil
}

// ReadNotification marks one of the viewer's own as read, if it is not yet, and returns it, or ErrNotFound.
func (i *Inbox) ReadNotification(ctx context.Context, v Viewer, id int64) (Notification, error) {
	row, err := i.queries.ReadNotification(ctx, id, v.ID)
	if db.IsNotFound(err) {
		return Notification{}, ErrNotFound
	}
	if err != nil {
		return Notification{}, fmt.Errorf("mark a notification: %w", err)
	}
	return notificationOf(db.ListNotificationsRow(row)), nil
}

// ReadNotifications marks all of the viewer's own as read, and says how many were not.
func (i *Inbox) ReadNotifications(ctx context.Context, v Viewer) (int64, error) {
	n, err := i.queries.ReadAllNotifications(ctx, v.ID)
	if err != nil {
		return 0, fmt.Errorf("mark notifications: %w", err)
	}
	return n, nil
}

// DeleteNotification removes one of the viewer's own, or returns ErrNotFound.
func (i *Inbox) DeleteNotification(ctx context.Context, v Viewer, id int64) error {
	n, err := i.queries.DeleteNotification(ctx, id, v.ID)
	if err != nil {
		return fmt.Errorf("delete a notification: %w", err)
	}
	if n == 0 {
		return ErrNotFound
	}
	return nil
}

// errData is for what is JSON, and Postgres cannot store.
var errData = &InvalidError{Field: "data", Message: "The data cannot be stored: U+0000, a number out of range, or too deep or large."}

func checkData(data json.RawMessage) error {
	if len(data) > dataMost {
		return &InvalidError{Field: "data", Message: "The data has more than 1 MB."}
	}
	return nil
}

func notificationOf(r db.ListNotificationsRow) Notification {
	return Notification{ID: r.ID, Type: r.Type, Message: r.Message, Data: r.Data, ReadAt: filled(r.ReadAt), CreatedAt: filled(r.CreatedAt)}
}
