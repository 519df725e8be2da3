package api

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"roombell/internal/inbox"
)

// Message is a message as message:new has it, and what the events tell of it later. Its texts are whole, where an event may be truncated.
type Message struct {
	ID               int64           `json:"id"`
	ChatID           int64           `json:"chatId"`
	OrganizationID   int64           `json:"organizationId"`
	Channel          string          `json:"channel" enum:"whatsapp,telegram,none" doc:"The chat's"`
	ChannelID        *int64          `json:"channelId"`
	Content          *string         `json:"content"`
	Type             string          `json:"type" doc:"What comes in may be of any type"`
	MediaURL         *string         `json:"mediaUrl"`
	Template         json.RawMessage `json:"template" doc:"As it was sent; null: none"`
	Filename         *string         `json:"filename"`
	MimeType         *string         `json:"mimeType"`
	Size             *int64          `json:"size" doc:"Bytes of the medium"`
	FromMe           bool            `json:"fromMe"`
	SenderUserID     *int64          `json:"senderUserId"`
	Status           string          `json:"status" enum:"pending,sending,sent,delivered,read,failed,received"`
	Error            *string         `json:"error" doc:"Why it failed"`
	QuotedMessageID  *int64          `json:"quotedMessageId"`
	QuotedContent    *string         `json:"quotedContent"`
	ExternalID       *string         `json:"externalId"`
	IsReadByOperator bool            `json:"isReadByOperator"`
	ReadByUserID     *int64          `json:"readByUserId"`
	ReadAt           *string         `json:"readAt" format:"date-time"`
	Timestamp        *string         `json:"timestamp" format:"date-time"`
	CreatedAt        *string         `json:"createdAt" format:"date-time"`
	UpdatedAt        *string         `json:"updatedAt" format:"date-time"`
}

// NewMessage is the order to send a message.
type NewMessage struct {
	Type            string    `json:"type,omitempty" enum:"text,image,video,audio,voice,document,sticker,template" doc:"Left out: template with a template, document with a medium, else text"`
	Content         string    `json:"content,omitempty" nullable:"true" maxLength:"65536" doc:"The text, or the medium's caption. At least one of content, mediaUrl and template"`
	MediaURL        string    `json:"mediaUrl,omitempty" nullable:"true" maxLength:"2048" doc:"/api/v1/media/{id}, or https to a public address, else media_url_refused"`
	Template        *Template `json:"template,omitempty" doc:"What WABA calls a template message"`
	QuotedMessageID *int64    `json:"quotedMessageId,omitempty" nullable:"true" doc:"A message of the same chat"`
}

// Template is what the vendor fills and sends.
type Template struct {
	Name       string           `json:"name" minLength:"1" maxLength:"512"`
	Language   string           `json:"language,omitempty" maxLength:"32" example:"en_US"`
	Components []map[string]any `json:"components,omitempty" maxItems:"64" doc:"As the vendor wants them"`
}

// ItemID is the id of a path. It is exported because huma fills no embedded struct that is not.
type ItemID struct {
	ID int64 `path:"id" minimum:"1"`
}

// IdempotencyKey is the header of writes that happen once.
type IdempotencyKey struct {
	Key string `header:"Idempotency-Key" maxLength:"255" pattern:"^[!-~]+$" patternDescription:"visible ASCII characters" doc:"The same key and request within 24 hours get the first answer again, and write nothing"`
}

var _ huma.Resolver = (*IdempotencyKey)(nil)

// Resolve refuses a key that is there and empty: who sends one relies on it.
func (k *IdempotencyKey) Resolve(ctx huma.Context) (refused []error) {
	ctx.EachHeader(func(name, value string) {
		if value == "" && strings.EqualFold(name, "Idempotency-Key") {
			refused = []error{&huma.ErrorDetail{Location: "header.Idempotency-Key", Message: "is empty"}}
		}
	})
	return refused
}

type (
	messageOutput struct{ Body Message }
	sentOutput    struct {
		Status int
		Body   Message
	}
	listMessagesInput struct {
		ItemID
		Paging
	}
	sendMessageInput struct {
		ItemID
		IdempotencyKey
		Body NewMessage
	}
	retryMessageInput struct {
		ItemID
		IdempotencyKey
	}
	changeMessageInput struct {
		ItemID
		Body struct {
			Content string `json:"content" maxLength:"65536"`
		}
	}
	listMessagesOutput struct{ Body List[Message] }
)

var keyCodes = []string{"idempotency_key_in_use", "idempotency_key_reused"}

