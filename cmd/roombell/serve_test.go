package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"roombell/db"
	"roombell/internal/auth"
	"roombell/internal/client"
	"roombell/internal/postgres"
	"roombell/internal/postgres/dbtest"
)

// people is an organization with an employee and a chat.
type people struct{ organization, user, chat int64 }

func newPeople(t *testing.T, d *dbtest.DB, email string) people {
	t.Helper()
	var p people
	err := d.Pool.QueryRow(t.Context(), `
		WITH o AS (INSERT INTO organizations (name) VALUES ('test') RETURNING id),
		     u AS (INSERT INTO users (organization_id, email) SELECT id, $1 FROM o RETURNING id)
		SELECT o.id, u.id FROM o, u`, email).Scan(&p.organization, &p.user)
	if err == nil {
		err = d.Pool.QueryRow(t.Context(), `INSERT INTO chats (organization_id, name) VALUES ($1, 'test') RETURNING id`, p.organization).Scan(&p.chat)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (p people) token(t *testing.T) string {
	t.Helper()
	issuer, err := auth.NewIssuer([]byte(testSecret), auth.Claims{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := issuer.Issue(auth.Identity{UserID: p.user, OrganizationID: p.organization}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func exec1(t *testing.T, d *dbtest.DB, statement string, args ...any) {
	t.Helper()
	if _, err := d.Pool.Exec(t.Context(), statement, args...); err != nil {
		t.Fatal(err)
	}
}

// connect opens a client and waits until it is in its rooms.
func connect(t *testing.T, url, token string) *client.Conn {
	t.Helper()
	conn, err := client.Dial(t.Context(), client.Options{URL: url, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	next(t, conn, "connected")
	return conn
}

// next reads until an event of that name.
func next(t *testing.T, conn *client.Conn, name string) client.Event {
	t.Helper()
	guard := time.AfterFunc(limit, func() { _ = conn.Close() })
	defer guard.Stop()
	for {
		event, err := conn.Next()
		if err != nil {
			t.Fatalf("waiting for %s: %v", name, err)
		}
		if event.Name == name {
			return event
		}
	}
}

func TestServe(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	p, others := newPeople(t, d, "ann@a.example"), newPeople(t, d, "bob@b.example")
	s := serve(t, []string{"DATABASE_URL=" + d.URL})
	s.awaitReady(http.StatusOK, `"status":"ok"`)
	conn, other := connect(t, s.public, p.token(t)), connect(t, s.public, others.token(t))

	exec1(t, d, `INSERT INTO messages (chat_id, content) VALUES ($1, 'for a')`, p.chat)
	exec1(t, d, `INSERT INTO messages (chat_id, content) VALUES ($1, 'for b')`, others.chat)
	for content, conn := range map[string]*client.Conn{"for a": conn, "for b": other} {
		event := next(t, conn, "message:new")
		var message struct{ Content string }
		if err := json.Unmarshal(event.Payload, &message); err != nil || message.Content != content || event.Cursor == "" {
			t.Errorf("got %s, want the message %q", event.Payload, content)
		}
	}
	// The projector's turn.
	var changed struct {
		ID          int64
		UnreadCount int
	}
	if err := json.Unmarshal(next(t, conn, "chat:updated").Payload, &changed); err != nil || changed.ID != p.chat || changed.UnreadCount != 1 {
		t.Errorf("chat:updated says %+v, %v", changed, err)
	}

	for path, want := range map[string]string{"/healthz": `{"status":"ok"}`, "/readyz": `"listen":"ok"`, "/metrics": "roombell_", "/debug/pprof/": "goroutine"} {
		if code, body := get(t, s.admin+path); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("admin %s: %d, %.200s", path, code, body)
		}
	}
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/metrics": 404, "/debug/pprof/": 404, "/": 404} {
		if code, _ := get(t, s.public+path); code != want {
			t.Errorf("public %s: %d, want %d", path, code, want)
		}
	}
}

// At a stop the transport is closed, without a disconnect packet: a standard client comes back.
func TestServeStopsOnSignals(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	p := newPeople(t, d, "ann@a.example")
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		s := serve(t, []string{"DATABASE_URL=" + d.URL})
		s.awaitReady(http.StatusOK, "")
		var conns []*client.Conn
		for range 20 {
			conns = append(conns, connect(t, s.public, p.token(t)))
		}
		code, took := s.stop(signal)
		if code != exitDone || took > 20*time.Second {
			t.Errorf("%v: exit %d after %v", signal, code, took)
		}
		for _, conn := range conns {
			for {
				_, err := conn.Next()
				if err == nil {
					continue
				}
				if errors.Is(err, client.ErrDisconnected) {
					t.Errorf("%v: a disconnect packet", signal)
				}
				break
			}
		}
		if last := s.output()[len(s.output())-1]; !strings.Contains(last, `"msg":"stopped"`) {
			t.Errorf("%v: the last word is %s", signal, last)
		}
	}
}

// A stop while nothing works yet is as clean.
func TestServeStopsWhileWaiting(t *testing.T) {
	t.Parallel()
	s := serve(t, []string{"DATABASE_URL=postgres://x@127.0.0.1:1/x"}, "--migrate")
	s.awaitReady(http.StatusServiceUnavailable, "the database cannot be reached")
	if code, took := s.stop(syscall.SIGTERM); code != exitDone || took > 20*time.Second {
		t.Errorf("exit %d after %v", code, took)
	}
}

func TestServeWaitsForPostgres(t *testing.T) {
	t.Parallel()
	cluster := dbtest.Cluster(t)
	if err := cluster.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := serve(t, []string{"DATABASE_URL=" + cluster.URL(postgres.Name)}, "--migrate")
	s.awaitReady(http.StatusServiceUnavailable, "the database cannot be reached")
	if code, body := get(t, s.public+"/healthz"); code != http.StatusOK {
		t.Errorf("/healthz while waiting: %d %s", code, body)
	}
	if code, body := get(t, s.public+"/readyz"); strings.Contains(body, "roombell@") || strings.Contains(body, "dial") || code == 200 {
		t.Errorf("the public address tells where the database is: %s", body)
	}
	if err := cluster.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.awaitReady(http.StatusOK, `"migrations":"ok"`)

	if err := cluster.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.awaitReady(http.StatusServiceUnavailable, "the database cannot be reached")
	if err := cluster.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.awaitReady(http.StatusOK, "")
}

func TestServeBeforeItsMigrations(t *testing.T) {
	t.Parallel()
	d := dbtest.Empty(t)
	env := []string{"DATABASE_URL=" + d.URL}
	s := serve(t, env)
	s.awaitReady(http.StatusServiceUnavailable, "migrations are pending: run roombell migrate up")
	must(t, append(env, "ROOMBELL_RETENTION=48h"), "", "migrate", "up")
	s.awaitReady(http.StatusOK, "")
	s.awaitText("another time than ROOMBELL_RETENTION says")
	p := newPeople(t, d, "ann@a.example")
	conn := connect(t, s.public, p.token(t))
	exec1(t, d, `SELECT notify_user($1, 'hello', '{}')`, p.user)
	next(t, conn, "hello")
}

func TestServePortTaken(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	env := []string{"DATABASE_URL=postgres://x@127.0.0.1:1/x", "ROOMBELL_JWT_SECRET=" + testSecret, "ROOMBELL_ADMIN_ADDR=127.0.0.1:0"}
	r := roombell(t, env, "", "serve", "--addr", l.Addr().String())
	if r.code != exitFailed || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, "address already in use") {
		t.Errorf("exit %d: %s", r.code, r.stderr)
	}
}

// A database that is there and refuses is no reason to wait.
func TestServeMigrateRefused(t *testing.T) {
	t.Parallel()
	d := dbtest.Empty(t)
	exec1(t, d, `CREATE TABLE organizations (name text)`) // somebody else's
	env := []string{"DATABASE_URL=" + d.URL, "ROOMBELL_JWT_SECRET=" + testSecret, "ROOMBELL_ADDR=127.0.0.1:0", "ROOMBELL_ADMIN_ADDR=127.0.0.1:0"}
	r := roombell(t, env, "", "serve", "--migrate")
	if lines := strings.Split(strings.TrimSpace(r.stderr), "\n"); r.code != exitFailed || !strings.Contains(lines[len(lines)-1], "roombell: migrations: ") {
		t.Errorf("exit %d: %s", r.code, r.stderr)
	}
}

func TestServeTLS(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	dir := t.TempDir()
	certFile, keyFile := writePair(t, dir, 1, time.Now())
	s := serve(t, []string{"DATABASE_URL=" + d.URL, "ROOMBELL_TLS_CERT=" + certFile, "ROOMBELL_TLS_KEY=" + keyFile})
	addr := strings.TrimPrefix(s.public, "http://")
	serial := func() (int64, error) {
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: limit}, "tcp", addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64(), nil
	}
	if got, err := serial(); err != nil || got != 1 {
		t.Fatalf("serial %d, %v", got, err)
	}
	writePair(t, dir, 2, time.Now().Add(time.Minute))
	eventually(t, func() error {
		got, err := serial()
		if err == nil && got != 2 {
			err = fmt.Errorf("serial %d", got)
		}
		return err
	})
}

func TestMigrateFromSeveralProcesses(t *testing.T) {
	t.Parallel()
	d := dbtest.Empty(t)
	env := []string{"DATABASE_URL=" + d.URL}
	if out := must(t, env, "", "migrate", "status"); !strings.Contains(out, "pending") {
		t.Errorf("status of an empty database: %s", out)
	}
	results := make(chan result, 4)
	for range cap(results) {
		go func() { results <- roombell(t, env, "", "migrate", "up") }()
	}
	for range cap(results) {
		if r := <-results; r.code != exitDone || !strings.HasPrefix(r.stdout, "up to date: ") {
			t.Errorf("exit %d: %s%s", r.code, r.stdout, r.stderr)
		}
	}
	if out := must(t, env, "", "migrate", "status"); strings.Contains(out, "pending") || !strings.Contains(out, "00001_") {
		t.Errorf("status: %s", out)
	}

	if r := roombell(t, env, "n\n", "migrate", "down"); r.code != exitFailed || !strings.Contains(r.stderr, "[y/N]") {
		t.Errorf("down without a yes: exit %d, %s", r.code, r.stderr)
	}
	if r := roombell(t, env, "", "migrate", "down"); r.code != exitFailed {
		t.Errorf("down without an answer: exit %d, %s", r.code, r.stderr)
	}
	if out := must(t, env, "", "migrate", "status"); strings.Contains(out, "pending") {
		t.Errorf("down was done all the same: %s", out)
	}
	must(t, env, "y\n", "migrate", "down")
	if out := must(t, env, "", "migrate", "status"); strings.Count(out, "pending") != 1 {
		t.Errorf("status after one step down: %s", out)
	}
	must(t, env, "", "migrate", "down", "--yes")
	must(t, env, "", "migrate", "up")
}

func TestMigrateWithoutAServer(t *testing.T) {
	t.Parallel()
	r := roombell(t, []string{"DATABASE_URL=postgres://x:hunter2@127.0.0.1:1/x"}, "", "migrate", "up")
	if r.code != exitFailed || strings.Count(r.stderr, "\n") != 1 || strings.Contains(r.stderr, "hunter2") {
		t.Errorf("exit %d: %s", r.code, r.stderr)
	}
}

func TestToken(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	p := newPeople(t, d, "ann@a.example")
	env := []string{"DATABASE_URL=" + d.URL, "ROOMBELL_JWT_SECRET=" + testSecret}
	token := must(t, env, "", "token", "--user", strconv.FormatInt(p.user, 10), "--ttl", "2h")
	verifier, err := auth.NewVerifier(auth.Options{Secret: []byte(testSecret)})
	if err != nil {
		t.Fatal(err)
	}
	id, err := verifier.Verify(t.Context(), token)
	if left := time.Until(id.ExpiresAt); err != nil || id.UserID != p.user || id.OrganizationID != p.organization || id.Email != "ann@a.example" ||
		id.Role != "employee" || left < time.Hour || left > 2*time.Hour {
		t.Errorf("%+v, %v", id, err)
	}
	// The same from files, as orchestrators mount secrets.
	var files []string
	for i, entry := range env {
		name, value, _ := strings.Cut(entry, "=")
		file := filepath.Join(t.TempDir(), strconv.Itoa(i))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, name+"_FILE="+file)
	}
	if _, err := verifier.Verify(t.Context(), must(t, files, "", "token", "--user", strconv.FormatInt(p.user, 10))); err != nil {
		t.Error(err)
	}
	if r := roombell(t, append(files, env...), "", "version"); r.code != exitUsage || !strings.Contains(r.stderr, "are both set") {
		t.Errorf("a secret twice: exit %d, %s", r.code, r.stderr)
	}
	if r := roombell(t, env, "", "token", "--user", "999"); r.code != exitFailed || r.stderr != "roombell: there is no user 999\n" {
		t.Errorf("exit %d: %s", r.code, r.stderr)
	}
	exec1(t, d, `UPDATE users SET active = false`)
	if r := roombell(t, env, "", "token", "--user", strconv.FormatInt(p.user, 10)); r.code != exitFailed || !strings.Contains(r.stderr, "disabled") {
		t.Errorf("exit %d: %s", r.code, r.stderr)
	}
}

func TestTail(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	p := newPeople(t, d, "ann@a.example")
	env := []string{"DATABASE_URL=" + d.URL}
	s := serve(t, env)
	s.awaitReady(http.StatusOK, "")

	chat := strconv.FormatInt(p.chat, 10)
	asJSON := start(t, []string{"ROOMBELL_TOKEN=" + p.token(t)}, "tail", "--url", s.public, "--json", "--chat", chat, "--chat", "999")
	plainCommand := command(t, nil, "tail", "--url", s.public, "--token", "-")
	plainCommand.Stdin = strings.NewReader(p.token(t) + "\n")
	plain := startCommand(t, plainCommand)
	asJSON.awaitText(`"event":"subscribed:chat"`)
	asJSON.await("the chat that is not there", 0, func(line string) bool { return strings.HasPrefix(line, "chat 999: ") })
	plain.awaitText("  connected ")

	exec1(t, d, `INSERT INTO messages (chat_id, content) VALUES ($1, 'first')`, p.chat)
	asJSON.awaitText(`"content":"first"`)
	plain.await("the message", 0, func(line string) bool {
		return strings.Contains(line, "  message:new ") && strings.Contains(line, `content="first"`) && !strings.Contains(line, "\x1b")
	})

	// The service goes and comes back on its port: tail waits and goes on.
	addr := strings.TrimPrefix(s.public, "http://")
	if code, _ := s.stop(syscall.SIGTERM); code != exitDone {
		t.Errorf("exit %d", code)
	}
	plain.awaitText("trying again in")
	again := serve(t, append(env, "ROOMBELL_ADDR="+addr))
	again.awaitReady(http.StatusOK, "")
	lost := func(line string) bool { return strings.HasPrefix(line, "connected to ") }
	_, first := plain.await("the first connection", 0, lost)
	plain.await("the second connection", first+1, lost)
	_, first = plain.await("the first connected event", 0, func(line string) bool { return strings.Contains(line, "  connected ") })
	plain.await("the second connected event", first+1, func(line string) bool { return strings.Contains(line, "  connected ") })
	exec1(t, d, `INSERT INTO messages (chat_id, content) VALUES ($1, 'second')`, p.chat)
	plain.awaitText(`content="second"`)

	if code, _ := plain.stop(syscall.SIGINT); code != exitDone {
		t.Errorf("interrupted: exit %d", code)
	}
}

func TestTailRefused(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	newPeople(t, d, "ann@a.example")
	s := serve(t, []string{"DATABASE_URL=" + d.URL})
	s.awaitReady(http.StatusOK, "")
	r := roombell(t, []string{"ROOMBELL_TOKEN=nonsense"}, "", "tail", "--url", s.public)
	if r.code != exitFailed || r.stderr != "roombell: Authentication error: Invalid token\n" {
		t.Errorf("exit %d: %s", r.code, r.stderr)
	}
	missing := people{organization: 99, user: 99}
	r = roombell(t, []string{"ROOMBELL_TOKEN=" + missing.token(t)}, "", "tail", "--url", s.public)
	if r.code != exitFailed || r.stderr != "roombell: Authentication error: Invalid token\n" {
		t.Errorf("exit %d: %s", r.code, r.stderr)
	}
}

// A user who is disabled gets the packet, and tail ends.
func TestTailOfADisabledUser(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	p := newPeople(t, d, "ann@a.example")
	s := serve(t, []string{"DATABASE_URL=" + d.URL})
	s.awaitReady(http.StatusOK, "")
	tail := start(t, []string{"ROOMBELL_TOKEN=" + p.token(t)}, "tail", "--url", s.public)
	tail.awaitText("  connected ")
	exec1(t, d, `UPDATE users SET active = false`)
	tail.awaitText("roombell: disconnected by the server")
	if err := <-tail.ended; tail.cmd.ProcessState.ExitCode() != exitFailed {
		t.Errorf("ended with %v", err)
	} else {
		tail.ended <- err
	}
}

func TestBench(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	env := []string{"DATABASE_URL=" + d.URL, "ROOMBELL_JWT_SECRET=" + testSecret}
	s := serve(t, env)
	s.awaitReady(http.StatusOK, "")
	out := must(t, env, "", "bench", "--url", s.public, "--clients", "4", "--rates", "20", "--duration", "1s", "--json")
	if !json.Valid([]byte(out)) {
		t.Errorf("no JSON: %s", out)
	}
	var left int
	if err := d.Pool.QueryRow(t.Context(), `SELECT count(*) FROM organizations`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d organizations are left, %v", left, err)
	}
}

func TestAdmin(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	env := []string{"DATABASE_URL=" + d.URL}
	organization := must(t, env, "", "admin", "create-organization", "--name", "Acme")
	user := must(t, env, "correct horse\n", "admin", "create-user", "--organization", organization, "--email", "Ann@Acme.example", "--role", "admin", "--name", "Ann")
	must(t, env, "", "admin", "create-user", "--organization", organization, "--email", "sso@acme.example", "--no-password")

	ctx := context.WithoutCancel(t.Context())
	row, err := db.New(d.Pool).GetUserByEmail(ctx, "ann@acme.example")
	if err != nil || strconv.FormatInt(row.ID, 10) != user || row.Role != "admin" || row.Name != "Ann" {
		t.Fatalf("%+v, %v", row, err)
	}
	if err := auth.CheckPassword(*row.PasswordHash, "correct horse"); err != nil {
		t.Error(err)
	}
	must(t, env, "battery staple", "admin", "set-password", "--email", "ANN@acme.example")
	if row, err = db.New(d.Pool).GetUserByEmail(ctx, "ann@acme.example"); err != nil {
		t.Fatal(err)
	}
	if err := auth.CheckPassword(*row.PasswordHash, "battery staple"); err != nil {
		t.Error(err)
	}
	for _, test := range []struct {
		says string
		args []string
	}{
		{"there is a user ann@acme.example already", []string{"create-user", "--organization", organization, "--email", "ann@acme.example"}},
		{"there is no organization 99", []string{"create-user", "--organization", "99", "--email", "x@acme.example"}},
		{"there is no user nobody@acme.example", []string{"set-password", "--email", "nobody@acme.example"}},
		{"there is no chat 99, neither in the tables nor in the event log", []string{"forget", "--chat", "99"}},
	} {
		if r := roombell(t, env, "correct horse\n", append([]string{"admin"}, test.args...)...); r.code != exitFailed || r.stderr != "roombell: "+test.says+"\n" {
			t.Errorf("exit %d: %s", r.code, r.stderr)
		}
	}
}

func TestForget(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	p, others := newPeople(t, d, "ann@a.example"), newPeople(t, d, "bob@b.example")
	env := []string{"DATABASE_URL=" + d.URL}
	for _, q := range []people{p, others} {
		exec1(t, d, `INSERT INTO messages (chat_id, content) VALUES ($1, 'hunter2 of ' || $1::bigint)`, q.chat)
		exec1(t, d, `UPDATE chats SET name = 'hunter2' WHERE id = $1`, q.chat)
		exec1(t, d, `INSERT INTO idempotency_keys (organization_id, user_id, key, request, status, answer)
			SELECT organization_id, u.id, 'k', '', 202, json_build_object('chatId', c.id, 'content', 'hunter2') FROM chats c JOIN users u USING (organization_id) WHERE c.id = $1`, q.chat)
		exec1(t, d, `INSERT INTO notifications (user_id, message) VALUES ($1, 'hunter2 for you')`, q.user)
		exec1(t, d, `SELECT notify_user($1, 'word', '{"password": "hunter2"}')`, q.user)
		exec1(t, d, `SELECT broadcast_to_organization($1, 'word', '{"password": "hunter2"}')`, q.organization)
	}
	// leaks counts the rows of the log that still say it.
	leaks := func(condition string, id int64) (n int) {
		t.Helper()
		err := d.Pool.QueryRow(t.Context(), `SELECT count(*) FROM event_log WHERE payload::text LIKE '%hunter2%' AND `+condition, id).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	count := func(query string, id int64) (n int) {
		t.Helper()
		if err := d.Pool.QueryRow(t.Context(), query, id).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := leaks("organization_id = $1", others.organization)
	if before < 5 || leaks("chat_id = $1", p.chat) < 2 || leaks("user_id = $1", p.user) < 2 {
		t.Fatalf("the log does not hold what is to be forgotten")
	}

	must(t, env, "", "admin", "forget", "--chat", strconv.FormatInt(p.chat, 10))
	if n := leaks("chat_id = $1", p.chat); n != 0 {
		t.Errorf("%d events of the chat are left", n)
	}
	if n := count(`SELECT count(*) FROM idempotency_keys WHERE answer->>'chatId' = $1::bigint::text`, p.chat); n != 0 {
		t.Errorf("%d kept answers are left", n)
	}
	if n := count(`SELECT count(*) FROM idempotency_keys WHERE answer->>'chatId' = $1::bigint::text`, others.chat); n == 0 {
		t.Error("another's answer is gone")
	}
	if n := count(`SELECT count(*) FROM messages WHERE chat_id = $1`, p.chat); n != 0 {
		t.Errorf("%d messages are left", n)
	}
	if n := count(`SELECT count(*) FROM event_log WHERE event = 'chat:deleted' AND chat_id = $1`, p.chat); n != 1 {
		t.Errorf("clients are told %d times that the chat is gone", n)
	}
	must(t, env, "", "admin", "forget", "--user", strconv.FormatInt(p.user, 10))
	if n := leaks("user_id = $1", p.user); n != 0 {
		t.Errorf("%d events of the user are left", n)
	}
	if n := count(`SELECT count(*) FROM event_log WHERE kind = 'user' AND user_id = $1`, p.user); n != 1 {
		t.Errorf("the sockets are told %d times that the user is gone", n)
	}
	must(t, env, "", "admin", "forget", "--organization", strconv.FormatInt(p.organization, 10))
	if n := leaks("organization_id = $1", p.organization); n != 0 {
		t.Errorf("%d events of the organization are left", n)
	}
	if n := count(`SELECT count(*) FROM organizations WHERE id = $1`, p.organization); n != 0 {
		t.Error("the organization is left")
	}
	if after := leaks("organization_id = $1", others.organization); after != before {
		t.Errorf("of another organization's %d events %d are left", before, after)
	}
}
