package inbox

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"roombell/db"
)

// Chat is a chat as chat:new has it, but whole where the event is cut. Times are in RFC 3339, with microseconds, UTC; empty where there is no
// such form.
type Chat struct {
	ID             int64
	OrganizationID int64
	ChannelID      *int64
	Channel        string
	Name           *string
	ExternalID     *string
	Status         string
	Priority       string
	AssignedUserID *int64
	Restricted     bool
	UnreadCount    int32
	LastMessageAt  string
	TicketNumber   int64
	Tags           []string
	CreatedAt      string
	UpdatedAt      string
}

// ChatFilter says which chats are asked for; nil and empty: all.
type ChatFilter struct {
	Status         *string
	Priority       *string
	Channel        *string
	AssignedUserID *int64
	Unread         *bool
	Words          string // each must be the beginning of a word of name, external id, ticket number or tags
}

// Chats returns those that the viewer may see, by descending ids, and one more than the page takes where there is one.
func (i *Inbox) Chats(ctx context.Context, v Viewer, f ChatFilter, page Page) ([]Chat, error) {
	if page.After == 0 {
		page.After = math.MaxInt64
	}
	p := db.ListChatsParams{OrganizationID: v.OrganizationID, Before: page.After, Status: f.Status, Priority: f.Priority, Channel: f.Channel,
		AssignedUserID: f.AssignedUserID, Unread: f.Unread, SeesAll: v.IsAdmin(), UserID: v.ID, PageSize: int32(page.Limit) + 1}
	if f.Words != "" {
		return i.search(ctx, p, strings.ToValidUTF8(strings.ReplaceAll(f.Words, "\x00", " "), " ")) // what no text of Postgres holds finds nothing
	}
	rows, err := db.New(planned{i.db}).ListChats(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("list chats: %w", err)
	}
	chats := make([]Chat, len(rows))
	for n, row := range rows {
		chats[n] = Chat(row)
	}
	return chats, nil
}

func (i *Inbox) search(ctx context.Context, p db.ListChatsParams, words string) ([]Chat, error) {
	rows, err := db.New(planned{i.db}).SearchChats(ctx, db.SearchChatsParams{OrganizationID: p.OrganizationID, Before: p.Before, Words: words,
		Status: p.Status, Priority: p.Priority, Channel: p.Channel, AssignedUserID: p.AssignedUserID, Unread: p.Unread, SeesAll: p.SeesAll,
		UserID: p.UserID, PageSize: p.PageSize})
	if err != nil {
		return nil, fmt.Errorf("search chats: %w", err)
	}
	chats := make([]Chat, len(rows))
	for n, row := range rows {
		chats[n] = Chat(row)
	}
	return chats, nil
}

// planned has each statement planned for its arguments. A statement that is prepared by name gets one plan for all arguments after a few
// calls, and with filters that are mostly absent that one reads the whole organization.
type planned struct{ db.DBTX }

func (p planned) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return p.DBTX.Query(ctx, sql, append([]any{pgx.QueryExecModeCacheDescribe}, args...)...)
}

func (p planned) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return p.DBTX.QueryRow(ctx, sql, append([]any{pgx.QueryExecModeCacheDescribe}, args...)...)
}

func (p planned) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return p.DBTX.Exec(ctx, sql, append([]any{pgx.QueryExecModeCacheDescribe}, args...)...)
}

// Chat returns a chat that the viewer may see, or ErrNotFound.
func (i *Inbox) Chat(ctx context.Context, v Viewer, id int64) (Chat, error) {
	row, err := i.queries.GetSeenChat(ctx, db.GetSeenChatParams{ChatID: id, OrganizationID: v.OrganizationID, SeesAll: v.IsAdmin(), UserID: v.ID})
	if db.IsNotFound(err) {
		return Chat{}, ErrNotFound
	}
	if err != nil {
		return Chat{}, fmt.Errorf("read chat: %w", err)
	}
	return Chat(row), nil
}

