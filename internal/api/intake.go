package api

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// intake is the middleware behind authorize: it refuses what a route could only misunderstand, before the route does anything.
func (a *API) intake(ctx huma.Context, next func(huma.Context)) {
	r, w := humago.Unwrap(ctx)
	v := visitOf(ctx.Context())
	v.user = viewer(ctx.Context()).ID
	op := ctx.Operation()
	p := checkAccept(op, r.Header.Values("Accept"))
	if p == nil {
		p = checkQuery(op, r.URL.RawQuery)
	}
	if p == nil {
		p = checkTexts(op, r)
	}
	if p == nil {
		p = takeBody(op, w, r, v)
	}
	if p != nil {
		_ = writeProblem(ctx, p)
		return
	}
	next(ctx)
}

// checkAccept compares Accept with the types in which a success of the route is told; a route that does not say them has none to offer
// but its own.
func checkAccept(op *huma.Operation, accept []string) *Problem {
	if len(accept) == 0 {
		return nil
	}
	var types []string
	for status, response := range op.Responses {
		if strings.HasPrefix(status, "2") {
			for t := range response.Content {
				types = append(types, t)
			}
		}
	}
	if len(types) == 0 || acceptable(strings.Join(accept, ","), types) {
		return nil
	}
	slices.Sort(types)
	return refuse("not_acceptable", "The answer comes as "+strings.Join(types, " or ")+".")
}

// acceptable reads Accept by RFC 9110 §12.5.1; a range that cannot be read allows nothing.
func acceptable(accept string, types []string) bool {
	for part := range strings.SplitSeq(accept, ",") {
		kind, params, err := mime.ParseMediaType(part)
		if err != nil || strings.Trim(params["q"], "0.") == "" && params["q"] != "" {
			continue
		}
		for _, t := range types {
			family, _, _ := strings.Cut(t, "/")
			if kind == "*/*" || kind == t || kind == family+"/*" {
				return true
			}
		}
	}
	return false
}

// checkQuery refuses what url.Values would drop in silence: broken escapes, and all but one of a parameter's values.
func checkQuery(op *huma.Operation, raw string) *Problem {
	query, err := url.ParseQuery(raw)
	if err != nil {
		return refuse("bad_request", "The query cannot be read.")
	}
	var faults []Field
	for name, values := range query {
		switch {
		case len(values) > 1 && !repeats(op, name):
			faults = append(faults, Field{Field: "query." + brief(name), Message: "comes more than once"})
		case slices.ContainsFunc(values, unfit):
			faults = append(faults, Field{Field: "query." + brief(name), Message: "must be UTF-8 without the character U+0000"})
		}
	}
	if len(faults) == 0 {
		return nil
	}
	slices.SortFunc(faults, func(a, b Field) int { return strings.Compare(a.Field, b.Field) })
	return refuse("validation_failed", "Values do not fit.", faults[:min(len(faults), maxFaults)]...)
}

func repeats(op *huma.Operation, name string) bool {
	return slices.ContainsFunc(op.Parameters, func(p *huma.Param) bool {
		return p.In == "query" && p.Name == name && p.Explode != nil && *p.Explode
	})
}

// unfit tells what no text column takes.
func unfit(text string) bool { return !utf8.ValidString(text) || strings.ContainsRune(text, 0) }

// checkTexts looks at the path, and at the headers that the route reads.
func checkTexts(op *huma.Operation, r *http.Request) *Problem {
	for _, p := range op.Parameters {
		if p.In == "path" && unfit(r.PathValue(p.Name)) || p.In == "header" && unfit(r.Header.Get(p.Name)) {
			return refuse("validation_failed", "Values do not fit.", Field{Field: p.In + "." + p.Name, Message: "must be UTF-8 without the character U+0000"})
		}
	}
	return nil
}

// takeBody reads the body of a route that takes JSON, and puts what it read in its place; of other routes it sets the limit alone.
func takeBody(op *huma.Operation, w http.ResponseWriter, r *http.Request, v *visit) *Problem {
	if v.body == nil {
		return nil
	}
	limit := int64(maxBody)
	if op.MaxBodyBytes > 0 {
		limit = op.MaxBodyBytes
	}
	if out, ok := w.(*recorder); ok {
		w = out.ResponseWriter // net/http's own is told that the rest need not be read
	}
	r.Body = http.MaxBytesReader(w, v.body, limit)
	if r.ContentLength > limit {
		return refuse("too_large", fmt.Sprintf("The body has more than %d bytes.", limit))
	}
	if !takesJSON(op) {
		return nil
	}
	if p := checkType(r); p != nil {
		return p
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return bodyProblem(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if len(body) == 0 {
		return nil
	}
	return checkJSON(body)
}

func takesJSON(op *huma.Operation) bool {
	return op.RequestBody != nil && op.RequestBody.Content["application/json"] != nil
}

// checkType lets a body without a type pass for JSON.
func checkType(r *http.Request) *Problem {
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return refuse("unsupported_media_type", "Compressed bodies are not read.").with("Accept-Encoding", "identity")
	}
	text := r.Header.Get("Content-Type")
	if text == "" {
		return nil
	}
	kind, _, err := mime.ParseMediaType(text)
	if err != nil || kind != "application/json" && !strings.HasSuffix(kind, "+json") {
		return refuse("unsupported_media_type", "Send the body as application/json.").with("Accept", "application/json")
	}
	return nil
}
