package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"roombell/internal/auth"
	"roombell/internal/client"
	"roombell/internal/postgres/dbtest"
)

// heard is an event of the log as somebody was told it, without its cursor: that says the same in more than one way.
type heard struct {
	name    string
	payload map[string]any
}

func (h heard) id() float64 { id, _ := h.payload["eventId"].(float64); return id }

func newHeard(t *testing.T, name string, payload []byte) heard {
	t.Helper()
	h := heard{name: name}
	if err := json.Unmarshal(payload, &h.payload); err != nil {
		t.Fatalf("%s: %v: %s", name, err, payload)
	}
	delete(h.payload, "cursor")
	return h
}

// sseEvent is one server-sent event.
type sseEvent struct{ id, name, data string }

// sseStream is a stream that is read like curl does it.
type sseStream struct {
	t    *testing.T
	body io.ReadCloser
	in   *bufio.Scanner
	last string // the last id
	note string // the last comment
}

// bearing sends a request with a token.
func bearing(t *testing.T, address, token string, header ...string) *http.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

// read asks and decodes the answer.
func read[T any](t *testing.T, address, token string, status int) (value T) {
	t.Helper()
	response := bearing(t, address, token)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != status {
		t.Fatalf("%s: %d %s %v, want %d", address, response.StatusCode, body, err, status)
	}
	if err := json.Unmarshal(body, &value); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return value
}

func openStream(t *testing.T, base, token, query string, header ...string) *sseStream {
	t.Helper()
	response := bearing(t, base+"/api/v1/events/stream"+query, token, header...)
	t.Cleanup(func() { _ = response.Body.Close() })
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "text/event-stream" {
		body, _ := io.ReadAll(response.Body)
		t.Fatalf("stream: %d %s", response.StatusCode, body)
	}
	in := bufio.NewScanner(response.Body)
	in.Buffer(nil, 4<<20)
	return &sseStream{t: t, body: response.Body, in: in}
}

// next returns the next event, or false at the end of the stream.
func (s *sseStream) next() (e sseEvent, ok bool) {
	s.t.Helper()
	guard := time.AfterFunc(limit, func() { _ = s.body.Close() })
	defer guard.Stop()
	for s.in.Scan() {
		if strings.HasPrefix(s.in.Text(), ":") {
			s.note = s.in.Text()
		}
		field, value, _ := strings.Cut(s.in.Text(), ": ")
		switch field {
		case "id":
			e.id, s.last = value, value
		case "event":
			e.name = value
		case "data":
			e.data = value
		case "":
			if e.name != "" {
				return e, true
			}
		}
	}
	if err := s.in.Err(); err != nil && !guard.Stop() {
		s.t.Fatalf("nothing came: %v", err)
	}
	return e, false
}

// until reads the events of the log up to one of the name.
func (s *sseStream) until(name string) []heard {
	s.t.Helper()
	var all []heard
	for {
		e, ok := s.next()
		if !ok {
			s.t.Fatalf("the stream ended before %s", name)
		}
		if strings.Contains(e.data, `"eventId"`) {
			all = append(all, newHeard(s.t, e.name, []byte(e.data)))
		}
		if e.name == name {
			return all
		}
	}
}

// bySocket is what a socket with the cursor is told up to sync:complete.
func bySocket(t *testing.T, base, token, cursor string) []heard {
	t.Helper()
	conn, err := client.Dial(t.Context(), client.Options{URL: base, Token: token, Cursor: cursor})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var all []heard
	for {
		e, err := conn.Next()
		switch {
		case err != nil:
			t.Fatal(err)
		case e.Name == "sync:complete":
			return all
		case strings.Contains(string(e.Payload), `"eventId"`):
			all = append(all, newHeard(t, e.Name, e.Payload))
		}
	}
}

type eventPage struct {
	Items []struct {
		Event   string
		Payload json.RawMessage
	}
	NextCursor *string
	Cursor     string
}

