package web_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"roombell/internal/auth"
	"roombell/internal/postgres/dbtest"
)

const secret = "a secret of the tests, longer than 32 bytes"

// house is what is around a frontend: Roombell, and the reader's own back end with a site. A gate gives Roombell one
// address for all its lives.
type house struct {
	t                               *testing.T
	db                              *dbtest.DB
	organization, user, chat, other int64
	roombell                        *process
	gate, site                      *httptest.Server
	pages                           *http.ServeMux
	lives                           chan time.Duration // of the next tokens; an hour when there is none
	tokens, fetched                 atomic.Int64       // asked for at the back end: tokens, and messages

	mu      sync.Mutex
	at      *url.URL // where Roombell is
	metrics string   // and where it tells about itself
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, db: dbtest.New(t), pages: http.NewServeMux(), lives: make(chan time.Duration, 2)}
	h.exec(`INSERT INTO organizations (name) VALUES ('manual')`)
	err := h.db.Pool.QueryRow(t.Context(), `
		WITH u AS (INSERT INTO users (organization_id, email) SELECT id, 'ann@manual.example' FROM organizations RETURNING *),
		     c AS (INSERT INTO chats (organization_id, name) SELECT id, name FROM organizations, (VALUES ('one'), ('two')) v(n) RETURNING id)
		SELECT u.organization_id, u.id, min(c.id), max(c.id) FROM u, c GROUP BY 1, 2`).Scan(&h.organization, &h.user, &h.chat, &h.other)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: h.forward, ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }}
	h.gate = h.listen(proxy)
	h.pages.Handle("/socket.io/", proxy)
	h.pages.HandleFunc("/token", h.giveToken)
	h.pages.HandleFunc("/messages", h.giveMessages)
	h.site = h.listen(h.pages)
	h.serve()
	return h
}

func (h *house) listen(handler http.Handler) *httptest.Server {
	s := httptest.NewServer(handler)
	h.t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (h *house) forward(r *httputil.ProxyRequest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r.SetURL(h.at)
	r.Out.Host = r.In.Host // by which Roombell knows its own origin
}

func (h *house) exec(statement string, args ...any) {
	h.t.Helper()
	if _, err := h.db.Pool.Exec(h.t.Context(), statement, args...); err != nil {
		h.t.Fatal(err)
	}
}

// write commits messages, one after the other.
func (h *house) write(contents ...string) {
	h.t.Helper()
	for _, content := range contents {
		h.exec(`INSERT INTO messages (chat_id, content) VALUES ($1, $2)`, h.chat, content)
	}
}

// serve starts Roombell, and returns when it serves.
func (h *house) serve(settings ...string) {
	h.t.Helper()
	cmd := exec.Command(binary, "serve")
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "DATABASE_URL=" + h.db.URL, "ROOMBELL_JWT_SECRET=" + secret,
		"ROOMBELL_ADDR=127.0.0.1:0", "ROOMBELL_ADMIN_ADDR=127.0.0.1:0", "ROOMBELL_CORS_ORIGINS=" + h.site.URL,
	}, settings...)
	h.roombell = start(h.t, cmd)
	var at struct {
		Addr  string
		Admin string `json:"admin_addr"`
	}
	if err := json.Unmarshal([]byte(h.roombell.await(`"msg":"serving"`)), &at); err != nil {
		h.t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at, h.metrics = &url.URL{Scheme: "http", Host: at.Addr}, "http://"+at.Admin+"/metrics"
}

// hasSockets waits until so many are open.
func (h *house) hasSockets(n int) {
	h.t.Helper()
	want := fmt.Sprintf("\nroombell_realtime_sockets %d\n", n)
	eventually(h.t, func() error {
		response, err := http.Get(h.metrics)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err == nil && !strings.Contains(string(body), want) {
			err = fmt.Errorf("there are not %d sockets", n)
		}
		return err
	})
}

// kill ends Roombell with SIGKILL: what it knew is gone.
func (h *house) kill() { h.roombell.kill() }

// giveToken is the reader's own /token.
func (h *house) giveToken(w http.ResponseWriter, _ *http.Request) {
	life := time.Hour
	select {
	case life = <-h.lives:
	default:
	}
	h.tokens.Add(1)
	token, err := h.token(life)
	answer(w, map[string]string{"token": token}, err)
}

func (h *house) token(life time.Duration) (string, error) {
	issuer, err := auth.NewIssuer([]byte(secret), auth.Claims{}, nil)
	if err != nil {
		return "", err
	}
	token, _, err := issuer.Issue(auth.Identity{UserID: h.user, OrganizationID: h.organization}, life)
	return token, err
}

