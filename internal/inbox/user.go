package inbox

import (
	"context"
	"fmt"
	"time"

	"roombell/db"
)

// Person is a user as his organization sees him.
type Person struct {
	ID             int64
	OrganizationID int64
	Email          string
	Name           string
	Role           string
	Active         bool
	CreatedAt      time.Time
}

// User returns a user of the viewer's organization, or ErrNotFound.
func (i *Inbox) User(ctx context.Context, v Viewer, id int64) (Person, error) {
	row, err := i.queries.GetPerson(ctx, id, v.OrganizationID)
	if db.IsNotFound(err) {
		return Person{}, ErrNotFound
	}
	if err != nil {
		return Person{}, fmt.Errorf("read user: %w", err)
	}
	return Person(row), nil
}

// Bearer is what a request needs to know of the user whose token it bears.
type Bearer struct {
	ID             int64
	OrganizationID int64
	Role           string
	Active         bool
	TokensFrom     *time.Time // tokens that were issued before are void; nil: none is
	Generation     int32      // of tokens of our own
}

// Bearer returns a user by a token's word alone, disabled ones too, or ErrNotFound. Whether the organization is the token's is for the caller.
func (i *Inbox) Bearer(ctx context.Context, userID int64) (Bearer, error) {
	row, err := i.queries.GetBearer(ctx, userID)
	if db.IsNotFound(err) {
		return Bearer{}, ErrNotFound
	}
	if err != nil {
		return Bearer{}, fmt.Errorf("read the bearer of a token: %w", err)
	}
	return Bearer{ID: row.ID, OrganizationID: row.OrganizationID, Role: row.Role, Active: row.Active, TokensFrom: row.TokensFrom,
		Generation: row.TokenGeneration}, nil
}
