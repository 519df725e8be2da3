package api

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"roombell/internal/inbox"
)

type echoInput struct {
	Word   string   `path:"word"`
	Cursor string   `query:"cursor"`
	Limit  int64    `query:"limit"`
	Tag    []string `query:"tag,explode"`
	Kind   []string `query:"kind"`
	Key    string   `header:"Idempotency-Key"`
	Body   struct {
		Name  string         `json:"name"`
		Count int64          `json:"count,omitempty"`
		Data  map[string]any `json:"data,omitempty"`
	}
}

type echoOutput struct{ Body map[string]any }

// newEcho is the whole API with one more route, for anybody, that says what it got.
func newEcho(t testing.TB) *door {
	t.Helper()
	a, err := New(Options{Inbox: inbox.New(nil), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	handle(a, route{method: http.MethodPost, path: "/echo/{word}", tag: "test", summary: "test", who: anybody},
		func(_ context.Context, in *echoInput) (*echoOutput, error) {
			return &echoOutput{map[string]any{"name": in.Body.Name, "count": in.Body.Count, "data": in.Body.Data}}, nil
		})
	server := httptest.NewServer(a.Handler())
	t.Cleanup(server.Close)
	tt, _ := t.(*testing.T)
	return &door{Server: server, t: tt}
}

func TestBodies(t *testing.T) {
	t.Parallel()
	d := newEcho(t)
	deep := func(n int) string {
		return `{"name": "a", "data": {"a":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}}`
	}
	for _, test := range []struct {
		name, body string
		status     int
		code       string
		field      string
	}{
		{"whole", `{"name": "a", "count": 9223372036854775807}`, 200, "", `9223372036854775807`},
		{"space around", " {\"name\": \"a\"}\r\n\t", 200, "", ""},
		{"half a pair of UTF-16, which is a replacement then", `{"name": "\ud800"}`, 200, "", ""},
		{"empty", ``, 400, "bad_request", ""},
		{"broken", `{"name": "a"`, 400, "bad_request", ""},
		{"no JSON", `name=a`, 400, "bad_request", ""},
		{"a number that is none", `{"name": "a", "count": 01}`, 400, "bad_request", ""},
		{"a comma too many", `{"name": "a",}`, 400, "bad_request", ""},
		{"something after it", `{"name": "a"} {"name": "b"}`, 400, "bad_request", ""},
		{"a bracket after it", `{"name": "a"}]`, 400, "bad_request", ""},
		{"a key twice", `{"name": "a", "name": "b"}`, 400, "bad_request", "name"},
		{"a key twice, spelled otherwise", `{"name": "a", "n\u0061me": "b"}`, 400, "bad_request", "name"},
		{"a key twice, inside", `{"name": "a", "data": {"x": 1, "x": 2}}`, 400, "bad_request", "body.data"},
		{"no UTF-8", "{\"name\": \"\xff\"}", 400, "bad_request", "UTF-8"},
		{"UTF-16", "\xff\xfe{\x00}\x00", 400, "bad_request", "UTF-8"},
		{"a byte order mark", "\ufeff{}", 400, "bad_request", ""},
		{"nested deeply", deep(90), 200, "", ""},
		{"nested too deeply", deep(101), 400, "bad_request", "deeper"},
		{"nested as deeply as a body may be long", deep(500_000), 400, "bad_request", ""},
		{"an unknown field", `{"name": "a", "nmae": "b"}`, 422, "validation_failed", "body.nmae"},
		{"a field in other case", `{"name": "a", "COUNT": 1}`, 422, "validation_failed", "body.COUNT"},
		{"a field missing", `{}`, 422, "validation_failed", "name"},
		{"another type", `{"name": 1}`, 422, "validation_failed", "body.name"},
		{"not an object", `[]`, 422, "validation_failed", "body"},
		{"null", `null`, 422, "validation_failed", "body"},
		{"U+0000", `{"name": "a\u0000b"}`, 422, "validation_failed", "body.name"},
		{"U+0000 inside", `{"name": "a", "data": {"list": ["x", "\u0000"]}}`, 422, "validation_failed", "body.data.list[1]"},
		{"U+0000 in a key", `{"name": "a", "data": {"\u0000": 1}}`, 422, "validation_failed", "body.data"},
		{"over int64", `{"name": "a", "count": 9223372036854775808}`, 422, "validation_failed", "body.count"},
		{"over int64, inside", `{"name": "a", "data": {"n": -9223372036854775809}}`, 422, "validation_failed", "body.data.n"},
		{"over float64", `{"name": "a", "count": 1e400}`, 422, "validation_failed", "body.count"},
		{"half a number", `{"name": "a", "count": 1.5}`, 422, "validation_failed", "body.count"},
		{"a whole number with a point", `{"name": "a", "count": 1.0}`, 422, "validation_failed", "body.count"},
		{"a number of a million digits", `{"name": "a", "count": ` + strings.Repeat("9", 1_000_000) + `}`, 422, "validation_failed", "body.count"},
		{"too large", `{"name": "` + strings.Repeat("a", 1<<20) + `"}`, 413, "too_large", ""},
	} {
		resp, body := d.request("POST", Prefix+"/echo/x", strings.NewReader(test.body), "Content-Type", "application/json")
		if resp.StatusCode != test.status || !strings.Contains(body, test.field) || strings.Contains(body, "Go ") || len(body) > 4000 {
			t.Errorf("%s: %d %.500s", test.name, resp.StatusCode, body)
		}
		if test.code != "" {
			wantProblem(t, resp, body, test.status, test.code)
		}
	}
	// Without a length beforehand.
	resp, body := d.request("POST", Prefix+"/echo/x", io.MultiReader(strings.NewReader(`{"name": "`), strings.NewReader(strings.Repeat("a", 2<<20))), "Content-Type", "application/json")
	wantProblem(t, resp, body, 413, "too_large")
}

func TestTypesAndParameters(t *testing.T) {
	t.Parallel()
	d := newEcho(t)
	for _, test := range []struct {
		name, path string
		header     []string
		status     int
		code       string
		field      string
	}{
		{"JSON", "/echo/x", []string{"Content-Type", "application/json; charset=utf-8"}, 200, "", ""},
		{"no type", "/echo/x", nil, 200, "", ""},
		{"a form", "/echo/x", []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "unsupported_media_type", ""},
		{"text", "/echo/x", []string{"Content-Type", "text/plain"}, 415, "unsupported_media_type", ""},
		{"a type that is none", "/echo/x", []string{"Content-Type", ";;"}, 415, "unsupported_media_type", ""},
		{"compressed", "/echo/x", []string{"Content-Type", "application/json", "Content-Encoding", "gzip"}, 415, "unsupported_media_type", ""},
		{"any answer", "/echo/x", []string{"Accept", "text/html, */*;q=0.1"}, 200, "", ""},
		{"an answer in JSON", "/echo/x", []string{"Accept", "text/html, application/json"}, 200, "", ""},
		{"an answer of the family", "/echo/x", []string{"Accept", "application/*"}, 200, "", ""},
		{"an answer in HTML", "/echo/x", []string{"Accept", "text/html"}, 406, "not_acceptable", ""},
		{"anything but JSON", "/echo/x", []string{"Accept", "application/json;q=0.0, text/html"}, 406, "not_acceptable", ""},
		{"a known parameter", "/echo/x?limit=3", nil, 200, "", ""},
		{"an unknown parameter", "/echo/x?limt=3", nil, 422, "validation_failed", "query.limt"},
		{"a parameter twice", "/echo/x?limit=3&limit=4", nil, 422, "validation_failed", "query.limit"},
		{"a list", "/echo/x?tag=a&tag=b", nil, 200, "", ""},
		{"a list with commas", "/echo/x?kind=a,b", nil, 200, "", ""},
		{"a list with commas twice", "/echo/x?kind=a&kind=b", nil, 422, "validation_failed", "query.kind"},
		{"a broken escape", "/echo/x?cursor=%zz", nil, 400, "bad_request", ""},
		{"a semicolon", "/echo/x?limit=1;cursor=2", nil, 400, "bad_request", ""},
		{"U+0000 in the query", "/echo/x?cursor=%00", nil, 422, "validation_failed", "query.cursor"},
		{"no UTF-8 in the query", "/echo/x?cursor=%ff", nil, 422, "validation_failed", "query.cursor"},
		{"over int64", "/echo/x?limit=9223372036854775808", nil, 422, "validation_failed", "query.limit"},
		{"U+0000 in the path", "/echo/%00", nil, 422, "validation_failed", "path.word"},
		{"no UTF-8 in the path", "/echo/%ff", nil, 422, "validation_failed", "path.word"},
		{"no UTF-8 in a header", "/echo/x", []string{"Idempotency-Key", "\xff"}, 422, "validation_failed", "header.Idempotency-Key"},
	} {
		resp, body := d.request("POST", Prefix+test.path, strings.NewReader(`{"name": "a"}`), test.header...)
		if resp.StatusCode != test.status || !strings.Contains(body, test.field) {
			t.Errorf("%s: %d %s", test.name, resp.StatusCode, body)
		}
		if test.code != "" {
			wantProblem(t, resp, body, test.status, test.code)
		}
	}
}

// What net/http refuses itself, before anybody of ours is asked, is documented as it is: plain text, and the connection ends.
func TestWhatNeverArrives(t *testing.T) {
	t.Parallel()
	d := newEcho(t)
	for _, test := range []struct{ name, request, status string }{
		{"no HTTP", "hello\r\n\r\n", "400"},
		{"no host", "GET / HTTP/1.1\r\n\r\n", "400"},
		{"a header with a line break in its name", "GET / HTTP/1.1\r\nHost: x\r\nA\x00: b\r\n\r\n", "400"},
		{"a header that is too long", "GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 2<<20) + "\r\n\r\n", "431"},
		{"a path that is too long", "GET /" + strings.Repeat("a", 2<<20) + " HTTP/1.1\r\nHost: x\r\n\r\n", "431"},
		{"two lengths", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "400"},
	} {
		conn, answers := d.open("")
		go func() { _, _ = io.WriteString(conn, test.request) }() // the server stops reading before the end
		line, err := answers.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "HTTP/1.1 "+test.status) {
			t.Errorf("%s: %q %v", test.name, line, err)
		}
	}
}

func FuzzCheckJSON(f *testing.F) {
	for _, seed := range []string{`{"a": [1, "b", null, {"c": 1.5e3}]}`, `{"a": "\u0000"}`, `{"a":1,"a":2}`, `1e999`, `[[[[`, `"`, "\xff", `{"a":1}x`, ``} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		p := checkJSON(body)
		if p != nil {
			if p.Status != 400 && p.Status != 422 || len(p.Detail) > 400 || len(p.Errors) > maxFaults {
				t.Fatalf("%+v", p)
			}
			return
		}
		var v any
		if err := unmarshalJSON(body, &v); err != nil {
			t.Fatalf("let through what the decoder refuses: %v", err)
		}
	})
}