// byHistory pages through the history from the cursor.
func byHistory(t *testing.T, base, token, cursor string, more ...string) []heard {
	t.Helper()
	var all []heard
	for pages := 0; ; pages++ {
		if pages > 500 {
			t.Fatal("the history has no end")
		}
		query := url.Values{"limit": {"3"}, "cursor": {cursor}}
		for i := 0; i < len(more); i += 2 {
			query.Set(more[i], more[i+1])
		}
		page := read[eventPage](t, base+"/api/v1/events?"+query.Encode(), token, http.StatusOK)
		for _, item := range page.Items {
			all = append(all, newHeard(t, item.Event, item.Payload))
		}
		if page.NextCursor == nil {
			return all
		}
		cursor = *page.NextCursor
	}
}

// upTo cuts behind the first event of the name. Counters are left out: they are written beside, and may have a lower id than what was heard
// before.
func upTo(t *testing.T, all []heard, name string) []heard {
	t.Helper()
	all = slices.DeleteFunc(slices.Clone(all), func(h heard) bool { return h.name == "chat:updated" })
	i := slices.IndexFunc(all, func(h heard) bool { return h.name == name })
	if i < 0 {
		t.Fatalf("no %s among %v", name, names(all))
	}
	return all[:i+1]
}

// difference is the first pair that differs.
func difference(a, b []heard) string {
	for i := range min(len(a), len(b)) {
		if !reflect.DeepEqual(a[i], b[i]) {
			return fmt.Sprintf("%d: %v, %v", i, a[i], b[i])
		}
	}
	return "one has more"
}

func names(all []heard) (list []string) {
	for _, h := range all {
		list = append(list, h.name)
	}
	return list
}

// secretly makes a restricted chat of p's organization that p may not see.
func (p people) secretly(t *testing.T, d *dbtest.DB) (chat int64) {
	t.Helper()
	if err := d.Pool.QueryRow(t.Context(), `INSERT INTO chats (organization_id, name, restricted) VALUES ($1, 'SECRET', true) RETURNING id`, p.organization).
		Scan(&chat); err != nil {
		t.Fatal(err)
	}
	return chat
}

