package inbox

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

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
	CreatedAt      string // as in the events; empty: it has no such form
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

// Users returns the users of the viewer's organization, the newest first, and one more than the page has when there are more.
func (i *Inbox) Users(ctx context.Context, v Viewer, page Page) ([]Person, error) {
	rows, err := i.queries.ListPeople(ctx, v.OrganizationID, page.After, int32(page.Limit+1))
	if err != nil {
		return nil, fmt.Errorf("read users: %w", err)
	}
	people := make([]Person, len(rows))
	for n, row := range rows {
		people[n] = Person(row)
	}
	return people, nil
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

// NewPerson is a user to be made.
type NewPerson struct {
	Email        string
	Name         string
	Role         string
	PasswordHash *string // nil: comes with an identity provider's token
}

// CreateUser makes a user in the admin's organization. An email that somebody has, in whatever organization, is the code email_taken.
func (i *Inbox) CreateUser(ctx context.Context, v Viewer, n NewPerson) (p Person, err error) {
	if err := needAdmin(v); err != nil {
		return p, err
	}
	err = i.as(ctx, v, func(_ pgx.Tx, q *db.Queries) (err error) {
		p, err = createUser(ctx, q, v.OrganizationID, n)
		return err
	})
	return p, err
}

func createUser(ctx context.Context, q *db.Queries, organizationID int64, n NewPerson) (Person, error) {
	email, err := checkEmail("email", n.Email)
	if err != nil {
		return Person{}, err
	}
	if err := checkText("name", n.Name); err != nil {
		return Person{}, err
	}
	id, err := q.CreateUser(ctx, db.CreateUserParams{OrganizationID: organizationID, Email: email, Name: n.Name, Role: n.Role, PasswordHash: n.PasswordHash})
	if err != nil {
		return Person{}, notTaken("create user", err)
	}
	row, err := q.GetPerson(ctx, id, organizationID)
	if err != nil {
		return Person{}, fmt.Errorf("read the user who was made: %w", err)
	}
	return Person(row), nil
}

// PersonChange says what of a user is to be another; nil stays as it is.
type PersonChange struct {
	Email        *string
	Name         *string
	Role         *string
	Active       *bool
	PasswordHash *string // ends the user's tokens
}

// UpdateUser changes a user of the admin's organization. The last active admin stays one: the code last_admin.
func (i *Inbox) UpdateUser(ctx context.Context, v Viewer, id int64, c PersonChange) (p Person, err error) {
	if err := needAdmin(v); err != nil {
		return p, err
	}
	err = i.as(ctx, v, func(_ pgx.Tx, q *db.Queries) (err error) {
		stays := (c.Role == nil || *c.Role == Admin) && (c.Active == nil || *c.Active)
		if err := keepAdmin(ctx, q, v, id, stays); err != nil {
			return err
		}
		p, err = updateUser(ctx, q, v, id, c)
		return err
	})
	return p, err
}

// UpdateSelf changes the viewer himself, in what everybody may change of himself.
func (i *Inbox) UpdateSelf(ctx context.Context, v Viewer, c PersonChange) (p Person, err error) {
	c.Role, c.Active = nil, nil
	err = i.as(ctx, v, func(_ pgx.Tx, q *db.Queries) (err error) {
		p, err = updateUser(ctx, q, v, v.ID, c)
		return err
	})
	return p, err
}

func updateUser(ctx context.Context, q *db.Queries, v Viewer, id int64, c PersonChange) (Person, error) {
	if c.Email != nil {
		email, err := checkEmail("email", *c.Email)
		if err != nil {
			return Person{}, err
		}
		c.Email = &email
	}
	if c.Name != nil {
		if err := checkText("name", *c.Name); err != nil {
			return Person{}, err
		}
	}
	row, err := q.UpdateUser(ctx, db.UpdateUserParams{UserID: id, OrganizationID: v.OrganizationID, Email: c.Email, Name: c.Name, Role: c.Role,
		Active: c.Active, PasswordHash: c.PasswordHash})
	if db.IsNotFound(err) {
		return Person{}, ErrNotFound
	}
	if err != nil {
		return Person{}, notTaken("update user", err)
	}
	return Person(row), nil
}

// DeleteUser deletes a user of the admin's organization, unless he is its last active admin.
func (i *Inbox) DeleteUser(ctx context.Context, v Viewer, id int64) error {
	if err := needAdmin(v); err != nil {
		return err
	}
	return i.as(ctx, v, func(_ pgx.Tx, q *db.Queries) error {
		if err := keepAdmin(ctx, q, v, id, false); err != nil {
			return err
		}
		n, err := q.DeleteUser(ctx, id, v.OrganizationID)
		if err != nil {
			return fmt.Errorf("delete user: %w", err)
		}
		if n == 0 {
			return ErrNotFound
		}
		return nil
	})
}

// keepAdmin refuses to take an organization its last active admin. It holds the organization, so that of two who would do that
// together the second sees what the first did.
func keepAdmin(ctx context.Context, q *db.Queries, v Viewer, id int64, stays bool) error {
	if stays {
		return nil
	}
	if _, err := q.LockOrganization(ctx, v.OrganizationID); db.IsNotFound(err) {
		return ErrNotFound
	} else if err != nil {
		return fmt.Errorf("lock organization: %w", err)
	}
	user, err := q.LockUser(ctx, id, v.OrganizationID)
	if db.IsNotFound(err) {
		return ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("lock user: %w", err)
	}
	if user.Role != Admin || !user.Active {
		return nil
	}
	others, err := q.CountOtherAdmins(ctx, v.OrganizationID, id)
	if err != nil {
		return fmt.Errorf("count admins: %w", err)
	}
	if others == 0 {
		return &InvalidError{Code: "last_admin", Message: "An organization keeps an active admin: make another one first."}
	}
	return nil
}

func needAdmin(v Viewer) error {
	if !v.IsAdmin() {
		return fmt.Errorf("only admins may do this: %w", ErrForbidden)
	}
	return nil
}

// notTaken gives an email that somebody has its own meaning. It is not said whose it is, nor in which organization.
func notTaken(what string, err error) error {
	if db.IsUnique(err, "users_email") {
		return &InvalidError{Field: "email", Code: "email_taken", Message: "There is a user with this email."}
	}
	return fmt.Errorf("%s: %w", what, err)
}

// checkEmail returns the email without the space around it. Whether somebody reads it nobody knows; it is a name to log in with.
func checkEmail(field, email string) (string, error) {
	email = strings.TrimSpace(email)
	at := strings.LastIndexByte(email, '@')
	if at < 1 || at == len(email)-1 || len(email) > 320 || strings.ContainsAny(email, " \t\r\n\x00") || !utf8.ValidString(email) {
		return "", &InvalidError{Field: field, Message: "An email looks like name@example.com."}
	}
	return email, nil
}

// checkText refuses what Postgres cannot keep in a text.
func checkText(field, text string) error {
	if strings.ContainsRune(text, 0) || !utf8.ValidString(text) {
		return &InvalidError{Field: field, Message: "A text holds no zero character."}
	}
	return nil
}
