// Package postgres runs a private PostgreSQL from binaries that are on the machine.
//
// `roombell dev` keeps its data in one (Options.Dir), tests and benchmarks use throw-away ones in memory (dbtest is the door for
// tests). A server belongs to the process that started it: it takes no Ctrl-C of the terminal, and it ends with that process, also
// when that is killed with -9. Root, whom PostgreSQL refuses, starts it as the user postgres.
//
// A kept server listens on 127.0.0.1 and on a unix socket, and asks everybody for a password that it made itself, since other
// people may have an account on the machine. A throw-away one has a unix socket only, in a folder that nobody else can enter.
//
// Both have a role and a database named Name: the role owns the database and is no superuser, as in production.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// Name is the role that the program works as, and the database that it owns.
	Name = "roombell"
	// admin is the superuser that initdb makes.
	admin = "postgres"

	startTimeout = time.Minute
)

var (
	// ErrInUse means that another process runs the server of this folder.
	ErrInUse = errors.New("the private database is in use")
	// ErrNoBinaries means that no PostgreSQL that will do was found on the machine.
	ErrNoBinaries = errors.New("no PostgreSQL 15 or newer found")
)

// Options say where a server keeps its data and how careful it is with them. The zero value is a throw-away server for tests.
type Options struct {
	// Dir keeps the data, which are flushed to disk at every commit. It is made when missing, and everything in it is the server's.
	// Empty: a folder of its own, in memory where the machine has room, gone with the server.
	Dir string
	// Bin is the folder of initdb and postgres. Empty: the newest that is found.
	Bin string
	// Cache is a folder of the user's in which throw-away servers keep a fresh data folder to copy, which is several times faster
	// than making one. All copies have one system identifier. Empty: none is kept, each server has an identifier of its own.
	Cache string
	// Sync makes a throw-away server as careful as a kept one: fsync, full page writes, autovacuum. For crash tests.
	Sync bool
	// FlushDelay, where it is above zero, replaces every flush of the write-ahead log by a wait of this length, which makes memory
	// behave like a cloud disk. It implies Sync and needs Linux and a C compiler.
	FlushDelay time.Duration
	// Settings are added to the server's own, and win over them.
	Settings map[string]string
	// Logger hears of starts and stops; nil is silence.
	Logger *slog.Logger
}

// Server is a running PostgreSQL. Its methods may be called from several goroutines, but Stop only once.
type Server struct {
	options  Options
	log      *slog.Logger
	binaries binaries
	account  account
	dir      string // ours
	data     string // the server's account's
	preload  string // the library that slows flushes, or empty
	lock     *os.File
	output   *os.File
	access   access
	reaper   *reaper

	mu      sync.Mutex
	process *process
}

// Start makes the data folder where there is none, starts the server and returns when it takes connections: after some tenths of a
// second, or seconds the first time. The context bounds the start only; the server runs until Stop, or until this process ends.
func Start(ctx context.Context, o Options) (*Server, error) {
	begin := time.Now()
	s, err := prepare(o)
	if err != nil {
		return nil, fmt.Errorf("start a private database: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := s.bringUp(ctx); err != nil {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return nil, fmt.Errorf("start a private database in %s: %w", s.dir, errors.Join(err, s.Stop(stop)))
	}
	s.log.Info("private database started", "version", s.binaries.version, "dir", s.dir, "took", time.Since(begin))
	return s, nil
}

// prepare finds what the server needs and takes its folder; nothing runs yet.
func prepare(o Options) (*Server, error) {
	s := &Server{options: o, log: o.Logger}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if o.FlushDelay > 0 {
		s.options.Sync = true
	}
	s.account = serverAccount()
	if err := s.makeDir(); err != nil {
		return nil, err
	}
	if err := s.takeDir(); err != nil {
		return nil, err
	}
	major, err := s.dataVersion()
	if err == nil {
		s.binaries, err = find(o.Bin, major, s.account)
	}
	if err != nil {
		return nil, errors.Join(err, s.leaveDir())
	}
	return s, nil
}

func (s *Server) bringUp(ctx context.Context) error {
	var err error
	if s.reaper, err = startReaper(s.dir, s.stopSignal(), s.temporary()); err != nil {
		return err
	}
	if s.preload, err = s.compileFlushDelay(ctx); err != nil {
		return err
	}
	if err := s.makeData(ctx); err != nil {
		return err
	}
	if err := s.Restart(ctx); err != nil {
		return err
	}
	return s.ensureOwner(ctx)
}

// temporary reports whether the data go with the server.
func (s *Server) temporary() bool { return s.options.Dir == "" }

// stopSignal is what ends the server when this process dies: data that are kept deserve a checkpoint, others none.
func (s *Server) stopSignal() syscall.Signal {
	if s.temporary() {
		return syscall.SIGQUIT
	}
	return syscall.SIGINT
}

// URL is the address of a database for the role that owns it. It holds the password where there is one.
func (s *Server) URL(database string) string { return s.address(Name, s.access.Password, database) }

// AdminURL is the address of a database for the superuser.
func (s *Server) AdminURL(database string) string {
	return s.address(admin, s.access.AdminPassword, database)
}

func (s *Server) address(user, password, database string) string {
	u := url.URL{Scheme: "postgres", User: url.User(user), Path: "/" + database}
	query := url.Values{"sslmode": {"disable"}}
	if s.temporary() {
		query.Set("host", s.data)
		query.Set("port", strconv.Itoa(s.access.Port))
	} else {
		u.User = url.UserPassword(user, password)
		u.Host = "127.0.0.1:" + strconv.Itoa(s.access.Port)
	}
	u.RawQuery = query.Encode()
	return u.String()
}

// Dir is the folder of the server: its data, its log, and what it made up for itself.
func (s *Server) Dir() string { return s.dir }

// Version is the server's major version.
func (s *Server) Version() int { return s.binaries.major }

// PID is the process id of the postmaster that was started last.
func (s *Server) PID() int { return s.current().pid() }

// Exited is closed when the postmaster that was started last has ended, for whatever reason.
func (s *Server) Exited() <-chan struct{} { return s.current().exited }

func (s *Server) current() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process
}

