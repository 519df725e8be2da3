package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"roombell/internal/api"
	"roombell/internal/client"
)

// The walk goes over all routes of the OpenAPI document, as they are served by the real program, and holds against each that another
// organization's things, and restricted chats of one's own, are not there. A route that it has no answer for fails it: so that a new one
// cannot forget.

// foreignMark is in every text of the other organization, secretMark in those of our restricted chat.
const (
	foreignMark = "outlandish"
	secretMark  = "confidential"
	nobodysID   = 1 << 50
)

// things are one of each of what a path can name, by the word before the parameter: /chats/{id} names one of chats.
type things map[string]int64

// things makes them for an organization. The chat is restricted or not; nobody in particular is its member.
func (h *house) things(of tenant, mark string, restricted bool) things {
	h.t.Helper()
	channel := one[int64](h, `INSERT INTO channels (organization_id, provider, name) VALUES ($1, 'telegram', $2) RETURNING id`, of.id, mark)
	chat := one[int64](h, `INSERT INTO chats (organization_id, name, external_id, restricted, tags) VALUES ($1, $2, $2, $3, ARRAY[$2]) RETURNING id`, of.id, mark, restricted)
	message := one[int64](h, `INSERT INTO messages (chat_id, content, from_me, status) VALUES ($1, $2, true, 'pending') RETURNING id`, chat, mark)
	h.exec(`UPDATE messages SET status = 'failed', error = $2 WHERE id = $1`, message, mark)
	user := h.someone(of.id, fmt.Sprintf("%s-%d@%s.example", mark, chat, mark), "employee").id
	notification := one[int64](h, `INSERT INTO notifications (user_id, message, data) VALUES ($1, $2, jsonb_build_object('word', $2::text)) RETURNING id`, of.admin.id, mark)
	return things{"channels": channel, "chats": chat, "messages": message, "users": user, "notifications": notification}
}

// TestIsolation walks, each part with a program and a database of its own.
func TestIsolation(t *testing.T) {
	t.Parallel()
	dependOnSources(t)
	binary := filepath.Join(t.TempDir(), "roombell")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "roombell/cmd/roombell").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for name, walk := range map[string]func(*testing.T, *walker){
		"paths": isolationOfPaths, "bodies": isolationOfBodies, "lists": isolationOfLists, "what is live": isolationOfWhatIsLive,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			walk(t, newWalker(t, binary))
		})
	}
}

// dependOnSources looks at all folders that the program is made of: go test keeps results as long as what a test read itself is unchanged, and
// knows nothing of what it has built.
func dependOnSources(t *testing.T) {
	t.Helper()
	for _, top := range []string{"cmd", "db", "internal", "sql", "triggers"} {
		err := filepath.WalkDir(filepath.Join("..", "..", top), func(_ string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() && entry.Name() == "testdata" {
				return fs.SkipDir
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// program serves the house's database by the real program, in which presence, streams and the log are real as well.
func (h *house) program(binary string) {
	t := h.t
	t.Helper()
	url := h.pool.Config().ConnString()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), binary, "serve")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "DATABASE_URL=" + url, "ROOMBELL_JWT_SECRET=" + secret, "ROOMBELL_ADMIN_KEY=" + adminKey,
		"ROOMBELL_ADDR=127.0.0.1:0", "ROOMBELL_ADMIN_ADDR=127.0.0.1:0", "ROOMBELL_DRAIN=0s", "ROOMBELL_LOG_FORMAT=json"}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	address, read := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			var line struct{ Msg, Addr string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "serving" {
				address <- line.Addr
			}
			t.Log(lines.Text())
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-read
		_ = cmd.Wait()
	})
	select {
	case a := <-address:
		h.url = "http://" + a
	case <-time.After(time.Minute):
		t.Fatal("the program does not serve")
	case <-read:
		t.Fatal("the program ended")
	}
}

// ready waits until the log is heard.
func (h *house) ready() {
	h.t.Helper()
	h.eventually(func() error {
		r, err := h.client.Get(h.url + "/readyz")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if r.StatusCode != http.StatusOK {
			return fmt.Errorf("readyz says %d", r.StatusCode)
		}
		return nil
	})
}

func (h *house) eventually(f func() error) {
	h.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			h.t.Fatal(err)
		}
	}
}

// walker knows the document, and makes requests out of it.
type walker struct {
	*house
	specification
	operations []operation
	made       int
}

