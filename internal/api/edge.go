package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// Edge is what is decided before a route is looked for.
type Edge struct {
	Origins        []string       // foreign origins that browsers may come from; "*" is every one
	TrustedProxies []netip.Prefix // networks whose X-Forwarded-For is believed
}

// edge puts around the routes what all requests have in common.
func (a *API) edge(routes http.Handler) (http.Handler, error) { return routes, nil }

// writeProblem answers with p in its own type.
func writeProblem(ctx huma.Context, p *Problem) error {
	_, w := humago.Unwrap(ctx)
	return sendProblem(w, p)
}

func sendProblem(w http.ResponseWriter, p *Problem) error {
	for key, values := range p.header {
		w.Header()[key] = values
	}
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	return json.NewEncoder(w).Encode(p)
}

// requestID is what the answer's X-Request-Id says.
func requestID(context.Context) string { return "" }
