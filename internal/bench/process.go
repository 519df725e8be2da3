package bench

import (
	"bytes"
	"fmt"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// process is a child whose CPU time and resident memory can be read while it runs.
type process struct {
	name string
	cmd  *exec.Cmd
	logs *ending
	done chan struct{}
	err  error // set when done is closed
}

// startProcess starts the command. What it writes to standard error is kept for error messages.
func startProcess(name string, cmd *exec.Cmd) (*process, error) {
	p := &process{name: name, cmd: cmd, logs: &ending{}, done: make(chan struct{})}
	cmd.Stderr = p.logs
	dieWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
	}()
	return p, nil
}

// stopTimeout is how long a process may take to end after it was asked to.
const stopTimeout = 35 * time.Second

// stop asks the process to end, and waits for it.
func (p *process) stop() error {
	select {
	case <-p.done:
		return p.failure()
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	return p.wait()
}

// wait waits for the end of a process that was asked to end, and kills it when it does not.
func (p *process) wait() error {
	t := time.NewTimer(stopTimeout)
	defer t.Stop()
	select {
	case <-p.done:
		return p.failure()
	case <-t.C:
		p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not end within %v", p.name, stopTimeout)
	}
}

// failure returns why a process that has ended did not end well, with its last words.
func (p *process) failure() error {
	if p.err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w\n%s", p.name, p.err, p.logs)
}

// ending is a writer that keeps the last 4 KB.
type ending struct {
	mu  sync.Mutex
	buf []byte
}

func (e *ending) Write(b []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.buf = append(e.buf, b...)
	e.buf = append(e.buf[:0], e.buf[max(0, len(e.buf)-4096):]...)
	return len(b), nil
}

func (e *ending) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return string(bytes.TrimSpace(e.buf))
}