// giveMessages is the reader's own /messages.
func (h *house) giveMessages(w http.ResponseWriter, r *http.Request) {
	h.fetched.Add(1)
	var list json.RawMessage
	err := h.db.Pool.QueryRow(r.Context(), `
		SELECT coalesce(json_agg(json_build_object('id', id, 'content', content) ORDER BY id), '[]') FROM messages WHERE chat_id = $1`,
		r.FormValue("chat")).Scan(&list)
	answer(w, list, err)
}

func answer(w http.ResponseWriter, body any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body)
}

// page adds a file to the site.
func (h *house) page(path, content string) {
	h.pages.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, path, time.Time{}, strings.NewReader(content))
	})
}

// bundle builds an example of the page, with what the reader has around it, and adds it to the site as /app.html.
func (h *house) bundle(around, as, file string) {
	h.t.Helper()
	dir := h.t.TempDir()
	put(h.t, filepath.Join(dir, file), example(h.t, file))
	put(h.t, filepath.Join(dir, as), read(h.t, filepath.Join("testdata/examples", around)))
	cmd := exec.CommandContext(h.t.Context(), "node", filepath.Join(examples(h.t), "bundle.js"), dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		h.t.Fatalf("bundle: %v\n%s", err, out)
	}
	h.page("/app.js", read(h.t, filepath.Join(dir, "app.js")))
	h.page("/app.html", `<!doctype html><meta charset="utf-8"><body><script type="module" src="/app.js"></script>`)
}

// node runs fragments of the page, one after the other, between what the reader has before and after them.
func (h *house) node(files ...string) *process {
	h.t.Helper()
	parts := []string{read(h.t, "testdata/examples/before.js")}
	for _, file := range files {
		parts = append(parts, example(h.t, file))
	}
	parts = append(parts, read(h.t, "testdata/examples/after.js"))
	return h.script(h.t.TempDir(), "script.mjs", strings.Join(parts, "\n"))
}

// script runs a script under Node.
func (h *house) script(dir, file, source string, env ...string) *process {
	h.t.Helper()
	put(h.t, filepath.Join(dir, file), source)
	modules := filepath.Join(dir, "node_modules")
	if _, err := os.Lstat(modules); err != nil {
		if err := os.Symlink(filepath.Join(examples(h.t), "node_modules"), modules); err != nil {
			h.t.Fatal(err)
		}
	}
	token, err := h.token(time.Hour)
	if err != nil {
		h.t.Fatal(err)
	}
	cmd := exec.Command("node", file)
	cmd.Dir = dir
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "ROOMBELL_URL=" + h.gate.URL, "ROOMBELL_TOKEN=" + token,
		"TOKEN_URL=" + h.site.URL + "/token", fmt.Sprint("MESSAGES_URL=", h.site.URL, "/messages?chat=", h.chat),
	}, env...)
	return start(h.t, cmd)
}

// settled waits until a watcher has noted the position after everything that is in the log.
func (h *house) settled(file string) {
	h.t.Helper()
	last := ""
	same := 0
	eventually(h.t, func() error {
		now := read(h.t, file)
		if same++; now != last {
			last, same = now, 0
		}
		if same < 10 {
			return fmt.Errorf("the position still moves")
		}
		return nil
	})
}

// process is a program in the background. Its lines are kept, and can be waited for.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	ended chan struct{}

	mu    sync.Mutex
	lines []string
}

// start runs a program until the test ends.
func start(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, ended: make(chan struct{})}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		p.collect(r)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%v said:\n%s", cmd.Args, strings.Join(p.said(), "\n"))
		}
	})
	return p
}

func (p *process) collect(r io.ReadCloser) {
	defer r.Close()
	for lines := bufio.NewScanner(r); lines.Scan(); {
		p.mu.Lock()
		p.lines = append(p.lines, lines.Text())
		p.mu.Unlock()
	}
}

func (p *process) said() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string{}, p.lines...)
}

// await returns the first line with that text.
func (p *process) await(text string) (found string) {
	p.t.Helper()
	eventually(p.t, func() error {
		for _, line := range p.said() {
			if strings.Contains(line, text) {
				found = line
				return nil
			}
		}
		return fmt.Errorf("%v does not say %q", p.cmd.Args, text)
	})
	return found
}

// forget drops the lines with that text.
func (p *process) forget(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var kept []string
	for _, line := range p.lines {
		if !strings.Contains(line, text) {
			kept = append(kept, line)
		}
	}
	p.lines = kept
}

// messages is what was printed as such.
func (p *process) messages() []string {
	var messages []string
	for _, line := range p.said() {
		if content, ok := strings.CutPrefix(line, "message: "); ok {
			messages = append(messages, content)
		}
	}
	return messages
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	p.wait()
}

// wait returns the exit code.
func (p *process) wait() int {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	select {
	case <-p.ended:
	case <-ctx.Done():
		p.t.Errorf("%v does not end", p.cmd.Args)
	}
	return p.cmd.ProcessState.ExitCode()
}
