package realtime_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"roombell/db"
	"roombell/internal/eventlog"
	"roombell/internal/postgres"
	"roombell/internal/postgres/dbtest"
)

// The cases are in resume.js. Here the nodes are processes: what they know dies with them.
func TestWireResume(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "roombell")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "roombell/cmd/roombell").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for _, suite := range []struct {
		name     string
		settings []string // of the nodes
		prepare  string   // SQL, before the first node starts
	}{
		{name: "outages"},
		{name: "splice"},
		{name: "cursors"},
		{name: "limit", settings: []string{"ROOMBELL_RESUME_LIMIT=" + strconv.Itoa(resumeLimit)}},
		{name: "retention", prepare: `UPDATE roombell_settings SET retention = '4 seconds'`},
	} {
		t.Run(suite.name, func(t *testing.T) {
			t.Parallel()
			h := newResumeHouse(t, binary, dbtest.New(t).URL)
			h.settings = append(h.settings, suite.settings...)
			if _, err := h.pool.Exec(t.Context(), suite.prepare); err != nil {
				t.Fatal(err)
			}
			h.play(t, suite.name)
		})
	}
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		server := dbtest.Cluster(t)
		url := server.URL(postgres.Name)
		if err := db.Migrate(t.Context(), url, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		h := newResumeHouse(t, binary, url)
		h.command("/postgres/stop", func(r *http.Request) error { return server.Shutdown(r.Context()) })
		h.command("/postgres/crash", func(r *http.Request) error { return server.Crash(r.Context()) })
		h.command("/postgres/start", func(r *http.Request) error {
			h.pool.Reset() // its connections are dead
			return server.Restart(r.Context())
		})
		h.play(t, "postgres")
	})
}

// resumeLimit is small enough to be passed by a few events.
const resumeLimit = 20

// resumeHouse is the circle for resume.js: nodes by name, and a cable between them and the clients.
type resumeHouse struct {
	*wireHouse
	t        *testing.T
	binary   string
	settings []string
	cable    *cable

	mu    sync.Mutex
	nodes map[string]*resumeNode
}

func newResumeHouse(t *testing.T, binary, url string) *resumeHouse {
	t.Helper()
	h := &resumeHouse{wireHouse: newWireHouse(t, url), t: t, binary: binary, cable: newCable(t), nodes: map[string]*resumeNode{}}
	h.settings = []string{
		"DATABASE_URL=" + url, "ROOMBELL_JWT_SECRET=" + wireSecret, "ROOMBELL_DRAIN=200ms", "ROOMBELL_LOG_LEVEL=debug",
		"ROOMBELL_ADDR=127.0.0.1:0", "ROOMBELL_ADMIN_ADDR=127.0.0.1:0",
	}
	h.control.HandleFunc("/unseen", h.unseen)
	h.command("/start", func(r *http.Request) error { return h.start(r.FormValue("node")) })
	h.command("/stop", func(r *http.Request) error { return h.node(r).end(syscall.SIGTERM) })
	h.command("/kill", func(r *http.Request) error { return h.node(r).end(syscall.SIGKILL) })
	h.command("/route", func(r *http.Request) error { h.cable.lead(h.node(r).addr); return nil })
	h.command("/cut", func(*http.Request) error { h.cable.cut(); return nil })
	h.command("/hold", func(*http.Request) error { h.cable.lead(""); h.cable.cut(); return nil })
	h.control.HandleFunc("/cut-after", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.FormValue("bytes"))
		h.cable.cutAfter(n)
		respond(w, nil, err)
	})
	return h
}

func (h *resumeHouse) command(path string, do func(r *http.Request) error) {
	h.control.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { respond(w, nil, do(r)) })
}

func (h *resumeHouse) node(r *http.Request) *resumeNode {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.nodes[r.FormValue("node")]
}

// start runs a node, and leads the cable to it.
func (h *resumeHouse) start(name string) error {
	n, err := startResumeNode(h.t, h.binary, h.settings)
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.nodes[name] = n
	h.mu.Unlock()
	h.cable.lead(n.addr)
	return nil
}

// play runs the cases of a suite against node a.
func (h *resumeHouse) play(t *testing.T, suite string) {
	t.Helper()
	if err := h.start("a"); err != nil {
		t.Fatal(err)
	}
	control := httptest.NewServer(h.control)
	defer control.Close()
	cmd := exec.CommandContext(t.Context(), "node", "--test-reporter=tap", "--test-force-exit", "resume.js")
	cmd.Dir = wireDir(t)
	cmd.Env = append(os.Environ(), "SERVER=http://"+h.cable.addr(), "CONTROL="+control.URL, "SECRET="+wireSecret,
		"SUITE="+suite, fmt.Sprint("LIMIT=", resumeLimit))
	output, err := cmd.CombinedOutput()
	failed := false
	for _, c := range parseTAP(string(output)) {
		t.Run(c.name, func(t *testing.T) {
			if !c.ok {
				failed = true
				t.Error(c.why)
			}
		})
	}
	if err != nil && !failed {
		t.Fatalf("%v\n%s", err, output)
	}
}

