package postgres

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

//go:embed slowflush/fdatasync.c
var slowFlushSource []byte

// compileFlushDelay builds the library that makes the server's flushes slow, and returns its path; empty where no delay is asked for.
func (s *Server) compileFlushDelay(ctx context.Context) (string, error) {
	delay := s.options.FlushDelay
	if delay <= 0 {
		return "", nil
	}
	if runtime.GOOS != "linux" {
		return "", errors.New("a flush delay needs Linux")
	}
	cc, err := exec.LookPath("cc")
	if err != nil {
		return "", errors.New("a flush delay needs a C compiler (apt-get install gcc libc6-dev)")
	}
	source, library := filepath.Join(s.dir, "fdatasync.c"), filepath.Join(s.dir, "fdatasync.so")
	if err := os.WriteFile(source, slowFlushSource, 0o600); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, cc, "-shared", "-fPIC", "-O2", fmt.Sprintf("-DDELAY_NS=%dL", delay.Nanoseconds()), "-o", library, source)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile the flush delay: %w: %s", err, out)
	}
	return library, os.Chmod(library, 0o755)
}
