package api

import (
	"context"
	"crypto/subtle"
	"errors"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"roombell/internal/auth"
	"roombell/internal/inbox"
)

// authorize is the middleware of all routes: it asks whose token it is, as the database has him now, and whether his role will do.
func (a *API) authorize(ctx huma.Context, next func(huma.Context)) {
	need, known := ctx.Operation().Metadata[accessKey].(who)
	if !known { // the documents
		next(ctx)
		return
	}
	token := bearer(ctx.Header("Authorization"))
	switch need {
	case anybody:
		next(ctx)
		return
	case operator:
		if err := a.o.Session.checkKey(token); err != nil {
			a.write(ctx, err)
			return
		}
		next(ctx)
		return
	}
	if need == keyHolders && a.o.Session.checkKey(token) == nil {
		next(ctx)
		return
	}
	v, id, err := a.identify(ctx.Context(), token)
	if err == nil {
		err = need.check(v)
	}
	if err != nil {
		a.write(ctx, err)
		return
	}
	next(huma.WithValue(huma.WithValue(ctx, viewerKey{}, v), tokenKey{}, id))
}

func (a *API) write(ctx huma.Context, err error) {
	var p *Problem
	if !errors.As(a.problem(ctx.Context(), err), &p) {
		return
	}
	if p.Status == http.StatusUnauthorized { // RFC 9110 §11.6.1 wants the challenge
		p = p.with("WWW-Authenticate", `Bearer realm="roombell"`)
	}
	_ = writeProblem(ctx, p)
}

// bearer is the token of an Authorization header, or nothing.
func bearer(header string) string {
	scheme, token, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// identify says who bears a token, and what it says. The role is the table's, whatever the token says.
func (a *API) identify(ctx context.Context, token string) (inbox.Viewer, auth.Identity, error) {
	id, err := a.o.Tokens.Verify(ctx, token)
	if err != nil {
		return inbox.Viewer{}, id, err
	}
	v, err := a.today(ctx, id)
	return v, id, err
}

// today is who a good token's bearer is as the table has him now, unless his tokens were ended since.
func (a *API) today(ctx context.Context, id auth.Identity) (inbox.Viewer, error) {
	b, err := a.o.Inbox.Bearer(ctx, id.UserID)
	switch {
	case errors.Is(err, inbox.ErrNotFound), err == nil && b.OrganizationID != id.OrganizationID:
		return inbox.Viewer{}, auth.ErrInvalidToken
	case err != nil:
		return inbox.Viewer{}, err
	case !b.Active:
		return inbox.Viewer{}, refuse("user_disabled", "The user is disabled.")
	case id.Void(b.Generation, b.TokensFrom):
		return inbox.Viewer{}, auth.ErrInvalidToken
	}
	return inbox.Viewer{ID: b.ID, OrganizationID: b.OrganizationID, Role: b.Role}, nil
}

func (w who) check(v inbox.Viewer) error {
	if w == admins && v.Role != inbox.Admin {
		return refuse("forbidden", "Only admins may do this.")
	}
	if w == managers && v.Role != inbox.Admin && v.Role != inbox.Manager {
		return refuse("forbidden", "Only managers and admins may do this.")
	}
	return nil
}

type (
	viewerKey struct{}
	tokenKey  struct{}
)

// viewer is on whose behalf the request is. Every route but those of anybody and operator has one.
func viewer(ctx context.Context) inbox.Viewer {
	v, _ := ctx.Value(viewerKey{}).(inbox.Viewer)
	return v
}

// bearerToken is what the request's token says.
func bearerToken(ctx context.Context) auth.Identity {
	id, _ := ctx.Value(tokenKey{}).(auth.Identity)
	return id
}

func sameKey(a, b string) bool {
	return b != "" && subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}
