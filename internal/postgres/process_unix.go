//go:build unix && !linux

package postgres

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// endWithParent is the reaper's work here.
func endWithParent(*syscall.SysProcAttr, syscall.Signal) {}

// commandLine is what a running process was started with, or empty.
func commandLine(pid int) string {
	out, err := exec.Command("ps", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

func memoryDir() string { return "" }
