package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"roombell/db"
	"roombell/internal/api"
	"roombell/internal/auth"
	"roombell/internal/inbox"
	"roombell/internal/postgres/dbtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, dbtest.IgnoreServer()) }

const (
	secret   = "a secret of the tests, 32 bytes and more"
	adminKey = "the admin key of the tests"
)

// house is an API on a database of its own, with two organizations: in each an admin, a manager, and two employees.
type house struct {
	t      testing.TB
	url    string
	client *http.Client
	pool   *pgxpool.Pool
	issuer *auth.Issuer
	ours   tenant
	theirs tenant
}

// tenant is an organization's people.
type tenant struct {
	id                               int64
	admin, manager, employee, second someone
}

type someone struct {
	id    int64
	email string
	token string
}

// newHouse starts an API; change may set more of its options.
func newHouse(t testing.TB, change ...func(*api.Options)) *house {
	t.Helper()
	pool := dbtest.New(t).Pool
	issuer, err := auth.NewIssuer([]byte(secret), auth.Claims{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := auth.NewVerifier(auth.Options{Secret: []byte(secret)})
	if err != nil {
		t.Fatal(err)
	}
	o := api.Options{Inbox: inbox.New(pool), Tokens: tokens, Session: api.Session{Issuer: issuer, TTL: 12 * time.Hour, AdminKey: adminKey}}
	for _, f := range change {
		f(&o)
	}
	a, err := api.New(o)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(a.Handler())
	t.Cleanup(server.Close)
	h := &house{t: t, url: server.URL, client: server.Client(), pool: pool, issuer: issuer}
	h.ours, h.theirs = h.tenant("ours"), h.tenant("theirs")
	return h
}

func (h *house) tenant(name string) tenant {
	h.t.Helper()
	id, err := db.New(h.pool).CreateOrganization(h.t.Context(), name)
	if err != nil {
		h.t.Fatal(err)
	}
	who := func(nick, role string) someone { return h.someone(id, nick+"@"+name+".example", role) }
	return tenant{id: id, admin: who("admin", inbox.Admin), manager: who("manager", inbox.Manager),
		employee: who("employee", inbox.Employee), second: who("second", inbox.Employee)}
}

func (h *house) someone(organizationID int64, email, role string) someone {
	h.t.Helper()
	id, err := db.New(h.pool).CreateUser(h.t.Context(), db.CreateUserParams{OrganizationID: organizationID, Email: email, Name: role, Role: role})
	if err != nil {
		h.t.Fatal(err)
	}
	token, _, err := h.issuer.Issue(auth.Identity{UserID: id, OrganizationID: organizationID}, time.Hour)
	if err != nil {
		h.t.Fatal(err)
	}
	return someone{id: id, email: email, token: token}
}

// exec writes as any SQL writer does.
func (h *house) exec(sql string, args ...any) {
	h.t.Helper()
	if _, err := h.pool.Exec(h.t.Context(), sql, args...); err != nil {
		h.t.Fatal(err)
	}
}

// one reads a value.
func one[T any](h *house, sql string, args ...any) (value T) {
	h.t.Helper()
	if err := h.pool.QueryRow(h.t.Context(), sql, args...).Scan(&value); err != nil {
		h.t.Fatal(err)
	}
	return value
}

// answer is what a request got.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// request sends a request below /api/v1; body is marshalled unless it is nil or a string. header is pairs of name and value.
func (h *house) request(who someone, method, path string, body any, header ...string) answer {
	h.t.Helper()
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = bytes.NewBufferString(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			h.t.Fatal(err)
		}
		reader = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(h.t.Context(), method, h.url+api.Prefix+path, reader)
	if err != nil {
		h.t.Fatal(err)
	}
	if reader != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if who.token != "" {
		r.Header.Set("Authorization", "Bearer "+who.token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	response, err := h.client.Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, text}
}

// want fails unless the answer has the status, and when code is not empty a problem with it.
func (a answer) want(t testing.TB, status int, code string) answer {
	t.Helper()
	if a.status != status {
		t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	if code == "" {
		return a
	}
	p := decode[api.Problem](t, a)
	if p.Code != code || p.Status != status || a.header.Get("Content-Type") != "application/problem+json" {
		t.Fatalf("%s %s, want the code %s", a.header.Get("Content-Type"), a.body, code)
	}
	return a
}

// decode reads the answer's body.
func decode[T any](t testing.TB, a answer) (value T) {
	t.Helper()
	if err := json.Unmarshal(a.body, &value); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	return value
}

func TestMe(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	me := decode[map[string]any](t, h.request(h.ours.manager, "GET", "/me", nil).want(t, 200, ""))
	if fmt.Sprint(me["id"]) != fmt.Sprint(h.ours.manager.id) || me["role"] != "manager" || me["email"] != h.ours.manager.email {
		t.Errorf("%v", me)
	}
	h.request(someone{}, "GET", "/me", nil).want(t, 401, "no_token")
	h.request(someone{token: "nonsense"}, "GET", "/me", nil).want(t, 401, "invalid_token")
	h.exec("UPDATE users SET active = false WHERE id = $1", h.ours.manager.id)
	h.request(h.ours.manager, "GET", "/me", nil).want(t, 401, "user_disabled")
	h.exec("DELETE FROM users WHERE id = $1", h.ours.manager.id)
	h.request(h.ours.manager, "GET", "/me", nil).want(t, 401, "invalid_token")
}
