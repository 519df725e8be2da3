package realtime_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"roombell/internal/auth"
	"roombell/internal/client"
	"roombell/internal/postgres/dbtest"
	"roombell/internal/realtime"
)

//go:generate go test -run ^TestAsyncAPIDocument$ -update

var update = flag.Bool("update", false, "write the golden files anew")

func TestAsyncAPIDocument(t *testing.T) {
	t.Parallel()
	document, err := realtime.AsyncAPI("dev")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", "asyncapi.json")
	if *update {
		if err := os.WriteFile(file, document, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(document, golden) {
		t.Errorf("%s is not what the types say: make generate, and read the diff", file)
	}
}

// notYet are the events that no version sends so far. They come with the channels.
var notYet = []string{"channel:status", "qr"}

// TestWireKeepsToTheDocument has every event of the document sent by the real server, and holds each payload against its schema.
func TestWireKeepsToTheDocument(t *testing.T) {
	t.Parallel()
	d := readDocument(t)
	h := newWireHouse(t, dbtest.New(t).URL)
	h.start(t)
	w := &witness{t: t, house: h, document: d, seen: map[string]int{}}
	w.people()
	w.sockets()
	w.rows()
	w.sums()
	w.resumes()
	w.answers()
	w.ends()

	var unseen []string
	for name := range d.events {
		if w.count(name) == 0 && !slices.Contains(notYet, name) {
			unseen = append(unseen, name)
		}
	}
	if slices.Sort(unseen); len(unseen) > 0 {
		t.Errorf("events of the document that were never on the wire: %s", strings.Join(unseen, ", "))
	}
	for _, name := range notYet {
		if d.events[name] == nil || !d.notYet[name] || w.count(name) > 0 {
			t.Errorf("%s is said not to be sent yet", name)
		}
	}
	t.Logf("%d events on the wire; not yet sent, and not looked for: %s", w.total(), strings.Join(notYet, ", "))
}

// document is the AsyncAPI document, read as strangers do.
type document struct {
	events  map[string]*jsonschema.Schema // of what the server sends, by event
	custom  *jsonschema.Schema            // of what writers name
	sent    map[string]*jsonschema.Schema // of what clients send
	answers map[string]*jsonschema.Schema // of acknowledgements
	notYet  map[string]bool
}

func readDocument(t *testing.T) *document {
	t.Helper()
	text, err := realtime.AsyncAPI("dev")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7)
	c.AssertFormat()
	if err := c.AddResource("asyncapi.json", raw); err != nil {
		t.Fatal(err)
	}
	var outline struct {
		Components struct {
			Messages map[string]struct {
				Name    string
				Payload json.RawMessage
				NotYet  bool `json:"x-not-yet-sent"`
			}
		}
	}
	if err := json.Unmarshal(text, &outline); err != nil {
		t.Fatal(err)
	}
	d := &document{notYet: map[string]bool{}}
	d.events, d.sent, d.answers = map[string]*jsonschema.Schema{}, map[string]*jsonschema.Schema{}, map[string]*jsonschema.Schema{}
	for key, m := range outline.Components.Messages {
		if m.Payload == nil {
			continue
		}
		schema := c.MustCompile("asyncapi.json#/components/messages/" + key + "/payload")
		switch {
		case m.Name == "*":
			d.custom = schema
		case strings.HasSuffix(key, "Answer"):
			d.answers[m.Name] = schema
		case strings.HasSuffix(key, "Request"):
			d.sent[m.Name] = schema
		default:
			d.events[m.Name], d.notYet[m.Name] = schema, m.NotYet
		}
	}
	return d
}

// witness hears what several people's sockets get, and holds it against the document.
type witness struct {
	t            *testing.T
	house        *wireHouse
	document     *document
	organization int64
	admin, staff int64
	chat, secret int64

	mu   sync.Mutex
	seen map[string]int
}

func (w *witness) count(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen[name]
}

func (w *witness) total() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for count := range maps.Values(w.seen) {
		n += count
	}
	return n
}

