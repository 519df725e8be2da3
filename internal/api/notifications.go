package api

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"roombell/internal/inbox"
)

// dataBody is the body's limit where data may have 1 MB.
const dataBody = 2 << 20

// Notification is a personal notice, as user:notification has it, and when it was read.
type Notification struct {
	ID        int64           `json:"id"`
	Type      string          `json:"type"`
	Message   string          `json:"message"`
	Data      json.RawMessage `json:"data" doc:"Mostly an object; whole, where the event may be truncated"`
	ReadAt    *string         `json:"readAt" format:"date-time" doc:"null: not yet"`
	CreatedAt *string         `json:"createdAt" format:"date-time"`
}

// Object is any JSON object, byte for byte.
type Object json.RawMessage

var _ huma.SchemaProvider = Object{}

// Schema says that any object will do.
func (Object) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true}
}

// UnmarshalJSON keeps the text: numbers of any size come out as they went in.
func (o *Object) UnmarshalJSON(text []byte) error {
	*o = append((*o)[:0], text...)
	return nil
}

// MarshalJSON gives the text back.
func (o Object) MarshalJSON() ([]byte, error) { return o, nil }

type (
	notificationInput struct {
		ID int64 `path:"id" minimum:"1"`
	}
	newNotificationInput struct {
		ID   int64 `path:"id" minimum:"1"`
		Body struct {
			Type    string `json:"type,omitempty" default:"info" minLength:"1" maxLength:"255"`
			Message string `json:"message,omitempty" maxLength:"65536"`
			Data    Object `json:"data,omitempty" doc:"At most 1 MB"`
		}
	}
	listNotificationsInput struct {
		Paging
		Unread bool `query:"unread" doc:"Only those that are not read"`
	}
	notificationOutput      struct{ Body Notification }
	listNotificationsOutput struct{ Body List[Notification] }
	readAllOutput           struct {
		Body struct {
			Count int64 `json:"count" doc:"How many were not read before"`
		}
	}
)

func (a *API) notificationRoutes() {
	handle(a, route{method: http.MethodPost, path: "/users/{id}/notifications", tag: "notifications", summary: "Notify a user", status: http.StatusCreated,
		description: "Of one's own organization: what everybody in it may do.", maxBody: dataBody}, a.notify)
	handle(a, route{method: http.MethodGet, path: "/me/notifications", tag: "notifications", summary: "My notifications",
		description: "Newest first by createdAt, then id."}, a.listNotifications)
	handle(a, route{method: http.MethodPost, path: "/me/notifications/{id}/read", tag: "notifications", summary: "Mark one as read"}, a.readNotification)
	handle(a, route{method: http.MethodPost, path: "/me/notifications/read-all", tag: "notifications", summary: "Mark all as read"}, a.readNotifications)
	handle(a, route{method: http.MethodDelete, path: "/me/notifications/{id}", tag: "notifications", summary: "Delete one", status: http.StatusNoContent},
		a.deleteNotification)
}

func (a *API) notify(ctx context.Context, in *newNotificationInput) (*notificationOutput, error) {
	data := json.RawMessage(in.Body.Data)
	if data == nil {
		data = json.RawMessage("{}")
	}
	n, err := a.o.Inbox.Notify(ctx, viewer(ctx), in.ID, in.Body.Type, in.Body.Message, data)
	return &notificationOutput{Notification(n)}, err
}

func (a *API) listNotifications(ctx context.Context, in *listNotificationsInput) (*listNotificationsOutput, error) {
	below, err := in.place()
	if err != nil {
		return nil, err
	}
	found, err := a.o.Inbox.Notifications(ctx, viewer(ctx), in.Unread, below, in.Limit+1)
	if err != nil {
		return nil, cursorError(err)
	}
	return &listNotificationsOutput{listByTime(in.Limit, found, func(n inbox.Notification) Notification { return Notification(n) })}, nil
}

func (a *API) readNotification(ctx context.Context, in *notificationInput) (*notificationOutput, error) {
	n, err := a.o.Inbox.ReadNotification(ctx, viewer(ctx), in.ID)
	return &notificationOutput{Notification(n)}, err
}

func (a *API) readNotifications(ctx context.Context, _ *struct{}) (*readAllOutput, error) {
	n, err := a.o.Inbox.ReadNotifications(ctx, viewer(ctx))
	out := &readAllOutput{}
	out.Body.Count = n
	return out, err
}

func (a *API) deleteNotification(ctx context.Context, in *notificationInput) (*struct{}, error) {
	return nil, a.o.Inbox.DeleteNotification(ctx, viewer(ctx), in.ID)
}