// Crash ends the server at once, without a checkpoint, as `pg_ctl stop -m immediate` does. Restart brings it back.
func (s *Server) Crash(ctx context.Context) error {
	if err := s.current().stop(ctx, syscall.SIGQUIT); err != nil {
		return fmt.Errorf("crash the private database: %w", err)
	}
	return nil
}

// Shutdown ends the server in order and keeps its data, as `pg_ctl stop -m fast` does. Restart brings it back.
func (s *Server) Shutdown(ctx context.Context) error {
	if err := s.current().stop(ctx, syscall.SIGINT); err != nil {
		return fmt.Errorf("shut the private database down: %w", err)
	}
	return nil
}

// Restart starts a server that Crash or Shutdown ended, with the same data at the same address, and returns when it takes
// connections. One that still runs is shut down before.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.endPrevious(ctx); err != nil {
		return err
	}
	for {
		p, err := s.launch()
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.process = p
		s.mu.Unlock()
		// After kill -9 of a postmaster its children live on for a moment.
		if err = s.awaitReady(ctx, p); err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "pre-existing shared memory block") {
			return err
		}
	}
}

// Stop ends the server and gives its folder free: a kept one in order, or at once when the context ends first (nothing that was
// committed is lost), a throw-away one at once, together with its folder.
func (s *Server) Stop(ctx context.Context) error {
	var err error
	if p := s.current(); p != nil {
		err = p.stop(ctx, s.stopSignal())
	}
	if s.reaper != nil {
		err = errors.Join(err, s.reaper.dismiss())
	}
	if err = errors.Join(err, s.leaveDir()); err != nil {
		return fmt.Errorf("stop the private database: %w", err)
	}
	s.log.Info("private database stopped", "dir", s.dir)
	return nil
}

// ensureOwner makes the program's role and its database.
func (s *Server) ensureOwner(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.AdminURL(admin))
	if err != nil {
		return fmt.Errorf("connect as superuser: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var role, database bool
	err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1), EXISTS (SELECT FROM pg_database WHERE datname = $1)`,
		Name).Scan(&role, &database)
	if err == nil && !role {
		// The password is hexadecimal; an empty one is none.
		_, err = conn.Exec(ctx, "CREATE ROLE "+Name+" LOGIN NOSUPERUSER PASSWORD '"+s.access.Password+"'")
	}
	if err == nil && !database {
		_, err = conn.Exec(ctx, "CREATE DATABASE "+Name+" OWNER "+Name)
	}
	if err != nil {
		return fmt.Errorf("make the role and the database %s: %w", Name, err)
	}
	return nil
}

// lastWords is the line of the server's log that says why it ended.
func (s *Server) lastWords() string {
	b, err := readTail(s.output, 16<<10)
	if err != nil {
		return err.Error()
	}
	return lastComplaint(b)
}

func readTail(f *os.File, n int64) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	at := max(0, info.Size()-n)
	return io.ReadAll(io.NewSectionReader(f, at, info.Size()-at))
}

// DataDir is the folder in which `dev` keeps what must outlive it, one for each user of the machine: below dataHome
// ($XDG_DATA_HOME), or its usual place. Root's is one that the user postgres can reach. It need not exist.
func DataDir(dataHome string) (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/roombell", nil
	}
	if filepath.IsAbs(dataHome) {
		return filepath.Join(dataHome, "roombell"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find a folder for data: %w", err)
	}
	return filepath.Join(home, ".local", "share", "roombell"), nil
}
