package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"roombell/internal/api"
	"roombell/internal/auth"
	"roombell/internal/inbox"
)

// record is an event as it was recorded.
type record struct {
	Event   string
	User    *int64
	Payload map[string]any
}

// recorded are those of the names that were recorded, in order; no names: all but counters.
func (h *house) recorded(names ...string) []record {
	h.t.Helper()
	rows, err := h.pool.Query(h.t.Context(), "SELECT event, user_id, payload FROM event_log WHERE event = ANY($1) ORDER BY id", names)
	if err != nil {
		h.t.Fatal(err)
	}
	defer rows.Close()
	var list []record
	for rows.Next() {
		var e record
		var payload []byte
		if err := rows.Scan(&e.Event, &e.User, &payload); err != nil {
			h.t.Fatal(err)
		}
		if err := json.Unmarshal(payload, &e.Payload); err != nil {
			h.t.Fatal(err)
		}
		list = append(list, e)
	}
	if err := rows.Err(); err != nil {
		h.t.Fatal(err)
	}
	return list
}

// newChat makes a chat, restricted to these members when there are any.
func (h *house) newChat(organization int64, members ...someone) int64 {
	h.t.Helper()
	id := one[int64](h, "INSERT INTO chats (organization_id, restricted) VALUES ($1, $2) RETURNING id", organization, len(members) > 0)
	for _, m := range members {
		h.exec("INSERT INTO chat_members (chat_id, user_id) VALUES ($1, $2)", id, m.id)
	}
	return id
}

func (h *house) newMessage(chat int64, content string) int64 {
	h.t.Helper()
	return one[int64](h, "INSERT INTO messages (chat_id, content) VALUES ($1, $2) RETURNING id", chat, content)
}

func messagesOf(chat int64) string { return fmt.Sprintf("/chats/%d/messages", chat) }

func messagePath(id int64, more ...string) string {
	return fmt.Sprintf("/messages/%d", id) + strings.Join(more, "")
}

func text(content string) map[string]any { return map[string]any{"content": content} }

func TestSendMessage(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	chat := h.newChat(h.ours.id)
	channel := one[int64](h, "INSERT INTO channels (organization_id, provider) VALUES ($1, 'telegram') RETURNING id", h.ours.id)
	h.exec("UPDATE chats SET channel_id = $2 WHERE id = $1", chat, channel)
	a := h.request(h.ours.employee, "POST", messagesOf(chat), text("hello <b>&\u2028😀")).want(t, 202, "")
	m := decode[api.Message](t, a)
	if m.Status != "pending" || !m.FromMe || m.ChatID != chat || m.OrganizationID != h.ours.id || *m.SenderUserID != h.ours.employee.id ||
		*m.Content != "hello <b>&\u2028😀" || m.Type != "text" || m.Channel != "telegram" || *m.ChannelID != channel {
		t.Errorf("the answer is %s", a.body)
	}
	got := h.request(h.ours.second, "GET", messagePath(m.ID), nil).want(t, 200, "")
	if string(got.body) != string(a.body) {
		t.Errorf("sent\n%s\nread\n%s", a.body, got.body)
	}
	news := h.recorded("message:new")
	if len(news) != 1 {
		t.Fatalf("%d events", len(news))
	}
	answer := decode[map[string]any](t, a)
	for key, value := range news[0].Payload {
		if fmt.Sprint(answer[key]) != fmt.Sprint(value) {
			t.Errorf("%s is %v in the answer and %v in the event", key, answer[key], value)
		}
	}
}

// Where nobody can send it the order waits in the table, for when somebody can.
func TestSendMessageWithoutAChannel(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := decode[api.Message](t, h.request(h.ours.admin, "POST", messagesOf(h.newChat(h.ours.id)), text("wait")).want(t, 202, ""))
	if m.Status != "pending" || m.ChannelID != nil || m.Channel != "none" {
		t.Errorf("%+v", m)
	}
}