func newWalker(t *testing.T, binary string) *walker {
	t.Helper()
	h := newHouse(t)
	h.exec(`UPDATE organizations SET name = $2 WHERE id = $1`, h.theirs.id, foreignMark)
	h.exec(`UPDATE users SET name = $2 WHERE organization_id = $1`, h.theirs.id, foreignMark)
	h.program(binary)
	h.ready()
	w := &walker{house: h}
	w.specification, w.operations = specified(t)
	return w
}

var parameter = regexp.MustCompile(`([a-z-]+)/\{[A-Za-z]+\}`)

// fill puts ids into a path. It fails where a parameter names what things have not.
func (w *walker) fill(op operation, ids things) string {
	w.t.Helper()
	path := parameter.ReplaceAllStringFunc(op.path, func(found string) string {
		noun := parameter.FindStringSubmatch(found)[1]
		id, known := ids[noun]
		if !known {
			w.t.Errorf("%s %s: the walk has no foreign id for %s; give it one in things()", op.method, op.path, noun)
		}
		return fmt.Sprintf("%s/%d", noun, id)
	})
	if strings.Contains(path, "{") {
		w.t.Errorf("%s %s: the walk does not understand the path", op.method, op.path)
	}
	return strings.TrimPrefix(path, api.Prefix)
}

// resolve follows a reference.
func (w *walker) resolve(s schema) schema {
	if name, found := strings.CutPrefix(s.Ref, "#/components/schemas/"); found {
		return w.Components.Schemas[name]
	}
	return s
}

// reference says that a field holds ids of things of ours: externalId does not.
var reference = regexp.MustCompile(`^(id|ids|.*(Chat|Message|User|Channel|Notification|chat|message|user|channel|notification)Ids?)$`)

// sample makes a value that fits a schema: what is required, or one field when nothing is.
func (w *walker) sample(name string, s schema) any {
	s = w.resolve(s)
	if len(s.Examples) > 0 {
		return s.Examples[0]
	}
	if len(s.Enum) > 0 {
		return s.Enum[0]
	}
	switch s.kind() {
	case "object":
		return w.object(s)
	case "array":
		if s.Items == nil {
			return []any{}
		}
		return []any{w.sample(strings.TrimSuffix(name, "s"), *s.Items)}
	case "integer", "number":
		if strings.HasSuffix(strings.ToLower(name), "userid") {
			return w.ours.second.id
		}
		return 1
	case "boolean":
		return true
	}
	return w.text(name, s)
}

func (w *walker) text(name string, s schema) string {
	w.made++
	switch {
	case s.Format == "email":
		return fmt.Sprintf("walk-%d@walk.example", w.made)
	case s.Format == "date-time":
		return time.Now().UTC().Format(time.RFC3339)
	case strings.Contains(strings.ToLower(name), "url"):
		return "https://walk.example/a.png"
	}
	return fmt.Sprintf("walk %d %s", w.made, strings.Repeat("x", max(12, s.MinLength)))
}

func (w *walker) object(s schema) map[string]any {
	made := map[string]any{}
	for _, name := range s.Required {
		made[name] = w.sample(name, s.Properties[name])
	}
	if len(made) > 0 {
		return made
	}
	var names []string
	for name := range s.Properties {
		if !reference.MatchString(name) {
			names = append(names, name)
		}
	}
	if slices.Sort(names); len(names) > 0 {
		made[names[0]] = w.sample(names[0], s.Properties[names[0]])
	}
	return made
}

// kind is the type, null apart.
func (s schema) kind() string {
	switch t := s.Type.(type) {
	case string:
		return t
	case []any:
		for _, one := range t {
			if one != "null" {
				return fmt.Sprint(one)
			}
		}
	}
	return ""
}

// bodySchema is that of the JSON body, nil without one.
func (w *walker) bodySchema(op operation) *schema {
	if op.RequestBody == nil {
		return nil
	}
	media, has := op.RequestBody.Content["application/json"]
	if !has {
		return nil
	}
	s := w.resolve(media.Schema)
	return &s
}

// try makes the request that the document describes. change may alter the body.
func (w *walker) try(who someone, op operation, ids things, change ...func(body map[string]any)) answer {
	w.t.Helper()
	path := w.fill(op, ids)
	var body any
	if s := w.bodySchema(op); s != nil {
		made := w.sample("", *s)
		if object, ok := made.(map[string]any); ok {
			for _, f := range change {
				f(object)
			}
		}
		body = made
	}
	var headers, query []string
	for _, p := range op.Parameters {
		switch {
		case p.In == "header" && (p.Required || p.Name == "Idempotency-Key"):
			headers = append(headers, p.Name, strings.ReplaceAll(fmt.Sprint(w.text(p.Name, p.Schema)), " ", "-"))
		case p.In == "query" && p.Required:
			query = append(query, fmt.Sprintf("%s=%v", p.Name, w.sample(p.Name, p.Schema)))
		}
	}
	if len(query) > 0 {
		path += "?" + strings.Join(query, "&")
	}
	return w.request(who, op.method, path, body, headers...)
}

