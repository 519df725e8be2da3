// Package api is the HTTP API: routes in one list (routes.go), one file per resource, the meaning of errors in one place (errors.go). It
// is one more writer: what it writes is ordinary SQL by package inbox, and rings through the same triggers; no route emits anything.
//
// cmd/roombell builds it and serves Handler. It promises that every answer that is no success is RFC 9457 application/problem+json with a
// code of Codes, that unknown JSON fields and query parameters are refused, and that what another organization has, or the user
// may not see, is 404.
package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"

	"roombell/internal/auth"
	"roombell/internal/inbox"
)

// Prefix is where the routes are.
const Prefix = "/api/v1"

// Authenticator is auth.Verifier.
type Authenticator interface {
	Verify(ctx context.Context, token string) (auth.Identity, error)
}

// Options of an API. Inbox and Tokens are needed.
type Options struct {
	Inbox   *inbox.Inbox
	Tokens  Authenticator
	Version string // of the document; empty: dev

	Session Session // session.go: login
	Edge    Edge    // edge.go: what is decided before a route is looked for
	Live    Live    // live.go: presence and figures; nil: those routes are 503
	Log     Log     // events.go: history, stream and trace

	AsyncAPI Document // of the events, documents.go; nil: not served

	Logger     *slog.Logger          // nil: slog.Default
	Registerer prometheus.Registerer // nil: no metrics
}

// API is made with New.
type API struct {
	o       Options
	log     *slog.Logger
	huma    huma.API
	mux     *http.ServeMux
	handler http.Handler
}

// New registers all routes; it does no work of its own.
func New(o Options) (*API, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Version == "" {
		o.Version = "dev"
	}
	speakProblems()
	a := &API{o: o, log: o.Logger, mux: http.NewServeMux()}
	a.huma = humago.New(a.mux, a.config())
	a.huma.UseMiddleware(a.authorize, a.intake)
	a.routes()
	if err := a.documents(); err != nil {
		return nil, err
	}
	handler, err := a.edge(a.mux)
	if err != nil {
		return nil, fmt.Errorf("configure the HTTP API: %w", err)
	}
	a.handler = handler
	return a, nil
}

// Handler serves /api/v1, /docs, and the documents.
func (a *API) Handler() http.Handler { return a.handler }

// OpenAPI is the document of all routes.
func (a *API) OpenAPI() *huma.OpenAPI { return a.huma.OpenAPI() }

// config is huma's without what is not ours: no links to schemas in bodies, no documentation page from a foreign host.
func (a *API) config() huma.Config {
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{Title: "Roombell", Version: a.o.Version,
				Description: "A support inbox whose every committed change is heard at once. Writes by this API ring like all others."},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"token":    {Type: "http", Scheme: "bearer", BearerFormat: "JWT", Description: "A token of POST /auth/login, or of the identity provider."},
					"adminKey": {Type: "http", Scheme: "bearer", Description: "ROOMBELL_ADMIN_KEY."},
				},
			},
		},
		Formats:                      map[string]huma.Format{"application/json": jsonFormat, "json": jsonFormat},
		DefaultFormat:                "application/json",
		NoFormatFallback:             false,
		RejectUnknownQueryParameters: true,
	}
}

var problemsSpoken sync.Once

// speakProblems has huma answer with our Problem, and tell fields of different case apart: both are variables of its package.
func speakProblems() {
	problemsSpoken.Do(func() {
		huma.ValidateStrictCasing = true
		huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
			return newProblem(status, message, errs)
		}
	})
}
