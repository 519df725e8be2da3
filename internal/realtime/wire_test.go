package realtime_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"roombell/db"
	"roombell/internal/auth"
	"roombell/internal/eventlog"
	"roombell/internal/inbox"
	"roombell/internal/postgres"
	"roombell/internal/postgres/dbtest"
	"roombell/internal/realtime"
)

const (
	wireSecret  = "0123456789abcdef0123456789abcdef"
	wireSockets = 25
	wireLease   = 600 * time.Millisecond
	wireGrace   = 600 * time.Millisecond
)

func TestWire(t *testing.T) {
	t.Parallel()
	h := newWireHouse(t, dbtest.New(t).URL)
	h.start(t)
	h.run(t, "cases.js")
}

func TestWireDrain(t *testing.T) {
	t.Parallel()
	h := newWireHouse(t, dbtest.New(t).URL)
	stop := h.start(t)
	h.control.HandleFunc("/drain", func(w http.ResponseWriter, r *http.Request) {
		old := stop
		stop = h.start(t) // new connections go to the new one from here on
		old()
		respond(w, nil, nil)
	})
	h.run(t, "drain.js")
}

func TestWireOutage(t *testing.T) {
	t.Parallel()
	server := dbtest.Cluster(t)
	url := server.URL(postgres.Name)
	if err := db.Migrate(t.Context(), url, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	h := newWireHouse(t, url)
	h.start(t)
	h.control.HandleFunc("/crash", func(w http.ResponseWriter, r *http.Request) { respond(w, nil, server.Crash(r.Context())) })
	h.control.HandleFunc("/start", func(w http.ResponseWriter, r *http.Request) { respond(w, nil, server.Restart(r.Context())) })
	h.run(t, "outage.js")
}

// wireHouse is the program's circle for the scripts of testdata/wire: a database, and in front of it a node at an
// address that stays when another node takes its place.
type wireHouse struct {
	url     string
	pool    *pgxpool.Pool
	log     *slog.Logger
	node    atomic.Pointer[http.Handler]
	web     *httptest.Server
	control *http.ServeMux
}

func newWireHouse(t *testing.T, url string) *wireHouse {
	t.Helper()
	pool, err := db.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	h := &wireHouse{url: url, pool: pool, log: slog.New(slog.NewTextHandler(wireLog{t}, nil)), control: http.NewServeMux()}
	h.web = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*h.node.Load()).ServeHTTP(w, r) }))
	h.control.HandleFunc("/sql", h.sql)
	t.Cleanup(func() {
		h.web.Close()
		pool.Close()
	})
	return h
}

// start runs a node and makes it the one that is connected to. The function that it returns stops it.
func (h *wireHouse) start(t *testing.T) (stop func()) {
	t.Helper()
	config, err := pgx.ParseConfig(h.url)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := auth.NewVerifier(auth.Options{Secret: []byte(wireSecret)})
	if err != nil {
		t.Fatal(err)
	}
	history, err := eventlog.NewHistory(t.Context(), eventlog.HistoryOptions{ConnConfig: config, Logger: h.log})
	if err != nil {
		t.Fatal(err)
	}
	loop := &loop{}
	o := realtime.Options{
		Tail: loop, Tokens: verifier, Access: wireAccess{inbox.NewAccess(h.pool)}, History: history, Logger: h.log,
		MaxSocketsPerUser: wireSockets, Drain: 300 * time.Millisecond,
	}
	o.Hasten(wireLease, wireGrace)
	server, err := realtime.New(o)
	if err != nil {
		t.Fatal(err)
	}
	loop.tail = eventlog.New(eventlog.Options{ConnConfig: config, Logger: h.log}, history, server)
	// As serve does: the sockets are let go before the tail stops.
	serving, stopServing := context.WithCancel(t.Context())
	tailing, stopTailing := context.WithCancel(context.WithoutCancel(t.Context()))
	var parts sync.WaitGroup
	parts.Go(func() {
		defer stopTailing()
		if err := server.Run(serving); err != nil {
			t.Error(err)
		}
	})
	parts.Go(func() {
		if err := loop.tail.Run(tailing); err != nil {
			t.Error(err)
		}
	})
	handler := server.Handler()
	h.node.Store(&handler)
	stop = func() {
		stopServing()
		parts.Wait()
		history.Close()
	}
	t.Cleanup(stop)
	return stop
}

// loop closes the circle: the tail publishes to the server, and the server attaches its sockets to the tail.
type loop struct{ tail *eventlog.Tail }