func TestSendMessageRefuses(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	chat, other, foreign := h.newChat(h.ours.id), h.newChat(h.ours.id), h.newChat(h.theirs.id)
	elsewhere, theirs := h.newMessage(other, "in another chat"), h.newMessage(foreign, "theirs")
	medium := "https://example.com/a.png"
	for _, test := range []struct {
		name string
		body any
		code string
	}{
		{"nothing", map[string]any{}, "validation_failed"},
		{"type alone", map[string]any{"type": "text"}, "validation_failed"},
		{"unknown type", map[string]any{"type": "carrier pigeon", "content": "x"}, "validation_failed"},
		{"unknown field", map[string]any{"content": "x", "fromMe": true}, "validation_failed"},
		{"too long", text(strings.Repeat("ä", 65537)), "validation_failed"},
		{"zero byte", text("a\x00b"), "validation_failed"},
		{"zero byte in a template", map[string]any{"template": map[string]any{"name": "a\x00b"}}, "validation_failed"},
		{"template without a name", map[string]any{"template": map[string]any{"language": "en"}}, "validation_failed"},
		{"image without medium", map[string]any{"type": "image", "content": "x"}, "validation_failed"},
		{"text with medium", map[string]any{"type": "text", "mediaUrl": medium}, "validation_failed"},
		{"template without one", map[string]any{"type": "template", "content": "x"}, "validation_failed"},
		{"quote of another chat", map[string]any{"content": "x", "quotedMessageId": elsewhere}, "validation_failed"},
		{"quote of another organization", map[string]any{"content": "x", "quotedMessageId": theirs}, "validation_failed"},
		{"quote of nothing", map[string]any{"content": "x", "quotedMessageId": 1 << 60}, "validation_failed"},
		{"medium that is not there", map[string]any{"type": "image", "mediaUrl": "/api/v1/media/1"}, "media_url_refused"},
		{"medium of the house", map[string]any{"type": "image", "mediaUrl": "https://169.254.169.254/latest"}, "media_url_refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for range 2 { // by key, too: what was refused leaves nothing
				h.request(h.ours.admin, "POST", messagesOf(chat), test.body, "Idempotency-Key", "refused").want(t, 422, test.code)
				h.request(h.ours.admin, "POST", messagesOf(chat), test.body).want(t, 422, test.code)
			}
		})
	}
	if n := one[int64](h, "SELECT count(*) FROM messages WHERE chat_id = $1", chat) + one[int64](h, "SELECT count(*) FROM idempotency_keys"); n != 0 {
		t.Errorf("%d rows were written", n)
	}
}

func TestSendMessageTypes(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	chat := h.newChat(h.ours.id)
	quoted := h.newMessage(chat, strings.Repeat("€", 5000))
	template := map[string]any{"name": "welcome", "language": "en_US", "components": []any{map[string]any{"type": "body"}}}
	for _, test := range []struct {
		body map[string]any
		kind string
	}{
		{map[string]any{"content": strings.Repeat("😀", 65536)}, "text"},
		{map[string]any{"mediaUrl": "https://example.com/a.pdf"}, "document"},
		{map[string]any{"mediaUrl": "https://example.com/a.png", "type": "image", "content": "caption"}, "image"},
		{map[string]any{"template": template}, "template"},
		{map[string]any{"content": "nulls", "mediaUrl": nil, "quotedMessageId": nil}, "text"},
		{map[string]any{"content": "quoting", "quotedMessageId": quoted}, "text"},
	} {
		a := h.request(h.ours.admin, "POST", messagesOf(chat), test.body).want(t, 202, "")
		m := decode[map[string]any](t, a)
		if m["type"] != test.kind {
			t.Errorf("%s, want %s", m["type"], test.kind)
		}
		for key, value := range test.body {
			if fmt.Sprint(m[key]) != fmt.Sprint(value) {
				t.Errorf("%s is %v, want %v", key, m[key], value)
			}
		}
		if test.body["quotedMessageId"] != nil && m["quotedContent"] != strings.Repeat("€", 4096) {
			t.Errorf("quoted %v", m["quotedContent"])
		}
		got := h.request(h.ours.admin, "GET", messagePath(int64(m["id"].(float64))), nil).want(t, 200, "")
		if string(got.body) != string(a.body) {
			t.Errorf("sent\n%s\nread\n%s", a.body, got.body)
		}
	}
	for _, e := range h.recorded("message:new") {
		if e.Payload["truncated"] != nil {
			t.Error("the longest message does not fit into its event")
		}
	}
}

