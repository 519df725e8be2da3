package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"roombell/internal/eventlog"
	"roombell/internal/inbox"
)

// Log tells what the event log has for those without a socket, in the very bytes and with the very cursors that a socket gets:
// realtime.Server and eventlog.History, by way of cmd/roombell. Its errors are eventlog's and those below.
type Log interface {
	// Past returns up to limit events from a cursor, or from the beginning of the retention. eventlog.ErrCursor and ErrTooOld say that the
	// cursor leads nowhere.
	Past(ctx context.Context, l Listener, cursor string, limit int) (Past, error)
	// Open begins a stream. What is wrong with the cursor is told on it.
	Open(ctx context.Context, l Listener, cursor string) (Stream, error)
	Trace(ctx context.Context, q eventlog.TraceQuestion) (Trace, error)
}

var (
	// ErrTooManyStreams says that the user has as many open as are allowed to him.
	ErrTooManyStreams = errors.New("too many streams")
	// ErrStopping says that this node lets everybody go.
	ErrStopping = errors.New("the server stops")
)

// Listener is who hears the log.
type Listener struct {
	UserID, OrganizationID int64
	Admin                  bool
	Wants                  func(event string, chatID int64) bool             // nil: all
	Check                  func(ctx context.Context) (admin bool, err error) // of a stream: whether he may listen still
}

// Line is an event as it goes to a listener.
type Line struct {
	Name   string
	Data   []byte // the payload, as on a socket
	Cursor string // empty: it moves nobody
	Custom bool   // Name is a user's word
}

// Past is a part of the log.
type Past struct {
	Lines    []Line
	Cursor   string // the position after what was looked at
	More     bool
	Failover bool // a promotion lost commits that may have been heard
}

// Stream is what is heard from now on, and was missed.
type Stream interface {
	// Next waits for what comes next, and returns nothing when nothing came in the time.
	Next(ctx context.Context, patience time.Duration) ([]Line, error)
	// Close is told whether we gave the client up.
	Close(cut bool)
}

// EventPayload is the object that clients get. The AsyncAPI document has the fields of each event.
type EventPayload json.RawMessage

// MarshalJSON returns the bytes.
func (p EventPayload) MarshalJSON() ([]byte, error) { return p, nil }

// Schema is an object of any fields.
func (EventPayload) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true,
		Description: "As on the socket (/asyncapi.json): with `eventId`, `cursor` and `timestamp`. Of what was deleted since, names and contents are null and `deleted` is true."}
}

// Event is one of the history.
type Event struct {
	Event   string       `json:"event" doc:"Its name" example:"message:new"`
	Payload EventPayload `json:"payload"`
}

// EventList is a page of the history.
type EventList struct {
	Items      []Event `json:"items" nullable:"false" doc:"Oldest first. May be fewer than the limit, even none, where there are more."`
	NextCursor *string `json:"nextCursor" doc:"Give it as cursor to get the next page; null: there is no more now"`
	Cursor     string  `json:"cursor" doc:"The position after this page: give it later, here or to a stream or socket, to get what came since"`
	Reset      string  `json:"reset,omitempty" enum:"failover" doc:"A promotion lost commits: some of what was heard before the cursor may not exist"`
}

type eventsInput struct {
	Cursor string   `query:"cursor" doc:"A position: nextCursor or cursor of a page, or the cursor of any event, here or on a socket. Empty: the beginning of the retention" maxLength:"2048"`
	Limit  int      `query:"limit" default:"50" minimum:"1" maximum:"200" doc:"Items of a page"`
	Type   []string `query:"type" doc:"Names of events, separated by commas; empty: all" maxItems:"50"`
	ChatID int64    `query:"chatId" minimum:"0" doc:"Only events of this chat, which exists; 0: all"`
}

type eventsOutput struct{ Body EventList }

func (a *API) eventRoutes() {
	handle(a, route{method: http.MethodGet, path: "/events", tag: "events", summary: "What happened, oldest first",
		description: "The event log from the beginning of the retention or from a cursor, as far as the user may see it by today's rights.",
		codes:       []string{"not_found", "cursor_too_old", "unknown_cursor"}}, a.listEvents)
}

func (a *API) listEvents(ctx context.Context, in *eventsInput) (*eventsOutput, error) {
	l, err := a.listener(ctx, in.Type, in.ChatID)
	if err != nil {
		return nil, err
	}
	past, err := a.o.Log.Past(ctx, l, in.Cursor, in.Limit)
	if err != nil {
		return nil, logProblem(err)
	}
	items, err := a.withoutDeleted(ctx, past.Lines)
	if err != nil {
		return nil, err
	}
	list := EventList{Items: items, Cursor: past.Cursor}
	if past.More {
		list.NextCursor = &list.Cursor
	}
	if past.Failover {
		list.Reset = eventlog.ResetFailover
	}
	return &eventsOutput{list}, nil
}