// NewChat is what a chat begins with. Channel is that of the account where ChannelID is given.
type NewChat struct {
	ChannelID      *int64
	Channel        string
	Name           *string
	ExternalID     *string
	Status         string
	Priority       string
	AssignedUserID *int64
	Restricted     bool
	Tags           []string
}

// CreateChat makes a chat. Who makes a restricted one is its member, so that he sees it.
func (i *Inbox) CreateChat(ctx context.Context, v Viewer, n NewChat) (chat Chat, err error) {
	if n.ChannelID != nil && n.Channel != "none" {
		return Chat{}, &InvalidError{Field: "channel", Message: "is that of the account where channelId is given"}
	}
	err = i.as(ctx, v, func(_ pgx.Tx, q *db.Queries) error {
		if err := checkReferences(ctx, q, v, n.ChannelID, n.AssignedUserID, "assignedUserId"); err != nil {
			return err
		}
		id, err := q.InsertChat(ctx, db.InsertChatParams{OrganizationID: v.OrganizationID, ChannelID: n.ChannelID, Channel: n.Channel, Name: n.Name,
			ExternalID: n.ExternalID, Status: n.Status, Priority: n.Priority, AssignedUserID: n.AssignedUserID, Restricted: n.Restricted, Tags: append([]string{}, n.Tags...)})
		if err != nil {
			return fmt.Errorf("write chat: %w", err)
		}
		if n.Restricted && !v.IsAdmin() {
			if err := q.AddMembers(ctx, id, []int64{v.ID}, v.OrganizationID); err != nil {
				return fmt.Errorf("make the writer a member: %w", err)
			}
		}
		chat, err = readChat(ctx, q, id)
		return err
	})
	return chat, err
}

// ChatChange is what of a chat becomes different. nil keeps a value; Sets… says that a nil is meant.
type ChatChange struct {
	SetsName, SetsExternalID, SetsAssignedUserID bool

	Name           *string
	ExternalID     *string
	AssignedUserID *int64
	Status         *string
	Priority       *string
	Restricted     *bool
	Tags           []string // nil: the same
	assignee       string   // what the field is called in the request; empty: assignedUserId
}

// ChangeChat returns the chat with the change. The viewer may lose sight of it by that, and is answered all the same: he knew it.
func (i *Inbox) ChangeChat(ctx context.Context, v Viewer, id int64, c ChatChange) (chat Chat, err error) {
	field := c.assignee
	if field == "" {
		field = "assignedUserId"
	}
	err = i.onChat(ctx, v, id, func(q *db.Queries) error {
		if err := checkReferences(ctx, q, v, nil, c.AssignedUserID, field); err != nil {
			return err
		}
		err := q.ChangeChat(ctx, db.ChangeChatParams{ChatID: id, SetsName: c.SetsName, Name: c.Name, SetsExternalID: c.SetsExternalID,
			ExternalID: c.ExternalID, SetsAssignedUserID: c.SetsAssignedUserID, AssignedUserID: c.AssignedUserID, Status: c.Status,
			Priority: c.Priority, Restricted: c.Restricted, SetsTags: c.Tags != nil, Tags: c.Tags})
		if err != nil {
			return fmt.Errorf("change chat: %w", err)
		}
		chat, err = readChat(ctx, q, id)
		return err
	})
	return chat, err
}

// AssignChat gives the chat to a user, or to nobody.
func (i *Inbox) AssignChat(ctx context.Context, v Viewer, id int64, userID *int64) (Chat, error) {
	return i.ChangeChat(ctx, v, id, ChatChange{SetsAssignedUserID: true, AssignedUserID: userID, assignee: "userId"})
}

// DeleteChat deletes a chat with all that is in it.
func (i *Inbox) DeleteChat(ctx context.Context, v Viewer, id int64) error {
	return i.onChat(ctx, v, id, func(q *db.Queries) error {
		if err := q.DeleteChat(ctx, id); err != nil {
			return fmt.Errorf("delete chat: %w", err)
		}
		return nil
	})
}

// ReadMark says which messages that came in are marked read, or unread again. No ids: all for read, the last one for unread.
type ReadMark struct {
	MessageIDs []int64
	Unread     bool
}