// What the viewer may not see is not there, on every route, and nothing is written.
func TestMessagesOfOthers(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	foreign, restricted := h.newChat(h.theirs.id), h.newChat(h.ours.id, h.ours.second)
	for _, chat := range []int64{foreign, restricted} {
		failed := one[int64](h, "INSERT INTO messages (chat_id, from_me, content) VALUES ($1, true, 'x') RETURNING id", chat)
		h.exec("UPDATE messages SET status = 'failed' WHERE id = $1", failed)
		for _, who := range []someone{h.ours.employee, h.ours.manager} {
			h.request(who, "GET", messagesOf(chat), nil).want(t, 404, "not_found")
			h.request(who, "POST", messagesOf(chat), text("x")).want(t, 404, "not_found")
			h.request(who, "POST", messagesOf(chat), text("x"), "Idempotency-Key", "k").want(t, 404, "not_found")
			h.request(who, "GET", messagePath(failed), nil).want(t, 404, "not_found")
			h.request(who, "PATCH", messagePath(failed), text("x")).want(t, 404, "not_found")
			h.request(who, "DELETE", messagePath(failed), nil).want(t, 404, "not_found")
			h.request(who, "POST", messagePath(failed, "/retry"), nil).want(t, 404, "not_found")
		}
	}
	h.request(h.ours.admin, "GET", messagesOf(restricted), nil).want(t, 200, "")
	h.request(h.ours.second, "POST", messagesOf(restricted), text("x")).want(t, 202, "")
	h.request(h.ours.admin, "GET", messagesOf(foreign), nil).want(t, 404, "not_found")
	h.request(someone{}, "POST", messagesOf(restricted), text("x")).want(t, 401, "no_token")
	if n := one[int64](h, "SELECT count(*) FROM messages"); n != 3 {
		t.Errorf("%d messages, want 3", n)
	}
}

func (h *house) messagePage(path string) (contents []string, next string) {
	h.t.Helper()
	list := decode[api.List[api.Message]](h.t, h.request(h.ours.admin, "GET", path, nil).want(h.t, 200, ""))
	for _, m := range list.Items {
		contents = append(contents, *m.Content)
	}
	if list.NextCursor != nil {
		next = "&cursor=" + *list.NextCursor
	}
	return contents, next
}

// While one pages, others write: new ones, old ones that are backfilled above and below, and some are deleted. Each that was there is seen once.
func TestListMessages(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	chat := h.newChat(h.ours.id)
	h.exec(`INSERT INTO messages (chat_id, content, timestamp) SELECT $1, 'm' || g, timestamptz '2001-01-01' + (g / 3) * interval '1 microsecond'
		FROM generate_series(10, 39) g`, chat)
	h.exec("INSERT INTO messages (chat_id, content, timestamp) VALUES ($1, 'never', 'infinity'), ($1, 'always', '-infinity'), ($1, 'Caesar', '0044-03-15 BC')", chat)
	var seen []string
	next := ""
	for i := 0; ; i++ {
		contents, after := h.messagePage(messagesOf(chat) + "?limit=7" + next)
		seen = append(seen, contents...)
		h.exec("INSERT INTO messages (chat_id, content) VALUES ($1, 'new')", chat)
		h.exec("INSERT INTO messages (chat_id, content, timestamp) VALUES ($1, 'backfilled above', '2001-01-02')", chat)
		if i == 1 {
			h.exec("DELETE FROM messages WHERE content = $1", contents[len(contents)-1]) // the cursor's own
			h.exec("INSERT INTO messages (chat_id, content, timestamp) VALUES ($1, 'backfilled below', '2001-01-01')", chat)
		}
		if next = after; next == "" {
			break
		}
	}
	want := []string{"never"}
	for g := 39; g >= 10; g-- {
		want = append(want, fmt.Sprintf("m%d", g))
	}
	want = append(want, "backfilled below", "Caesar", "always")
	if !slices.Equal(seen, want) {
		t.Errorf("seen %v", seen)
	}
	for _, cursor := range []string{"x", "!", "MTIz", "MSBub25zZW5zZQ", "MSAyMDAxLTEzLTAxVDAwOjAw"} { // "1 nonsense", month 13
		h.request(h.ours.admin, "GET", messagesOf(chat)+"?cursor="+cursor, nil).want(t, 422, "validation_failed")
	}
	h.request(h.ours.admin, "GET", messagesOf(chat)+"?limit=201", nil).want(t, 422, "validation_failed")
	empty := h.request(h.ours.admin, "GET", messagesOf(h.newChat(h.ours.id)), nil).want(t, 200, "")
	if got := strings.TrimSpace(string(empty.body)); got != `{"items":[],"nextCursor":null}` {
		t.Error(got)
	}
}