// hold checks a payload.
func (w *witness) hold(name string, payload json.RawMessage) {
	schema := w.document.events[name]
	if schema == nil {
		schema = w.document.custom
	}
	w.check(name, schema, payload)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[name]++
}

func (w *witness) check(what string, schema *jsonschema.Schema, payload json.RawMessage) {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(payload))
	if err == nil {
		err = schema.Validate(value)
	}
	if err != nil {
		w.t.Errorf("%s: %v\n%.500s", what, err, payload)
	}
}

// await waits until an event was seen more often than before.
func (w *witness) await(name string, before int) {
	w.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for w.count(name) <= before {
		select {
		case <-tick.C:
		case <-deadline:
			w.t.Fatalf("%s was not heard", name)
		}
	}
}

// hears does something and waits for its events.
func (w *witness) hears(do func(), names ...string) {
	w.t.Helper()
	before := make([]int, len(names))
	for i, name := range names {
		before[i] = w.count(name)
	}
	do()
	for i, name := range names {
		w.await(name, before[i])
	}
}

func (w *witness) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.house.pool.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

// id runs a statement that returns one.
func (w *witness) id(sql string, args ...any) (id int64) {
	w.t.Helper()
	if err := w.house.pool.QueryRow(w.t.Context(), sql, args...).Scan(&id); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	return id
}

// write runs an SQL statement and waits for its events.
func (w *witness) write(sql string, names ...string) {
	w.t.Helper()
	w.hears(func() { w.exec(sql, pgx.QueryExecModeSimpleProtocol) }, names...) // of several statements
}

