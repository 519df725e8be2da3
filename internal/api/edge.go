package api

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// Edge is what is decided before a route is looked for.
type Edge struct {
	Origins        []string       // foreign origins that browsers may come from; "*" is every one
	TrustedProxies []netip.Prefix // networks whose X-Forwarded-For is believed
	MaxRequests    int            // under way at once, streams apart; 0: 1,000
	BodyTime       time.Duration  // in which a body must have come, and a second more for each 64 KiB of it; 0: 10 s
	AnswerTime     time.Duration  // in which a client must take each piece of an answer, streams apart; 0: 1 m
}

const (
	maxRequests = 1000
	bodyTime    = 10 * time.Second
	bodyPace    = 64 << 10 // bytes a second after that
	answerTime  = time.Minute
	patience    = 30 * time.Second // of a route with the database
)

func (e Edge) withDefaults() Edge {
	if e.MaxRequests <= 0 {
		e.MaxRequests = maxRequests
	}
	if e.BodyTime <= 0 {
		e.BodyTime = bodyTime
	}
	if e.AnswerTime <= 0 {
		e.AnswerTime = answerTime
	}
	return e
}

// edge puts around the routes what all requests have in common: an id, an address, an end to whoever sends or reads slowly, and an answer
// in our form whatever happens.
func (a *API) edge(routes *http.ServeMux) (http.Handler, error) {
	a.o.Edge = a.o.Edge.withDefaults()
	origins, err := parseOrigins(a.o.Edge.Origins)
	if err != nil {
		return nil, err
	}
	g := &gate{Edge: a.o.Edge, log: a.log, metrics: newEdgeMetrics(a.o.Registerer), routes: routes, origins: origins,
		places: make(chan struct{}, a.o.Edge.MaxRequests)}
	return g, nil
}

// gate is the handler in front of all routes.
type gate struct {
	Edge
	log     *slog.Logger
	metrics *edgeMetrics
	routes  *http.ServeMux
	origins origins
	places  chan struct{} // one for each request under way
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v := &visit{id: takeID(r), address: g.address(r), began: time.Now()}
	r = r.WithContext(context.WithValue(r.Context(), visitKey{}, v))
	r.Pattern = "" // of a router in front of ours
	out := &recorder{ResponseWriter: w, patience: g.AnswerTime}
	g.pace(w, r, v)
	g.metrics.inFlight.Inc()
	defer g.metrics.inFlight.Dec()
	defer g.account(out, r, v)
	defer g.rescue(out, v)
	g.headers(out, r, v)
	select {
	case g.places <- struct{}{}:
		v.place = g.places
		out.streams = v.leave
		defer v.leave()
	default:
		g.metrics.overload.Inc()
		_ = sendProblem(out, refuse("overloaded", "Too many requests are under way here: try again.").with("Retry-After", "1"))
		return
	}
	if g.crossOrigin(out, r) {
		g.serve(out, r)
	}
	if out.status == 0 { // as net/http has it
		out.status = http.StatusOK
	}
}

// headers that every answer has; a page may set its own policy over ours.
func (g *gate) headers(w http.ResponseWriter, r *http.Request, v *visit) {
	h := w.Header()
	h.Set("X-Request-Id", v.id)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	if strings.HasPrefix(r.URL.Path, Prefix) {
		h.Set("Cache-Control", "no-store")
	}
	if r.TLS != nil { // of a proxy's TLS the proxy speaks
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}

// serve answers what the router has no route for in our form, and OPTIONS with what there is.
func (g *gate) serve(w http.ResponseWriter, r *http.Request) {
	if _, pattern := g.routes.Handler(r); pattern != "" {
		g.routes.ServeHTTP(w, r)
		return
	}
	allow := g.allowed(r)
	switch {
	case allow == "":
		_ = sendProblem(w, refuse("not_found", "There is no such path."))
	case r.Method == http.MethodOptions:
		w.Header().Set("Allow", allow)
		w.WriteHeader(http.StatusNoContent)
	default:
		_ = sendProblem(w, refuse("method_not_allowed", "The path does not have this method.").with("Allow", allow))
	}
}

// allowed is the methods of the request's path, and nothing where there is no such path: the router tells it by a 405.
func (g *gate) allowed(r *http.Request) string {
	h, _ := g.routes.Handler(r)
	told := &header{http.Header{}}
	h.ServeHTTP(told, r)
	if allow := told.h.Get("Allow"); allow != "" {
		return allow + ", OPTIONS"
	}
	return ""
}

// header is a ResponseWriter that keeps the header alone.
type header struct{ h http.Header }

func (w *header) Header() http.Header         { return w.h }
func (w *header) Write(b []byte) (int, error) { return len(b), nil }
func (w *header) WriteHeader(int)             {}

// rescue answers for a route that panicked. The log has the stack, which names places and no contents.
func (g *gate) rescue(w *recorder, v *visit) {
	cause := recover()
	if cause == nil {
		return
	}
	err, isError := cause.(error)
	if isError && (errors.Is(err, http.ErrAbortHandler) || w.broken) { // huma panics when its answer finds nobody
		panic(http.ErrAbortHandler)
	}
	g.metrics.panics.Inc()
	g.log.Error("a route panicked", "request", v.id, "err", cause, "stack", string(debug.Stack()))
	if w.status != 0 {
		panic(http.ErrAbortHandler) // half an answer must not look whole
	}
	_ = sendProblem(w, refuse("internal", "Something went wrong; the operator finds it under this request's id."))
}

// visit is what the edge knows of a request.
type visit struct {
	id      string
	address netip.Addr
	began   time.Time
	user    int64 // once the token was looked at
	body    *pacedBody
	place   chan struct{}
}

// leave gives the request's place to another; more than once does nothing.
func (v *visit) leave() {
	if v.place != nil {
		<-v.place
		v.place = nil
	}
}

type visitKey struct{}

func visitOf(ctx context.Context) *visit {
	if v, ok := ctx.Value(visitKey{}).(*visit); ok {
		return v
	}
	return &visit{}
}

// requestID is what the answer's X-Request-Id says.
func requestID(ctx context.Context) string { return visitOf(ctx).id }

// clientAddress is where a request comes from, as far as our own proxies tell; without a zone, and never IPv4 in IPv6.
func clientAddress(ctx context.Context) netip.Addr { return visitOf(ctx).address }

// takeID is the id that a proxy or a client gave, where it can stand in a log, else a new one.
func takeID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	if len(id) < 1 || len(id) > 128 {
		return rand.Text()
	}
	for _, c := range []byte(id) {
		if c < '!' || c > '~' {
			return rand.Text()
		}
	}
	return id
}

// address reads X-Forwarded-For from its end, where our own proxies write, and believes it as long as trusted proxies wrote it. Sockets
// are counted by the same rules (realtime/limits.go); a test holds the two together.
func (g *gate) address(r *http.Request) netip.Addr {
	address := parseAddress(r.RemoteAddr)
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && g.trusted(address); i-- {
		hop := parseAddress(strings.TrimSpace(hops[i]))
		if !hop.IsValid() {
			break
		}
		address = hop
	}
	return address
}

func (g *gate) trusted(address netip.Addr) bool {
	for _, network := range g.TrustedProxies {
		if network.Contains(address) {
			return true
		}
	}
	return false
}

// parseAddress reads an address with or without a port; the result is invalid when it is neither.
func parseAddress(text string) netip.Addr {
	if withPort, err := netip.ParseAddrPort(text); err == nil {
		return withPort.Addr().Unmap().WithZone("")
	}
	address, _ := netip.ParseAddr(text)
	return address.Unmap().WithZone("")
}

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
