package api_test

import (
	"fmt"
	"strings"
	"testing"

	"roombell/internal/api"
	"roombell/internal/inbox"
)

func (s someone) path() string { return fmt.Sprintf("/users/%d", s.id) }

func TestUsers(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	admin := h.ours.admin
	made := decode[api.User](t, h.request(admin, "POST", "/users",
		`{"email":" Eve@ours.example ","name":"Eve","password":"correct horse","role":"manager"}`).want(t, 201, ""))
	if made.Email != "Eve@ours.example" || made.Role != "manager" || !made.Active || made.OrganizationID != h.ours.id || made.CreatedAt == nil {
		t.Errorf("%+v", made)
	}
	eve := h.loggedIn(someone{id: made.ID, email: made.Email})
	if got := decode[api.User](t, h.request(h.ours.employee, "GET", eve.path(), nil).want(t, 200, "")); got.Name != "Eve" || got.ID != eve.id {
		t.Errorf("%+v", got)
	}
	// Without a password and a role: an employee who comes with an identity provider's token.
	plain := decode[api.User](t, h.request(admin, "POST", "/users", `{"email":"idp@ours.example"}`).want(t, 201, ""))
	if plain.Role != "employee" || plain.Name != "" {
		t.Errorf("%+v", plain)
	}

	changed := decode[api.User](t, h.request(admin, "PATCH", eve.path(), `{"name":"Eva","role":"employee"}`).want(t, 200, ""))
	if changed.Name != "Eva" || changed.Role != "employee" || changed.Email != made.Email {
		t.Errorf("%+v", changed)
	}
	h.request(eve, "GET", "/me", nil).want(t, 200, "") // nothing of that ends a token
	h.request(admin, "PATCH", eve.path(), `{"active":false}`).want(t, 200, "")
	h.request(eve, "GET", "/me", nil).want(t, 401, "user_disabled")
	h.login(made.Email, password).want(t, 401, "wrong_credentials")
	h.request(admin, "DELETE", eve.path(), nil).want(t, 204, "")
	h.request(eve, "GET", "/me", nil).want(t, 401, "invalid_token")
	h.request(admin, "GET", eve.path(), nil).want(t, 404, "not_found")
	h.request(admin, "DELETE", eve.path(), nil).want(t, 404, "not_found")
	h.exec("UPDATE users SET created_at = 'infinity' WHERE id = $1", plain.ID)
	if odd := h.request(admin, "GET", fmt.Sprintf("/users/%d", plain.ID), nil).want(t, 200, ""); !strings.Contains(string(odd.body), `"createdAt":null`) {
		t.Errorf("%s", odd.body)
	}
}

func TestUsersAreListedByPages(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	var seen []int64
	for cursor := ""; ; {
		page := decode[api.List[api.User]](t, h.request(h.ours.employee, "GET", "/users?limit=3&cursor="+cursor, nil).want(t, 200, ""))
		for _, u := range page.Items {
			if u.OrganizationID != h.ours.id {
				t.Errorf("%+v", u)
			}
			seen = append(seen, u.ID)
		}
		if page.NextCursor == nil {
			break
		}
		cursor = *page.NextCursor
		h.someone(h.ours.id, cursor+"@later.example", inbox.Employee) // moves nothing
	}
	want := []int64{h.ours.second.id, h.ours.employee.id, h.ours.manager.id, h.ours.admin.id}
	if fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", seen, want)
	}
}

func TestUsersAreWrittenByAdmins(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for _, who := range []someone{h.ours.manager, h.ours.employee} {
		h.request(who, "POST", "/users", `{"email":"eve@ours.example"}`).want(t, 403, "forbidden")
		h.request(who, "PATCH", h.ours.second.path(), `{"name":"Eve"}`).want(t, 403, "forbidden")
		h.request(who, "DELETE", h.ours.second.path(), nil).want(t, 403, "forbidden")
		h.request(who, "PATCH", who.path(), `{"role":"admin"}`).want(t, 403, "forbidden")
	}
	if n := one[int](h, "SELECT count(*) FROM users WHERE organization_id = $1", h.ours.id); n != 4 {
		t.Errorf("%d users", n)
	}
}

func TestUsersOfOthersAreNotThere(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	admin, theirs := h.ours.admin, h.theirs.second
	h.request(admin, "GET", theirs.path(), nil).want(t, 404, "not_found")
	h.request(admin, "PATCH", theirs.path(), `{"name":"mine"}`).want(t, 404, "not_found")
	h.request(admin, "PATCH", theirs.path(), `{"active":false}`).want(t, 404, "not_found")
	h.request(admin, "PATCH", theirs.path(), `{"password":"battery staple"}`).want(t, 404, "not_found")
	h.request(admin, "DELETE", theirs.path(), nil).want(t, 404, "not_found")
	h.request(theirs, "GET", "/me", nil).want(t, 200, "")
	// An email is taken wherever its user is; nothing tells where.
	ours := h.request(admin, "POST", "/users", map[string]string{"email": strings.ToUpper(h.ours.second.email)}).want(t, 409, "email_taken")
	foreign := h.request(admin, "POST", "/users", map[string]string{"email": strings.ToUpper(theirs.email)}).want(t, 409, "email_taken")
	if string(ours.body) != string(foreign.body) {
		t.Errorf("%s and %s", ours.body, foreign.body)
	}
	h.request(admin, "PATCH", h.ours.second.path(), map[string]string{"email": theirs.email}).want(t, 409, "email_taken")
}

func TestUsersRefuseNonsense(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for _, body := range []string{`{}`, `{"email":"ann"}`, `{"email":"a b@c.example"}`, `{"email":"a@b.example","role":"king"}`,
		`{"email":"a@b.example","password":"short"}`, `{"email":"a@b.example","name":"\u0000"}`, `{"email":"a@b.example","organizationId":1}`} {
		h.request(h.ours.admin, "POST", "/users", body).want(t, 422, "validation_failed")
	}
}

// An organization keeps an active admin, also when two take each other's role away at once.
func TestLastAdminStays(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	admin := h.ours.admin
	for _, body := range []string{`{"active":false}`, `{"role":"manager"}`, `{"role":"employee","active":true}`} {
		h.request(admin, "PATCH", admin.path(), body).want(t, 409, "last_admin")
	}
	h.request(admin, "DELETE", admin.path(), nil).want(t, 409, "last_admin")
	h.request(admin, "PATCH", admin.path(), `{"name":"still admin","role":"admin"}`).want(t, 200, "")

	disabled := h.someone(h.ours.id, "disabled@ours.example", inbox.Admin)
	h.exec("UPDATE users SET active = false WHERE id = $1", disabled.id)
	h.request(admin, "DELETE", admin.path(), nil).want(t, 409, "last_admin")

	node := h.twin()
	for i := range 8 {
		other := h.someone(h.ours.id, fmt.Sprintf("admin%d@ours.example", i), inbox.Admin)
		pair := []someone{admin, other}
		together(t, 2, func(i int) answer {
			return []*house{h, node}[i].request(pair[i], "DELETE", pair[1-i].path(), nil)
		})
		left := one[[]int64](h, "SELECT array_agg(id) FROM users WHERE organization_id = $1 AND role = 'admin' AND active", h.ours.id)
		if len(left) != 1 {
			t.Fatalf("admins %v are left", left)
		}
		if admin.id != left[0] {
			admin = other
		}
	}
}