// The event carries 256 KB, the API all of it.
func TestGetMessageIsWhole(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	id := one[int64](h, "INSERT INTO messages (chat_id, content) VALUES ($1, repeat('ä', 500000)) RETURNING id", h.newChat(h.ours.id))
	if news := h.recorded("message:new"); news[0].Payload["truncated"] != true {
		t.Error("the event is whole")
	}
	m := decode[api.Message](t, h.request(h.ours.employee, "GET", messagePath(id), nil).want(t, 200, ""))
	if len(*m.Content) != 1000000 || m.FromMe || m.Status != "received" {
		t.Errorf("%d bytes, %+v", len(*m.Content), m.Status)
	}
}

func TestChangeMessage(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	chat := h.newChat(h.ours.id)
	m := decode[api.Message](t, h.request(h.ours.employee, "POST", messagesOf(chat), text("tpyo")).want(t, 202, ""))
	changed := decode[api.Message](t, h.request(h.ours.employee, "PATCH", messagePath(m.ID), text("typo")).want(t, 200, ""))
	if *changed.Content != "typo" || changed.Status != "pending" || *changed.UpdatedAt <= *m.UpdatedAt {
		t.Errorf("%+v", changed)
	}
	h.request(h.ours.employee, "PATCH", messagePath(m.ID), text("typo")).want(t, 200, "") // nothing new: no event
	updates := h.recorded("message:updated")
	if len(updates) != 1 || updates[0].Payload["content"] != "typo" || updates[0].Payload["messageId"] != float64(m.ID) {
		t.Errorf("%+v", updates)
	}
	h.request(h.ours.admin, "PATCH", messagePath(m.ID), text("not mine")).want(t, 403, "forbidden")
	h.request(h.ours.employee, "PATCH", messagePath(m.ID), text("")).want(t, 422, "validation_failed")
	h.request(h.ours.employee, "PATCH", messagePath(m.ID), map[string]any{"status": "read"}).want(t, 422, "validation_failed")
	h.request(h.ours.employee, "PATCH", messagePath(h.newMessage(chat, "theirs")), text("x")).want(t, 409, "conflict")
	h.exec("UPDATE messages SET status = 'sending' WHERE id = $1", m.ID)
	h.request(h.ours.employee, "PATCH", messagePath(m.ID), text("late")).want(t, 409, "conflict")
	h.request(h.ours.employee, "PATCH", messagePath(1<<60), text("x")).want(t, 404, "not_found")
	if got := one[string](h, "SELECT content FROM messages WHERE id = $1", m.ID); got != "typo" {
		t.Error(got)
	}
}

func TestDeleteMessage(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	id := h.newMessage(h.newChat(h.ours.id), "x")
	if a := h.request(h.ours.employee, "DELETE", messagePath(id), nil).want(t, 204, ""); len(a.body) > 0 {
		t.Errorf("%s", a.body)
	}
	h.request(h.ours.employee, "DELETE", messagePath(id), nil).want(t, 404, "not_found")
	if e := h.recorded("message:deleted"); len(e) != 1 || e[0].Payload["messageId"] != float64(id) {
		t.Errorf("%+v", e)
	}
}