func (w *witness) token(user int64, life time.Duration) string {
	w.t.Helper()
	issuer, err := auth.NewIssuer([]byte(wireSecret), auth.Claims{}, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	token, _, err := issuer.Issue(auth.Identity{UserID: user, OrganizationID: w.organization}, life)
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

// connect opens a socket that is listened to until the test ends. last gives the latest cursor that it heard.
func (w *witness) connect(user int64, life time.Duration, cursor string) (c *client.Conn, last func() string) {
	w.t.Helper()
	c, err := client.Dial(w.t.Context(), client.Options{URL: w.house.web.URL, Token: w.token(user, life), Cursor: cursor})
	if err != nil {
		w.t.Fatal(err)
	}
	var mu sync.Mutex
	var at string
	ended := make(chan struct{})
	before := w.count("connected")
	go func() {
		defer close(ended)
		for {
			e, err := c.Next()
			if err != nil {
				return
			}
			mu.Lock()
			if e.Cursor != "" {
				at = e.Cursor
			}
			mu.Unlock()
			w.hold(e.Name, e.Payload)
		}
	}()
	w.t.Cleanup(func() {
		c.Close()
		<-ended
	})
	w.await("connected", before)
	return c, func() string {
		mu.Lock()
		defer mu.Unlock()
		return at
	}
}

// ask sends a client event, which has to be as the document says, and waits for its answer, which has to be as well.
func (w *witness) ask(c *client.Conn, name string, argument any) (answer string) {
	w.t.Helper()
	if schema := w.document.sent[name]; schema != nil {
		text, err := json.Marshal(argument)
		if err != nil {
			w.t.Fatal(err)
		}
		w.check(name+" (request)", schema, text)
	}
	answered := make(chan json.RawMessage, 1)
	if err := c.Emit(name, argument, func(a json.RawMessage) { answered <- bytes.Clone(a) }); err != nil {
		w.t.Fatal(err)
	}
	select {
	case a := <-answered:
		w.check(name+" (answer)", w.document.answers[name], a)
		return string(a)
	case <-time.After(time.Minute):
		w.t.Fatalf("%s was not answered", name)
	}
	return ""
}

func (w *witness) people() {
	w.organization = w.id(`INSERT INTO organizations (name) VALUES ('document') RETURNING id`)
	person := func(email, role string) int64 {
		return w.id(`INSERT INTO users (organization_id, email, role) VALUES ($1, $2, $3) RETURNING id`, w.organization, email, role)
	}
	w.admin, w.staff = person("admin@document.example", "admin"), person("staff@document.example", "employee")
	w.chat = w.id(`INSERT INTO chats (organization_id, name) VALUES ($1, 'one') RETURNING id`, w.organization)
	w.secret = w.id(`INSERT INTO chats (organization_id, name, restricted) VALUES ($1, 'secret', true) RETURNING id`, w.organization)
}

// sockets are what is born there: presence, typing, joined and left, refusals.
func (w *witness) sockets() {
	staff, _ := w.connect(w.staff, time.Hour, "")
	w.hears(func() { w.ask(staff, "subscribe:chat", w.chat) }, "subscribed:chat")
	var admin *client.Conn
	w.hears(func() { admin, _ = w.connect(w.admin, time.Hour, "") }, "presence:changed")
	w.hears(func() { w.ask(admin, "subscribe:chat", map[string]any{"chatId": w.chat}) }, "chat:joined")
	w.hears(func() { w.ask(admin, "typing:start", w.chat) }, "typing:start")
	w.hears(func() { w.ask(admin, "typing:stop", fmt.Sprint(w.chat)) }, "typing:stop")
	w.hears(func() { w.ask(admin, "unsubscribe:chat", w.chat) }, "chat:left", "unsubscribed:chat")
	w.hears(func() { w.ask(admin, "presence:set", map[string]any{"status": "away"}) }, "presence:changed")
	w.hears(func() {
		if err := admin.Emit("nonsense", 1, nil); err != nil {
			w.t.Fatal(err)
		}
	}, "error")
}

// answers are those that say no.
func (w *witness) answers() {
	c, _ := w.connect(w.staff, time.Hour, "")
	for _, refused := range []struct{ answer, code string }{
		{w.ask(c, "subscribe:chat", w.secret), "chat_not_found"},
		{w.ask(c, "typing:start", w.chat), "not_subscribed"},
		{w.ask(c, "auth:refresh", map[string]any{"token": "nonsense"}), "invalid_token"},
	} {
		if !strings.Contains(refused.answer, refused.code) {
			w.t.Errorf("%s, not %s", refused.answer, refused.code)
		}
	}
	for _, done := range []string{
		w.ask(c, "presence:list", nil),
		w.ask(c, "auth:refresh", map[string]any{"token": w.token(w.staff, time.Hour)}),
	} {
		if !strings.Contains(done, `"ok":true`) {
			w.t.Error(done)
		}
	}
}

// rows are the events of rows, one by one, with every field changed and with what is too long.
func (w *witness) rows() {
	w.write(`INSERT INTO chats (organization_id) SELECT id FROM organizations`, "chat:new")
	w.write(`INSERT INTO channels (organization_id, provider) SELECT id, 'telegram' FROM organizations`)
	w.write(`UPDATE chats SET channel = 'telegram', channel_id = (SELECT min(id) FROM channels), name = NULL, external_id = 'x', status = 'open', priority = 'high',
		assigned_user_id = (SELECT max(id) FROM users), unread_count = 3, last_message_at = now(), ticket_number = 7, tags = '{a,b}',
		created_at = 'infinity' WHERE id = (SELECT min(id) FROM chats)`, "chat:updated")
	w.write(`INSERT INTO chats (organization_id, name) SELECT id, repeat('x', 300000) FROM organizations`, "chat:new")
	w.write(`INSERT INTO messages (chat_id, content, type, media_url, filename, mime_type, size, quoted_content, external_id)
		SELECT min(id), repeat('x', 300000), 'image', 'https://a.example/', 'a.png', 'image/png', 7, 'q', 'e' FROM chats`, "message:new")
	w.write(`INSERT INTO messages (chat_id, timestamp) SELECT min(id), '-infinity' FROM chats`, "message:new")
	w.write(`INSERT INTO messages (chat_id, from_me, status, sender_user_id) SELECT min(c.id), true, 'pending', min(u.id) FROM chats c, users u`, "message:new")
	w.write(`UPDATE messages SET status = 'failed', error = 'no such phone' WHERE from_me`, "message:status")
	w.write(`UPDATE messages SET channel_id = (SELECT min(id) FROM channels), content = 'y', type = 'text', media_url = NULL, filename = NULL, mime_type = NULL, size = NULL,
		quoted_content = NULL, external_id = NULL, timestamp = now(), created_at = now(), quoted_message_id = id - 1, error = 'e'
		WHERE id = (SELECT max(id) FROM messages)`, "message:updated")
	w.write(`UPDATE messages SET is_read_by_operator = true`, "messages:read")
	w.write(`DELETE FROM messages`, "message:deleted")
	w.write(`INSERT INTO notifications (user_id, type, message, data) SELECT id, 'note', 'text', '["any", 1, {"a": null}]' FROM users`, "user:notification")
	w.write(`INSERT INTO notifications (user_id, message) SELECT max(id), repeat('x', 300000) FROM users`, "user:notification")
	w.write(`UPDATE notifications SET read_at = now()`, "notification:updated")
	w.write(`DELETE FROM notifications`, "notification:deleted")
	w.write(`INSERT INTO chat_members (chat_id, user_id) SELECT c.id, max(u.id) FROM chats c, users u WHERE restricted GROUP BY 1`, "chat:new")
	w.write(`DELETE FROM chat_members`, "chat:deleted")
	w.write(`SELECT notify_user(id, 'report:ready', '{"url": "/reports/7", "cursor": "mine"}') FROM users`, "report:ready")
	w.write(`SELECT broadcast_to_organization(id, 'lunch', '"soup"') FROM organizations`, "lunch")
}

// sums are those of bulk writes.
func (w *witness) sums() {
	w.write(`INSERT INTO messages (chat_id, content) SELECT min(c.id), g::text FROM chats c, generate_series(1, 250) g GROUP BY g`, "chats:updated")
	w.write(`BEGIN; SET LOCAL roombell.bulk_transaction_rows = '1'; INSERT INTO messages (chat_id) SELECT min(id) FROM chats;
		INSERT INTO messages (chat_id) SELECT min(id) FROM chats; INSERT INTO notifications (user_id) SELECT id FROM users; COMMIT`,
		"chats:updated", "notifications:updated")
	w.write(`INSERT INTO notifications (user_id) SELECT max(id) FROM users, generate_series(1, 250) g GROUP BY g`, "notifications:updated")
	w.write(`INSERT INTO chats (organization_id) SELECT id FROM organizations, generate_series(1, 600)`, "chats:updated")
	w.write(`UPDATE messages SET is_read_by_operator = true`, "messages:read")
	w.write(`DELETE FROM chats WHERE id = (SELECT max(id) FROM chats)`, "chat:deleted")
}

// resumes come back with good cursors and bad ones.
func (w *witness) resumes() {
	_, last := w.connect(w.staff, time.Hour, "")
	w.write(`INSERT INTO messages (chat_id, content) SELECT min(id), 'missed' FROM chats`, "message:new")
	w.hears(func() { w.connect(w.staff, time.Hour, last()) }, "sync:complete")
	w.hears(func() { w.connect(w.staff, time.Hour, "no cursor of ours") }, "sync:reset")
	w.write(`TRUNCATE notifications`, "sync:reset")
	// An eighth of this is how often a quiet client is told; the server asks for it once a minute, a new one at once.
	w.exec(`UPDATE roombell_settings SET retention = '2 seconds'`)
	before := w.count("sync:cursor")
	w.house.start(w.t)
	w.connect(w.staff, time.Hour, "")
	w.await("sync:cursor", before)
}

// ends are a token's, and the last socket's.
func (w *witness) ends() {
	w.hears(func() { w.connect(w.staff, 30*time.Second, "") }, "auth:expiring")
	other := w.id(`INSERT INTO users (organization_id, email) VALUES ($1, 'other@document.example') RETURNING id`, w.organization)
	var c *client.Conn
	w.hears(func() { c, _ = w.connect(other, time.Hour, "") }, "presence:changed")
	w.hears(func() {
		if err := c.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			w.t.Error(err)
		}
	}, "presence:changed")
}
