package db

import (
	"cmp"
	"context"
	stdsql "database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"roombell/sql"
	"roombell/triggers"
)

const (
	// versionTable is not goose's default name, because an application of the owner's may keep its own migrations in the same database.
	versionTable = "roombell_migrations"

	// The advisory lock (lockClass, lockMigrate) is held by the one process that migrates. The tail has (lockClass, 0) and (lockClass, 1).
	lockClass   = 7461
	lockMigrate = 2

	// patience is how long migrations and triggers try to get between long transactions before they give up.
	patience = 5 * time.Minute
)

// ErrNewer says that the database was migrated by a newer binary, which must be the one to take it back.
var ErrNewer = errors.New("the database was migrated by a newer version of roombell")

// ErrNothingApplied says that there is no migration to take back.
var ErrNothingApplied = errors.New("no migration is applied")

// Versions says what the database has and what this binary has.
type Versions struct {
	Migrations     []Migration // those of this binary, oldest first
	Newer          []int64     // applied, and unknown to this binary
	Triggers       int         // in the database; 0: none
	BinaryTriggers int
}

// Migration is one step of the tables.
type Migration struct {
	Version   int64
	Name      string    // its file's name
	AppliedAt time.Time // zero: pending
}

// Pending is the number of migrations that the database does not have yet.
func (v Versions) Pending() int {
	n := 0
	for _, m := range v.Migrations {
		if m.AppliedAt.IsZero() {
			n++
		}
	}
	return n
}

// Ready says why this binary cannot serve the database, or nil. Tables and triggers newer than the binary are fine.
func (v Versions) Ready() error {
	if n := v.Pending(); n > 0 {
		return fmt.Errorf("%d of %d migrations are pending", n, len(v.Migrations))
	}
	if v.Triggers < v.BinaryTriggers {
		return fmt.Errorf("the triggers have version %d, this binary has %d", v.Triggers, v.BinaryTriggers)
	}
	return nil
}

// Setting is what Migrate writes to the database beside tables and triggers.
type Setting func(*settings)

type settings struct{ retention *time.Duration }

// WithRetention sets how long the event log is kept.
func WithRetention(d time.Duration) Setting {
	return func(s *settings) { s.retention = &d }
}

// Migrate brings tables and triggers to this binary's version and writes the settings. Several processes may do it at once, and writers may go
// on: those who meet it wait for some tenths of a second at most, and none gets an error. A database that is newer stays as it is, and
// one where nothing changes has no table locked. It does not wait for a server that is away: the error then is IsUnavailable.
func Migrate(ctx context.Context, url string, log *slog.Logger, set ...Setting) error {
	var s settings
	for _, f := range set {
		f(&s)
	}
	m, err := connectMigrator(ctx, url, log)
	if err != nil {
		return err
	}
	defer m.close(ctx)

	have, err := ReadVersions(ctx, m.conn)
	if err != nil {
		return err
	}
	if have.Ready() != nil {
		if err := m.locked(ctx, m.up); err != nil {
			return err
		}
	}
	return m.writeSettings(ctx, s)
}

// Status reads the versions over a connection of its own. It changes nothing, so it works on a standby and before the first migration.
func Status(ctx context.Context, url string) (Versions, error) {
	m, err := connectMigrator(ctx, url, nil)
	if err != nil {
		return Versions{}, err
	}
	defer m.close(ctx)
	return ReadVersions(ctx, m.conn)
}

// Down takes the latest migration back. The triggers go with it, all of them: they were written for the tables of the newest version.
// Until somebody runs Migrate again, with the binary that is to serve, nothing is recorded. After the last step nothing of ours is left.
func Down(ctx context.Context, url string, log *slog.Logger) error {
	m, err := connectMigrator(ctx, url, log)
	if err != nil {
		return err
	}
	defer m.close(ctx)
	return m.locked(ctx, m.down)
}

