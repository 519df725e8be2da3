package api

import (
	"context"
	"net/http"

	"roombell/internal/inbox"
)

// Organization is a tenant.
type Organization struct {
	ID        int64   `json:"id"`
	Name      string  `json:"name"`
	CreatedAt *string `json:"createdAt" format:"date-time" doc:"null: a time that RFC 3339 cannot say"`
}

func organizationOf(o inbox.Organization) Organization {
	return Organization{ID: o.ID, Name: o.Name, CreatedAt: orNull(o.CreatedAt)}
}

// NewOrganization is one that was just made, with its first admin.
type NewOrganization struct {
	Organization
	Admin User `json:"admin" doc:"Its first admin"`
}

type (
	organizationOutput      struct{ Body Organization }
	createOrganizationInput struct {
		Body struct {
			Name  string `json:"name" minLength:"1" maxLength:"200"`
			Admin struct {
				Email    string `json:"email" minLength:"3" maxLength:"320"`
				Name     string `json:"name,omitempty" maxLength:"200"`
				Password string `json:"password" minLength:"8" maxLength:"1024"`
			} `json:"admin" doc:"The first admin, who makes the other users"`
		}
	}
	createOrganizationOutput struct{ Body NewOrganization }
)

func (a *API) organizationRoutes() {
	handle(a, route{method: http.MethodPost, path: "/organizations", tag: "organizations", summary: "Create an organization and its first admin",
		who: operator, status: http.StatusCreated, codes: []string{"email_taken"}}, a.createOrganization)
	handle(a, route{method: http.MethodGet, path: "/organizations/me", tag: "organizations", summary: "Read my organization"},
		func(ctx context.Context, _ *struct{}) (*organizationOutput, error) {
			o, err := a.o.Inbox.Organization(ctx, viewer(ctx))
			return &organizationOutput{organizationOf(o)}, err
		})
}

func (a *API) createOrganization(ctx context.Context, in *createOrganizationInput) (*createOrganizationOutput, error) {
	hash, err := a.hash(ctx, "admin.password", in.Body.Admin.Password)
	if err != nil {
		return nil, err
	}
	o, p, err := a.o.Inbox.CreateOrganization(ctx, in.Body.Name, inbox.NewPerson{Email: in.Body.Admin.Email, Name: in.Body.Admin.Name, PasswordHash: &hash})
	return &createOrganizationOutput{NewOrganization{organizationOf(o), userOf(p)}}, err
}
