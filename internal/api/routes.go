package api

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// routes is the list of all routes; each part is in the file of its resource.
func (a *API) routes() {
	a.sessionRoutes()
	a.organizationRoutes()
	a.userRoutes()
	a.channelRoutes()
	a.chatRoutes()
	a.memberRoutes()
	a.messageRoutes()
	a.notificationRoutes()
	a.signalRoutes()
	a.eventRoutes()
	a.streamRoutes()
	a.traceRoutes()
	a.liveRoutes()
}

// who may call a route. The zero value is every active user.
type who int

const (
	employees who = iota
	managers      // and admins
	admins
	operator   // the bearer of the admin key
	keyHolders // employees, and the bearer of the admin key: he has no viewer
	anybody    // without a token
)

// route is what one needs to say of a route beside its input and output types.
type route struct {
	method, path string // the path below Prefix
	tag, summary string
	description  string
	who          who
	status       int      // of success; 0: 200, or 204 where there is no body
	codes        []string // of Codes, beside those that every route may answer
	maxBody      int64    // bytes; 0: 1 MiB
}

// What a route says of itself, in its operation's metadata.
const (
	accessKey = "access"
	codesKey  = "codes"
)

// handle registers a route. The viewer of f's context is the one whose token it is; errors of inbox get their meaning in errors.go.
func handle[I, O any](a *API, r route, f func(ctx context.Context, in *I) (*O, error)) {
	op := huma.Operation{
		OperationID: operationID(r), Method: r.method, Path: Prefix + r.path, Tags: []string{r.tag}, Summary: r.summary, Description: r.description,
		DefaultStatus: r.status, MaxBodyBytes: r.maxBody, Metadata: map[string]any{accessKey: r.who, codesKey: r.allCodes()}, Errors: r.statuses(),
		BodyReadTimeout: -1, // the edge has its own
	}
	switch r.who {
	case anybody:
	case operator:
		op.Security = []map[string][]string{{"adminKey": {}}}
	case keyHolders:
		op.Security = []map[string][]string{{"token": {}}, {"adminKey": {}}}
	default:
		op.Security = []map[string][]string{{"token": {}}}
	}
	huma.Register(a.huma, op, func(ctx context.Context, in *I) (*O, error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		out, err := f(ctx, in)
		if err != nil {
			return nil, a.problem(ctx, err)
		}
		return out, nil
	})
}

// operationID is made of method and path: GET /chats/{id}/messages is get-chats-id-messages.
func operationID(r route) string {
	words := strings.FieldsFunc(r.path, func(c rune) bool { return c == '/' || c == '{' || c == '}' })
	return strings.ToLower(r.method) + "-" + strings.Join(words, "-")
}

// allCodes are those that the route may answer: its own, and those of every route like it.
func (r route) allCodes() []string {
	codes := slices.Concat([]string{"validation_failed", "internal", "unavailable"}, r.codes)
	if r.who != anybody {
		codes = append(codes, "no_token", "invalid_token")
	}
	if r.who != anybody && r.who != operator {
		codes = append(codes, "token_expired", "user_disabled")
	}
	if r.who == managers || r.who == admins {
		codes = append(codes, "forbidden")
	}
	if strings.Contains(r.path, "{") {
		codes = append(codes, "not_found")
	}
	if r.method == http.MethodPost || r.method == http.MethodPatch || r.method == http.MethodPut {
		codes = append(codes, "bad_request", "too_large", "unsupported_media_type")
	}
	return codes
}

// statuses are those of the errors that the route may answer.
func (r route) statuses() []int {
	var statuses []int
	for _, code := range r.allCodes() {
		statuses = append(statuses, statusOf(code))
	}
	slices.Sort(statuses)
	return slices.Compact(statuses)
}