func (op operation) names() bool  { return strings.Contains(op.path, "{") }
func (op operation) stream() bool { return strings.HasSuffix(op.path, "/stream") }
func (op operation) forRoles() bool {
	return strings.Contains(op.Description, "For admins.") || strings.Contains(op.Description, "For managers and admins.")
}

// users says that the route takes a user's token.
func (op operation) users() bool {
	for _, s := range op.Security {
		if _, has := s["token"]; has {
			return true
		}
	}
	return false
}

// state is all that an organization has, so that a write that was refused can be seen to have done nothing.
func (h *house) state(organizationID int64) string {
	h.t.Helper()
	return one[string](h, `SELECT md5(concat(
		(SELECT jsonb_agg(to_jsonb(t) ORDER BY id) FROM users t WHERE organization_id = $1),
		(SELECT jsonb_agg(to_jsonb(t) ORDER BY id) FROM channels t WHERE organization_id = $1),
		(SELECT jsonb_agg(to_jsonb(t) - '{unread_count,last_message_at,updated_at}'::text[] ORDER BY id) FROM chats t WHERE organization_id = $1),
		(SELECT jsonb_agg(to_jsonb(t) ORDER BY chat_id, user_id) FROM chat_members t WHERE organization_id = $1),
		(SELECT jsonb_agg(to_jsonb(t) ORDER BY id) FROM messages t WHERE organization_id = $1),
		(SELECT jsonb_agg(to_jsonb(t) ORDER BY id) FROM notifications t WHERE organization_id = $1)))`, organizationID)
}

// isolationOfPaths asks each route for what is another organization's, and for what belongs to a restricted chat.
func isolationOfPaths(t *testing.T, w *walker) {
	foreign, hidden := w.things(w.theirs, foreignMark, false), w.things(w.ours, secretMark, true)
	nobodys := things{}
	for noun := range foreign {
		nobodys[noun] = nobodysID
	}
	theirs := w.state(w.theirs.id)
	walked := 0
	for _, op := range w.operations {
		if !op.names() || !op.users() {
			continue
		}
		walked++
		name := op.method + " " + op.path
		// Its positive half: one of our own is there, so that it is not the request that is wrong.
		if a := w.try(w.ours.admin, op, w.things(w.ours, "own", false)); a.status == http.StatusNotFound || a.status == http.StatusUnprocessableEntity || a.status >= 500 {
			t.Errorf("%s of our own: %d %s", name, a.status, a.body)
		}
		absent := w.try(w.ours.admin, op, nobodys)
		if there := w.try(w.ours.admin, op, foreign); there.status != http.StatusNotFound || !bytes.Equal(absent.body, there.body) {
			t.Errorf("%s of another organization: %d %s; of nobody: %d %s", name, there.status, there.body, absent.status, absent.body)
		}
		for _, who := range []someone{w.ours.employee, w.ours.manager} {
			w.notThere(op, who, foreign)
			if strings.Contains(op.path, "/chats/{") || strings.Contains(op.path, "/messages/{") {
				before := w.state(w.ours.id)
				w.notThere(op, who, hidden)
				if w.state(w.ours.id) != before {
					t.Errorf("%s changed a restricted chat", name)
				}
			}
		}
	}
	if w.state(w.theirs.id) != theirs {
		t.Error("something of the other organization was changed")
	}
	if walked == 0 {
		t.Error("no route was walked")
	}
	t.Logf("%d routes with ids", walked)
}

// notThere wants 404, or 403 where a role is asked for before anything is looked up.
func (w *walker) notThere(op operation, who someone, ids things) {
	w.t.Helper()
	a := w.try(who, op, ids)
	if a.status == http.StatusNotFound || a.status == http.StatusForbidden && op.forRoles() {
		return
	}
	w.t.Errorf("%s %s as %s: %d %s", op.method, op.path, who.email, a.status, a.body)
}

// ignoresStrangers are the lists of ids that may name what is not there.
var ignoresStrangers = []string{"messageIds"}

