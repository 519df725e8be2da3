package api_test

import (
	"fmt"
	"testing"

	"roombell/internal/api"
)

func TestOrganizations(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	operator := someone{token: adminKey}
	body := `{"name":" New ","admin":{"email":"boss@new.example","name":"Boss","password":"correct horse"}}`
	made := decode[api.NewOrganization](t, h.request(operator, "POST", "/organizations", body).want(t, 201, ""))
	if made.Name != "New" || made.Admin.OrganizationID != made.ID || made.Admin.Role != "admin" || made.CreatedAt == nil {
		t.Errorf("%+v", made)
	}
	boss := h.loggedIn(someone{id: made.Admin.ID, email: made.Admin.Email})
	if got := decode[api.Organization](t, h.request(boss, "GET", "/organizations/me", nil).want(t, 200, "")); got.ID != made.ID || got.Name != "New" {
		t.Errorf("%+v", got)
	}
	h.request(boss, "POST", "/users", `{"email":"first@new.example"}`).want(t, 201, "")

	before := one[int](h, "SELECT count(*) FROM organizations")
	h.request(someone{}, "POST", "/organizations", body).want(t, 401, "no_token")
	h.request(h.ours.admin, "POST", "/organizations", body).want(t, 401, "invalid_token")
	h.request(someone{token: adminKey + "x"}, "POST", "/organizations", body).want(t, 401, "invalid_token")
	h.request(operator, "POST", "/organizations", body).want(t, 409, "email_taken")
	for _, field := range []string{`"name":"","admin":{"email":"b@new.example","password":"correct horse"}`,
		`"name":"  ","admin":{"email":"b@new.example","password":"correct horse"}`,
		`"name":"New","admin":{"email":"b","password":"correct horse"}`, `"name":"New","admin":{"email":"b@new.example","password":"short"}`, `"name":"New"`} {
		h.request(operator, "POST", "/organizations", "{"+field+"}").want(t, 422, "validation_failed")
	}
	if after := one[int](h, "SELECT count(*) FROM organizations"); after != before {
		t.Errorf("%d organizations, and %d before what was refused", after, before)
	}
	h.request(operator, "GET", "/organizations/me", nil).want(t, 401, "invalid_token")
	if got := decode[api.Organization](t, h.request(h.theirs.employee, "GET", "/organizations/me", nil).want(t, 200, "")); got.ID != h.theirs.id {
		t.Errorf("%+v", got)
	}
}

// Without a key nobody is the operator, not even who sends an empty one.
func TestNoAdminKey(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(o *api.Options) { o.Session.AdminKey = "" })
	body := `{"name":"New","admin":{"email":"boss@new.example","password":"correct horse"}}`
	for i, token := range []string{"", " ", "x"} {
		a := h.request(someone{}, "POST", "/organizations", body, "Authorization", "Bearer "+token)
		if a.status != 401 {
			t.Error(fmt.Sprint(i), a.status)
		}
	}
}
