package postgres

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// makeDir makes the server's folder. It stays ours, also when the server runs as another account: root does not write where
// somebody else could have put a link.
func (s *Server) makeDir() error {
	if s.temporary() {
		return s.makeTemporaryDir()
	}
	dir, err := filepath.Abs(s.options.Dir)
	if err != nil {
		return err
	}
	s.dir, s.data = dir, filepath.Join(dir, "data")
	if err := os.MkdirAll(dir, s.dirMode()); err != nil {
		return err
	}
	return s.account.reaches(dir)
}

func (s *Server) makeTemporaryDir() error {
	var failed error
	for _, base := range []string{memoryDir(), os.TempDir(), "/var/tmp"} {
		if base == "" {
			continue
		}
		dir, err := os.MkdirTemp(base, "roombell-")
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		err = os.Chmod(dir, s.dirMode())
		if err = cmp.Or(err, s.account.reaches(dir)); err == nil {
			s.dir, s.data = dir, filepath.Join(dir, "data")
			return nil
		}
		failed = errors.Join(failed, err, os.Remove(dir))
	}
	return failed
}

// dirMode lets the server's account through to its data; the folder of these is closed to everybody else.
func (s *Server) dirMode() fs.FileMode {
	if s.account.other {
		return 0o711
	}
	return 0o700
}

// takeDir makes this process the only one that runs this folder's server. The kernel drops the lock with the process.
func (s *Server) takeDir() error {
	lock, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		pid, _ := io.ReadAll(io.LimitReader(lock, 20))
		return errors.Join(fmt.Errorf("%w by process %s (folder %s)", ErrInUse, pid, s.dir), lock.Close())
	}
	err = lock.Truncate(0)
	if err == nil {
		_, err = lock.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	}
	if err == nil {
		err = s.openLog()
	}
	if err != nil {
		return errors.Join(err, lock.Close())
	}
	s.lock = lock
	return nil
}

// leaveDir gives the folder free, and removes a throw-away one.
func (s *Server) leaveDir() error {
	// Closing alone is not enough: a child that is being forked this moment has the file as well.
	err := errors.Join(s.output.Close(), syscall.Flock(int(s.lock.Fd()), syscall.LOCK_UN), s.lock.Close())
	if s.temporary() {
		err = errors.Join(err, os.RemoveAll(s.dir))
	}
	return err
}

// openLog begins a log for this run and keeps the one before it.
func (s *Server) openLog() error {
	name := filepath.Join(s.dir, "server.log")
	if err := os.Rename(name, name+".1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var err error
	s.output, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	return err
}

// dataVersion is the major version that wrote the data, or 0 where there are none.
func (s *Server) dataVersion() (int, error) {
	b, err := os.ReadFile(filepath.Join(s.data, "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// makeData sees to the data folder and to the ways into the server.
func (s *Server) makeData(ctx context.Context) error {
	if s.temporary() {
		s.access = temporaryAccess
		if s.options.Cache == "" {
			return s.initdb(ctx, "")
		}
		return s.copyCached(ctx)
	}
	made, err := s.dataVersion()
	if err != nil {
		return err
	}
	s.access, err = loadAccess(s.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && made > 0:
		return fmt.Errorf("%s, which holds the passwords, is gone: put it back, or move the folder away to begin anew", filepath.Join(s.dir, accessFile))
	case errors.Is(err, fs.ErrNotExist):
		s.access = access{Password: newPassword(), AdminPassword: newPassword()}
	case err != nil:
		return err
	}
	if err := s.keepPort(); err != nil {
		return err
	}
	if made > 0 {
		return nil
	}
	return s.initdb(ctx, s.access.AdminPassword)
}

// keepPort takes the port of the last run, or another one when somebody has taken that.
func (s *Server) keepPort() error {
	old := s.access.Port
	if old != 0 && portFree(old) {
		return nil
	}
	// A server whose process was killed a moment ago may still be leaving.
	if p := s.previous(); old != 0 && p != 0 {
		return nil
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	if old != 0 {
		s.log.Warn("port of the private database is taken, using another", "port", old, "now", port)
	}
	s.access.Port = port
	return s.access.save(s.dir)
}

// initdb makes the data folder, or leaves none: one that was made by halves would be taken for a whole one at the next start.
// Without a password everybody who reaches the socket is let in.
func (s *Server) initdb(ctx context.Context, password string) error {
	fresh := s.data + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return err
	}
	if err := s.account.own(fresh); err != nil {
		return err
	}
	args := append(initdbArgs(s.temporary()), "--pgdata="+fresh)
	if password != "" {
		file := filepath.Join(s.dir, "password.new")
		if err := writeSecret(file, []byte(password)); err != nil {
			return err
		}
		defer os.Remove(file)
		if err := s.account.own(file); err != nil {
			return err
		}
		args = append(args, "--pwfile="+file)
	}
	if err := s.run(ctx, "initdb", args...); err != nil {
		return err
	}
	return os.Rename(fresh, s.data)
}

// initdbArgs: sorted by code point and lower-cased by Unicode, which is the same on every machine where the C library can.
func initdbArgs(temporary bool) []string {
	args := []string{"--username=" + admin, "--encoding=UTF8", "--locale=C", "--no-instructions"}
	if runtime.GOOS == "linux" {
		args = append(args, "--lc-ctype=C.UTF-8")
	}
	if temporary {
		return append(args, "--auth=trust", "--no-sync")
	}
	return append(args, "--auth=scram-sha-256")
}

// run waits for a program of the installation; what it said is in the error.
func (s *Server) run(ctx context.Context, name string, args ...string) error {
	cmd := s.binaries.command(name, args...)
	cmd.SysProcAttr = s.account.attributes()
	endWithParent(cmd.SysProcAttr, syscall.SIGKILL)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := spawn(cmd)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	select {
	case <-p.exited:
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("%s: %w", name, context.Cause(ctx)), p.stop(ctx, syscall.SIGKILL))
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w: %s", name, p.err, lastComplaint(out.Bytes()))
	}
	return nil
}

// lastComplaint is the line of a program's output that most likely says what is wrong.
func lastComplaint(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if strings.Contains(lines[i], "FATAL:") || strings.Contains(lines[i], "PANIC:") || strings.Contains(lines[i], "error:") {
			return lines[i]
		}
	}
	return lines[len(lines)-1]
}

// copyCached makes the data folder as a copy of the one that the cache keeps for this installation, and makes that first where it
// is missing. Several processes may do this at once.
func (s *Server) copyCached(ctx context.Context) error {
	key := sha256.Sum256(fmt.Append(nil, s.binaries, initdbArgs(true)))
	cached := filepath.Join(s.options.Cache, fmt.Sprintf("roombell/initdb-%x", key[:6]))
	if err := os.MkdirAll(filepath.Dir(cached), 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(cached+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	if _, err := os.Stat(cached); err == nil {
		return copyTree(cached, s.data, s.account)
	}
	if err := s.initdb(ctx, ""); err != nil {
		return err
	}
	fresh := cached + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := copyTree(s.data, fresh, account{}); err != nil {
		return err
	}
	return os.Rename(fresh, cached)
}

// copyTree copies folders and files with their modes, for the account to own.
func copyTree(from, to string, a account) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(path, from))
		if entry.IsDir() {
			err = os.Mkdir(target, info.Mode().Perm())
		} else {
			err = copyFile(path, target, info.Mode().Perm())
		}
		return cmp.Or(err, a.own(target))
	})
}

func copyFile(from, to string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
