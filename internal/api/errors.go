package api

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	{"invalid_token", 401, "The token is none that we accept, or it was ended, or its user is unknown or in another organization."},
	{"token_expired", 401, "The token has ended."},
	{"user_disabled", 401, "The token's user is disabled."},
	{"wrong_credentials", 401, "No user has this email and password; or he is disabled."},
	{"login_required", 401, "The token cannot be refreshed: it is none of login's, or the login is more than 7 days ago."},
	{"forbidden", 403, "The user's role does not allow this."},
	{"origin_not_allowed", 403, "The browser's page is of an origin that ROOMBELL_CORS_ORIGINS does not name."},
	{"not_found", 404, "There is no such thing, or it is another organization's, or the user may not see it."},
	{"method_not_allowed", 405, "The path exists, the method does not; Allow says which do."},
	{"not_acceptable", 406, "The answer cannot be given in a type that Accept allows."},
	{"timeout", 408, "The body did not come in time."},
	{"conflict", 409, "Something else is there already, or the state does not allow this."},
	{"email_taken", 409, "There is a user with this email."},
	{"last_admin", 409, "The organization would have no active admin any more."},
	{"idempotency_key_in_use", 409, "A request with the same Idempotency-Key is still running; Retry-After says when to ask again."},
	{"cursor_too_old", 410, "Events after the cursor are not kept any more (ROOMBELL_RETENTION)."},
	{"too_large", 413, "The body is larger than the route takes."},
	{"unsupported_media_type", 415, "The body is not in a type that the route reads."},
	{"validation_failed", 422, "Values do not fit; `errors` names each."},
	{"unknown_cursor", 422, "The cursor is no position of this installation's event log."},
	{"idempotency_key_reused", 422, "The Idempotency-Key was used for another request within 24 hours."},
	{"media_url_refused", 422, "mediaUrl is no medium of ours, and not https to a public address."},
	{"event_name_refused", 422, "The event's name is reserved, or does not have 1 to 255 characters."},
	{"wrong_password", 422, "currentPassword is missing or is not the user's password."},
	{"rate_limited", 429, "Too much; Retry-After says in how many seconds to try again."},
	{"too_many_streams", 429, "The user has as many event streams open as ROOMBELL_MAX_SOCKETS_PER_USER allows."},
	{"internal", 500, "Our fault; the operator's log has the cause under the request's id."},
	{"login_unavailable", 501, "The service has no secret to sign tokens with: they come from the identity provider alone."},
	{"unavailable", 503, "The database or something else that is needed is away; try again."},
	{"overloaded", 503, "Too many requests are under way; Retry-After says when to try again."},
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
	case http.StatusForbidden:
		return "forbidden"
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
	if p.Code == "internal" {
		return internalProblem(errs)
	}
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

// internalProblem is for what huma calls internal: a body that it could not read, or an error that is not for clients.
func internalProblem(errs []error) *Problem {
	var large *http.MaxBytesError
	for _, err := range errs {
		if errors.As(err, &large) || errors.Is(err, io.ErrUnexpectedEOF) {
			return bodyProblem(err)
		}
	}
	return refuse("internal", "Something went wrong; the operator finds it under this request's id.")
}

// problem gives an error its meaning; it is the one place that does.
func (a *API) problem(ctx context.Context, err error) error {
	var own *Problem
	var invalid *inbox.InvalidError
	var many *inbox.TooManyError
	switch {
	case errors.As(err, &many):
		return tooMany(many)
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
