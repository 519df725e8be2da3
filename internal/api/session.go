package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"roombell/internal/auth"
	"roombell/internal/inbox"
)

// Session is what login needs.
type Session struct {
	Issuer   *auth.Issuer // nil: tokens come from an identity provider alone, and login is not there
	TTL      time.Duration
	AdminKey string       // empty: nobody is the operator
	Hasher   *auth.Hasher // nil: one of its own
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

// Token is what login and refresh give.
type Token struct {
	Token     string    `json:"token" doc:"For Authorization: Bearer, and for the Socket.IO handshake"`
	ExpiresAt time.Time `json:"expiresAt"`
	User      User      `json:"user"`
}

type (
	loginInput struct {
		Body struct {
			Email    string `json:"email" minLength:"1" maxLength:"320"`
			Password string `json:"password" minLength:"1" maxLength:"1024"`
		}
	}
	tokenOutput struct {
		CacheControl string `header:"Cache-Control"`
		Body         Token
	}
	meInput struct {
		Body struct {
			Name            *string `json:"name,omitempty" maxLength:"200"`
			Email           *string `json:"email,omitempty" maxLength:"320" doc:"Needs currentPassword"`
			Password        *string `json:"password,omitempty" minLength:"8" maxLength:"1024" doc:"Needs currentPassword; ends all tokens, this one too"`
			CurrentPassword *string `json:"currentPassword,omitempty" maxLength:"1024"`
		}
	}
)

func (a *API) sessionRoutes() {
	if a.o.Session.Hasher == nil {
		a.o.Session.Hasher = auth.NewHasher(0)
	}
	handle(a, route{method: http.MethodPost, path: "/auth/login", tag: "session", summary: "Log in", who: anybody,
		description: "10 tries per email and 100 per address in 15 minutes, right or wrong, over all nodes.",
		codes:       []string{"wrong_credentials", "rate_limited", "login_unavailable"}}, a.login)
	handle(a, route{method: http.MethodPost, path: "/auth/refresh", tag: "session", summary: "Exchange the token for a fresh one",
		description: "Only a token of login, until 7 days after it. The old one lives on until its end.",
		codes:       []string{"login_required", "login_unavailable"}}, a.refresh)
	handle(a, route{method: http.MethodPost, path: "/auth/logout-all", tag: "session", summary: "End all tokens",
		description: "The user's tokens are void at once, this one too, and open sockets end within a second. Tokens of an identity provider are " +
			"told by the time they were issued at, in whole seconds."},
		func(ctx context.Context, _ *struct{}) (*struct{}, error) {
			return nil, a.o.Inbox.EndTokens(ctx, viewer(ctx))
		})
	handle(a, route{method: http.MethodGet, path: "/me", tag: "session", summary: "Who am I"},
		func(ctx context.Context, _ *struct{}) (*userOutput, error) {
			v := viewer(ctx)
			p, err := a.o.Inbox.User(ctx, v, v.ID)
			return &userOutput{userOf(p)}, err
		})
	handle(a, route{method: http.MethodPatch, path: "/me", tag: "session", summary: "Change my name, email or password",
		description: "What is left out stays. A try of currentPassword counts as a login.",
		codes:       []string{"wrong_password", "email_taken", "rate_limited"}}, a.changeMe)
}

func (a *API) login(ctx context.Context, in *loginInput) (*tokenOutput, error) {
	if a.o.Session.Issuer == nil {
		return nil, refuse("login_unavailable", "This service has no secret to sign tokens with: they come from the identity provider.")
	}
	c, err := a.checkPassword(ctx, in.Body.Email, in.Body.Password)
	if errors.Is(err, auth.ErrWrongPassword) {
		return nil, refuse("wrong_credentials", "There is no user with this email and password.")
	}
	if err != nil {
		return nil, err
	}
	return a.issue(c.Person, c.Generation, time.Now())
}

// checkPassword returns who has this email and password, or auth.ErrWrongPassword: after the same work whether there is such a user or not, and
// whether he is disabled.
func (a *API) checkPassword(ctx context.Context, email, password string) (inbox.Credentials, error) {
	if err := a.o.Inbox.Attempt(ctx, email, clientAddress(ctx)); err != nil {
		return inbox.Credentials{}, err
	}
	c, err := a.o.Inbox.Credentials(ctx, email)
	if err != nil {
		return c, err
	}
	err = a.o.Session.Hasher.Check(ctx, c.PasswordHash, password)
	if errors.Is(err, auth.ErrBadHash) {
		a.log.Warn("a user cannot log in: his password_hash is none that we can check", "user", c.ID)
	}
	if err == nil && !c.Active {
		err = auth.ErrWrongPassword
	}
	return c, err
}

func (a *API) issue(p inbox.Person, generation int32, login time.Time) (*tokenOutput, error) {
	token, expires, err := a.o.Session.Issuer.Issue(auth.Identity{UserID: p.ID, OrganizationID: p.OrganizationID, Email: p.Email, Role: p.Role,
		Generation: generation, LoginAt: login}, a.o.Session.TTL)
	if err != nil {
		return nil, err
	}
	return &tokenOutput{"no-store", Token{token, expires, userOf(p)}}, nil
}

// refresh trusts that the middleware found the token good.
func (a *API) refresh(ctx context.Context, _ *struct{}) (*tokenOutput, error) {
	if a.o.Session.Issuer == nil {
		return nil, refuse("login_unavailable", "This service has no secret to sign tokens with: they come from the identity provider.")
	}
	id := bearerToken(ctx)
	if !id.MayRefresh(time.Now()) {
		return nil, refuse("login_required", "Only a token of login is refreshed, until 7 days after it: log in again.")
	}
	v := viewer(ctx)
	p, err := a.o.Inbox.User(ctx, v, v.ID)
	if err != nil {
		return nil, err
	}
	// The generation is the token's own: one that was ended meanwhile gives another void one.
	return a.issue(p, id.Generation, id.LoginAt)
}

func (a *API) changeMe(ctx context.Context, in *meInput) (*userOutput, error) {
	v := viewer(ctx)
	change := inbox.PersonChange{Name: in.Body.Name, Email: in.Body.Email}
	if in.Body.Email != nil || in.Body.Password != nil {
		if err := a.checkOwnPassword(ctx, v, in.Body.CurrentPassword); err != nil {
			return nil, err
		}
	}
	if in.Body.Password != nil {
		hash, err := a.hash(ctx, "password", *in.Body.Password)
		if err != nil {
			return nil, err
		}
		change.PasswordHash = &hash
	}
	p, err := a.o.Inbox.UpdateSelf(ctx, v, change)
	return &userOutput{userOf(p)}, err
}

func (a *API) checkOwnPassword(ctx context.Context, v inbox.Viewer, password *string) error {
	if password == nil {
		return refuse("wrong_password", "Email and password are changed with currentPassword.", Field{"body.currentPassword", "is needed"})
	}
	me, err := a.o.Inbox.User(ctx, v, v.ID)
	if err != nil {
		return err
	}
	c, err := a.checkPassword(ctx, me.Email, *password)
	if errors.Is(err, auth.ErrWrongPassword) || err == nil && c.ID != v.ID {
		return refuse("wrong_password", "currentPassword is not the user's password.", Field{"body.currentPassword", "is wrong"})
	}
	return err
}

// hash is a password's, or says in which field of the body it is too short or too long.
func (a *API) hash(ctx context.Context, field, password string) (string, error) {
	hash, err := a.o.Session.Hasher.Hash(ctx, password)
	if errors.Is(err, auth.ErrPasswordLength) {
		return "", &inbox.InvalidError{Field: field, Message: "A password has 8 characters at least and 1024 bytes at most."}
	}
	if err != nil {
		return "", fmt.Errorf("hash a password: %w", err)
	}
	return hash, nil
}

func tooMany(e *inbox.TooManyError) *Problem {
	return refuse("rate_limited", "Too many tries: wait before the next.").with("Retry-After", strconv.Itoa(int(e.After/time.Second)))
}