// ReadVersions is Status over the caller's connection or pool.
func ReadVersions(ctx context.Context, q DBTX) (Versions, error) {
	v := Versions{BinaryTriggers: triggers.Version()}
	applied, err := readApplied(ctx, q)
	if err != nil {
		return Versions{}, err
	}
	if v.Migrations, err = embedded(); err != nil {
		return Versions{}, err
	}
	for i, m := range v.Migrations {
		v.Migrations[i].AppliedAt = applied[m.Version]
		delete(applied, m.Version)
	}
	for version := range applied {
		v.Newer = append(v.Newer, version)
	}
	slices.Sort(v.Newer)

	v.Triggers, err = triggerVersion(ctx, q)
	return v, err
}

// readApplied is empty where nothing was ever migrated.
func readApplied(ctx context.Context, q DBTX) (map[int64]time.Time, error) {
	// Version 0 is goose's own mark.
	rows, err := q.Query(ctx, `SELECT version_id, max(tstamp AT TIME ZONE 'UTC') FROM public.`+versionTable+`
		WHERE is_applied AND version_id > 0 GROUP BY version_id`)
	if IsMissing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	applied := map[int64]time.Time{}
	var version int64
	var at time.Time
	_, err = pgx.ForEachRow(rows, []any{&version, &at}, func() error {
		applied[version] = at
		return nil
	})
	if err != nil && !IsMissing(err) { // told here in the simple protocol
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	return applied, nil
}

// embedded lists the migrations of this binary, oldest first.
func embedded() ([]Migration, error) {
	files, err := fs.Glob(sql.Migrations, "migrations/*.sql")
	if err != nil {
		return nil, fmt.Errorf("list migrations: %w", err)
	}
	var all []Migration
	for _, file := range files {
		name := path.Base(file)
		number, _, _ := strings.Cut(name, "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("migration %s: its name has no version", name)
		}
		all = append(all, Migration{Version: version, Name: name})
	}
	slices.SortFunc(all, func(a, b Migration) int { return cmp.Compare(a.Version, b.Version) })
	return all, nil
}

// migrator holds the connection that has the advisory lock, and goose's.
type migrator struct {
	conn *pgx.Conn
	pool *stdsql.DB
	log  *slog.Logger
}

func connectMigrator(ctx context.Context, url string, log *slog.Logger) (*migrator, error) {
	cfg, err := connConfig(url)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	if err := prepareSession(ctx, conn); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	pool := stdlib.OpenDB(*cfg, stdlib.OptionAfterConnect(prepareSession))
	return &migrator{conn: conn, pool: pool, log: log}, nil
}

// prepareSession makes a role's own settings harmless: tables go to public, and times are written in UTC.
func prepareSession(ctx context.Context, conn *pgx.Conn) error {
	// As commands and not as start-up parameters, which poolers in front of Postgres refuse.
	_, err := conn.Exec(ctx, `SELECT set_config('search_path', 'public', false), set_config('TimeZone', 'UTC', false),
		set_config('lock_timeout', '0', false), set_config('statement_timeout', '0', false)`)
	if err != nil {
		return fmt.Errorf("prepare session: %w", err)
	}
	return nil
}

func (m *migrator) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectTimeout)
	defer cancel()
	if err := errors.Join(m.pool.Close(), m.conn.Close(ctx)); err != nil {
		m.log.Debug("close migration connections", "err", err)
	}
}

// locked runs f while this process is the only one that migrates.
func (m *migrator) locked(ctx context.Context, f func(context.Context) error) error {
	started := time.Now()
	for told := false; ; {
		var got bool
		// Tried and not waited for: a statement that waits holds a snapshot, which CREATE INDEX CONCURRENTLY in the other process would wait for.
		err := m.conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1, $2)", lockClass, lockMigrate).Scan(&got)
		if err != nil {
			return fmt.Errorf("lock migrations: %w", err)
		}
		if got {
			break
		}
		if !told && time.Since(started) > 5*time.Second {
			m.log.Info("waiting for another process that migrates")
			told = true
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("lock migrations: %w", err)
		}
	}
	defer func() {
		unlock, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectTimeout)
		defer cancel()
		if _, err := m.conn.Exec(unlock, "SELECT pg_advisory_unlock($1, $2)", lockClass, lockMigrate); err != nil {
			m.log.Debug("unlock migrations", "err", err)
		}
	}()
	return f(ctx)
}

