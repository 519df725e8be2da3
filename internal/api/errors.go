package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"roombell/db"
	"roombell/internal/auth"
	"roombell/internal/inbox"
)

// Code is what a client decides on. Codes are stable.
type Code struct {
	Code    string
	Status  int
	Meaning string
}

// Codes are all of them, in the order of their statuses. The manual prints this table.
var Codes = []Code{
	{"bad_request", 400, "The request cannot be read: broken JSON, a broken header."},
	{"no_token", 401, "There is no Authorization header with a bearer token."},
	{"invalid_token", 401, "The token is not one of ours, or its user is unknown or in another organization."},
	{"token_expired", 401, "The token has ended."},
	{"user_disabled", 401, "The token's user is disabled."},
	{"forbidden", 403, "The user's role does not allow this."},
	{"not_found", 404, "There is no such thing, or it is another organization's, or the user may not see it."},
	{"method_not_allowed", 405, "The path exists, the method does not; Allow says which do."},
	{"not_acceptable", 406, "The answer cannot be given in a type that Accept allows."},
	{"conflict", 409, "Something else is there already, or the state does not allow this."},
	{"too_large", 413, "The body is larger than the route takes."},
	{"unsupported_media_type", 415, "The body is not in a type that the route reads."},
	{"validation_failed", 422, "Values do not fit; `errors` names each."},
	{"rate_limited", 429, "Too much; Retry-After says in how many seconds to try again."},
	{"internal", 500, "Our fault; the operator's log has the cause under the request's id."},
	{"unavailable", 503, "The database or something else that is needed is away; try again."},
}

func statusOf(code string) int {
	for _, c := range Codes {
		if c.Code == code {
			return c.Status
		}
	}
	panic("no such code: " + code) // of a route's list: found by every start
}

// codeOf is the code of an error that only has a status: huma's own, and the router's.
func codeOf(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "no_token"
	case http.StatusBadRequest, http.StatusRequestTimeout:
		return "bad_request"
	}
	for _, c := range Codes {
		if c.Status == status {
			return c.Code
		}
	}
	return "internal"
}

// Problem is every answer that is no success (RFC 9457).
type Problem struct {
	Type   string  `json:"type" doc:"about:blank: the code says all" example:"about:blank"`
	Title  string  `json:"title" doc:"The status in words"`
	Status int     `json:"status" doc:"The HTTP status"`
	Detail string  `json:"detail,omitempty" doc:"What is wrong, for people"`
	Code   string  `json:"code" doc:"What is wrong, for programs; stable"`
	Errors []Field `json:"errors,omitempty" doc:"Each value that does not fit"`

	header http.Header
}

// Field is one value that does not fit.
type Field struct {
	Field   string `json:"field,omitempty" doc:"Where: body.name, query.limit, path.id"`
	Message string `json:"message" doc:"What is wrong with it"`
}

var (
	_ huma.StatusError       = (*Problem)(nil)
	_ huma.ContentTypeFilter = (*Problem)(nil)
	_ huma.HeadersError      = (*Problem)(nil)
)

func (p *Problem) Error() string             { return p.Code + ": " + p.Detail }
func (p *Problem) GetStatus() int            { return p.Status }
func (p *Problem) GetHeaders() http.Header   { return p.header }
func (p *Problem) ContentType(string) string { return problemType }
func (p *Problem) with(key, value string) *Problem {
	if p.header == nil {
		p.header = http.Header{}
	}
	p.header.Set(key, value)
	return p
}

const problemType = "application/problem+json"

// refuse makes the Problem of a code of Codes.
func refuse(code, detail string, fields ...Field) *Problem {
	status := statusOf(code)
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail, Code: code, Errors: fields}
}

// newProblem is huma.NewError.
func newProblem(status int, message string, errs []error) *Problem {
	p := refuse(codeOf(status), message)
	for _, err := range errs {
		var detailer huma.ErrorDetailer
		if errors.As(err, &detailer) {
			d := detailer.ErrorDetail()
			p.Errors = append(p.Errors, Field{Field: d.Location, Message: d.Message})
		} else if err != nil {
			p.Errors = append(p.Errors, Field{Message: err.Error()})
		}
	}
	return p
}

// problem gives an error its meaning; it is the one place that does.
func (a *API) problem(ctx context.Context, err error) error {
	var own *Problem
	var invalid *inbox.InvalidError
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &invalid):
		return invalidProblem(invalid)
	case errors.Is(err, inbox.ErrNotFound):
		return refuse("not_found", "There is no such thing.")
	case errors.Is(err, inbox.ErrForbidden):
		return refuse("forbidden", sentence(err, inbox.ErrForbidden))
	case errors.Is(err, inbox.ErrConflict):
		return refuse("conflict", sentence(err, inbox.ErrConflict))
	case errors.Is(err, auth.ErrNoToken):
		return refuse("no_token", "Send Authorization: Bearer with a token.")
	case errors.Is(err, auth.ErrTokenExpired):
		return refuse("token_expired", "The token has ended: log in again.")
	case errors.Is(err, auth.ErrInvalidToken):
		return refuse("invalid_token", "The token is not valid.")
	case db.IsUnavailable(err), errors.Is(err, auth.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		a.log.Warn("request could not be answered", "request", requestID(ctx), "err", err)
		return refuse("unavailable", "Something that is needed is away just now: try again.").with("Retry-After", "1")
	case ctx.Err() != nil: // nobody is there to hear it
		return refuse("unavailable", "The request was given up.")
	}
	a.log.Error("request failed", "request", requestID(ctx), "err", err)
	return refuse("internal", "Something went wrong; the operator finds it under this request's id.")
}

func invalidProblem(e *inbox.InvalidError) *Problem {
	code := e.Code
	if code == "" {
		code = "validation_failed"
	}
	p := refuse(code, e.Message)
	if e.Field != "" {
		p.Errors = []Field{{Field: "body." + e.Field, Message: e.Message}}
	}
	return p
}

// sentence is what an error says before the sentinel that it wraps: "only admins write users: not allowed for this role".
func sentence(err, sentinel error) string {
	text := strings.TrimSuffix(err.Error(), ": "+sentinel.Error())
	if text == "" {
		text = sentinel.Error()
	}
	return fmt.Sprintf("%s%s.", strings.ToUpper(text[:1]), text[1:])
}