func (l *loop) Attach(f func(eventlog.Cursor, error)) { l.tail.Attach(f) }

type wireAccess struct{ *inbox.Access }

func (a wireAccess) Users(ctx context.Context, ids []int64) ([]realtime.User, error) {
	found, err := a.Access.Users(ctx, ids)
	users := make([]realtime.User, len(found))
	for i, u := range found {
		users[i] = realtime.User(u)
	}
	return users, err
}

func (a wireAccess) Rights(ctx context.Context, chatIDs []int64) ([]realtime.ChatRights, error) {
	found, err := a.Access.Rights(ctx, chatIDs)
	rights := make([]realtime.ChatRights, len(found))
	for i, r := range found {
		rights[i] = realtime.ChatRights(r)
	}
	return rights, err
}

func (a wireAccess) Chat(ctx context.Context, userID, organizationID, chatID int64) error {
	return notFound(a.Access.Chat(ctx, userID, organizationID, chatID))
}

func notFound(err error) error {
	if errors.Is(err, inbox.ErrNotFound) {
		return realtime.ErrNotFound
	}
	return err
}

// sql runs the statement in the body and answers its rows.
func (h *wireHouse) sql(w http.ResponseWriter, r *http.Request) {
	statement, err := io.ReadAll(r.Body)
	if err != nil {
		respond(w, nil, err)
		return
	}
	rows, err := h.pool.Query(r.Context(), string(statement), pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		respond(w, nil, err)
		return
	}
	result, err := pgx.CollectRows(rows, pgx.RowToMap)
	respond(w, result, err)
}

func respond(w http.ResponseWriter, result any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(result)
}

type wireLog struct{ t *testing.T }

func (w wireLog) Write(p []byte) (int, error) {
	w.t.Log(string(bytes.TrimSpace(p)))
	return len(p), nil
}

// run runs a script, and shows each of its cases as a test.
func (h *wireHouse) run(t *testing.T, script string) {
	t.Helper()
	control := httptest.NewServer(h.control)
	defer control.Close()
	cmd := exec.CommandContext(t.Context(), "node", "--test-reporter=tap", "--test-force-exit", script)
	cmd.Dir = wireDir(t)
	cmd.Env = append(os.Environ(), "SERVER="+h.web.URL, "CONTROL="+control.URL, "SECRET="+wireSecret,
		fmt.Sprint("LEASE=", wireLease.Milliseconds()), fmt.Sprint("GRACE=", wireGrace.Milliseconds()), fmt.Sprint("SOCKETS=", wireSockets))
	output, err := cmd.CombinedOutput()
	cases := parseTAP(string(output))
	if err != nil && len(cases) == 0 {
		t.Fatalf("%s: %v\n%s", script, err, output)
	}
	failed := false
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if !c.ok {
				failed = true
				t.Error(c.why)
			}
		})
	}
	if err != nil && !failed {
		t.Fatalf("%s: %v\n%s", script, err, output)
	}
}

type tapCase struct {
	name, why string
	ok        bool
}

var tapLine = regexp.MustCompile(`^( *)(not )?ok \d+ - (.*)$`)

// parseTAP returns the cases of a TAP 14 document without those that only hold others.
func parseTAP(document string) []tapCase {
	var cases []tapCase
	depth := -1
	for line := range strings.Lines(document) {
		line = strings.TrimRight(line, "\n")
		found := tapLine.FindStringSubmatch(line)
		if found == nil {
			if n := len(cases); n > 0 && !cases[n-1].ok {
				cases[n-1].why += line + "\n"
			}
			continue
		}
		// A suite's own line follows its cases, one level up.
		if isSuite := len(found[1]) < depth; !isSuite {
			cases = append(cases, tapCase{name: found[3], ok: found[2] == ""})
		}
		depth = len(found[1])
	}
	return cases
}

var installWire sync.Once

// wireDir is the folder of the scripts, with their packages installed.
func wireDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("testdata", "wire"))
	if err != nil {
		t.Fatal(err)
	}
	installWire.Do(func() {
		if _, err := os.Stat(filepath.Join(dir, "node_modules", "socket.io-client", "package.json")); err == nil {
			return
		}
		cmd := exec.CommandContext(t.Context(), "npm", "ci", "--no-audit", "--no-fund")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("npm ci in %s (Node 20 or newer with npm is needed): %v\n%s", dir, err, out)
		}
	})
	return dir
}
