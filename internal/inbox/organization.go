package inbox

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"roombell/db"
)

// Organization is a tenant.
type Organization struct {
	ID        int64
	Name      string
	CreatedAt string // as in the events; empty: it has no such form
}

// Organization returns the viewer's own.
func (i *Inbox) Organization(ctx context.Context, v Viewer) (Organization, error) {
	row, err := i.queries.GetOrganization(ctx, v.OrganizationID)
	if db.IsNotFound(err) {
		return Organization{}, ErrNotFound
	}
	if err != nil {
		return Organization{}, fmt.Errorf("read organization: %w", err)
	}
	return Organization(row), nil
}

// CreateOrganization makes an organization and its first admin, or neither. It is for the operator: there is no viewer yet.
func (i *Inbox) CreateOrganization(ctx context.Context, name string, admin NewPerson) (o Organization, p Person, err error) {
	name = strings.TrimSpace(name)
	if name == "" {
		return o, p, &InvalidError{Field: "name", Message: "An organization has a name."}
	}
	if err := checkText("name", name); err != nil {
		return o, p, err
	}
	admin.Role = Admin
	err = db.InTx(ctx, i.db, func(tx pgx.Tx) error {
		q := i.queries.WithTx(tx)
		id, err := q.CreateOrganization(ctx, name)
		if err != nil {
			return fmt.Errorf("create organization: %w", err)
		}
		if p, err = createUser(ctx, q, id, admin); err != nil {
			return inField("admin", err)
		}
		row, err := q.GetOrganization(ctx, id)
		if err != nil {
			return fmt.Errorf("read the organization that was made: %w", err)
		}
		o = Organization(row)
		return nil
	})
	return o, p, err
}

// inField puts the fields of an error into the field that they are in.
func inField(field string, err error) error {
	if invalid := (*InvalidError)(nil); errors.As(err, &invalid) && invalid.Field != "" {
		return &InvalidError{Field: field + "." + invalid.Field, Code: invalid.Code, Message: invalid.Message}
	}
	return err
}
