package postgres

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	pollEvery = 5 * time.Millisecond
	// maxSocketPath is what the name of a unix socket may have: 107 bytes on Linux, 103 on others.
	maxSocketPath = 103
)

// process is a child that ends with us.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has ended and err is set
	err    error
}

// spawn starts a child. Where the kernel can kill it when we die (endWithParent), it means the thread that started it and not the
// process (go.dev/issue/27506): the thread waits with the child.
func spawn(cmd *exec.Cmd, after ...func()) (*process, error) {
	p := &process{cmd: cmd, exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		for _, f := range after {
			f()
		}
		close(p.exited)
	}()
	return p, <-started
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop sends the signal and waits for the end. When the context ends first the server is ended at once.
func (p *process) stop(ctx context.Context, signal syscall.Signal) error {
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.exited:
		return nil
	case <-ctx.Done():
	}
	// The postmaster kills its children itself when they do not follow within five seconds.
	if err := p.cmd.Process.Signal(syscall.SIGQUIT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.exited
	return nil
}

// launch starts the postmaster.
func (s *Server) launch() (*process, error) {
	cmd := s.binaries.command("postgres", s.arguments()...)
	cmd.SysProcAttr = s.account.attributes()
	endWithParent(cmd.SysProcAttr, s.stopSignal())
	cmd.Stdout, cmd.Stderr = s.output, s.output
	if s.preload != "" {
		cmd.Env = append(cmd.Env, "LD_PRELOAD="+s.preload)
	}
	p, err := spawn(cmd, func() { s.reaper.watch(0) })
	if err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	s.reaper.watch(p.pid())
	return p, nil
}

func (s *Server) arguments() []string {
	settings := map[string]string{
		"port":                      strconv.Itoa(s.access.Port),
		"listen_addresses":          "",
		"unix_socket_directories":   s.socketDir(),
		"unix_socket_permissions":   "0700",
		"max_connections":           "200",
		"max_prepared_transactions": "20",
		"logging_collector":         "off",
		"track_commit_timestamp":    "on",
		"timezone":                  "UTC",
	}
	if !s.temporary() {
		settings["listen_addresses"] = "127.0.0.1"
	}
	if s.temporary() && !s.options.Sync {
		// synchronous_commit stays: what is committed has been written, and is found again after a crash of the server alone.
		maps.Copy(settings, map[string]string{"fsync": "off", "full_page_writes": "off", "autovacuum": "off"})
	}
	if s.preload != "" {
		settings["wal_sync_method"] = "fdatasync" // which the library replaces
	}
	if s.temporary() {
		settings["jit"] = "off"
	}
	maps.Copy(settings, s.options.Settings)
	args := []string{"-D", s.data}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "-c", name+"="+settings[name])
	}
	return args
}

// socketDir is the data folder, which nobody else may enter, or nothing where its name is too long for a socket.
func (s *Server) socketDir() string {
	if len(s.data)+len("/.s.PGSQL.65535.lock") > maxSocketPath {
		return ""
	}
	return s.data
}

// awaitReady returns when the postmaster has written into its file that it takes connections.
func (s *Server) awaitReady(ctx context.Context, p *process) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if s.ready(p.pid()) {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("postgres ended: %w: %s", cmp.Or(p.err, errors.New("exit status 0")), s.lastWords())
		case <-ctx.Done():
			return fmt.Errorf("postgres is not ready: %w: %s", context.Cause(ctx), s.lastWords())
		case <-tick.C:
		}
	}
}

// ready reads postmaster.pid: the first line is the process id, the eighth the state (PostgreSQL's pidfile.h).
func (s *Server) ready(pid int) bool {
	b, err := os.ReadFile(s.pidFile())
	lines := strings.Split(string(b), "\n")
	return err == nil && len(lines) >= 8 && lines[0] == strconv.Itoa(pid) && strings.TrimSpace(lines[7]) == "ready"
}

func (s *Server) pidFile() string { return filepath.Join(s.data, "postmaster.pid") }

// previous is the postmaster that still runs on our data although its parent is gone, or 0.
func (s *Server) previous() int {
	pid := s.notedPID()
	if pid == 0 || !strings.Contains(commandLine(pid), s.data) {
		return 0
	}
	return pid
}

func (s *Server) notedPID() int {
	b, err := os.ReadFile(s.pidFile())
	if err != nil {
		return 0
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	pid, err := strconv.Atoi(string(line))
	if err != nil || pid <= 0 {
		return 0
	}
	return pid
}

// endPrevious waits for a postmaster whose parent was killed, and removes its file when a stranger has got its process id: the new
// one would take the stranger for its elder and refuse. We hold the folder's lock, so that no other process starts a server here.
func (s *Server) endPrevious(ctx context.Context) error {
	pid := s.previous()
	if pid == 0 {
		if noted := s.notedPID(); noted != 0 && commandLine(noted) != "" {
			s.log.Warn("removing a stale postmaster.pid", "pid", noted, "dir", s.data)
			if err := os.Remove(s.pidFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	}
	s.log.Info("waiting for the database server of a process that was killed", "pid", pid)
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop the database server of an earlier run, process %d: %w", pid, err)
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for s.previous() == pid {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the database server of an earlier run, process %d, does not end: %w", pid, context.Cause(ctx))
		case <-tick.C:
		}
	}
	return nil
}

// reaper is a shell that outlives us by a moment: when we are gone, however that came, it ends the server that it was told to watch
// (where the kernel does not, or later), and removes a throw-away server's folder, which would otherwise stay in memory.
type reaper struct {
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

// The shell reads process ids until we close the pipe; 0 means that none runs. A dead postmaster has removed its file, or else has
// no process; one of the two is not enough, since nobody may be there to bury it (containers).
const reaperScript = `dir=$1 signal=$2 remove=$3 pid=0
while read -r next; do pid=$next; done
if [ "$pid" -gt 0 ]; then
	kill -s "$signal" "$pid"
	while [ -e "$dir/data/postmaster.pid" ] && kill -0 "$pid"; do sleep 0.05; done
fi 2>/dev/null
if [ "$remove" = true ]; then rm -rf "$dir"; fi`

func startReaper(dir string, signal syscall.Signal, remove bool) (*reaper, error) {
	name := map[syscall.Signal]string{syscall.SIGINT: "INT", syscall.SIGQUIT: "QUIT"}[signal]
	cmd := exec.Command("/bin/sh", "-c", reaperScript, "roombell-reaper", dir, name, strconv.FormatBool(remove))
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, pipe.Close())
	}
	return &reaper{cmd: cmd, pipe: pipe}, nil
}

// watch tells the reaper which process to end; an error means that it was dismissed, or killed, and nobody is left to tell.
func (r *reaper) watch(pid int) {
	_, _ = io.WriteString(r.pipe, strconv.Itoa(pid)+"\n")
}

// dismiss lets the reaper go; it still does its work.
func (r *reaper) dismiss() error {
	if err := r.pipe.Close(); err != nil {
		return err
	}
	return r.cmd.Wait()
}
