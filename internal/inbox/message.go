package inbox

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"roombell/db"
)

// Types of messages that people send. What comes in may have others.
const (
	TypeText     = "text"
	TypeDocument = "document"
	TypeTemplate = "template"
)

// quoteLength is how many characters of a quoted message go along with the one that quotes it.
const quoteLength = 4096

// mediaTypes are those that are sent as a file.
var mediaTypes = []string{"image", "video", "audio", "voice", TypeDocument, "sticker"}

// Message is one of a chat's, whole. Times are as in the events, nil where they have no RFC 3339 form. It is kept as JSON with idempotency keys.
type Message struct {
	ID               int64           `json:"id"`
	ChatID           int64           `json:"chatId"`
	OrganizationID   int64           `json:"organizationId"`
	Channel          string          `json:"channel"`
	ChannelID        *int64          `json:"channelId"`
	Content          *string         `json:"content"`
	Type             string          `json:"type"`
	MediaURL         *string         `json:"mediaUrl"`
	Template         json.RawMessage `json:"template"`
	Filename         *string         `json:"filename"`
	MimeType         *string         `json:"mimeType"`
	Size             *int64          `json:"size"`
	FromMe           bool            `json:"fromMe"`
	SenderUserID     *int64          `json:"senderUserId"`
	Status           string          `json:"status"`
	Error            *string         `json:"error"`
	QuotedMessageID  *int64          `json:"quotedMessageId"`
	QuotedContent    *string         `json:"quotedContent"`
	ExternalID       *string         `json:"externalId"`
	IsReadByOperator bool            `json:"isReadByOperator"`
	ReadByUserID     *int64          `json:"readByUserId"`
	ReadAt           *string         `json:"readAt"`
	Timestamp        *string         `json:"timestamp"`
	CreatedAt        *string         `json:"createdAt"`
	UpdatedAt        *string         `json:"updatedAt"`
}

// NewMessage is what somebody wants to send. An empty Type is a template's where there is one, a document's where there is a medium, else text.
type NewMessage struct {
	Type            string
	Content         string
	MediaURL        string
	Template        json.RawMessage
	QuotedMessageID *int64
}

// Sent is a message that waits to be sent, with the status of the answer.
type Sent struct {
	Status  int
	Message Message
}

// Place is where a page of a list by time begins: below the item of this time and id. The zero value is the first page.
type Place struct {
	Time string // as the database spells it, exact
	ID   int64
}

func (p Place) key() (before string, id int64) {
	if p == (Place{}) {
		return "infinity", math.MaxInt64
	}
	return p.Time, p.ID
}

// Placed is an item of a list by time, with its place.
type Placed[T any] struct {
	Item  T
	Place Place
}

// isValue says that Postgres refused a value, and not the write: class 22 data exception, 54 program limit exceeded.
func isValue(err error) bool {
	code := db.Code(err)
	return strings.HasPrefix(code, "22") || strings.HasPrefix(code, "54")
}

// Messages returns up to most messages of a chat below the place, newest first by (timestamp, id): a message that is backfilled meanwhile has its own place
// by its time and moves no other. ErrNotFound when the viewer may not see the chat; ErrInvalid when the place is none.
func (i *Inbox) Messages(ctx context.Context, v Viewer, chatID int64, below Place, most int) ([]Placed[Message], error) {
	sees, err := i.queries.SeesChat(ctx, chatID, v.OrganizationID, v.ID)
	if err != nil {
		return nil, fmt.Errorf("read rights on a chat: %w", err)
	}
	if !sees {
		return nil, ErrNotFound
	}
	before, id := below.key()
	rows, err := i.queries.ListMessages(ctx, db.ListMessagesParams{ChatID: chatID, Before: before, BeforeID: id, Most: int32(most)})
	if isValue(err) {
		return nil, &InvalidError{Field: "cursor", Message: "not a nextCursor"}
	}
	if err != nil {
		return nil, fmt.Errorf("read messages: %w", err)
	}
	found := make([]Placed[Message], len(rows))
	for n, row := range rows {
		found[n] = Placed[Message]{messageOf(db.GetMessageRow(row)), Place{row.Position, row.ID}}
	}
	return found, nil
}

// Message returns one of a chat that the viewer may see, or ErrNotFound.
func (i *Inbox) Message(ctx context.Context, v Viewer, id int64) (Message, error) {
	return getMessage(ctx, i.queries, v, id)
}

