package api

import (
	"context"
	"net/http"

	"roombell/internal/inbox"
)

// User is a user as his organization sees him.
type User struct {
	ID             int64   `json:"id"`
	OrganizationID int64   `json:"organizationId"`
	Email          string  `json:"email"`
	Name           string  `json:"name"`
	Role           string  `json:"role" enum:"employee,manager,admin"`
	Active         bool    `json:"active"`
	CreatedAt      *string `json:"createdAt" format:"date-time" doc:"null: a time that RFC 3339 cannot say"`
}

func userOf(p inbox.Person) User {
	return User{ID: p.ID, OrganizationID: p.OrganizationID, Email: p.Email, Name: p.Name, Role: p.Role, Active: p.Active, CreatedAt: orNull(p.CreatedAt)}
}

type (
	userPath struct {
		ID int64 `path:"id" doc:"The user"`
	}
	userOutput      struct{ Body User }
	usersOutput     struct{ Body List[User] }
	createUserInput struct {
		Body struct {
			Email    string  `json:"email" minLength:"3" maxLength:"320" doc:"Unique, in any case of letters"`
			Name     string  `json:"name,omitempty" maxLength:"200"`
			Password *string `json:"password,omitempty" minLength:"8" maxLength:"1024" doc:"Left out: the user comes with an identity provider's token"`
			Role     string  `json:"role,omitempty" enum:"employee,manager,admin" default:"employee"`
		}
	}
	updateUserInput struct {
		ID   int64 `path:"id" doc:"The user"`
		Body struct {
			Email    *string `json:"email,omitempty" minLength:"3" maxLength:"320"`
			Name     *string `json:"name,omitempty" maxLength:"200"`
			Password *string `json:"password,omitempty" minLength:"8" maxLength:"1024" doc:"Ends the user's tokens"`
			Role     *string `json:"role,omitempty" enum:"employee,manager,admin"`
			Active   *bool   `json:"active,omitempty" doc:"false ends the user's sockets within a second"`
		}
	}
)

func (a *API) userRoutes() {
	handle(a, route{method: http.MethodGet, path: "/users", tag: "users", summary: "List the organization's users"},
		func(ctx context.Context, in *Paging) (*usersOutput, error) {
			page, err := in.page()
			if err != nil {
				return nil, err
			}
			people, err := a.o.Inbox.Users(ctx, viewer(ctx), page)
			return &usersOutput{listOf(page, people, func(p inbox.Person) int64 { return p.ID }, userOf)}, err
		})
	handle(a, route{method: http.MethodPost, path: "/users", tag: "users", summary: "Create a user", who: admins, status: http.StatusCreated,
		codes: []string{"email_taken"}}, a.createUser)
	handle(a, route{method: http.MethodGet, path: "/users/{id}", tag: "users", summary: "Read a user"},
		func(ctx context.Context, in *userPath) (*userOutput, error) {
			p, err := a.o.Inbox.User(ctx, viewer(ctx), in.ID)
			return &userOutput{userOf(p)}, err
		})
	handle(a, route{method: http.MethodPatch, path: "/users/{id}", tag: "users", summary: "Change a user", who: admins,
		description: "What is left out stays.", codes: []string{"email_taken", "last_admin"}}, a.updateUser)
	handle(a, route{method: http.MethodDelete, path: "/users/{id}", tag: "users", summary: "Delete a user", who: admins,
		description: "His sockets end within a second; what he wrote stays, without a sender.", codes: []string{"last_admin"}},
		func(ctx context.Context, in *userPath) (*struct{}, error) {
			return nil, a.o.Inbox.DeleteUser(ctx, viewer(ctx), in.ID)
		})
}

func (a *API) createUser(ctx context.Context, in *createUserInput) (*userOutput, error) {
	n := inbox.NewPerson{Email: in.Body.Email, Name: in.Body.Name, Role: in.Body.Role}
	if in.Body.Password != nil {
		hash, err := a.hash(ctx, "password", *in.Body.Password)
		if err != nil {
			return nil, err
		}
		n.PasswordHash = &hash
	}
	p, err := a.o.Inbox.CreateUser(ctx, viewer(ctx), n)
	return &userOutput{userOf(p)}, err
}

func (a *API) updateUser(ctx context.Context, in *updateUserInput) (*userOutput, error) {
	change := inbox.PersonChange{Email: in.Body.Email, Name: in.Body.Name, Role: in.Body.Role, Active: in.Body.Active}
	if in.Body.Password != nil {
		hash, err := a.hash(ctx, "password", *in.Body.Password)
		if err != nil {
			return nil, err
		}
		change.PasswordHash = &hash
	}
	p, err := a.o.Inbox.UpdateUser(ctx, viewer(ctx), in.ID, change)
	return &userOutput{userOf(p)}, err
}
