// Package dbtest gives tests a PostgreSQL of their own.
//
// All tests of a test binary share one throw-away server, which starts with the first of them and ends with the binary; each has a
// database to itself, so that they run in parallel. New clones a migrated template, which takes some tens of milliseconds; Cluster
// gives a whole server, for tests that crash it.
//
// Two variables of the environment are heard: PG_BIN names the folder of initdb and postgres, and TEST_DATABASE_URL a server to use
// in place of the shared one, by a role that may create databases.
package dbtest

import (
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"roombell/db"
	"roombell/internal/postgres"
	"roombell/sql"
	"roombell/triggers"
)

// DB is a database of one test. It goes with the test, and whoever is still connected is thrown out.
type DB struct {
	Name     string
	Pool     *pgxpool.Pool // as the owner, 10 connections
	URL      string        // for the role that owns it and is no superuser
	AdminURL string        // for the superuser: session_replication_role, other roles
}

const (
	startTimeout = 2 * time.Minute
	dropTimeout  = 30 * time.Second
)

// New is an empty database with the tables and triggers of this source.
func New(t testing.TB) *DB {
	t.Helper()
	s := shared(t)
	template, err := s.template()
	if err != nil {
		t.Fatal("database template: ", err)
	}
	return s.create(t, template)
}

// Empty is a database without anything.
func Empty(t testing.TB) *DB {
	t.Helper()
	return shared(t).create(t, "template1")
}

// Cluster is a whole server for one test, which may crash it. It is careful (fsync and all), so that a crash loses nothing that was
// committed; its database postgres.Name is empty.
func Cluster(t testing.TB, change ...func(*postgres.Options)) *postgres.Server {
	t.Helper()
	o := options()
	o.Sync = true
	for _, f := range change {
		f(&o)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	s, err := postgres.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), dropTimeout)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return s
}

// IgnoreServer has goleak overlook the goroutine that waits for the shared server, which outlives the tests.
func IgnoreServer() goleak.Option {
	return goleak.IgnoreAnyFunction("roombell/internal/postgres.spawn.func1")
}

// Its own way to the environment: tests have no settings of the program.
func options() postgres.Options {
	o := postgres.Options{Bin: os.Getenv("PG_BIN")}
	// Without a home there is no cache: then every server makes its data itself.
	o.Cache, _ = os.UserCacheDir()
	return o
}

// server is what all tests of the binary share.
type server struct {
	url, adminURL func(database string) string
	owner         string // who owns the databases, or empty: whoever creates them
	template      func() (string, error)

	mu    sync.Mutex // CREATE DATABASE wants its template for itself
	admin *pgx.Conn
	count int
}

// start is called once: the server cannot be an argument of tests that know nothing of each other.
var start = sync.OnceValues(func() (*server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	s := &server{}
	s.template = sync.OnceValues(s.makeTemplate)
	var err error
	if given := os.Getenv("TEST_DATABASE_URL"); given != "" {
		err = s.use(given)
	} else {
		err = s.startOwn(ctx)
	}
	if err != nil {
		return nil, err
	}
	s.admin, err = pgx.Connect(ctx, s.adminURL("postgres"))
	return s, err
})

func shared(t testing.TB) *server {
	t.Helper()
	s, err := start()
	if err != nil {
		t.Fatal("test database: ", err)
	}
	return s
}

func (s *server) startOwn(ctx context.Context) error {
	p, err := postgres.Start(ctx, options())
	if err != nil {
		return err
	}
	s.url, s.adminURL, s.owner = p.URL, p.AdminURL, postgres.Name
	return nil
}

func (s *server) use(given string) error {
	address, err := url.Parse(given)
	if err != nil {
		return errors.New("TEST_DATABASE_URL is no URL")
	}
	s.url = func(database string) string {
		u := *address
		u.Path = "/" + database
		return u.String()
	}
	s.adminURL = s.url
	return nil
}

// makeTemplate migrates a database for the others to be copied from. Its name says what is in it: a server that outlives the test
// binary has it ready next time.
func (s *server) makeTemplate() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	sum, err := checksum(sql.Migrations, triggers.Files)
	if err != nil {
		return "", err
	}
	name, fresh := "template_"+sum, fmt.Sprintf("template_%s_%d", sum, os.Getpid())
	s.mu.Lock()
	defer s.mu.Unlock()
	var there bool
	if err := s.admin.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name).Scan(&there); there || err != nil {
		return name, err
	}
	if err := s.exec(ctx, "CREATE DATABASE "+fresh+s.ownedBy()); err != nil {
		return "", err
	}
	if err := db.Migrate(ctx, s.url(fresh), slog.New(slog.DiscardHandler)); err != nil {
		return "", err
	}
	// Another binary may have been faster.
	if err := s.exec(ctx, "ALTER DATABASE "+fresh+" RENAME TO "+name); err != nil {
		return fresh, nil
	}
	return name, nil
}

func checksum(folders ...embed.FS) (string, error) {
	sum := sha256.New()
	for _, folder := range folders {
		err := fs.WalkDir(folder, ".", func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			b, err := folder.ReadFile(path)
			fmt.Fprintf(sum, "%s %d\n%s", path, len(b), b)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%x", sum.Sum(nil)[:8]), nil
}

func (s *server) ownedBy() string {
	if s.owner == "" {
		return ""
	}
	return " OWNER " + s.owner
}

func (s *server) create(t testing.TB, template string) *DB {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	s.mu.Lock()
	s.count++
	name := fmt.Sprintf("test_%d_%d", os.Getpid(), s.count)
	err := s.exec(ctx, "CREATE DATABASE "+name+s.ownedBy()+" TEMPLATE "+template+" STRATEGY FILE_COPY")
	s.mu.Unlock()
	if err != nil {
		t.Fatal("test database: ", err)
	}
	d := &DB{Name: name, URL: s.url(name), AdminURL: s.adminURL(name)}
	t.Cleanup(func() { s.drop(t, d) })
	if d.Pool, err = pool(ctx, d.URL); err != nil {
		t.Fatal("test database: ", err)
	}
	return d
}

// pool is the program's own.
func pool(ctx context.Context, url string) (*pgxpool.Pool, error) {
	return db.Open(context.WithoutCancel(ctx), url)
}

func (s *server) drop(t testing.TB, d *DB) {
	t.Helper()
	if d.Pool != nil {
		d.Pool.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), dropTimeout)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.exec(ctx, "DROP DATABASE "+d.Name+" WITH (FORCE)"); err != nil {
		t.Error("test database: ", err)
	}
}

func (s *server) exec(ctx context.Context, statement string) error {
	_, err := s.admin.Exec(ctx, statement)
	return err
}