func getMessage(ctx context.Context, q *db.Queries, v Viewer, id int64) (Message, error) {
	row, err := q.GetMessage(ctx, id, v.OrganizationID, v.ID)
	if db.IsNotFound(err) {
		return Message{}, ErrNotFound
	}
	if err != nil {
		return Message{}, fmt.Errorf("read a message: %w", err)
	}
	return messageOf(row), nil
}

// SendMessage writes the order to send a message to a chat that the viewer may see, in one round trip. Who sends it is the chat's channel; in a chat without
// a connected one it stays pending until there is one. With a key it is written once: ErrKeyInUse, ErrInvalid (idempotency_key_reused), or the
// first answer again, as long as the viewer still sees the chat.
func (i *Inbox) SendMessage(ctx context.Context, v Viewer, chatID int64, m NewMessage, once Once) (s Sent, err error) {
	if m, err = m.checked(); err != nil {
		return s, err
	}
	if err := i.sweep(ctx, once); err != nil {
		return s, err
	}
	p := db.SendMessageParams{ChatID: chatID, OrganizationID: v.OrganizationID, UserID: v.ID, Key: once.Key, Request: once.Request, Status: int32(once.Status),
		Type: m.Type, Content: filled(m.Content), MediaUrl: filled(m.MediaURL), Template: m.Template, QuotedMessageID: m.QuotedMessageID, QuoteLength: quoteLength}
	for range onceTries {
		var row db.SendMessageRow
		row, err = i.queries.SendMessage(ctx, p)
		switch {
		case db.IsUnique(err, "idempotency_keys_pkey"):
			// Somebody answered since the statement began, or an answer is too old: the next try knows.
			if err := i.queries.ForgetIdempotentAnswer(ctx, v.OrganizationID, v.ID, once.Key); err != nil {
				return s, fmt.Errorf("forget an old answer: %w", err)
			}
		case db.IsForeignKey(err, ""), db.IsRetryable(err): // chat, channel or user went at this moment
		case isValue(err):
			return s, &InvalidError{Field: "template", Message: "The template cannot be stored: U+0000, or a number out of range."}
		case err != nil:
			return s, fmt.Errorf("write a message: %w", err)
		default:
			return once.outcome(row)
		}
	}
	return s, fmt.Errorf("write a message: %w", err)
}

func (o Once) outcome(row db.SendMessageRow) (Sent, error) {
	switch {
	case !row.Seen:
		return Sent{}, ErrNotFound
	case row.KeptRequest != nil:
		return o.remembered(row.KeptRequest, row.AnswerStatus, row.Answer)
	case !row.Ours:
		return Sent{}, ErrKeyInUse
	case row.Answer == nil:
		return Sent{}, &InvalidError{Field: "quotedMessageId", Message: "There is no such message in this chat."}
	}
	return sent(row.AnswerStatus, row.Answer)
}

// ChangeMessage gives a message another content: the sender's own, while no channel has taken it. ErrForbidden to others, ErrConflict later.
func (i *Inbox) ChangeMessage(ctx context.Context, v Viewer, id int64, content string) (m Message, err error) {
	if err := storable("content", content); err != nil {
		return m, err
	}
	err = i.as(ctx, v, func(_ pgx.Tx, q *db.Queries) error {
		before, err := getMessage(ctx, q, v, id)
		if err != nil {
			return err
		}
		if err := before.changeable(v, content); err != nil {
			return err
		}
		changed, err := q.ChangeMessage(ctx, filled(content), id)
		if err != nil {
			return fmt.Errorf("change a message: %w", err)
		}
		if changed == 0 {
			return errTaken
		}
		m, err = getMessage(ctx, q, v, id)
		return err
	})
	return m, err
}

var errTaken = fmt.Errorf("only a message that waits to be sent can be changed: %w", ErrConflict)

func (m Message) changeable(v Viewer, content string) error {
	switch {
	case !m.FromMe || m.Status != "pending":
		return errTaken
	case m.SenderUserID == nil || *m.SenderUserID != v.ID:
		return fmt.Errorf("only its sender changes a message: %w", ErrForbidden)
	case content == "" && m.MediaURL == nil && m.Template == nil:
		return &InvalidError{Field: "content", Message: "A message without medium and template needs content."}
	}
	return nil
}