// Whatever way it is read, the log says the same to the same user: live, from a cursor on a stream, on a socket and in the history; and what
// is another's in none of them. The server is exchanged in between.
func TestStreamHistoryAndSocketSayTheSame(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	p, others := newPeople(t, d, "ann@a.example"), newPeople(t, d, "bob@b.example")
	var colleague int64
	if err := d.Pool.QueryRow(t.Context(), `INSERT INTO users (organization_id, email) VALUES ($1, 'carl@a.example') RETURNING id`, p.organization).
		Scan(&colleague); err != nil {
		t.Fatal(err)
	}
	secret := p.secretly(t, d)
	env := []string{"DATABASE_URL=" + d.URL}
	s := serve(t, env)
	s.awaitReady(http.StatusOK, "")
	token := p.token(t)
	live := openStream(t, s.public, token, "")
	first, _ := live.next()
	if first.name != "connected" || first.id == "" || !strings.Contains(first.data, `"resumed":false`) {
		t.Fatalf("the stream begins with %+v", first)
	}
	say := func(round int) {
		exec1(t, d, `INSERT INTO messages (chat_id, content) VALUES ($1, $2), ($3, 'SECRET of b'), ($4, 'SECRET of the chat')`, p.chat, fmt.Sprint("round ", round), others.chat, secret)
		exec1(t, d, `INSERT INTO messages (chat_id, content, from_me, status) SELECT $1, 'line ' || i, true, 'pending' FROM generate_series(1, 30) i`, p.chat)
		exec1(t, d, `UPDATE messages SET status = 'sent' WHERE chat_id = $1 AND from_me AND status = 'pending'`, p.chat)
		exec1(t, d, `UPDATE messages SET is_read_by_operator = true WHERE chat_id = ANY ($1)`, []int64{p.chat, secret, others.chat})
		exec1(t, d, `SELECT notify_user($1, 'mine', '{"a": "b\nc"}'), notify_user($2, 'theirs', '{"x": "SECRET"}')`, p.user, colleague)
		exec1(t, d, `SELECT broadcast_to_organization($1, $2, '{}')`, p.organization, fmt.Sprint("end:", round))
	}
	say(1)
	told := live.until("end:1")
	check := func(base, end string, told []heard) {
		t.Helper()
		socket := upTo(t, bySocket(t, base, token, first.id), end)
		stream := upTo(t, openStream(t, base, token, "", "Last-Event-ID", first.id).until("sync:complete"), end)
		parameter := upTo(t, openStream(t, base, token, "?cursor="+url.QueryEscape(first.id)).until("sync:complete"), end)
		history := upTo(t, byHistory(t, base, token, first.id), end)
		slices.SortFunc(told, func(a, b heard) int { return int(a.id() - b.id()) })
		for name, got := range map[string][]heard{"stream": stream, "stream by parameter": parameter, "history": history, "live stream": upTo(t, told, end)} {
			if !reflect.DeepEqual(got, socket) {
				t.Errorf("the %s says %d events, the socket %d: %v", name, len(got), len(socket), difference(got, socket))
			}
		}
		if text := fmt.Sprint(socket); strings.Contains(text, "SECRET") || !strings.Contains(text, "line 30") || !strings.Contains(text, "mine") {
			t.Errorf("the socket heard %s", text)
		}
	}
	check(s.public, "end:1", told)

	if code, took := s.stop(syscall.SIGTERM); code != exitDone || took > 20*time.Second {
		t.Errorf("with a stream open: exit %d after %v", code, took)
	}
	for { // what came after end:1 is heard, too
		e, ok := live.next()
		if !ok {
			break
		}
		if strings.Contains(e.data, `"eventId"`) {
			told = append(told, newHeard(t, e.name, []byte(e.data)))
		}
	}
	if live.note != ":the server stops" {
		t.Errorf("the stream was cut; its last note is %q", live.note)
	}
	say(2)
	s = serve(t, env)
	s.awaitReady(http.StatusOK, "")
	live = openStream(t, s.public, token, "", "Last-Event-ID", live.last)
	told = append(told, live.until("sync:complete")...)
	say(3)
	check(s.public, "end:3", append(told, live.until("end:3")...))
}

// ends waits until the stream has ended, and returns what it said before.
func (s *sseStream) ends() (all []sseEvent) {
	s.t.Helper()
	for {
		e, ok := s.next()
		if !ok {
			return all
		}
		all = append(all, e)
	}
}

func TestStreamEndsWithAccess(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, statement string }{
		{"user disabled", `UPDATE users SET active = false WHERE id = $1`},
		{"user deleted", `DELETE FROM users WHERE id = $1`},
		{"older token", `UPDATE users SET password_hash = 'x', token_generation = token_generation + 1 WHERE id = $1`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := dbtest.New(t)
			p := newPeople(t, d, "ann@a.example")
			s := serve(t, []string{"DATABASE_URL=" + d.URL})
			s.awaitReady(http.StatusOK, "")
			stream := openStream(t, s.public, p.token(t), "")
			stream.until("connected")
			exec1(t, d, c.statement, p.user)
			exec1(t, d, `SELECT broadcast_to_organization($1, 'after', '{}')`, p.organization)
			began := time.Now()
			for _, e := range stream.ends() {
				if e.name == "after" && c.name != "older token" {
					t.Errorf("heard after access was lost: %+v", e)
				}
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("the stream ended after %v", took)
			}
			if response := bearing(t, s.public+"/api/v1/events/stream", p.token(t)); response.StatusCode != http.StatusUnauthorized {
				t.Errorf("the next stream: %d", response.StatusCode)
			}
		})
	}
}