func TestRetryMessage(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	chat := h.newChat(h.ours.id)
	body := map[string]any{"type": "image", "content": "caption", "mediaUrl": "https://example.com/a.png", "quotedMessageId": h.newMessage(chat, "look?")}
	failed := decode[api.Message](t, h.request(h.ours.employee, "POST", messagesOf(chat), body).want(t, 202, ""))
	retry := messagePath(failed.ID, "/retry")
	h.request(h.ours.second, "POST", retry, nil).want(t, 409, "conflict")
	h.exec("UPDATE messages SET status = 'failed', error = 'no such number' WHERE id = $1", failed.ID)
	first := h.request(h.ours.second, "POST", retry, nil, "Idempotency-Key", "once").want(t, 202, "")
	m := decode[api.Message](t, first)
	if m.ID <= failed.ID || m.Status != "pending" || *m.SenderUserID != h.ours.second.id || *m.Content != "caption" || *m.MediaURL != "https://example.com/a.png" ||
		m.Type != "image" || *m.QuotedContent != "look?" || m.Error != nil {
		t.Errorf("%s", first.body)
	}
	for range 2 {
		if again := h.request(h.ours.second, "POST", retry, nil, "Idempotency-Key", "once").want(t, 202, ""); string(again.body) != string(first.body) {
			t.Errorf("%s, then %s", first.body, again.body)
		}
	}
	h.request(h.ours.second, "POST", retry, nil).want(t, 202, "")
	h.request(h.ours.second, "POST", messagesOf(chat), text("x"), "Idempotency-Key", "once").want(t, 422, "idempotency_key_reused")
	h.request(h.ours.admin, "POST", messagePath(h.newMessage(chat, "in"), "/retry"), nil).want(t, 409, "conflict")
	old := decode[api.Message](t, h.request(h.ours.admin, "GET", messagePath(failed.ID), nil).want(t, 200, ""))
	if old.Status != "failed" || *old.Error != "no such number" {
		t.Errorf("%+v", old)
	}
	if n := len(h.recorded("message:new")); n != 5 { // quoted, first, twice again, incoming
		t.Errorf("%d events", n)
	}
}

// secondNode is a second node on the same database: nothing of the first one's memory.
func (h *house) secondNode(t *testing.T) *house {
	t.Helper()
	return h.node(t, h.pool)
}