func (m *migrator) up(ctx context.Context) error {
	have, err := ReadVersions(ctx, m.conn) // again: another process may have done it while this one waited
	if err != nil {
		return err
	}
	if have.Pending() > 0 {
		if err := m.goose(ctx, "apply migrations", m.gooseUp); err != nil {
			return err
		}
	}
	return m.applyTriggers(ctx, triggers.Files, triggers.Version())
}

func (m *migrator) down(ctx context.Context) error {
	have, err := ReadVersions(ctx, m.conn)
	if err != nil {
		return err
	}
	if len(have.Newer) > 0 || have.Triggers > have.BinaryTriggers {
		return ErrNewer
	}
	if have.Pending() == len(have.Migrations) {
		return ErrNothingApplied
	}
	if err := m.dropTriggers(ctx, triggers.Files); err != nil {
		return err
	}
	if err := m.goose(ctx, "take a migration back", m.gooseDown); err != nil {
		return err
	}
	if have, err = ReadVersions(ctx, m.conn); err != nil {
		return err
	}
	if have.Pending() < len(have.Migrations) {
		return nil
	}
	if _, err := m.conn.Exec(ctx, "DROP TABLE public."+versionTable); err != nil {
		return fmt.Errorf("drop %s: %w", versionTable, err)
	}
	return nil
}

// goose runs a migration and runs it again when it met a lock: migrations that lock tables in use begin with SET LOCAL lock_timeout.
func (m *migrator) goose(ctx context.Context, what string, run func(context.Context, *goose.Provider) error) error {
	files, err := fs.Sub(sql.Migrations, "migrations")
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	// Nothing of goose is locked by goose: the migrator's lock covers its version table and the triggers as well.
	p, err := goose.NewProvider(goose.DialectPostgres, m.pool, files, goose.WithTableName(versionTable),
		goose.WithDisableGlobalRegistry(true), goose.WithSlog(m.log))
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return m.patiently(ctx, what, func(int) error { return run(ctx, p) })
}

func (m *migrator) gooseUp(ctx context.Context, p *goose.Provider) error {
	results, err := p.Up(ctx)
	if err != nil {
		return err
	}
	for _, r := range results {
		m.log.Info("migration applied", "name", path.Base(r.Source.Path), "took", r.Duration)
	}
	_, err = m.conn.Exec(ctx, "COMMENT ON TABLE public."+versionTable+" IS 'Migrations of Roombell that were applied.'")
	return err
}

func (m *migrator) gooseDown(ctx context.Context, p *goose.Provider) error {
	r, err := p.Down(ctx)
	if err != nil {
		return err
	}
	m.log.Info("migration taken back", "name", path.Base(r.Source.Path), "took", r.Duration)
	return nil
}

// patiently runs f until it no longer fails for a lock or a deadlock, with pauses in which the others get on.
func (m *migrator) patiently(ctx context.Context, what string, f func(try int) error) error {
	told := time.Now()
	deadline := told.Add(patience)
	for try := 1; ; try++ {
		err := f(try)
		if err == nil {
			return nil
		}
		if !IsLocked(err) && !IsRetryable(err) || time.Now().After(deadline) {
			return fmt.Errorf("%s: %w", what, err)
		}
		if time.Since(told) > 10*time.Second {
			m.log.Warn("a table is in use, trying again", "what", what, "err", err)
			told = time.Now()
		}
		// Soon for a second or so, because most of what is in the way is short, then ever more rarely.
		if err := pause(ctx, backoff(max(1, try-30), 20*time.Millisecond, time.Second)); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

func (m *migrator) writeSettings(ctx context.Context, s settings) error {
	if s.retention == nil {
		return nil
	}
	// Asked first: an update without a change would still fire the table's triggers.
	var same bool
	err := m.conn.QueryRow(ctx, "SELECT count(*) > 0 FROM roombell_settings WHERE retention = $1", *s.retention).Scan(&same)
	if err == nil && !same {
		_, err = m.conn.Exec(ctx, "UPDATE roombell_settings SET retention = $1", *s.retention)
	}
	if err != nil {
		return fmt.Errorf("write the retention: %w", err)
	}
	return nil
}