func TestStreamEndsWithTheToken(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	p := newPeople(t, d, "ann@a.example")
	s := serve(t, []string{"DATABASE_URL=" + d.URL})
	s.awaitReady(http.StatusOK, "")
	issuer, err := auth.NewIssuer([]byte(testSecret), auth.Claims{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, expires, err := issuer.Issue(auth.Identity{UserID: p.user, OrganizationID: p.organization, Generation: 1}, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range openStream(t, s.public, token, "").ends() {
		got = append(got, e.name)
	}
	if want := []string{"connected", "auth:expiring"}; !slices.Equal(got, want) || time.Now().Before(expires.Add(-time.Second)) {
		t.Errorf("at %v a stream of a token until %v said %q", time.Now(), expires, got)
	}
}

// Who loses a restricted chat is told so, and nothing of it after.
func TestStreamLosesChat(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	p := newPeople(t, d, "ann@a.example")
	chat := p.secretly(t, d)
	s := serve(t, []string{"DATABASE_URL=" + d.URL})
	s.awaitReady(http.StatusOK, "")
	stream := openStream(t, s.public, p.token(t), "")
	exec1(t, d, `INSERT INTO messages (chat_id, content) VALUES ($1, 'before')`, chat)
	exec1(t, d, `INSERT INTO chat_members (chat_id, user_id) VALUES ($1, $2)`, chat, p.user)
	exec1(t, d, `INSERT INTO messages (chat_id, content) VALUES ($1, 'between')`, chat)
	exec1(t, d, `DELETE FROM chat_members`)
	exec1(t, d, `INSERT INTO messages (chat_id, content) VALUES ($1, 'after')`, chat)
	exec1(t, d, `SELECT broadcast_to_organization($1, 'end', '{}')`, p.organization)
	var got []string
	for _, h := range stream.until("end") {
		if h.name != "chat:updated" {
			got = append(got, fmt.Sprintf("%s %v %v", h.name, h.payload["content"], h.payload["reason"]))
		}
	}
	want := []string{"chat:new <nil> <nil>", "message:new between <nil>", "chat:deleted <nil> access", "end <nil> <nil>"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestStreamCursorsAndLimits(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	p, others := newPeople(t, d, "ann@a.example"), newPeople(t, d, "bob@b.example")
	s := serve(t, []string{"DATABASE_URL=" + d.URL, "ROOMBELL_MAX_SOCKETS_PER_USER=2", "ROOMBELL_RESUME_LIMIT=3"})
	s.awaitReady(http.StatusOK, "")
	token := p.token(t)
	stream := openStream(t, s.public, token, "?type=a,b&chatId=0")
	stream.until("connected")
	exec1(t, d, `SELECT broadcast_to_organization($1, name, '{}') FROM unnest(ARRAY['c', 'a', E'b\nid: x', 'b']) name`, p.organization)
	if got := names(stream.until("b")); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("with type=a,b: %v", got)
	}
	first := stream.last
	exec1(t, d, `SELECT broadcast_to_organization($1, 'more', '{}') FROM generate_series(1, 10)`, p.organization)
	for cursor, reason := range map[string]string{"nonsense": "unknown_cursor", first: "too_many"} {
		other := openStream(t, s.public, token, "", "Last-Event-ID", cursor)
		other.until("connected")
		e, _ := other.next()
		if e.name != "sync:reset" || !strings.Contains(e.data, reason) || e.id == "" {
			t.Errorf("cursor %s: %+v", cursor, e)
		}
		_ = other.body.Close()
		eventually(t, func() error {
			if f := read[map[string]any](t, s.public+"/api/v1/stats", token, http.StatusOK); f["streams"] != 1.0 {
				return fmt.Errorf("%v", f)
			}
			return nil
		})
	}
	openStream(t, s.public, token, "")
	response := bearing(t, s.public+"/api/v1/events/stream", token)
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusTooManyRequests || !strings.Contains(string(body), "too_many_streams") {
		t.Errorf("the third stream of two: %d %s", response.StatusCode, body)
	}
	openStream(t, s.public, others.token(t), "")
	for _, path := range []string{"/events/stream?chatId=", "/events?chatId="} {
		read[map[string]any](t, s.public+"/api/v1"+path+fmt.Sprint(others.chat), token, http.StatusNotFound)
		read[map[string]any](t, s.public+"/api/v1"+path+fmt.Sprint(p.secretly(t, d)), token, http.StatusNotFound)
	}
}

func TestHistoryLeavesOutTheDeleted(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	p := newPeople(t, d, "ann@a.example")
	s := serve(t, []string{"DATABASE_URL=" + d.URL})
	s.awaitReady(http.StatusOK, "")
	token := p.token(t)
	exec1(t, d, `INSERT INTO messages (chat_id, content) VALUES ($1, 'KEPT'), ($1, 'GONE')`, p.chat)
	exec1(t, d, `UPDATE messages SET content = content || ' again' WHERE content = 'GONE'`)
	exec1(t, d, `INSERT INTO notifications (user_id, message) VALUES ($1, 'KEPT note'), ($1, 'GONE note')`, p.user)
	exec1(t, d, `INSERT INTO chats (organization_id, name) VALUES ($1, 'GONE chat')`, p.organization)
	exec1(t, d, `INSERT INTO messages (chat_id, content) SELECT id, 'GONE, too' FROM chats WHERE name = 'GONE chat'`)
	if all := fmt.Sprint(byHistory(t, s.public, token, "")); strings.Count(all, "GONE") != 5 {
		t.Errorf("before: %s", all)
	}
	exec1(t, d, `DELETE FROM messages WHERE content LIKE 'GONE%'`)
	exec1(t, d, `DELETE FROM notifications WHERE message LIKE 'GONE%'`)
	exec1(t, d, `DELETE FROM chats WHERE name LIKE 'GONE%'`)
	after := byHistory(t, s.public, token, "")
	if all := fmt.Sprint(after); strings.Contains(all, "GONE") || !strings.Contains(all, "KEPT note") || strings.Count(all, "deleted:true") < 5 {
		t.Errorf("after: %s", all)
	}
	if got := names(byHistory(t, s.public, token, "", "type", "message:new,message:deleted")); !slices.Equal(got, []string{"message:new", "message:new", "message:new", "message:deleted", "message:deleted"}) &&
		!slices.Equal(got, []string{"message:new", "message:new", "message:new", "message:deleted"}) {
		t.Errorf("by type: %v", got)
	}
	for _, h := range byHistory(t, s.public, token, "", "chatId", fmt.Sprint(p.chat)) {
		if chat := h.payload["chatId"]; chat != nil && chat != float64(p.chat) {
			t.Errorf("by chat: %v", h)
		}
	}
	cursor := read[eventPage](t, s.public+"/api/v1/events?limit=1", token, http.StatusOK).Cursor
	if problem := read[map[string]any](t, s.public+"/api/v1/events?cursor=nonsense", token, http.StatusUnprocessableEntity); problem["code"] != "unknown_cursor" {
		t.Errorf("%v", problem)
	}
	// As retention leaves it, but for the rows.
	exec1(t, d, `UPDATE event_log_trim SET max_id = l.id, max_txid = l.txid FROM (SELECT id, txid FROM event_log ORDER BY id DESC LIMIT 1) l WHERE slot = 0`)
	code, _ := s.stop(syscall.SIGTERM)
	s = serve(t, []string{"DATABASE_URL=" + d.URL}) // with an empty memory
	s.awaitReady(http.StatusOK, "")
	if problem := read[map[string]any](t, s.public+"/api/v1/events?cursor="+cursor, token, http.StatusGone); problem["code"] != "cursor_too_old" || code != exitDone {
		t.Errorf("%v, exit %d", problem, code)
	}
}

func TestTracePresenceAndStats(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	p, others := newPeople(t, d, "ann@a.example"), newPeople(t, d, "bob@b.example")
	s := serve(t, []string{"DATABASE_URL=" + d.URL, "ROOMBELL_ADMIN_KEY=the admin key of this test, long enough"})
	s.awaitReady(http.StatusOK, "")
	token := p.token(t)
	one, two := connect(t, s.public, token), connect(t, s.public, token)
	connect(t, s.public, others.token(t))
	var id int64
	if err := d.Pool.QueryRow(t.Context(), `INSERT INTO messages (chat_id, content, from_me, status) VALUES ($1, 'x', true, 'pending') RETURNING id`, p.chat).Scan(&id); err != nil {
		t.Fatal(err)
	}
	exec1(t, d, `UPDATE messages SET status = 'sent' WHERE id = $1`, id)
	next(t, one, "message:status")
	next(t, two, "message:status")
	type traced struct {
		EventID                          int64
		Event                            string
		RecordedAt, HeardAt, DeliveredAt time.Time
		CommittedAt                      *time.Time
		Sockets                          int
		Node                             string
	}
	type trace struct {
		MessageID int64
		Nodes     string
		Events    []traced
	}
	address := fmt.Sprint(s.public, "/api/v1/messages/", id, "/trace")
	got := read[trace](t, address, token, http.StatusOK)
	if got.MessageID != id || got.Nodes != "all" || len(got.Events) != 2 || got.Events[0].Event != "message:new" || got.Events[1].Event != "message:status" {
		t.Fatalf("%+v", got)
	}
	for _, e := range got.Events {
		if e.Sockets != 2 || e.Node == "" || e.CommittedAt == nil || e.CommittedAt.Before(e.RecordedAt) || e.HeardAt.Before(e.RecordedAt.Add(-time.Second)) || e.DeliveredAt.Before(e.HeardAt) || e.EventID == 0 {
			t.Errorf("%+v", e)
		}
	}
	read[map[string]any](t, address, others.token(t), http.StatusNotFound)

	type presence struct {
		Users []struct {
			UserID     int64
			Status     string
			LastSeenAt time.Time
		}
	}
	if who := read[presence](t, s.public+"/api/v1/presence", token, http.StatusOK); len(who.Users) != 1 || who.Users[0].UserID != p.user || who.Users[0].Status != "online" {
		t.Errorf("%+v", who)
	}
	if f := read[map[string]any](t, s.public+"/api/v1/stats", token, http.StatusOK); f["scope"] != "organization" || f["connections"] != 2.0 || f["usersOnline"] != 1.0 || f["eventsPerMinute"].(float64) < 2 {
		t.Errorf("%v", f)
	}
	for _, address := range []string{s.public + "/api/v1/stats", s.admin + "/stats"} {
		if f := read[map[string]any](t, address, "the admin key of this test, long enough", http.StatusOK); f["scope"] != "installation" || f["connections"] != 3.0 || f["organizationsOnline"] != 2.0 {
			t.Errorf("%s: %v", address, f)
		}
	}
	read[map[string]any](t, s.public+"/api/v1/stats", "not the key", http.StatusUnauthorized)
}

// A client that does not read is cut, and holds nobody up meanwhile.
func TestStreamNobodyReads(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	p := newPeople(t, d, "ann@a.example")
	s := serve(t, []string{"DATABASE_URL=" + d.URL})
	s.awaitReady(http.StatusOK, "")
	slow, reader := openStream(t, s.public, p.token(t), ""), openStream(t, s.public, p.token(t), "")
	for range 40 { // 20 MB: more than the sockets' buffers hold
		exec1(t, d, `SELECT broadcast_to_organization($1, 'much', jsonb_build_object('text', repeat('x', 500000)))`, p.organization)
	}
	exec1(t, d, `SELECT broadcast_to_organization($1, 'end', '{}')`, p.organization)
	if got := len(reader.until("end")); got != 41 {
		t.Errorf("who reads heard %d", got)
	}
	eventually(t, func() error {
		if _, metrics := get(t, s.admin+"/metrics"); !strings.Contains(metrics, `roombell_realtime_streams_cut_total{reason="slow"} 1`) {
			return errors.New("who does not read was not cut")
		}
		return nil
	})
	_ = slow.body.Close()
}