// DeleteMessage removes a message of a chat that the viewer may see, for everybody here; nothing is taken back from the customer.
func (i *Inbox) DeleteMessage(ctx context.Context, v Viewer, id int64) error {
	return i.as(ctx, v, func(_ pgx.Tx, q *db.Queries) error {
		if _, err := getMessage(ctx, q, v, id); err != nil {
			return err
		}
		deleted, err := q.DeleteMessage(ctx, id)
		if err != nil {
			return fmt.Errorf("delete a message: %w", err)
		}
		if deleted == 0 {
			return ErrNotFound
		}
		return nil
	})
}

// RetryMessage orders once more what failed, as a new message of the viewer's; the failed one stays as it is. ErrConflict when it did not fail.
// Keys work as with SendMessage.
func (i *Inbox) RetryMessage(ctx context.Context, v Viewer, id int64, once Once) (s Sent, err error) {
	if err := i.sweep(ctx, once); err != nil {
		return s, err
	}
	err = i.as(ctx, v, func(_ pgx.Tx, q *db.Queries) error {
		if _, err := getMessage(ctx, q, v, id); err != nil {
			return err
		}
		var found bool
		if s, found, err = once.lookUp(ctx, q, v); found || err != nil {
			return err
		}
		again, err := q.RetryMessage(ctx, &v.ID, filled(once.Key), id)
		if db.IsForeignKey(err, "") { // its chat went at this moment
			return ErrNotFound
		}
		if db.IsNotFound(err) {
			return fmt.Errorf("only a message that failed can be tried again: %w", ErrConflict)
		}
		if err != nil {
			return fmt.Errorf("try a message again: %w", err)
		}
		m, err := getMessage(ctx, q, v, again)
		if err != nil {
			return err
		}
		s = Sent{Status: once.Status, Message: m}
		return once.keep(ctx, q, v, m)
	})
	if db.IsUnique(err, "idempotency_keys_pkey") {
		err = ErrKeyInUse
	}
	return s, err
}

// checked is the message with its type, if it can be sent at all.
func (m NewMessage) checked() (NewMessage, error) {
	if err := storable("content", m.Content); err != nil {
		return m, err
	}
	if m.MediaURL != "" {
		if err := checkMediaURL(m.MediaURL); err != nil {
			return m, err
		}
	}
	if m.Type == "" {
		m.Type = m.impliedType()
	}
	return m, m.complete()
}

func (m NewMessage) impliedType() string {
	switch {
	case m.Template != nil:
		return TypeTemplate
	case m.MediaURL != "":
		return TypeDocument
	}
	return TypeText
}

func (m NewMessage) complete() error {
	medium := slices.Contains(mediaTypes, m.Type)
	switch {
	case m.Content == "" && m.MediaURL == "" && m.Template == nil:
		return &InvalidError{Field: "content", Message: "A message needs content, a medium or a template."}
	case (m.Type == TypeTemplate) != (m.Template != nil):
		return &InvalidError{Field: "template", Message: "A message of type template, and no other, has a template."}
	case medium && m.MediaURL == "":
		return &InvalidError{Field: "mediaUrl", Message: "A message of this type needs a medium."}
	case m.Type == TypeText && m.MediaURL != "":
		return &InvalidError{Field: "type", Message: "A text has no medium: the type says which kind it is."}
	}
	return nil
}

func messageOf(r db.GetMessageRow) Message {
	return Message{
		ID: r.ID, ChatID: r.ChatID, OrganizationID: r.OrganizationID, Channel: r.Channel, ChannelID: r.ChannelID, Content: r.Content, Type: r.Type,
		MediaURL: r.MediaUrl, Template: r.Template, Filename: r.Filename, MimeType: r.MimeType, Size: r.Size, FromMe: r.FromMe, SenderUserID: r.SenderUserID,
		Status: r.Status, Error: r.Error, QuotedMessageID: r.QuotedMessageID, QuotedContent: r.QuotedContent, ExternalID: r.ExternalID,
		IsReadByOperator: r.IsReadByOperator, ReadByUserID: r.ReadByUserID, ReadAt: filled(r.ReadAt), Timestamp: filled(r.Timestamp),
		CreatedAt: filled(r.CreatedAt), UpdatedAt: filled(r.UpdatedAt),
	}
}

// filled is nil for an empty text.
func filled(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// storable refuses what Postgres cannot keep in a text.
func storable(field, text string) error {
	if strings.ContainsRune(text, 0) {
		return &InvalidError{Field: field, Message: "A text holds no zero character."}
	}
	return nil
}