func (h *house) node(t *testing.T, pool *pgxpool.Pool) *house {
	t.Helper()
	tokens, err := auth.NewVerifier(auth.Options{Secret: []byte(secret)})
	if err != nil {
		t.Fatal(err)
	}
	a, err := api.New(api.Options{Inbox: inbox.New(pool), Tokens: tokens, Session: api.Session{Issuer: h.issuer, TTL: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(a.Handler())
	t.Cleanup(server.Close)
	node := *h
	node.url, node.client = server.URL, server.Client()
	return &node
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	chat, other := h.newChat(h.ours.id), h.newChat(h.ours.id)
	send := func(h *house, who someone, chat int64, body any, key string) answer {
		return h.request(who, "POST", messagesOf(chat), body, "Idempotency-Key", key)
	}
	first := send(h, h.ours.employee, chat, text("one"), "key").want(t, 202, "")
	h.exec("UPDATE messages SET status = 'sent', content = 'changed'")
	restarted := h.secondNode(t)
	for _, again := range []answer{
		send(h, h.ours.employee, chat, text("one"), "key"),
		send(restarted, h.ours.employee, chat, text("one"), "key"),
		send(h, h.ours.employee, chat, `{ "content" : "\u006fne" }`, "key"), // spelled otherwise
	} {
		if again.status != first.status || string(again.body) != string(first.body) {
			t.Errorf("first %d %s, then %d %s", first.status, first.body, again.status, again.body)
		}
	}
	send(restarted, h.ours.employee, chat, text("two"), "key").want(t, 422, "idempotency_key_reused")
	send(h, h.ours.employee, other, text("one"), "key").want(t, 422, "idempotency_key_reused")
	// Keys are a user's own.
	for _, key := range []string{"other", strings.Repeat("k", 255), "!~\"{}"} {
		send(h, h.ours.employee, chat, text("one"), key).want(t, 202, "")
	}
	send(h, h.ours.second, chat, text("two"), "key").want(t, 202, "")
	for _, key := range []string{"", strings.Repeat("k", 256), "two words", "umläut"} {
		send(h, h.ours.employee, chat, text("one"), key).want(t, 422, "validation_failed")
	}
	// Rights come before memories.
	h.exec("UPDATE chats SET restricted = true WHERE id = $1", chat)
	send(h, h.ours.employee, chat, text("one"), "key").want(t, 404, "not_found")
	if n := one[int64](h, "SELECT count(*) FROM messages"); n != 5 {
		t.Errorf("%d messages, want 5", n)
	}
	if n := len(h.recorded("message:new")); n != 5 {
		t.Errorf("%d events, want 5", n)
	}
}

// Many clients on two nodes send the same at once: one row, one event, and whoever is answered gets the same answer.
func TestIdempotencyKeyAtOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	chat, other := h.newChat(h.ours.id), h.secondNode(t)
	for round := range 10 {
		answers := make(chan answer, 32)
		var g errgroup.Group
		for i := range cap(answers) {
			node := []*house{h, other}[i%2]
			g.Go(func() error {
				answers <- node.request(h.ours.employee, "POST", messagesOf(chat), text("hi"), "Idempotency-Key", fmt.Sprint("key", round))
				return nil
			})
		}
		_ = g.Wait()
		close(answers)
		first := ""
		for a := range answers {
			if a.status == 409 {
				if a.want(t, 409, "idempotency_key_in_use").header.Get("Retry-After") == "" {
					t.Error("no Retry-After")
				}
				continue
			}
			a.want(t, 202, "")
			if first == "" {
				first = string(a.body)
			}
			if string(a.body) != first {
				t.Errorf("%s and %s", first, a.body)
			}
		}
		if first == "" {
			t.Error("nobody was answered")
		}
		if n, e := one[int64](h, "SELECT count(*) FROM messages"), len(h.recorded("message:new")); n != int64(round+1) || e != round+1 {
			t.Fatalf("%d messages and %d events in round %d", n, e, round)
		}
	}
}

// waiting is the process of Postgres that waits for a lock in our query of this name.
func (h *house) waiting(query string) (pid int64) {
	h.t.Helper()
	for deadline := time.Now().Add(time.Minute); pid == 0; {
		if time.Now().After(deadline) {
			h.t.Fatal("nobody waits for a lock in " + query)
		}
		pid = one[int64](h, `SELECT coalesce(max(pid), 0) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '-- name: ' || $1 || ' %'`, query)
	}
	return pid
}

// The channel takes a message at the moment at which its sender changes it.
func TestChangeMessageThatIsTaken(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := decode[api.Message](t, h.request(h.ours.employee, "POST", messagesOf(h.newChat(h.ours.id)), text("first")).want(t, 202, ""))
	taking, err := h.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taking.Rollback(context.WithoutCancel(t.Context())) }()
	if _, err := taking.Exec(t.Context(), "UPDATE messages SET status = 'sending' WHERE id = $1", m.ID); err != nil {
		t.Fatal(err)
	}
	late := make(chan answer, 1)
	go func() { late <- h.request(h.ours.employee, "PATCH", messagePath(m.ID), text("second")) }()
	h.waiting("ChangeMessage")
	if err := taking.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	(<-late).want(t, 409, "conflict")
	if got := one[string](h, "SELECT content FROM messages WHERE id = $1", m.ID); got != "first" {
		t.Error(got)
	}
}

// The first request is in the middle of its transaction, and its connection dies. Its key was in use, and then it never was.
func TestIdempotencyKeyOfATransactionThatDies(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	chat := h.newChat(h.ours.id)
	lock, err := h.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Rollback(context.WithoutCancel(t.Context())) }()
	if _, err := lock.Exec(t.Context(), "SELECT FROM chats WHERE id = $1 FOR UPDATE", chat); err != nil { // where the row's foreign key waits
		t.Fatal(err)
	}
	send := func() answer {
		return h.request(h.ours.employee, "POST", messagesOf(chat), text("hi"), "Idempotency-Key", "key")
	}
	hanging := make(chan answer, 1)
	go func() { hanging <- send() }()
	pid := h.waiting("SendMessage")
	if a := send().want(t, 409, "idempotency_key_in_use"); a.header.Get("Retry-After") != "1" {
		t.Errorf("%v", a.header)
	}
	h.exec("SELECT pg_terminate_backend($1)", pid)
	(<-hanging).want(t, 503, "unavailable")
	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := one[int64](h, "SELECT count(*) FROM messages") + one[int64](h, "SELECT count(*) FROM idempotency_keys"); n != 0 {
		t.Errorf("%d rows of a transaction that died", n)
	}
	// The client is told before the backend has let go of its locks.
	for deadline := time.Now().Add(20 * time.Second); ; {
		if a := send(); a.status != 409 || time.Now().After(deadline) {
			a.want(t, 202, "")
			break
		}
	}
	send().want(t, 202, "")
	if n, e := one[int64](h, "SELECT count(*) FROM messages"), len(h.recorded("message:new")); n != 1 || e != 1 {
		t.Errorf("%d messages and %d events", n, e)
	}
}