// isolationOfBodies puts foreign ids where bodies and queries point to things.
func isolationOfBodies(t *testing.T, w *walker) {
	foreign := w.things(w.theirs, foreignMark, false)
	theirs := w.state(w.theirs.id)
	for _, op := range w.operations {
		if !op.users() || op.stream() {
			continue
		}
		if s := w.bodySchema(op); s != nil {
			for field, f := range s.Properties {
				if reference.MatchString(field) {
					w.pointAbroad(op, field, w.resolve(f).kind() == "array", foreign)
				}
			}
		}
		for _, p := range op.Parameters {
			if p.In == "query" && reference.MatchString(p.Name) {
				w.askAbroad(op, p.Name, foreign)
			}
		}
	}
	if w.state(w.theirs.id) != theirs {
		t.Error("something of the other organization was changed")
	}
}

// abroad is the foreign id that fits a field: of the noun that its name ends with.
func (w *walker) abroad(op operation, field string, foreign things) int64 {
	w.t.Helper()
	for noun, id := range foreign {
		if strings.Contains(strings.ToLower(field), strings.TrimSuffix(noun, "s")) {
			return id
		}
	}
	w.t.Errorf("%s %s: the walk does not know what %s points to", op.method, op.path, field)
	return nobodysID
}

func (w *walker) pointAbroad(op operation, field string, list bool, foreign things) {
	w.t.Helper()
	id := w.abroad(op, field, foreign)
	a := w.try(w.ours.admin, op, w.things(w.ours, "own", false), func(body map[string]any) {
		body[field] = id
		if list {
			body[field] = []int64{id}
		}
	})
	refused := a.status >= 400 && a.status < 500
	if !refused && !slices.Contains(ignoresStrangers, field) || a.status >= 500 {
		w.t.Errorf("%s %s with a foreign %s: %d %s", op.method, op.path, field, a.status, a.body)
	}
	w.clean(op, w.ours.admin, a, foreignMark)
}

func (w *walker) askAbroad(op operation, parameter string, foreign things) {
	w.t.Helper()
	path := fmt.Sprintf("%s?%s=%d", w.fill(op, w.things(w.ours, "own", false)), parameter, w.abroad(op, parameter, foreign))
	a := w.request(w.ours.admin, op.method, path, nil)
	if a.status >= 500 {
		w.t.Errorf("%s %s: %d %s", op.method, path, a.status, a.body)
	}
	w.clean(op, w.ours.admin, a, foreignMark)
}

// clean wants an answer without a word of what its reader may not see.
func (w *walker) clean(op operation, who someone, a answer, mark string) {
	w.t.Helper()
	if bytes.Contains(a.body, []byte(mark)) || mark == foreignMark && bytes.Contains(a.body, []byte("@theirs.example")) {
		w.t.Errorf("%s %s shows %s what is %s: %s", op.method, op.path, who.email, mark, a.body)
	}
}

// noWords are the lists that have no word of the organization, but its figures.
var noWords = []string{"/api/v1/stats", "/api/v1/presence"}

// isolationOfLists reads every list, with all pages and searches, as different people.
func isolationOfLists(t *testing.T, w *walker) {
	w.things(w.theirs, foreignMark, false)
	w.things(w.theirs, foreignMark, true)
	hidden := w.things(w.ours, secretMark, true)
	w.exec(`DELETE FROM notifications WHERE id = $1`, hidden["notifications"])
	w.exec(`UPDATE users SET name = 'own', email = 'own-' || id || '@own.example' WHERE id = $1`, hidden["users"])
	w.exec(`UPDATE channels SET name = 'own' WHERE id = $1`, hidden["channels"])
	w.things(w.ours, "own", false)
	for _, op := range w.operations {
		if op.method != http.MethodGet || op.names() || op.stream() || !op.users() {
			continue
		}
		// Its positive half: who may see it does.
		if found := w.read(op, w.theirs.admin); !slices.Contains(noWords, op.path) && !strings.Contains(found, foreignMark) {
			t.Errorf("%s shows nothing to those whose it is: %.300s", op.path, found)
		}
		for _, who := range []someone{w.ours.admin, w.ours.manager, w.ours.employee} {
			found := answer{body: []byte(w.read(op, who))}
			w.clean(op, who, found, foreignMark)
			if who != w.ours.admin {
				w.clean(op, who, found, secretMark)
			}
		}
	}
	if found := w.request(w.ours.admin, "GET", "/chats?limit=200", nil); !bytes.Contains(found.body, []byte(secretMark)) {
		t.Errorf("an admin does not see the restricted chat: %s", found.body)
	}
}

