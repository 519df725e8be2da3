package api_test

import (
	"fmt"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"roombell/db"
	"roombell/internal/api"
	"roombell/internal/auth"
	"roombell/internal/inbox"
)

// twin is another API on the same database, as another node has it.
func (h *house) twin(change ...func(*api.Options)) *house {
	h.t.Helper()
	tokens, err := auth.NewVerifier(auth.Options{Secret: []byte(secret)})
	if err != nil {
		h.t.Fatal(err)
	}
	o := api.Options{Inbox: inbox.New(h.pool), Tokens: tokens, Session: api.Session{Issuer: h.issuer, TTL: 12 * time.Hour, AdminKey: adminKey}}
	for _, f := range change {
		f(&o)
	}
	a, err := api.New(o)
	if err != nil {
		h.t.Fatal(err)
	}
	server := httptest.NewServer(a.Handler())
	h.t.Cleanup(server.Close)
	twin := *h
	twin.url, twin.client = server.URL, server.Client()
	return &twin
}

// behindProxy believes the X-Forwarded-For of this machine.
func behindProxy(o *api.Options) {
	o.Edge.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
}

const password = "correct horse"

// passwordHash is one for all tests: it is slow to make.
var passwordHash = sync.OnceValue(func() string {
	hash, err := auth.HashPassword(password)
	if err != nil {
		panic(err)
	}
	return hash
})

// member is somebody new who has a password.
func (h *house) member(in tenant, email, role string) someone {
	h.t.Helper()
	hash := passwordHash()
	id, err := db.New(h.pool).CreateUser(h.t.Context(), db.CreateUserParams{OrganizationID: in.id, Email: email, Name: role, Role: role, PasswordHash: &hash})
	if err != nil {
		h.t.Fatal(err)
	}
	return someone{id: id, email: email}
}

func (h *house) login(email, password string, header ...string) answer {
	h.t.Helper()
	return h.request(someone{}, "POST", "/auth/login", map[string]string{"email": email, "password": password}, header...)
}

func (h *house) loggedIn(s someone) someone {
	h.t.Helper()
	s.token = decode[api.Token](h.t, h.login(s.email, password).want(h.t, 200, "")).Token
	return s
}

func TestLogin(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	ann := h.member(h.ours, "Ann@ours.example", inbox.Manager)
	a := h.login("aNN@OURS.example", password).want(t, 200, "")
	got := decode[api.Token](t, a)
	if left := time.Until(got.ExpiresAt); left < 11*time.Hour || left > 12*time.Hour {
		t.Errorf("the token ends at %v", got.ExpiresAt)
	}
	if got.User.ID != ann.id || got.User.Email != "Ann@ours.example" || got.User.Role != "manager" || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%+v", got)
	}
	ann.token = got.Token
	if me := decode[api.User](t, h.request(ann, "GET", "/me", nil).want(t, 200, "")); me.ID != ann.id {
		t.Errorf("%+v", me)
	}
}

// Whoever may not log in hears the same, byte for byte.
func TestLoginRefuses(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	ann, disabled := h.member(h.ours, "ann@ours.example", inbox.Employee), h.member(h.ours, "disabled@ours.example", inbox.Employee)
	h.exec("UPDATE users SET active = false WHERE id = $1", disabled.id)
	broken := h.someone(h.ours.id, "broken@ours.example", inbox.Employee)
	h.exec("UPDATE users SET password_hash = 'md5' WHERE id = $1", broken.id)
	var first answer
	for _, try := range []struct{ name, email, password string }{
		{"wrong password", ann.email, "incorrect horse"},
		{"nobody", "nobody@ours.example", password},
		{"disabled", disabled.email, password},
		{"without a hash", h.ours.second.email, password},
		{"with a hash that is none", broken.email, password},
		{"too long", ann.email, fmt.Sprintf("%01000d", 1)},
	} {
		a := h.login(try.email, try.password).want(t, 401, "wrong_credentials")
		if first.body == nil {
			first = a
		}
		if string(a.body) != string(first.body) {
			t.Errorf("%s: %s, else %s", try.name, a.body, first.body)
		}
	}
	h.login("a\x00@b", password).want(t, 422, "validation_failed")
	h.request(someone{}, "POST", "/auth/login", `{"email":"a@b","password":"x","admin":true}`).want(t, 422, "validation_failed")
}

func TestLoginWithoutASecret(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(o *api.Options) { o.Session.Issuer = nil })
	h.login("ann@ours.example", password).want(t, 501, "login_unavailable")
	h.request(h.ours.admin, "POST", "/auth/refresh", nil).want(t, 501, "login_unavailable")
}

