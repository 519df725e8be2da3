package postgres

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
)

// endWithParent has the kernel send the signal to the child when the thread that starts it ends.
func endWithParent(attr *syscall.SysProcAttr, signal syscall.Signal) { attr.Pdeathsig = signal }

// commandLine is what a running process was started with, or empty.
func commandLine(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil {
		return ""
	}
	return string(bytes.ReplaceAll(b, []byte{0}, []byte{' '}))
}

// memoryDir is a folder in memory with room for some databases, or empty: containers often have 64 MB there.
func memoryDir() string {
	const dir, room = "/dev/shm", 2 << 30
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil || int64(st.Bavail)*int64(st.Bsize) < room {
		return ""
	}
	return dir
}
