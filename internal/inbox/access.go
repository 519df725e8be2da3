package inbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"roombell/db"
)

// ErrNotFound says that a thing is not there, or is another organization's, or that the asker may not see it: a stranger cannot tell which.
var ErrNotFound = errors.New("not found")

// User is what rights depend on.
type User struct {
	ID             int64
	OrganizationID int64
	Email          string
	Role           string // employee, manager or admin
	Active         bool
	Generation     int32      // of his tokens, of our own
	TokensFrom     *time.Time // other tokens that were issued before are void; nil: none is
}

// Access answers who may see what, as it is in the database now.
type Access struct {
	queries *db.Queries
}

// NewAccess reads from the given pool.
func NewAccess(q db.DBTX) *Access {
	return &Access{queries: db.New(q)}
}

// Users returns those of the users that exist, disabled ones too.
func (a *Access) Users(ctx context.Context, ids []int64) ([]User, error) {
	rows, err := a.queries.ListUsers(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("read users: %w", err)
	}
	users := make([]User, len(rows))
	for i, row := range rows {
		users[i] = User(row)
	}
	return users, nil
}

// Chat returns nil when the active user may see the chat of this organization, which is his own; else ErrNotFound.
func (a *Access) Chat(ctx context.Context, userID, organizationID, chatID int64) error {
	sees, err := a.queries.SeesChat(ctx, chatID, organizationID, userID)
	if err != nil {
		return fmt.Errorf("read rights on a chat: %w", err)
	}
	if !sees {
		return ErrNotFound
	}
	return nil
}

// Chats returns those of the chats that the user may see, ascending.
func (a *Access) Chats(ctx context.Context, userID int64, chatIDs []int64) ([]int64, error) {
	seen, err := a.queries.ListSeenChats(ctx, chatIDs, userID)
	if err != nil {
		return nil, fmt.Errorf("read rights on chats: %w", err)
	}
	return seen, nil
}

// ChatRights says who may see a chat.
type ChatRights struct {
	ChatID     int64
	Restricted bool    // else the whole organization
	Users      []int64 // of a restricted chat: its members and assignee. Admins see it beside them
}

// Rights returns those of the chats that exist.
func (a *Access) Rights(ctx context.Context, chatIDs []int64) ([]ChatRights, error) {
	rows, err := a.queries.ListChatRights(ctx, chatIDs)
	if err != nil {
		return nil, fmt.Errorf("read who may see chats: %w", err)
	}
	rights := make([]ChatRights, len(rows))
	for i, row := range rows {
		rights[i] = ChatRights{ChatID: row.ID, Restricted: row.Restricted, Users: row.Users}
	}
	return rights, nil
}
