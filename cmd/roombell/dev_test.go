package main

import (
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"roombell/internal/postgres/dbtest"
)

// openDir is a folder that a Postgres may pass through when root starts it as another user.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "roombell-dev-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// after waits for the whole welcome and returns the first line with something on it below the one that holds the text.
func (p *process) after(text string) string {
	p.t.Helper()
	p.awaitText("Ctrl-C stops everything")
	_, at := p.await(text, 0, func(line string) bool { return strings.Contains(line, text) })
	line, _ := p.await("the line after "+text, at+1, func(line string) bool { return strings.TrimSpace(line) != "" })
	return strings.TrimSpace(line)
}

// What dev prints works when it is copied to a shell, and a second start finds what the first one had.
func TestDev(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("psql"); err != nil {
		t.Fatal("psql is needed for this test: ", err)
	}
	dir := openDir(t)
	env := []string{"ROOMBELL_DATA_DIR=" + filepath.Join(dir, "data"), "ROOMBELL_ADDR=127.0.0.1:0", "ROOMBELL_ADMIN_ADDR=127.0.0.1:0"}
	first := start(t, env, "dev", "--traffic", "20")
	psql, tail := first.after("Write, in another terminal"), first.after("Watch, as ")

	secrets, err := os.Stat(filepath.Join(dir, "data", "secrets.json"))
	if err != nil || secrets.Mode() != fs.FileMode(0o600) {
		t.Errorf("secrets: %v, %v", secrets.Mode(), err)
	}
	watch := exec.Command("sh", "-c", "exec "+strings.Replace(tail, "ROOMBELL_TOKEN=", "env ROOMBELL_TOKEN=", 1))
	watch.Env = []string{"PATH=" + os.Getenv("PATH")}
	watcher := startCommand(t, watch)
	watcher.awaitText("  connected ")
	watcher.awaitText("  message:new ") // the traffic
	write := exec.Command("sh", "-c", psql)
	if out, err := write.CombinedOutput(); err != nil || !strings.Contains(string(out), "INSERT 0 1") {
		t.Fatalf("%s: %v\n%s", psql, err, out)
	}
	watcher.awaitText(`content="Hello from psql"`)

	if r := roombell(t, env, "", "dev"); r.code != exitFailed || !strings.Contains(r.stderr, "--data-dir") {
		t.Errorf("a second one in the same folder: exit %d, %s", r.code, r.stderr)
	}
	if code, took := first.stop(syscall.SIGINT); code != exitDone || took > 20*time.Second {
		t.Errorf("exit %d after %v", code, took)
	}
	if out, err := exec.Command("sh", "-c", psql).CombinedOutput(); err == nil {
		t.Errorf("the private database is still there: %s", out)
	}

	began := time.Now()
	second := start(t, env, "dev")
	line, _ := second.await("the address", 0, func(line string) bool { return strings.HasPrefix(line, "Roombell is ready at ") })
	t.Logf("second start took %v", time.Since(began))
	// The first run's token is still good, for the secret was kept.
	former := strings.TrimPrefix(strings.Fields(tail)[0], "ROOMBELL_TOKEN=")
	connect(t, strings.TrimPrefix(line, "Roombell is ready at "), former)
	url := strings.Trim(strings.Fields(second.after("Write, in another terminal"))[1], `'"`)
	out, err := exec.Command("psql", url, "-Atc", "SELECT count(*) FROM messages WHERE content = 'Hello from psql'").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "1" {
		t.Errorf("the message of the first run: %s, %v", out, err)
	}
	if code, _ := second.stop(syscall.SIGTERM); code != exitDone {
		t.Errorf("exit %d", code)
	}
}

