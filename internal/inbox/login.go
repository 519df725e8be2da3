package inbox

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/jackc/pgx/v5"

	"roombell/db"
)

// How many passwords may be tried in AttemptSpan, right or wrong, over all nodes.
const (
	AttemptSpan        = 15 * time.Minute
	AttemptsPerEmail   = 10
	AttemptsPerAddress = 100
)

// TooManyError says that there were too many tries.
type TooManyError struct {
	After time.Duration // when the next is allowed, if nobody else takes it
}

func (e *TooManyError) Error() string { return fmt.Sprintf("too many tries, again in %v", e.After) }

// Attempt counts a try to give the password of email, from the address; an invalid address is one like any other. A *TooManyError says that the
// try must not be made; it is not counted then. The count is exact: of tries that come at once, on whatever nodes, none is let through too many.
func (i *Inbox) Attempt(ctx context.Context, email string, address netip.Addr) error {
	if err := checkText("email", email); err != nil {
		return err
	}
	subjects, err := i.queries.HashSubject(ctx, email, subnet(address))
	if err != nil {
		return fmt.Errorf("count a try: %w", err)
	}
	return db.InTx(ctx, i.db, func(tx pgx.Tx) error {
		q := i.queries.WithTx(tx)
		if err := q.LockSubjects(ctx, subjects.Email, subjects.Address); err != nil {
			return fmt.Errorf("count a try: %w", err)
		}
		if err := mayTry(ctx, q, subjects.Address, AttemptsPerAddress); err != nil {
			return err
		}
		if err := mayTry(ctx, q, subjects.Email, AttemptsPerEmail); err != nil {
			return err
		}
		if err := q.CreateAttempts(ctx, subjects.Email, subjects.Address); err != nil {
			return fmt.Errorf("count a try: %w", err)
		}
		if _, err := q.DeleteOldAttempts(ctx, AttemptSpan.Seconds()); err != nil {
			return fmt.Errorf("remove old tries: %w", err)
		}
		return nil
	})
}

func mayTry(ctx context.Context, q *db.Queries, subject []byte, most int64) error {
	had, err := q.CountAttempts(ctx, AttemptSpan.Seconds(), subject)
	if err != nil {
		return fmt.Errorf("count tries: %w", err)
	}
	if had.Tries < most {
		return nil
	}
	seconds := max(1, math.Ceil(had.EndsIn))
	return &TooManyError{After: time.Duration(seconds) * time.Second}
}

// subnet is whose tries are counted together: an IPv6 address is one of 2^64 that its bearer may choose from.
func subnet(address netip.Addr) string {
	address = address.Unmap().WithZone("")
	if !address.Is6() {
		return address.String()
	}
	network, err := address.Prefix(64)
	if err != nil {
		return address.String()
	}
	return network.String()
}

// Credentials is what a password is checked against.
type Credentials struct {
	Person
	PasswordHash *string // PHC; nil: there is none, or no such user
	Generation   int32   // of the tokens that may be issued for this password
}

// Credentials returns those of the user with the email, disabled ones too; zero ones when there is none, because who asks must not learn that.
func (i *Inbox) Credentials(ctx context.Context, email string) (Credentials, error) {
	row, err := i.queries.GetCredentials(ctx, email)
	if db.IsNotFound(err) {
		return Credentials{}, nil
	}
	if err != nil {
		return Credentials{}, fmt.Errorf("read credentials: %w", err)
	}
	return Credentials{
		Person: Person{ID: row.ID, OrganizationID: row.OrganizationID, Email: row.Email, Name: row.Name, Role: row.Role, Active: row.Active,
			CreatedAt: row.CreatedAt},
		PasswordHash: row.PasswordHash, Generation: row.TokenGeneration,
	}, nil
}

// EndTokens voids all tokens that the viewer has, on all nodes; open sockets end within a second.
func (i *Inbox) EndTokens(ctx context.Context, v Viewer) error {
	return i.as(ctx, v, func(_ pgx.Tx, q *db.Queries) error {
		if _, err := q.EndTokens(ctx, v.ID); err != nil {
			return fmt.Errorf("end tokens: %w", err)
		}
		return nil
	})
}