// together sends n requests at once, each to one of the houses in turn, and counts the answers by status.
func together(t *testing.T, n int, send func(i int) answer) map[int]int {
	t.Helper()
	statuses := map[int]int{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			a := send(i)
			if a.status == 429 {
				seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
				if err != nil || seconds < 1 || seconds > 900 {
					t.Errorf("Retry-After: %q", a.header.Get("Retry-After"))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			statuses[a.status]++
		})
	}
	all.Wait()
	return statuses
}

func TestLoginTriesPerEmail(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	ann := h.member(h.ours, "ann@ours.example", inbox.Employee)
	nodes := []*house{h, h.twin()}
	emails := []string{"ann@ours.example", "ANN@ours.example"}
	got := together(t, 30, func(i int) answer { return nodes[i%2].login(emails[i/2%2], "incorrect horse") })
	if got[401] != 10 || got[429] != 20 {
		t.Errorf("%v, want 10 tries", got)
	}
	h.login(ann.email, password).want(t, 429, "rate_limited")
	h.exec("UPDATE login_attempts SET at = at - interval '15 minutes'")
	h.login(ann.email, password).want(t, 200, "")
	if n := one[int](h, "SELECT count(*) FROM login_attempts"); n != 2 {
		t.Errorf("%d tries are kept, want the two of the last: email and address", n)
	}
	if n := one[int](h, "SELECT count(*) FROM login_attempts WHERE position(convert_to('ann', 'UTF8') IN subject) > 0"); n != 0 {
		t.Error("an email can be read in login_attempts")
	}
}

func TestLoginTriesPerAddress(t *testing.T) {
	t.Parallel()
	h := newHouse(t, behindProxy)
	nodes := []*house{h, h.twin(behindProxy)}
	// 97 tries that were made before.
	h.exec("INSERT INTO login_attempts (subject) SELECT sha256('address 2001:db8:1:2::/64') FROM generate_series(1, 97)")
	got := together(t, 12, func(i int) answer {
		return nodes[i%2].login(fmt.Sprintf("somebody%d@ours.example", i), password, "X-Forwarded-For", fmt.Sprintf("2001:db8:1:2::%d", i+1))
	})
	if got[401] != 3 || got[429] != 9 {
		t.Errorf("%v, want 3 more tries", got)
	}
	h.login("another@ours.example", password, "X-Forwarded-For", "2001:db8:1:3::1").want(t, 401, "wrong_credentials")
	h.login("another@ours.example", password, "X-Forwarded-For", "203.0.113.7").want(t, 401, "wrong_credentials")
	if n := one[int](h, "SELECT count(*) FROM login_attempts WHERE subject = sha256('address 203.0.113.7')"); n != 1 {
		t.Errorf("%d tries of the address", n)
	}
}