// unseen answers the ids of all events that a user, who is in no restricted chat, has yet to be given after a position.
func (h *resumeHouse) unseen(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Cursor               string
		User, OrganizationID int64
	}
	err := json.NewDecoder(r.Body).Decode(&asked)
	position, wrong := eventlog.ParseCursor(asked.Cursor)
	if err = errors.Join(err, wrong); err != nil {
		respond(w, nil, err)
		return
	}
	rows, err := h.pool.Query(r.Context(), `
		SELECT id, txid FROM event_log
		WHERE kind IN ('event', 'custom') AND organization_id = $1
		  AND (user_id = $2 OR user_id IS NULL AND (audience IS NULL OR $2 = ANY (audience)))
		ORDER BY id`, asked.OrganizationID, asked.User)
	if err != nil {
		respond(w, nil, err)
		return
	}
	unseen := []int64{}
	var id int64
	var txid uint64
	_, err = pgx.ForEachRow(rows, []any{&id, &txid}, func() error {
		if !position.Seen(id, txid) {
			unseen = append(unseen, id)
		}
		return nil
	})
	respond(w, unseen, err)
}

// resumeNode is a process of `roombell serve`.
type resumeNode struct {
	process *os.Process
	addr    string
	ended   chan struct{} // closed when it has, and all it said was logged
}

func startResumeNode(t *testing.T, binary string, settings []string) (*resumeNode, error) {
	cmd := exec.Command(binary, "serve")
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, settings...)
	said, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	n := &resumeNode{process: cmd.Process, ended: make(chan struct{})}
	serving := make(chan string, 1)
	go func() {
		defer close(n.ended)
		defer close(serving)
		for lines := bufio.NewScanner(said); lines.Scan(); {
			_, _ = wireLog{t}.Write(lines.Bytes())
			var line struct{ Msg, Addr string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "serving" {
				serving <- line.Addr
			}
		}
		_ = cmd.Wait()
	}()
	t.Cleanup(func() { _ = n.end(syscall.SIGKILL) })
	n.addr = <-serving
	if n.addr == "" {
		return nil, errors.New("the node ended before it served")
	}
	return n, nil
}

// end sends a signal and waits for the process.
func (n *resumeNode) end(signal os.Signal) error {
	if err := n.process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-n.ended:
		return nil
	case <-time.After(30 * time.Second):
		return errors.New("the node does not end")
	}
}

// cable carries bytes between clients and one node. It can be cut, and led to another node.
type cable struct {
	listener net.Listener
	carriers sync.WaitGroup

	mu   sync.Mutex
	to   string // empty: whoever dials is cut off at once
	ends map[net.Conn]struct{}
	left int // bytes that go to clients until everything is cut, 0: no bound
}

func newCable(t *testing.T) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{listener: l, ends: map[net.Conn]struct{}{}}
	c.carriers.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			c.carriers.Go(func() { c.carry(client) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		c.lead("")
		c.cut()
		c.carriers.Wait()
	})
	return c
}

func (c *cable) addr() string { return c.listener.Addr().String() }

func (c *cable) lead(to string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.to = to
}

// cutAfter cuts the cable once, in the middle of what goes to clients.
func (c *cable) cutAfter(bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = bytes
}

func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for end := range c.ends {
		_ = end.Close()
	}
}

// measured is the client's end: what is written to it counts.
type measured struct {
	net.Conn
	cable *cable
}

func (m measured) Write(p []byte) (int, error) {
	last := m.cable.spend(len(p))
	if last < 0 {
		return m.Conn.Write(p)
	}
	n, err := m.Conn.Write(p[:last])
	m.cable.cut()
	return n, errors.Join(err, net.ErrClosed)
}

// spend returns how many of n bytes may still go to a client, -1 when all may.
func (c *cable) spend(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == 0 || n < c.left {
		c.left = max(0, c.left-n)
		return -1
	}
	last := c.left
	c.left = 0
	return last
}

// carry copies until either end closes, or the cable is cut.
func (c *cable) carry(client net.Conn) {
	defer client.Close()
	node := c.plug(client)
	if node == nil {
		return
	}
	defer node.Close()
	var up sync.WaitGroup
	up.Go(func() {
		defer node.Close()
		_, _ = io.Copy(node, client)
	})
	_, _ = io.Copy(measured{client, c}, node)
	_ = client.Close()
	up.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.ends, client)
	delete(c.ends, node)
}

// plug dials the node and makes both ends known, so that no cut overlooks them.
func (c *cable) plug(client net.Conn) net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.to == "" {
		return nil
	}
	node, err := net.Dial("tcp", c.to)
	if err != nil {
		return nil
	}
	c.ends[client], c.ends[node] = struct{}{}, struct{}{}
	return node
}