func TestIdempotencyKeyIsForgotten(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	chat := h.newChat(h.ours.id)
	send := func(h *house, content, key string) answer {
		return h.request(h.ours.employee, "POST", messagesOf(chat), text(content), "Idempotency-Key", key).want(t, 202, "")
	}
	first := send(h, "one", "key")
	h.exec("UPDATE idempotency_keys SET created_at = now() - interval '23 hours 59 minutes'")
	if again := send(h, "one", "key"); string(again.body) != string(first.body) {
		t.Error("forgotten within a day")
	}
	h.exec("UPDATE idempotency_keys SET created_at = now() - interval '24 hours 1 minute'")
	if again := send(h, "another", "key"); string(again.body) == string(first.body) {
		t.Error("not forgotten after a day")
	}
	// Whoever comes by takes others' along: a new node's first request is one that does.
	h.exec(`INSERT INTO idempotency_keys (organization_id, user_id, key, request, status, answer, created_at)
		SELECT $1, $2, 'old' || g, '', 202, '{}', now() - interval '2 days' FROM generate_series(1, 300) g`, h.theirs.id, h.theirs.admin.id)
	send(h.secondNode(t), "x", "another")
	if n := one[int64](h, "SELECT count(*) FROM idempotency_keys WHERE key LIKE 'old%'"); n != 300-256 {
		t.Errorf("%d old keys are left, want 44", n)
	}
}

// queries notes what is asked of Postgres, which is a round trip each.
type queries struct {
	mu    sync.Mutex
	names []string
}

func (q *queries) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	q.mu.Lock()
	defer q.mu.Unlock()
	name, _, _ := strings.Cut(strings.TrimPrefix(data.SQL, "-- name: "), " ")
	q.names = append(q.names, name)
	return ctx
}

func (q *queries) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (q *queries) taken() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer func() { q.names = nil }()
	return q.names
}

// Who asks, and the message with all its rules: a transaction around it would cost two more.
func TestSendMessageIsTwoRoundTrips(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	asked := &queries{}
	config := h.pool.Config()
	config.ConnConfig.Tracer = asked
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	node, chat := h.node(t, pool), h.newChat(h.ours.id)
	node.request(h.ours.employee, "POST", messagesOf(chat), text("x"), "Idempotency-Key", "sweeps").want(t, 202, "")
	asked.taken()
	for _, header := range [][]string{nil, {"Idempotency-Key", "key"}, {"Idempotency-Key", "key"}} {
		node.request(h.ours.employee, "POST", messagesOf(chat), text("x"), header...).want(t, 202, "")
		if names := asked.taken(); !slices.Equal(names, []string{"GetBearer", "SendMessage"}) {
			t.Errorf("with %q: %q", header, names)
		}
	}
}

// What POST promises beside the database: a thousand a second on two cores. Run with -bench SendMessage.
func BenchmarkSendMessage(b *testing.B) {
	for _, test := range []struct {
		name string
		key  bool
	}{{"plain", false}, {"by key", true}} {
		b.Run(test.name, func(b *testing.B) {
			h := newHouse(b)
			h.client.Transport.(*http.Transport).MaxIdleConnsPerHost = 64
			chats := make([]int64, 500)
			for i := range chats {
				chats[i] = h.newChat(h.ours.id)
			}
			b.SetParallelism(8)
			b.ResetTimer()
			b.RunParallel(func(p *testing.PB) {
				for i := 0; p.Next(); i++ {
					var header []string
					if test.key {
						header = []string{"Idempotency-Key", fmt.Sprintf("%p-%d", p, i)}
					}
					h.request(h.ours.employee, "POST", messagesOf(chats[i%len(chats)]), text("hello"), header...).want(b, 202, "")
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}
