package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	startTime = time.Minute
	stopTime  = 35 * time.Second
	// lastWords is how many lines of a server's log are kept.
	lastWords = 200
)

// node is one `roombell serve` process after another.
type node struct {
	w    *world
	name string
	url  atomic.Pointer[string] // of the process that was started last

	mu      sync.Mutex
	process *process
	killing bool // its end is our doing
}

// process is a running server.
type process struct {
	cmd     *exec.Cmd
	file    *os.File    // where its log is kept; nil: nowhere
	serving chan string // its address, once
	done    chan struct{}
	err     error // set when done is closed

	mu    sync.Mutex
	words []string
}

// build makes the server that is to be tried, with a step left out where one is, and returns its path.
func build(ctx context.Context, into string, broken bool) (string, error) {
	path := filepath.Join(into, "roombell")
	arguments := []string{"build", "-o", path}
	if broken {
		path += "-broken"
		arguments = []string{"build", "-o", path, "-tags", "stress"}
	}
	out, err := exec.CommandContext(ctx, "go", append(arguments, "roombell/cmd/roombell")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the server: %w: %s", err, out)
	}
	return path, nil
}

// startNodes starts the servers and returns when all serve.
func (w *world) startNodes(ctx context.Context) error {
	for i := range w.o.Nodes {
		n := &node{w: w, name: fmt.Sprint("node ", i)}
		w.nodes = append(w.nodes, n)
		if err := n.start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// start starts a process and returns when it serves.
func (n *node) start(ctx context.Context) error {
	p := &process{serving: make(chan string, 1), done: make(chan struct{})}
	p.cmd = exec.Command(n.w.roombell, "serve")
	p.cmd.SysProcAttr = attributes()
	p.cmd.Env = []string{
		"PATH=/usr/bin:/bin", "DATABASE_URL=" + n.w.url, "ROOMBELL_JWT_SECRET=" + n.w.secret, "ROOMBELL_DRAIN=300ms",
		"ROOMBELL_ADDR=127.0.0.1:0", "ROOMBELL_ADMIN_ADDR=127.0.0.1:0", "ROOMBELL_LOG_FORMAT=json", "ROOMBELL_LOG_LEVEL=" + n.w.o.logLevel(),
		"BREAK=" + n.w.o.Omit.String(),
	}
	if n.w.o.Logs != "" {
		var err error
		name := filepath.Join(n.w.o.Logs, strings.ReplaceAll(n.name, " ", "-")+".log")
		if p.file, err = os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
			return err
		}
	}
	if err := p.run(); err != nil {
		return fmt.Errorf("start %s: %w", n.name, err)
	}
	n.mu.Lock()
	n.process, n.killing = p, false
	n.mu.Unlock()
	timer := time.NewTimer(startTime)
	defer timer.Stop()
	select {
	case address := <-p.serving:
		url := "http://" + address
		n.url.Store(&url)
		return nil
	case <-p.done:
		return fmt.Errorf("%s ended: %w\n%s", n.name, p.err, p.log())
	case <-timer.C:
		return fmt.Errorf("%s does not serve\n%s", n.name, p.log())
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run starts the process. The thread that starts it stays for its life: the kernel ends it with that thread.
func (p *process) run() error {
	errs, err := p.cmd.StderrPipe()
	if err != nil {
		return err
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.listen(errs)
		p.err = p.cmd.Wait()
		_ = p.file.Close() // nil is an error that says so
		close(p.done)
	}()
	return <-started
}

// listen reads the log, and finds the address in it.
func (p *process) listen(log io.Reader) {
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct{ Msg, Addr string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "serving" {
			p.serving <- line.Addr
		}
		p.keep(lines.Text())
		p.mu.Lock()
		p.words = append(p.words[max(0, len(p.words)-lastWords):], lines.Text())
		p.mu.Unlock()
	}
}

// keep writes a line of the log to where somebody may look for what went wrong.
func (p *process) keep(line string) {
	if p.file != nil {
		_, _ = fmt.Fprintln(p.file, line) // a full disk must not end the run
	}
}

func (p *process) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.words, "\n")
}

// stop ends the process with a signal, and waits.
func (n *node) stop(signal syscall.Signal) error {
	n.mu.Lock()
	p := n.process
	n.killing = true
	n.mu.Unlock()
	if p == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	timer := time.NewTimer(stopTime)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not stop within %v\n%s", n.name, stopTime, p.log())
	}
	if signal == syscall.SIGTERM && p.err != nil {
		return fmt.Errorf("%s did not stop in order: %w\n%s", n.name, p.err, p.log())
	}
	return nil
}

// alive is an error when the process has ended and nobody asked it to.
func (n *node) alive() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	select {
	case <-n.process.done:
		if !n.killing {
			return fmt.Errorf("%s ended by itself: %w\n%s", n.name, n.process.err, n.process.log())
		}
	default:
	}
	return nil
}

// replace ends the process with a signal and starts another.
func (n *node) replace(ctx context.Context, signal syscall.Signal) error {
	if err := n.alive(); err != nil {
		return err
	}
	if err := n.stop(signal); err != nil {
		return err
	}
	return n.start(ctx)
}

func (w *world) stopNodes() (err error) {
	for _, n := range w.nodes {
		err = errors.Join(err, n.stop(syscall.SIGKILL))
	}
	return err
}
