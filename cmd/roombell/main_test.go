package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary is the program under test, built once.
var binary string

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "roombell-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "roombell")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

const testSecret = "a secret of the tests, longer than 32 bytes"

// limit is how long anything may take on a busy machine before a test gives up.
const limit = time.Minute

// command runs the program with nothing of the tests' environment but what it needs to live.
func command(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir}, env...)
	return cmd
}

type result struct {
	stdout, stderr string
	code           int
}

func roombell(t *testing.T, env []string, stdin string, args ...string) result {
	t.Helper()
	cmd := command(t, env, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// must runs a command that has to succeed, and returns what it prints.
func must(t *testing.T, env []string, stdin string, args ...string) string {
	t.Helper()
	r := roombell(t, env, stdin, args...)
	if r.code != exitDone {
		t.Fatalf("%v: exit %d\n%s%s", args, r.code, r.stdout, r.stderr)
	}
	return strings.TrimSpace(r.stdout)
}

// process is the program running in the background. Its output is kept, and can be waited for.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	ended chan error

	mu     sync.Mutex
	lines  []string
	change chan struct{}
}

// start runs the program until the test ends.
func start(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	return startCommand(t, command(t, env, args...))
}

func startCommand(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, ended: make(chan error, 1), change: make(chan struct{})}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = write, write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	var output sync.WaitGroup
	output.Go(func() { p.collect(read) })
	go func() {
		err := cmd.Wait()
		output.Wait()
		p.ended <- err
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		select {
		case <-p.ended:
		case <-time.After(limit):
			t.Error("the process did not end")
		}
		if t.Failed() {
			t.Logf("output of %v:\n%s", cmd.Args[1:], strings.Join(p.output(), "\n"))
		}
	})
	return p
}

func (p *process) collect(r io.ReadCloser) {
	defer r.Close()
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		p.mu.Lock()
		p.lines = append(p.lines, lines.Text())
		close(p.change)
		p.change = make(chan struct{})
		p.mu.Unlock()
	}
}

func (p *process) output() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.lines)
}

// await returns the first line, at from or after, that f likes, and its number.
func (p *process) await(what string, from int, f func(line string) bool) (string, int) {
	p.t.Helper()
	deadline := time.After(limit)
	for {
		p.mu.Lock()
		lines, change := p.lines, p.change
		p.mu.Unlock()
		for ; from < len(lines); from++ {
			if f(lines[from]) {
				return lines[from], from
			}
		}
		select {
		case <-change:
		case err := <-p.ended:
			p.ended <- err
			p.t.Fatalf("%v ended (%v) before %s", p.cmd.Args[1:], err, what)
		case <-deadline:
			p.t.Fatalf("%v: no %s", p.cmd.Args[1:], what)
		}
	}
}

func (p *process) awaitText(text string) {
	p.t.Helper()
	p.await(text, 0, func(line string) bool { return strings.Contains(line, text) })
}

// stop sends a signal, and returns the exit code and how long the end took.
func (p *process) stop(signal syscall.Signal) (code int, took time.Duration) {
	p.t.Helper()
	began := time.Now()
	if err := p.cmd.Process.Signal(signal); err != nil {
		p.t.Fatal(err)
	}
	select {
	case err := <-p.ended:
		p.ended <- err
	case <-time.After(limit):
		p.t.Fatal("the process did not stop")
	}
	return p.cmd.ProcessState.ExitCode(), time.Since(began)
}

// service is a running `roombell serve`.
type served struct {
	*process
	public, admin string // base URLs
}

// serve starts the service on free ports.
func serve(t *testing.T, env []string, args ...string) served {
	t.Helper()
	env = append([]string{"ROOMBELL_ADDR=127.0.0.1:0", "ROOMBELL_ADMIN_ADDR=127.0.0.1:0", "ROOMBELL_JWT_SECRET=" + testSecret, "ROOMBELL_DRAIN=200ms"}, env...)
	p := start(t, env, append([]string{"serve"}, args...)...)
	line, _ := p.await("the line that says where it serves", 0, func(line string) bool { return strings.Contains(line, `"msg":"serving"`) })
	var at struct {
		Addr      string `json:"addr"`
		AdminAddr string `json:"admin_addr"`
	}
	if err := json.Unmarshal([]byte(line), &at); err != nil {
		t.Fatal(err)
	}
	return served{p, "http://" + at.Addr, "http://" + at.AdminAddr}
}

// get returns status and body.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// awaitReady waits until /readyz has the status, with the text in its body.
func (s served) awaitReady(status int, text string) {
	s.t.Helper()
	eventually(s.t, func() error {
		code, body := get(s.t, s.public+"/readyz")
		if code != status || !strings.Contains(body, text) {
			return fmt.Errorf("/readyz says %d %s", code, body)
		}
		return nil
	})
}

// eventually polls until f has no complaint.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(limit)
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatal(err)
		}
	}
}