// ReadChat sets or takes read marks. The chat's UnreadCount is what it will be when the projector has counted.
func (i *Inbox) ReadChat(ctx context.Context, v Viewer, id int64, m ReadMark) (chat Chat, err error) {
	err = i.onChat(ctx, v, id, func(q *db.Queries) error {
		if err := mark(ctx, q, id, m); err != nil {
			return err
		}
		if chat, err = readChat(ctx, q, id); err != nil {
			return err
		}
		if chat.UnreadCount, err = q.CountUnread(ctx, id); err != nil {
			return fmt.Errorf("count unread messages: %w", err)
		}
		return nil
	})
	return chat, err
}

func mark(ctx context.Context, q *db.Queries, id int64, m ReadMark) error {
	if len(m.MessageIDs) == 0 && !m.Unread {
		if err := q.MarkChatRead(ctx, id); err != nil {
			return fmt.Errorf("mark chat read: %w", err)
		}
		return nil
	}
	ids, err := marked(ctx, q, id, m)
	if err != nil {
		return err
	}
	if err := q.MarkMessages(ctx, !m.Unread, ids, id); err != nil {
		return fmt.Errorf("mark messages: %w", err)
	}
	return nil
}

// marked is which messages are meant by their ids, each of which must be of the chat.
func marked(ctx context.Context, q *db.Queries, id int64, m ReadMark) ([]int64, error) {
	if len(m.MessageIDs) == 0 {
		last, err := q.FindLastIncoming(ctx, id)
		if db.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("find the last message: %w", err)
		}
		return []int64{last}, nil
	}
	ids := slices.Compact(slices.Sorted(slices.Values(m.MessageIDs)))
	n, err := q.CountMessagesOfChat(ctx, ids, id)
	if err != nil {
		return nil, fmt.Errorf("look for messages: %w", err)
	}
	if n != int64(len(ids)) {
		return nil, &InvalidError{Field: "messageIds", Message: "has messages that are not this chat's"}
	}
	return ids, nil
}

// onChat runs f in a transaction of the viewer's that holds the chat, or returns ErrNotFound when he may not see it.
func (i *Inbox) onChat(ctx context.Context, v Viewer, id int64, f func(q *db.Queries) error) error {
	return i.as(ctx, v, func(_ pgx.Tx, q *db.Queries) error {
		_, err := q.LockSeenChat(ctx, db.LockSeenChatParams{ChatID: id, OrganizationID: v.OrganizationID, SeesAll: v.IsAdmin(), UserID: v.ID})
		if db.IsNotFound(err) {
			return ErrNotFound
		}
		if err != nil {
			return fmt.Errorf("lock chat: %w", err)
		}
		return f(q)
	})
}

func readChat(ctx context.Context, q *db.Queries, id int64) (Chat, error) {
	row, err := q.GetChat(ctx, id)
	if err != nil {
		return Chat{}, fmt.Errorf("read chat: %w", err)
	}
	return Chat(row), nil
}

// checkReferences refuses an account or a user that is not the organization's, and a user who is disabled.
func checkReferences(ctx context.Context, q *db.Queries, v Viewer, channelID, userID *int64, userField string) error {
	if channelID != nil {
		_, err := q.HasChannel(ctx, *channelID, v.OrganizationID)
		if err := orInvalid(err, "channelId", "there is no such channel"); err != nil {
			return err
		}
	}
	if userID == nil {
		return nil
	}
	active, err := q.GetAssignee(ctx, *userID, v.OrganizationID)
	if err == nil && !active {
		err = errDisabled
	}
	return orInvalid(err, userField, "there is no such active user")
}

var errDisabled = errors.New("the user is disabled")

func orInvalid(err error, field, message string) error {
	if db.IsNotFound(err) || errors.Is(err, errDisabled) {
		return &InvalidError{Field: field, Message: message}
	}
	if err != nil {
		return fmt.Errorf("look for %s: %w", field, err)
	}
	return nil
}