func TestRefresh(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	ann := h.loggedIn(h.member(h.ours, "ann@ours.example", inbox.Employee))
	fresh := decode[api.Token](t, h.request(ann, "POST", "/auth/refresh", nil).want(t, 200, ""))
	h.request(ann, "GET", "/me", nil).want(t, 200, "") // the old one lives on
	again := ann
	again.token = fresh.Token
	if fresh.User.ID != ann.id || time.Until(fresh.ExpiresAt) < 11*time.Hour {
		t.Errorf("%+v", fresh)
	}
	h.request(again, "POST", "/auth/refresh", nil).want(t, 200, "")

	generation := one[int32](h, "SELECT token_generation FROM users WHERE id = $1", ann.id)
	issued := func(id auth.Identity) someone {
		id.UserID, id.OrganizationID = ann.id, h.ours.id
		token, _, err := h.issuer.Issue(id, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return someone{token: token}
	}
	now := time.Now()
	h.request(issued(auth.Identity{Generation: generation, LoginAt: now.Add(time.Minute - auth.RefreshTime)}), "POST", "/auth/refresh", nil).want(t, 200, "")
	for name, who := range map[string]someone{
		"7 days after login":          issued(auth.Identity{Generation: generation, LoginAt: now.Add(-time.Minute - auth.RefreshTime)}),
		"a token that came elsewhere": issued(auth.Identity{LoginAt: now}),
		"of no login":                 issued(auth.Identity{Generation: generation}),
	} {
		h.request(who, "POST", "/auth/refresh", nil).want(t, 401, "login_required")
		if h.request(who, "GET", "/me", nil).status != 200 {
			t.Errorf("%s: is no token at all", name)
		}
	}
	// A refresh does not begin the seven days anew.
	old := issued(auth.Identity{Generation: generation, LoginAt: now.Add(time.Hour - auth.RefreshTime)})
	claims := jwt.MapClaims{}
	text := decode[api.Token](t, h.request(old, "POST", "/auth/refresh", nil).want(t, 200, "")).Token
	if _, _, err := jwt.NewParser().ParseUnverified(text, claims); err != nil || claims["auth_time"] != float64(now.Add(time.Hour-auth.RefreshTime).Unix()) {
		t.Errorf("%v, %v", claims, err)
	}
}

// A changed password ends the tokens from before, whoever changes it.
func TestChangedPasswordEndsTokens(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	node := h.twin()
	for name, change := range map[string]func(s someone){
		"PATCH /me": func(s someone) {
			h.request(s, "PATCH", "/me", map[string]string{"password": "battery staple", "currentPassword": password}).want(t, 200, "")
		},
		"an admin": func(s someone) {
			h.request(h.ours.admin, "PATCH", fmt.Sprintf("/users/%d", s.id), map[string]string{"password": "battery staple"}).want(t, 200, "")
		},
		"SQL": func(s someone) {
			hash, err := auth.HashPassword("battery staple")
			if err != nil {
				t.Fatal(err)
			}
			h.exec("UPDATE users SET password_hash = $2 WHERE id = $1", s.id, hash)
		},
	} {
		t.Run(name, func(t *testing.T) {
			ann := h.loggedIn(h.member(h.ours, name[len(name)-2:]+"@new.example", inbox.Employee))
			foreign := h.withoutGeneration(ann, jwt.MapClaims{"iat": time.Now().Add(-time.Minute).Unix()})
			change(ann)
			for _, n := range []*house{h, node} {
				n.request(ann, "GET", "/me", nil).want(t, 401, "invalid_token")
				n.request(ann, "POST", "/auth/refresh", nil).want(t, 401, "invalid_token")
				n.request(foreign, "GET", "/me", nil).want(t, 401, "invalid_token")
			}
			h.login(ann.email, password).want(t, 401, "wrong_credentials")
			ann.token = decode[api.Token](t, node.login(ann.email, "battery staple").want(t, 200, "")).Token
			h.request(ann, "GET", "/me", nil).want(t, 200, "")
		})
	}
}

// withoutGeneration is s with a token that another program made with our secret.
func (h *house) withoutGeneration(s someone, more jwt.MapClaims) someone {
	h.t.Helper()
	claims := jwt.MapClaims{"userId": s.id, "organizationId": h.ours.id, "exp": time.Now().Add(time.Hour).Unix()}
	for k, v := range more {
		claims[k] = v
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(secret))
	if err != nil {
		h.t.Fatal(err)
	}
	s.token = token
	return s
}

func TestLogoutAll(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	node := h.twin()
	ann := h.loggedIn(h.member(h.ours, "ann@ours.example", inbox.Employee))
	silent := h.withoutGeneration(ann, nil) // it does not say when it was issued
	h.request(silent, "GET", "/me", nil).want(t, 200, "")
	h.request(ann, "POST", "/auth/logout-all", nil).want(t, 204, "")
	for _, n := range []*house{h, node} {
		n.request(ann, "GET", "/me", nil).want(t, 401, "invalid_token")
		n.request(silent, "GET", "/me", nil).want(t, 401, "invalid_token")
	}
	later := h.withoutGeneration(ann, jwt.MapClaims{"iat": time.Now().Add(5 * time.Second).Unix()})
	h.request(later, "GET", "/me", nil).want(t, 200, "")
	h.request(h.loggedIn(ann), "GET", "/me", nil).want(t, 200, "")
	h.request(h.ours.second, "GET", "/me", nil).want(t, 200, "")
}

func TestChangeMe(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	ann := h.loggedIn(h.member(h.ours, "ann@ours.example", inbox.Employee))
	if me := decode[api.User](t, h.request(ann, "PATCH", "/me", `{"name":"Ann"}`).want(t, 200, "")); me.Name != "Ann" || me.Email != ann.email {
		t.Errorf("%+v", me)
	}
	h.request(ann, "PATCH", "/me", `{"role":"admin"}`).want(t, 422, "validation_failed")
	h.request(ann, "PATCH", "/me", `{"email":"ann2@ours.example"}`).want(t, 422, "wrong_password")
	h.request(ann, "PATCH", "/me", `{"email":"ann2@ours.example","currentPassword":"incorrect horse"}`).want(t, 422, "wrong_password")
	h.request(ann, "PATCH", "/me", map[string]string{"email": h.theirs.admin.email, "currentPassword": password}).want(t, 409, "email_taken")
	h.request(ann, "PATCH", "/me", map[string]string{"password": "short", "currentPassword": password}).want(t, 422, "validation_failed")
	me := decode[api.User](t, h.request(ann, "PATCH", "/me", map[string]string{"email": "ann2@ours.example", "currentPassword": password}).want(t, 200, ""))
	if me.Email != "ann2@ours.example" || me.Name != "Ann" {
		t.Errorf("%+v", me)
	}
	// Whoever found an open browser may not try passwords for ever.
	wrong := func(int) answer {
		return h.request(ann, "PATCH", "/me", `{"password":"battery staple","currentPassword":"incorrect horse"}`)
	}
	if got := together(t, 15, wrong); got[422] != 10 || got[429] != 5 {
		t.Errorf("%v", got)
	}
}