func TestDevWithADatabase(t *testing.T) {
	t.Parallel()
	d := dbtest.Empty(t)
	env := []string{"DATABASE_URL=" + d.URL, "ROOMBELL_DATA_DIR=" + t.TempDir(), "ROOMBELL_ADDR=127.0.0.1:0", "ROOMBELL_ADMIN_ADDR=127.0.0.1:0"}
	p := start(t, env, "dev")
	p.awaitText("Ctrl-C stops everything")
	runScript(t, p)
	if code, _ := p.stop(syscall.SIGINT); code != exitDone {
		t.Errorf("exit %d", code)
	}

	// Another folder has other secrets; the printed login is true all the same.
	env[1] = "ROOMBELL_DATA_DIR=" + t.TempDir()
	p = start(t, env, "dev")
	p.awaitText("Ctrl-C stops everything")
	if code, _ := p.stop(syscall.SIGINT); code != exitDone {
		t.Errorf("exit %d", code)
	}

	exec1(t, d, `INSERT INTO organizations (name) VALUES ('real')`)
	r := roombell(t, env, "", "dev")
	if r.code != exitFailed || !strings.Contains(r.stderr, "roombell: the database has organizations that are not demo data") {
		t.Errorf("exit %d: %s", r.code, r.stderr)
	}
}

// runScript runs the five lines of JavaScript that dev prints, with the wire tests' copy of socket.io-client.
func runScript(t *testing.T, p *process) {
	t.Helper()
	var lines []string
	for _, line := range p.output() {
		if strings.HasPrefix(line, "  import ") || len(lines) > 0 && len(lines) < 5 {
			lines = append(lines, line)
		}
	}
	modules, err := filepath.Abs("../../internal/realtime/testdata/wire/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(modules, "socket.io-client")); err != nil {
		t.Fatalf("%v: .ci/setup wire installs it", err)
	}
	dir := t.TempDir()
	if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "client.mjs")
	if err := os.WriteFile(script, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	node := startCommand(t, exec.Command("node", script))
	node.awaitText("subscribed { ok: true, chatId: 1 }")
}

// A database of somebody else's is left as it is, before any migration.
func TestDevLeavesAForeignDatabaseAlone(t *testing.T) {
	t.Parallel()
	d := dbtest.Empty(t)
	exec1(t, d, `CREATE TABLE organizations (id bigint, name text)`)
	exec1(t, d, `INSERT INTO organizations VALUES (1, 'theirs')`)
	r := roombell(t, []string{"DATABASE_URL=" + d.URL, "ROOMBELL_DATA_DIR=" + t.TempDir()}, "", "dev")
	if r.code != exitFailed || !strings.Contains(r.stderr, "not demo data") {
		t.Errorf("exit %d: %s", r.code, r.stderr)
	}
	var tables int
	if err := d.Pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace`).Scan(&tables); err != nil || tables != 1 {
		t.Errorf("%d tables, %v", tables, err)
	}
}

func TestDevMovesWhenItsPortIsTaken(t *testing.T) {
	t.Parallel()
	// Taken by us, or by whoever has it already: either way dev has to move.
	if l, err := net.Listen("tcp", defaultDevAddr); err == nil {
		defer l.Close()
	}
	d := dbtest.Empty(t)
	p := start(t, []string{"DATABASE_URL=" + d.URL, "ROOMBELL_DATA_DIR=" + t.TempDir(), "ROOMBELL_ADMIN_ADDR=127.0.0.1:0"}, "dev")
	p.awaitText("the usual port is taken")
	line, _ := p.await("the address", 0, func(line string) bool { return strings.HasPrefix(line, "Roombell is ready at http://127.0.0.1:") })
	base := strings.TrimPrefix(line, "Roombell is ready at ")
	_, port, err := net.SplitHostPort(strings.TrimPrefix(base, "http://"))
	if n, _ := strconv.Atoi(port); err != nil || n <= 3000 {
		t.Errorf("serves at %s", base)
	}
	if code, body := get(t, base+"/readyz"); code != http.StatusOK {
		t.Errorf("%d %s", code, body)
	}
	if tail := p.after("Watch, as "); !strings.Contains(tail, "--url "+base) {
		t.Errorf("the line to copy does not name the address: %s", tail)
	}
}
