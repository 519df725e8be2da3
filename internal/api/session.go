package api

import (
	"context"
	"net/http"
	"time"

	"roombell/internal/auth"
)

// Session is what login needs.
type Session struct {
	Issuer   *auth.Issuer // nil: tokens come from an identity provider alone, and login is not there
	TTL      time.Duration
	AdminKey string // empty: nobody is the operator
}

func (s Session) checkKey(key string) error {
	switch {
	case key == "":
		return auth.ErrNoToken
	case !sameKey(key, s.AdminKey):
		return refuse("invalid_token", "This is not the admin key.")
	}
	return nil
}

// User is a user as his organization sees him.
type User struct {
	ID             int64     `json:"id"`
	OrganizationID int64     `json:"organizationId"`
	Email          string    `json:"email"`
	Name           string    `json:"name"`
	Role           string    `json:"role" enum:"employee,manager,admin"`
	Active         bool      `json:"active"`
	CreatedAt      time.Time `json:"createdAt"`
}

type userOutput struct{ Body User }

func (a *API) sessionRoutes() {
	handle(a, route{method: http.MethodGet, path: "/me", tag: "session", summary: "Who am I"},
		func(ctx context.Context, _ *struct{}) (*userOutput, error) {
			v := viewer(ctx)
			p, err := a.o.Inbox.User(ctx, v, v.ID)
			return &userOutput{User(p)}, err
		})
}
