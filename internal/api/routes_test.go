package api_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"roombell/internal/api"
)

// call is a method and path of the OpenAPI document.
type call struct {
	method, path string // the path below Prefix
	open         bool   // without a token
	operator     bool   // with the admin key
	json         bool   // takes a body in JSON
	required     bool
	params       map[string]bool // of the query
}

// calls are all of the document that the server shows.
func (h *house) calls() []call {
	h.t.Helper()
	resp, err := h.client.Get(h.url + "/openapi.json")
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var doc struct {
		Paths map[string]map[string]struct {
			Security    []map[string][]string
			RequestBody struct {
				Required bool
				Content  map[string]any
			}
			Parameters []struct{ Name, In string }
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
		h.t.Fatal(err)
	}
	var found []call
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		below, ok := strings.CutPrefix(path, api.Prefix)
		if !ok {
			continue
		}
		for _, method := range slices.Sorted(maps.Keys(doc.Paths[path])) {
			op := doc.Paths[path][method]
			c := call{method: strings.ToUpper(method), path: below, open: len(op.Security) == 0, required: op.RequestBody.Required, params: map[string]bool{}}
			_, c.json = op.RequestBody.Content["application/json"]
			c.operator = !c.open && op.Security[0]["adminKey"] != nil
			for _, p := range op.Parameters {
				c.params[p.Name] = p.In == "query"
			}
			found = append(found, c)
		}
	}
	if len(found) < 10 {
		h.t.Fatalf("the document has %d routes", len(found))
	}
	return found
}

// in is the house for a part of its test.
func (h *house) in(t testing.TB) *house {
	part := *h
	part.t = t
	return &part
}

// bearer is somebody who may make the call.
func (h *house) bearer(c call) someone {
	switch {
	case c.open:
		return someone{}
	case c.operator:
		return someone{token: adminKey}
	}
	return h.ours.admin
}

var placeholder = regexp.MustCompile(`\{[^}]+\}`)

// at puts ids in the place of the path's parameters.
func (c call) at(id int64) string { return placeholder.ReplaceAllString(c.path, fmt.Sprint(id)) }

// field is whether the problem names it.
func field(t testing.TB, a answer, name string) {
	t.Helper()
	p := decode[api.Problem](t, a)
	if !slices.ContainsFunc(p.Errors, func(f api.Field) bool { return f.Field == name }) {
		t.Errorf("%s does not name %s", a.body, name)
	}
}

// What the edge promises, every route keeps: a new one cannot forget it.
func TestEveryRouteRefusesAlike(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	bodies := 0
	for _, c := range h.calls() {
		t.Run(c.method+c.path, func(t *testing.T) {
			h, who, path := h.in(t), h.bearer(c), c.at(1)
			a := h.request(who, "BREW", path, nil).want(t, 405, "method_not_allowed")
			if !strings.Contains(a.header.Get("Allow"), c.method) {
				t.Errorf("Allow: %s", a.header.Get("Allow"))
			}
			if !c.open {
				a := h.request(someone{}, c.method, path, nil).want(t, 401, "no_token")
				if a.header.Get("WWW-Authenticate") == "" {
					t.Error("401 without a challenge")
				}
				h.request(someone{token: "nonsense"}, c.method, path, nil).want(t, 401, "invalid_token")
			}
			field(t, h.request(who, c.method, path+"?nonsense=1", `{}`).want(t, 422, "validation_failed"), "query.nonsense")
			h.request(who, c.method, path+"?%zz", nil).want(t, 400, "bad_request")
			for name, query := range c.params {
				if query {
					field(t, h.request(who, c.method, path+"?"+name+"=%00", nil).want(t, 422, "validation_failed"), "query."+name)
				}
			}
			if !c.json {
				return
			}
			bodies++
			field(t, h.request(who, c.method, path, `{"nonsense": 1}`).want(t, 422, "validation_failed"), "body.nonsense")
			field(t, h.request(who, c.method, path, `{"nonsense": "a\u0000"}`).want(t, 422, "validation_failed"), "body.nonsense")
			field(t, h.request(who, c.method, path, `{"nonsense": 1e999}`).want(t, 422, "validation_failed"), "body.nonsense")
			h.request(who, c.method, path, `{"a": 1, "a": 1}`).want(t, 400, "bad_request")
			h.request(who, c.method, path, `{} {}`).want(t, 400, "bad_request")
			h.request(who, c.method, path, "{\"\xff\": 1}").want(t, 400, "bad_request")
			h.request(who, c.method, path, `{`).want(t, 400, "bad_request")
			if c.required {
				h.request(who, c.method, path, ``).want(t, 400, "bad_request")
			}
			h.request(who, c.method, path, `{}`, "Content-Type", "text/plain").want(t, 415, "unsupported_media_type")
		})
	}
	if bodies < 3 {
		t.Errorf("%d routes with a body", bodies)
	}
}

// FuzzBodies sends bodies to every route that reads one. Whatever they are, the answer is ours, and no fault of ours.
func FuzzBodies(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, `[]`, `""`, `{"a": 1}`, `{"email": "a@b.example", "password": "x"}`, `{"email": "a@b.example", "name": "A", "password": "a long password", "role": "admin"}`,
		`{"content": "hi"}`, `{"type": "text", "content": "` + strings.Repeat("ä", 1000) + `", "quotedMessageId": -1}`, `{"event": "x", "data": {"n": 1e308, "s": "\ud800"}}`,
		`{"event": "connect", "data": {}}`, `{"userId": 9223372036854775807}`, `{"userIds": [1, 1, 0, -1], "restricted": null}`, `{"messageIds": [9223372036854775807], "unread": true}`,
		`{"name": "` + strings.Repeat("x", 70_000) + `"}`, `{"name": "\u202e\ufffe\uffff"}`, `{"tags": ["", "", "` + strings.Repeat("t", 300) + `"], "status": "no", "priority": null}`,
		`{"mediaUrl": "https://[::1]:0/%zz", "mimeType": "\n"}`, `{"provider": "none", "channel": "none", "externalId": "` + strings.Repeat("e", 5000) + `"}`,
		`{"name": "n", "admin": {"email": "", "name": "", "password": ""}}`, `{"data": ` + strings.Repeat("[", 99) + strings.Repeat("]", 99) + `}`,
	} {
		f.Add(seed)
	}
	h := newHouse(f)
	h.exec(`INSERT INTO chats (organization_id, name) SELECT $1, 'chat' FROM generate_series(1, 3)`, h.ours.id)
	h.exec(`INSERT INTO messages (chat_id, content) SELECT id, 'text' FROM chats`)
	var calls []call
	for _, c := range h.calls() {
		if c.json {
			calls = append(calls, c)
		}
	}
	f.Fuzz(func(t *testing.T, body string) {
		h := h.in(t)
		for _, c := range calls {
			for _, id := range []int64{2, 1 << 62} {
				a := h.request(h.bearer(c), c.method, c.at(id), body)
				if a.status >= 500 && a.status != 501 {
					t.Errorf("%s %s: %d %s to %.300q", c.method, c.at(id), a.status, a.body, body)
				}
				if a.status >= 400 && (a.header.Get("Content-Type") != "application/problem+json" || decode[api.Problem](t, a).Code == "") {
					t.Errorf("%s %s: %s", c.method, c.at(id), a.body)
				}
			}
		}
	})
}