func (a *API) messageRoutes() {
	handle(a, route{method: http.MethodGet, path: "/chats/{id}/messages", tag: "messages", summary: "Messages of a chat",
		description: "Newest first by timestamp, then id: a message that is backfilled while one pages has its own place, and moves no other."}, a.listMessages)
	handle(a, route{method: http.MethodPost, path: "/chats/{id}/messages", tag: "messages", summary: "Send a message", status: http.StatusAccepted, codes: slices.Concat(keyCodes, []string{"media_url_refused"}),
		description: "The message waits as pending for the chat's channel; where none is connected it waits on. Events tell what becomes of it."}, a.sendMessage)
	handle(a, route{method: http.MethodGet, path: "/messages/{id}", tag: "messages", summary: "A message, whole"}, a.getMessage)
	handle(a, route{method: http.MethodPatch, path: "/messages/{id}", tag: "messages", summary: "Change the content of a message that waits",
		description: "The sender's own, while it is pending; later it is a conflict.", codes: []string{"forbidden", "conflict"}}, a.changeMessage)
	handle(a, route{method: http.MethodDelete, path: "/messages/{id}", tag: "messages", summary: "Delete a message", status: http.StatusNoContent,
		description: "For everybody here. Nothing is taken back from the customer."}, a.deleteMessage)
	handle(a, route{method: http.MethodPost, path: "/messages/{id}/retry", tag: "messages", summary: "Send a failed message again", status: http.StatusAccepted,
		description: "As a new message of the caller's; the failed one stays.", codes: slices.Concat(keyCodes, []string{"conflict"})}, a.retryMessage)
}

func (a *API) listMessages(ctx context.Context, in *listMessagesInput) (*listMessagesOutput, error) {
	below, err := in.place()
	if err != nil {
		return nil, err
	}
	found, err := a.o.Inbox.Messages(ctx, viewer(ctx), in.ID, below, in.Limit+1)
	if err != nil {
		return nil, cursorError(err)
	}
	return &listMessagesOutput{listByTime(in.Limit, found, func(m inbox.Message) Message { return Message(m) })}, nil
}

func (a *API) sendMessage(ctx context.Context, in *sendMessageInput) (*sentOutput, error) {
	m := inbox.NewMessage{Type: in.Body.Type, Content: in.Body.Content, MediaURL: in.Body.MediaURL, QuotedMessageID: in.Body.QuotedMessageID}
	if in.Body.Template != nil {
		var err error
		if m.Template, err = json.Marshal(in.Body.Template); err != nil {
			return nil, fmt.Errorf("spell a template: %w", err)
		}
	}
	once, err := in.once(fmt.Sprintf("POST /chats/%d/messages", in.ID), in.Body)
	if err != nil {
		return nil, err
	}
	return sentAnswer(a.o.Inbox.SendMessage(ctx, viewer(ctx), in.ID, m, once))
}

func (a *API) getMessage(ctx context.Context, in *ItemID) (*messageOutput, error) {
	m, err := a.o.Inbox.Message(ctx, viewer(ctx), in.ID)
	return &messageOutput{Message(m)}, err
}

func (a *API) changeMessage(ctx context.Context, in *changeMessageInput) (*messageOutput, error) {
	m, err := a.o.Inbox.ChangeMessage(ctx, viewer(ctx), in.ID, in.Body.Content)
	return &messageOutput{Message(m)}, err
}

func (a *API) deleteMessage(ctx context.Context, in *ItemID) (*struct{}, error) {
	return nil, a.o.Inbox.DeleteMessage(ctx, viewer(ctx), in.ID)
}

func (a *API) retryMessage(ctx context.Context, in *retryMessageInput) (*sentOutput, error) {
	once, err := in.once(fmt.Sprintf("POST /messages/%d/retry", in.ID), nil)
	if err != nil {
		return nil, err
	}
	return sentAnswer(a.o.Inbox.RetryMessage(ctx, viewer(ctx), in.ID, once))
}

// once is what makes the request the same as another: where it goes and what it says, however it was spelled.
func (k IdempotencyKey) once(target string, body any) (inbox.Once, error) {
	o := inbox.Once{Key: k.Key, Status: http.StatusAccepted}
	if k.Key == "" {
		return o, nil
	}
	text, err := json.Marshal(body)
	if err != nil {
		return o, fmt.Errorf("compare a request: %w", err)
	}
	sum := sha256.Sum256([]byte(target + "\n" + string(text)))
	o.Request = sum[:]
	return o, nil
}

func sentAnswer(s inbox.Sent, err error) (*sentOutput, error) {
	if errors.Is(err, inbox.ErrKeyInUse) {
		return nil, refuse("idempotency_key_in_use", "A request with this key is still running.").with("Retry-After", "1")
	}
	return &sentOutput{s.Status, Message(s.Message)}, err
}

// place reads the cursor of a list by time and id.
func (p Paging) place() (inbox.Place, error) {
	if p.Cursor == "" {
		return inbox.Place{}, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(p.Cursor)
	if err != nil {
		return inbox.Place{}, strangeCursor()
	}
	id, moment, _ := strings.Cut(string(text), " ")
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil || moment == "" {
		return inbox.Place{}, strangeCursor()
	}
	return inbox.Place{Time: moment, ID: n}, nil
}

func strangeCursor() error {
	return refuse("validation_failed", "The cursor is none of ours.", Field{Field: "query.cursor", Message: "not a nextCursor"})
}

// cursorError is for lists, where nothing but the cursor can be refused.
func cursorError(err error) error {
	if errors.Is(err, inbox.ErrInvalid) {
		return strangeCursor()
	}
	return err
}

// listByTime is listOf for a list by time and id.
func listByTime[S, T any](limit int, found []inbox.Placed[S], shape func(S) T) List[T] {
	l := List[T]{Items: []T{}}
	for i, s := range found {
		if i == limit {
			last := found[i-1].Place
			next := base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(last.ID, 10) + " " + last.Time))
			l.NextCursor = &next
			break
		}
		l.Items = append(l.Items, shape(s.Item))
	}
	return l
}
