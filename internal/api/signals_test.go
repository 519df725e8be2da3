package api_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func signalsOf(who someone) string { return fmt.Sprintf("/users/%d/events", who.id) }

func TestSignals(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	a := h.request(h.ours.manager, "POST", signalsOf(h.ours.second), `{"event": "coffee", "data": {"cups": 2, "eventId": 7}}`).want(t, 202, "")
	if len(a.body) > 0 {
		t.Errorf("%s", a.body)
	}
	h.request(h.ours.admin, "POST", "/organizations/me/events", `{"event": "lunch time 🍲", "data": [1]}`).want(t, 202, "")
	h.request(h.ours.admin, "POST", "/organizations/me/events", `{"event": "user:notification"}`).want(t, 202, "")
	h.request(h.ours.admin, "POST", "/organizations/me/events", map[string]any{"event": strings.Repeat("ä", 255)}).want(t, 202, "")
	got := h.recorded("coffee", "lunch time 🍲", "user:notification")
	if len(got) != 3 || *got[0].User != h.ours.second.id || got[1].User != nil {
		t.Fatalf("%+v", got)
	}
	for i, want := range []map[string]any{{"cups": float64(2)}, {"data": []any{float64(1)}}, {}} {
		if !reflect.DeepEqual(got[i].Payload, want) {
			t.Errorf("%v, want %v", got[i].Payload, want)
		}
	}
	if n := one[int64](h, "SELECT count(*) FROM event_log WHERE kind = 'custom' AND organization_id = $1", h.ours.id); n != 4 {
		t.Errorf("%d events of the organization, want 4", n)
	}
}

func TestSignalsRefuse(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.request(h.ours.employee, "POST", signalsOf(h.ours.second), `{"event": "coffee"}`).want(t, 403, "forbidden")
	h.request(h.ours.employee, "POST", "/organizations/me/events", `{"event": "coffee"}`).want(t, 403, "forbidden")
	h.request(h.ours.admin, "POST", signalsOf(h.theirs.second), `{"event": "coffee"}`).want(t, 404, "not_found")
	for name, body := range map[string]string{
		"event_name_refused reserved":           `{"event": "message:new"}`,
		"event_name_refused of the protocol":    `{"event": "disconnect"}`,
		"event_name_refused empty":              `{"event": ""}`,
		"event_name_refused too long":           `{"event": "` + strings.Repeat("n", 256) + `"}`,
		"validation_failed zero byte in a name": `{"event": "a\u0000b"}`,
		"validation_failed no event":            `{"data": {}}`,
		"validation_failed zero byte":           `{"event": "coffee", "data": "\u0000"}`,
		"validation_failed data over 1 MB":      `{"event": "coffee", "data": "` + strings.Repeat("x", 1<<20) + `"}`,
		"validation_failed over 1 MB as jsonb":  `{"event": "coffee", "data": [` + strings.Repeat("1,", 1<<18) + strings.Repeat("11,", 1<<17) + `1]}`,
		"validation_failed unknown field":       `{"event": "coffee", "room": "org_1"}`,
	} {
		t.Run(name, func(t *testing.T) {
			code, _, _ := strings.Cut(name, " ")
			for _, path := range []string{signalsOf(h.ours.second), "/organizations/me/events"} {
				h.request(h.ours.manager, "POST", path, body).want(t, 422, code)
			}
		})
	}
	h.request(h.ours.admin, "POST", signalsOf(h.ours.second), `{"event": "coffee", "data": "`+strings.Repeat("x", 3<<20)+`"}`).want(t, 413, "too_large")
	if n := one[int64](h, "SELECT count(*) FROM event_log WHERE kind = 'custom'"); n != 0 {
		t.Errorf("%d events", n)
	}
}
