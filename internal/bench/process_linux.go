package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dieWithParent has the kernel end the child when the bench is killed.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}

// cpu returns the CPU time that the process has used, user and system, of all its threads.
func (p *process) cpu() (time.Duration, error) {
	// MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of the kernel's posix-timers.h: nanoseconds where /proc/pid/stat has ticks of 10 ms.
	clock := int32(^p.cmd.Process.Pid<<3 | 2)
	var t unix.Timespec
	if err := unix.ClockGettime(clock, &t); err != nil {
		return 0, fmt.Errorf("cpu time of %s: %w", p.name, err)
	}
	return time.Duration(t.Nano()), nil
}

// rss returns the resident memory of the process in bytes.
func (p *process) rss() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := bytes.Cut(status, []byte("VmRSS:"))
	line, _, _ := bytes.Cut(rest, []byte(" kB"))
	kb, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("resident memory of %s: %w", p.name, err)
	}
	return kb << 10, nil
}

// sleepUntil waits on the thread itself: Go's own timers are up to 1 ms late while the process is idle, and that would be
// counted as latency.
func sleepUntil(t time.Time) {
	for d := time.Until(t); d > 0; d = time.Until(t) {
		ts := unix.NsecToTimespec(d.Nanoseconds())
		if err := unix.Nanosleep(&ts, nil); err != nil && err != unix.EINTR {
			<-time.After(d)
		}
	}
}

// raiseFileLimit allows this process and its children n open files, or as many as the system lets them, and returns the
// number.
func raiseFileLimit(n uint64) (uint64, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, err
	}
	if l.Max < n { // only root may
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: n}); err == nil {
			return n, nil
		}
	}
	l.Cur = min(max(n, l.Cur), l.Max)
	return l.Cur, unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
}
