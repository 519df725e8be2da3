package inbox

import (
	"context"
	"errors"
	"fmt"

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
}

// Access answers who may see what, as it is in the database now.
type Access struct {
	queries *db.Queries
}

// NewAccess reads from the given pool.
func NewAccess(q db.DBTX) *Access {
	return &Access{queries: db.New(q)}
}

// User returns a user, a disabled one too; ErrNotFound when there is none.
func (a *Access) User(ctx context.Context, userID int64) (User, error) {
	row, err := a.queries.GetUser(ctx, userID)
	if db.IsNotFound(err) {
		return User{}, ErrNotFound
	}
	if err != nil {
		return User{}, fmt.Errorf("read user: %w", err)
	}
	return User{ID: row.ID, OrganizationID: row.OrganizationID, Email: row.Email, Role: row.Role, Active: row.Active}, nil
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
