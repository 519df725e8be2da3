//go:build unix && !linux

package bench

import (
	"bytes"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func dieWithParent(*exec.Cmd) {}

// cpu returns the CPU time that the process has used, as ps knows it, in hundredths of a second.
func (p *process) cpu() (time.Duration, error) {
	out, err := p.ps("time=")
	if err != nil {
		return 0, err
	}
	var seconds float64
	for part := range strings.SplitSeq(strings.Replace(out, "-", ":", 1), ":") {
		n, err := strconv.ParseFloat(part, 64)
		if err != nil {
			return 0, fmt.Errorf("cpu time of %s: %w", p.name, err)
		}
		seconds = seconds*60 + n
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

// rss returns the resident memory of the process in bytes.
func (p *process) rss() (int64, error) {
	out, err := p.ps("rss=")
	if err != nil {
		return 0, err
	}
	kb, err := strconv.ParseInt(out, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("resident memory of %s: %w", p.name, err)
	}
	return kb << 10, nil
}

func (p *process) ps(column string) (string, error) {
	out, err := exec.Command("ps", "-o", column, "-p", strconv.Itoa(p.cmd.Process.Pid)).Output()
	if err != nil {
		return "", fmt.Errorf("ps of %s: %w", p.name, err)
	}
	return string(bytes.TrimSpace(out)), nil
}

func sleepUntil(t time.Time) { <-time.After(time.Until(t)) }

// raiseFileLimit returns how many open files this process may have. Go has raised it to the hard limit at its start.
func raiseFileLimit(uint64) (uint64, error) {
	var l syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l)
	return uint64(l.Cur), err
}
