package api_test

import (
	"fmt"
	"strings"
	"testing"

	"roombell/internal/api"
)

func notificationsOf(who someone) string { return fmt.Sprintf("/users/%d/notifications", who.id) }

func TestNotifications(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	body := `{"type": "mention", "message": "look", "data": {"chatId": 1152921504606846977, "deep": [1.50, null]}}`
	a := h.request(h.ours.employee, "POST", notificationsOf(h.ours.second), body).want(t, 201, "")
	n := decode[api.Notification](t, a)
	if n.Type != "mention" || n.Message != "look" || string(n.Data) != `{"deep":[1.50,null],"chatId":1152921504606846977}` || n.ReadAt != nil {
		t.Errorf("%s", a.body)
	}
	told := h.recorded("user:notification")
	if len(told) != 1 || *told[0].User != h.ours.second.id || told[0].Payload["id"] != float64(n.ID) || told[0].Payload["createdAt"] != *n.CreatedAt {
		t.Errorf("%+v", told)
	}
	plain := decode[api.Notification](t, h.request(h.ours.admin, "POST", notificationsOf(h.ours.second), `{}`).want(t, 201, ""))
	if plain.Type != "info" || string(plain.Data) != "{}" {
		t.Errorf("%+v", plain)
	}

	list := decode[api.List[api.Notification]](t, h.request(h.ours.second, "GET", "/me/notifications", nil).want(t, 200, ""))
	if len(list.Items) != 2 || list.Items[0].ID != plain.ID || list.Items[1].ID != n.ID || string(list.Items[1].Data) != string(n.Data) {
		t.Errorf("%+v", list)
	}
	one := fmt.Sprintf("/me/notifications/%d", n.ID)
	for _, who := range []someone{h.ours.employee, h.ours.admin, h.theirs.admin} { // nobody else's business
		h.request(who, "POST", one+"/read", nil).want(t, 404, "not_found")
		h.request(who, "DELETE", one, nil).want(t, 404, "not_found")
	}
	first := h.request(h.ours.second, "POST", one+"/read", nil).want(t, 200, "")
	if again := h.request(h.ours.second, "POST", one+"/read", nil).want(t, 200, ""); string(again.body) != string(first.body) {
		t.Errorf("%s, then %s", first.body, again.body)
	}
	updates := h.recorded("notification:updated")
	if len(updates) != 1 || *updates[0].User != h.ours.second.id || updates[0].Payload["readAt"] != *decode[api.Notification](t, first).ReadAt {
		t.Errorf("%+v", updates)
	}
	list = decode[api.List[api.Notification]](t, h.request(h.ours.second, "GET", "/me/notifications?unread=true", nil).want(t, 200, ""))
	if len(list.Items) != 1 || list.Items[0].ID != plain.ID {
		t.Errorf("%+v", list)
	}
	for _, count := range []string{`{"count":1}`, `{"count":0}`} {
		if got := strings.TrimSpace(string(h.request(h.ours.second, "POST", "/me/notifications/read-all", nil).want(t, 200, "").body)); got != count {
			t.Errorf("%s, want %s", got, count)
		}
	}
	if n := len(h.recorded("notification:updated")); n != 2 {
		t.Errorf("%d events, want 2", n)
	}
	h.request(h.ours.second, "DELETE", one, nil).want(t, 204, "")
	h.request(h.ours.second, "DELETE", one, nil).want(t, 404, "not_found")
	if gone := h.recorded("notification:deleted"); len(gone) != 1 || gone[0].Payload["id"] != float64(n.ID) {
		t.Errorf("%+v", gone)
	}
}

func TestNotificationsRefuse(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.request(h.ours.admin, "POST", notificationsOf(h.theirs.employee), `{}`).want(t, 404, "not_found")
	h.request(h.ours.admin, "POST", "/users/999999999/notifications", `{}`).want(t, 404, "not_found")
	for name, body := range map[string]string{
		"data is no object":   `{"data": [1]}`,
		"zero byte in data":   `{"data": {"a": "\u0000"}}`,
		"half a character":    `{"data": {"a": "\ud800"}}`,
		"huge number":         `{"data": {"a": 1e999999}}`,
		"zero byte in text":   `{"message": "\u0000"}`,
		"zero byte in type":   `{"type": "\u0000"}`,
		"unknown field":       `{"readAt": null}`,
		"data over 1 MB":      `{"data": {"a": "` + strings.Repeat("x", 1<<20) + `"}}`,
		"too long to be read": `{"message": "` + strings.Repeat("x", 65537) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			h.request(h.ours.admin, "POST", notificationsOf(h.ours.second), body).want(t, 422, "validation_failed")
		})
	}
	h.request(h.ours.admin, "POST", notificationsOf(h.ours.second), `{"data": {"a": "`+strings.Repeat("x", 3<<20)+`"}}`).want(t, 413, "too_large")
	h.request(h.ours.admin, "GET", "/me/notifications?cursor=x", nil).want(t, 422, "validation_failed")
	if n := one[int64](h, "SELECT count(*) FROM notifications"); n != 0 {
		t.Errorf("%d rows", n)
	}
}

func TestListNotifications(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.exec(`INSERT INTO notifications (user_id, message, created_at, read_at) SELECT $1, 'n' || g, timestamptz '2001-01-01' + (g / 2) * interval '1 us',
		CASE WHEN g % 3 = 0 THEN now() END FROM generate_series(10, 29) g`, h.ours.second.id)
	h.exec("INSERT INTO notifications (user_id, message, created_at, data) VALUES ($1, 'never', 'infinity', '7')", h.ours.second.id)
	h.exec("INSERT INTO notifications (user_id, message) VALUES ($1, 'for another')", h.ours.admin.id)
	for _, test := range []struct {
		filter string
		want   func(g int) bool
	}{{"", func(int) bool { return true }}, {"&unread=true", func(g int) bool { return g%3 != 0 }}} {
		var seen []string
		for next := ""; ; {
			l := decode[api.List[api.Notification]](t, h.request(h.ours.second, "GET", "/me/notifications?limit=4"+test.filter+next, nil).want(t, 200, ""))
			for _, n := range l.Items {
				seen = append(seen, n.Message)
			}
			if l.NextCursor == nil {
				break
			}
			next = "&cursor=" + *l.NextCursor
			h.exec("INSERT INTO notifications (user_id, message) VALUES ($1, 'new')", h.ours.second.id)
			h.exec("DELETE FROM notifications WHERE message = 'new'")
		}
		want := []string{"never"}
		for g := 29; g >= 10; g-- {
			if test.want(g) {
				want = append(want, fmt.Sprint("n", g))
			}
		}
		if fmt.Sprint(seen) != fmt.Sprint(want) {
			t.Errorf("%q: %v", test.filter, seen)
		}
	}
}