// listener is the viewer, with what he wants to hear.
func (a *API) listener(ctx context.Context, types []string, chatID int64) (Listener, error) {
	v := viewer(ctx)
	l := Listener{UserID: v.ID, OrganizationID: v.OrganizationID, Admin: v.IsAdmin()}
	if a.o.Log == nil {
		return l, refuse("unavailable", "This server has no event log.")
	}
	if chatID != 0 {
		if _, err := a.o.Inbox.Chat(ctx, v, chatID); err != nil {
			return l, err
		}
	}
	if chatID != 0 || len(types) > 0 {
		l.Wants = func(event string, chat int64) bool {
			return (chatID == 0 || chat == chatID) && (len(types) == 0 || slices.Contains(types, event))
		}
	}
	return l, nil
}

// logProblem gives the log's errors their meaning.
func logProblem(err error) error {
	switch {
	case errors.Is(err, eventlog.ErrCursor):
		return refuse("unknown_cursor", "The cursor is none of this installation's: begin again without one.", Field{"query.cursor", "unknown"})
	case errors.Is(err, eventlog.ErrTooOld):
		return refuse("cursor_too_old", "Events after the cursor are not kept any more: begin again without one.")
	case errors.Is(err, ErrTooManyStreams):
		return refuse("too_many_streams", "Close a stream first.")
	case errors.Is(err, eventlog.ErrUnavailable), errors.Is(err, eventlog.ErrMoved), errors.Is(err, ErrStopping):
		return refuse("unavailable", "The event log cannot be read just now: try again.").with("Retry-After", "1")
	}
	return err
}

// Which fields of an event say what somebody wrote, and which is the id of what they belong to.
var contents = map[string]struct {
	id     string
	things func(*inbox.Things) *[]int64
	fields []string
}{
	"message:new":       {"id", messagesOf, messageContents},
	"message:updated":   {"messageId", messagesOf, messageContents},
	"message:status":    {"messageId", messagesOf, messageContents},
	"chat:new":          {"id", chatsOf, chatContents},
	"chat:updated":      {"id", chatsOf, chatContents},
	"user:notification": {"id", notificationsOf, []string{"message", "data"}},
}

var (
	messageContents = []string{"content", "mediaUrl", "filename", "quotedContent", "externalId", "error"}
	chatContents    = []string{"name", "externalId", "tags"}
)

func messagesOf(t *inbox.Things) *[]int64      { return &t.Messages }
func chatsOf(t *inbox.Things) *[]int64         { return &t.Chats }
func notificationsOf(t *inbox.Things) *[]int64 { return &t.Notifications }

// withoutDeleted makes the items of a page, without the content of what was deleted since.
func (a *API) withoutDeleted(ctx context.Context, lines []Line) ([]Event, error) {
	var named inbox.Things
	ids := make([]int64, len(lines))
	for i, l := range lines {
		c, has := contents[l.Name]
		if !has || l.Custom {
			continue
		}
		id, err := number(l.Data, c.id)
		if err != nil {
			return nil, err
		}
		ids[i] = id
		*c.things(&named) = append(*c.things(&named), id)
	}
	living, err := a.o.Inbox.Living(ctx, named)
	if err != nil {
		return nil, err
	}
	items := make([]Event, len(lines))
	for i, l := range lines {
		items[i] = Event{l.Name, l.Data}
		c, has := contents[l.Name]
		if !has || l.Custom || slices.Contains(*c.things(&living), ids[i]) {
			continue
		}
		if items[i].Payload, err = blank(l.Data, c.fields); err != nil {
			return nil, err
		}
	}
	return items, nil
}

// number reads one field of an event that we wrote.
func number(data []byte, field string) (int64, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(data, &object); err != nil {
		return 0, fmt.Errorf("read an event of the log: %w", err)
	}
	var id int64
	if err := json.Unmarshal(object[field], &id); err != nil {
		return 0, fmt.Errorf("read the %s of an event of the log: %w", field, err)
	}
	return id, nil
}

// blank sets those of the fields that are there to null.
func blank(data []byte, fields []string) ([]byte, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(data, &object); err != nil {
		return nil, fmt.Errorf("read an event of the log: %w", err)
	}
	for _, field := range fields {
		if _, has := object[field]; has {
			object[field] = json.RawMessage("null")
		}
	}
	object["deleted"] = json.RawMessage("true")
	return json.Marshal(object)
}