// read reads a list to its end, and what a search in it finds.
func (w *walker) read(op operation, who someone) string {
	w.t.Helper()
	var all strings.Builder
	for _, query := range w.queries(op) {
		cursor := ""
		for range 50 {
			a := w.request(who, "GET", strings.TrimPrefix(op.path, api.Prefix)+"?"+query+cursor, nil)
			if a.status == http.StatusForbidden && op.forRoles() {
				break
			}
			a.want(w.t, 200, "")
			all.Write(a.body)
			page := decode[struct{ NextCursor *string }](w.t, a)
			if page.NextCursor == nil {
				break
			}
			cursor = "&cursor=" + *page.NextCursor
		}
	}
	return all.String()
}

func (w *walker) queries(op operation) []string {
	queries := []string{""}
	for _, p := range op.Parameters {
		if p.In == "query" && p.Name == "q" {
			queries = append(queries, "q="+foreignMark, "q="+secretMark)
		}
	}
	return queries
}

// isolationOfWhatIsLive has people of both organizations there: presence, figures and streams tell of one's own alone.
func isolationOfWhatIsLive(t *testing.T, w *walker) {
	hidden := w.things(w.ours, secretMark, true)
	foreign := w.things(w.theirs, foreignMark, false)
	streams := map[string]*listening{}
	for _, op := range w.operations {
		if op.stream() {
			streams[op.path] = w.listen(op, w.ours.employee)
		}
	}
	if len(streams) == 0 {
		t.Fatal("the document has no stream")
	}
	for _, who := range []someone{w.ours.employee, w.theirs.admin, w.theirs.second} {
		w.comeOnline(who)
	}
	presence := w.request(w.ours.admin, "GET", "/presence", nil).want(t, 200, "")
	for _, u := range decode[api.PresenceList](t, presence).Users {
		if u.UserID != w.ours.employee.id {
			t.Errorf("presence shows user %d", u.UserID)
		}
	}
	ours := decode[api.Figures](t, w.request(w.ours.admin, "GET", "/stats", nil).want(t, 200, ""))
	if ours.Connections != 1 || ours.UsersOnline != 1 || ours.Scope != "organization" {
		t.Errorf("with one of us and two others: %+v", ours)
	}

	w.exec(`UPDATE messages SET content = content || ' again' WHERE chat_id = ANY ($1)`, []int64{hidden["chats"], foreign["chats"]})
	w.exec(`SELECT broadcast_to_organization($1, 'word', jsonb_build_object('word', $2::text))`, w.theirs.id, foreignMark)
	w.exec(`SELECT notify_user($1, 'word', jsonb_build_object('word', $2::text))`, w.ours.admin.id, secretMark)
	w.exec(`SELECT broadcast_to_organization($1, 'last', '{}')`, w.ours.id)
	for path, stream := range streams {
		heard := stream.until("last")
		if strings.Contains(heard, foreignMark) || strings.Contains(heard, secretMark) {
			t.Errorf("%s tells what is not this user's: %s", path, heard)
		}
	}
}

// comeOnline opens a socket until the test ends.
func (w *walker) comeOnline(who someone) {
	w.t.Helper()
	c, err := client.Dial(w.t.Context(), client.Options{URL: w.url, Token: who.token})
	if err != nil {
		w.t.Fatal(err)
	}
	ended, connected := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for first := sync.OnceFunc(func() { close(connected) }); ; first() {
			if _, err := c.Next(); err != nil {
				return
			}
		}
	}()
	w.t.Cleanup(func() {
		c.Close()
		<-ended
	})
	select {
	case <-connected:
	case <-time.After(time.Minute):
		w.t.Fatal("no connected")
	}
}

// listening is a stream of server-sent events.
type listening struct {
	t     testing.TB
	lines chan string
}

func (w *walker) listen(op operation, who someone) *listening {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	r, err := http.NewRequestWithContext(ctx, op.method, w.url+op.path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+who.token)
	response, err := w.client.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		w.t.Fatalf("%s: %d", op.path, response.StatusCode)
	}
	l := &listening{t: w.t, lines: make(chan string, 1000)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(l.lines)
		defer response.Body.Close()
		for lines := bufio.NewScanner(response.Body); lines.Scan(); {
			select {
			case l.lines <- lines.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	w.t.Cleanup(func() {
		cancel()
		<-ended
	})
	return l
}

// until returns what was heard up to an event.
func (l *listening) until(event string) string {
	l.t.Helper()
	var heard strings.Builder
	deadline := time.After(time.Minute)
	for {
		select {
		case line, open := <-l.lines:
			heard.WriteString(line + "\n")
			if line == "event: "+event {
				return heard.String()
			}
			if !open {
				l.t.Fatalf("the stream ended: %s", heard.String())
			}
		case <-deadline:
			l.t.Fatalf("%s was not heard: %s", event, heard.String())
		}
	}
}
