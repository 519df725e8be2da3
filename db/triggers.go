package db

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"roombell/triggers"
)

const (
	// tableWaitMost and tablesWait bound the locks of one try. Together they stay below Postgres's deadlock_timeout (1 s): a writer that
	// waits for us is never the victim of a deadlock with us, because we let go before anybody looks for one.
	tableWaitMost = 150 * time.Millisecond
	tablesWait    = 500 * time.Millisecond

	// tableWaitLeast is enough for short transactions to end. A try that meets a writer who has the second table and wants the first must
	// not hold everybody up, and is best begun again.
	tableWaitLeast = 25 * time.Millisecond

	// vacuumWait is longer than deadlock_timeout, after which Postgres cancels an autovacuum that is in the way.
	vacuumWait = 1500 * time.Millisecond
)

// triggerTables are the tables that have triggers of ours. Every other try locks them in the opposite order, because some applications write
// the chat and then the message, and others the message and then the chat.
var triggerTables = [...]string{
	"roombell_settings", "event_log_state", "organizations", "users", "channels", "chats", "chat_members", "messages", "notifications",
}

// lockedError says which table was in use.
type lockedError struct {
	table string
	err   error
}

func (e *lockedError) Error() string { return "table " + e.table + " is in use: " + e.err.Error() }
func (e *lockedError) Unwrap() error { return e.err }

// triggerVersion is 0 where there are no triggers.
func triggerVersion(ctx context.Context, q DBTX) (int, error) {
	var version int
	err := q.QueryRow(ctx, "SELECT coalesce(max(version), 0) FROM roombell.trigger_version").Scan(&version)
	if err != nil && !IsMissing(err) {
		return 0, fmt.Errorf("read the triggers' version: %w", err)
	}
	return version, nil
}

// applyTriggers runs the files when version is higher than the database's. The caller holds the migrations' lock.
func (m *migrator) applyTriggers(ctx context.Context, files fs.FS, version int) error {
	have, err := triggerVersion(ctx, m.conn)
	if err != nil || have >= version {
		return err
	}
	scripts, err := readScripts(files)
	if err != nil {
		return err
	}
	defined := definitionsOf(scripts)
	same, err := m.hasDefinitions(ctx, defined)
	if err != nil {
		return err
	}
	started := time.Now()
	run := func(scripts []script) func(pgx.Tx) error {
		return func(tx pgx.Tx) error { return runScripts(ctx, tx, scripts, version, defined.sum) }
	}
	if same {
		// Functions alone are replaced without any lock that a writer would meet.
		functions := run(withoutDefinitions(scripts))
		err = m.patiently(ctx, "apply functions", func(int) error { return m.tryFunctions(ctx, functions) })
	} else {
		err = m.betweenWriters(ctx, "apply triggers", lockMode(scripts), run(scripts))
	}
	if err != nil {
		return err
	}
	m.log.Info("triggers applied", "version", version, "before", have, "functions_only", same, "took", time.Since(started))
	return nil
}

func (m *migrator) tryFunctions(ctx context.Context, run func(pgx.Tx) error) error {
	return inTxOnce(ctx, m.conn, func(tx pgx.Tx) error {
		if err := setLockTimeout(ctx, tx, tableWaitMost); err != nil {
			return err
		}
		return run(tx)
	})
}

func runScripts(ctx context.Context, tx pgx.Tx, scripts []script, version int, sum string) error {
	for _, s := range scripts {
		// The simple protocol, which takes a file of many statements.
		if _, err := tx.Conn().PgConn().Exec(ctx, s.text).ReadAll(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	for _, statement := range []string{
		`CREATE TABLE IF NOT EXISTS roombell.trigger_version (id boolean PRIMARY KEY DEFAULT true CHECK (id), version integer NOT NULL,
			definitions text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())`,
		`COMMENT ON TABLE roombell.trigger_version IS 'One row: the version of the functions and triggers. Only a higher one is applied.'`,
		`COMMENT ON COLUMN roombell.trigger_version.definitions IS 'Checksum of the definitions of triggers and views: where it stays, only functions are replaced.'`,
	} {
		if _, err := tx.Exec(ctx, statement); err != nil {
			return fmt.Errorf("note the triggers' version: %w", err)
		}
	}
	_, err := tx.Exec(ctx, `INSERT INTO roombell.trigger_version (version, definitions) VALUES ($1, $2)
		ON CONFLICT (id) DO UPDATE SET version = excluded.version, definitions = excluded.definitions, applied_at = now()`, version, sum)
	if err != nil {
		return fmt.Errorf("note the triggers' version: %w", err)
	}
	return nil
}

// hasDefinitions says that the database has exactly these, and all of them in force.
func (m *migrator) hasDefinitions(ctx context.Context, d definitions) (bool, error) {
	var same bool
	err := m.conn.QueryRow(ctx, `SELECT v.definitions = $1
			AND cardinality($2::text[]) = (SELECT count(*) FROM pg_trigger WHERE format('%s.%s:%s', tgrelid::regclass, tgname, tgenabled) = ANY($2))
			AND NOT EXISTS (SELECT FROM unnest($3::text[]) view WHERE to_regclass(view) IS NULL)
		FROM roombell.trigger_version v`, d.sum, d.triggers, d.views).Scan(&same)
	if IsMissing(err) || IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read triggers: %w", err)
	}
	return same, nil
}

// dropTriggers removes every trigger, function and view that the files made, and the note of their version.
func (m *migrator) dropTriggers(ctx context.Context, files fs.FS) error {
	scripts, err := readScripts(files)
	if err != nil {
		return err
	}
	return m.betweenWriters(ctx, "drop triggers", accessExclusive, func(tx pgx.Tx) error {
		if err := execAll(ctx, tx, `SELECT 'DROP VIEW ' || string_agg(c.oid::regclass::text, ', ')
			FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
			WHERE relkind = 'v' AND nspname || '.' || relname = ANY($1) HAVING count(*) > 0`, namesOf(createView, scripts)); err != nil {
			return err
		}
		names := namesOf(createFunction, scripts)
		if err := execAll(ctx, tx, `SELECT format('DROP TRIGGER %I ON %s', tgname, tgrelid::regclass)
			FROM pg_trigger JOIN pg_proc p ON p.oid = tgfoid JOIN pg_namespace n ON n.oid = pronamespace
			WHERE NOT tgisinternal AND tgparentid = 0 AND nspname || '.' || proname = ANY($1)`, names); err != nil {
			return err
		}
		// In one statement, because they depend on each other. Not CASCADE: what else depends on one is not ours to drop unseen.
		if err := execAll(ctx, tx, `SELECT 'DROP ROUTINE ' || string_agg(p.oid::regprocedure::text, ', ')
			FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
			WHERE nspname || '.' || proname = ANY($1) HAVING count(*) > 0`, names); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "DROP TABLE IF EXISTS roombell.trigger_version")
		return err
	})
}

// execAll runs the statements that a query returns.
func execAll(ctx context.Context, tx pgx.Tx, query string, args ...any) error {
	rows, err := tx.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, s := range statements {
		if _, err := tx.Exec(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

const (
	shareRowExclusive = "SHARE ROW EXCLUSIVE" // what CREATE OR REPLACE TRIGGER and ENABLE ALWAYS take: it stops writers, not readers
	accessExclusive   = "ACCESS EXCLUSIVE"    // what DROP TRIGGER takes
)

// lockMode is the strongest lock that the scripts will ask for. It is taken from the start: to strengthen one later is a deadlock in waiting.
func lockMode(scripts []script) string {
	for _, s := range scripts {
		if dropTrigger.MatchString(s.text) {
			return accessExclusive
		}
	}
	return shareRowExclusive
}

// betweenWriters runs f in one transaction that holds all tables with triggers. Writers who meet it wait; they see everything of f or nothing.
func (m *migrator) betweenWriters(ctx context.Context, what, mode string, f func(pgx.Tx) error) error {
	vacuums := 0
	return m.patiently(ctx, what, func(try int) error {
		err := m.tryBetweenWriters(ctx, try, mode, f)
		var locked *lockedError
		if try >= 9 && vacuums < 3 && errors.As(err, &locked) {
			sent, vacuumErr := m.sendVacuumAway(ctx, locked.table)
			if vacuumErr != nil {
				return vacuumErr
			}
			if sent {
				vacuums++
			}
		}
		return err
	})
}

// tableWait is short and long in turn: the long one is for transactions that take a while.
func tableWait(try int) time.Duration {
	if try%4 < 2 {
		return tableWaitLeast
	}
	return tableWaitMost
}

func (m *migrator) tryBetweenWriters(ctx context.Context, try int, mode string, f func(pgx.Tx) error) error {
	return inTxOnce(ctx, m.conn, func(tx pgx.Tx) error {
		tables, err := existing(ctx, tx)
		if err != nil {
			return err
		}
		if try%2 == 0 {
			slices.Reverse(tables)
		}
		started := time.Now()
		for _, table := range tables {
			left := min(tableWait(try), tablesWait-time.Since(started))
			if err := lockTable(ctx, tx, table, mode, max(left, time.Millisecond)); err != nil {
				return err
			}
		}
		return f(tx)
	})
}

// existing are the triggerTables that there are: after a step down some may be gone.
func existing(ctx context.Context, tx pgx.Tx) ([]string, error) {
	rows, err := tx.Query(ctx, `SELECT name FROM unnest($1::text[]) WITH ORDINALITY t(name, nth)
		WHERE to_regclass('public.' || name) IS NOT NULL ORDER BY nth`, triggerTables[:])
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func lockTable(ctx context.Context, tx pgx.Tx, table, mode string, wait time.Duration) error {
	if err := setLockTimeout(ctx, tx, wait); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf("LOCK TABLE public.%s IN %s MODE", table, mode)); err != nil {
		return &lockedError{table: table, err: err}
	}
	return nil
}

func setLockTimeout(ctx context.Context, tx pgx.Tx, d time.Duration) error {
	_, err := tx.Exec(ctx, "SELECT set_config('lock_timeout', $1, true)", fmt.Sprintf("%dms", d.Milliseconds()))
	return err
}

// sendVacuumAway waits for the table alone, for so long that Postgres cancels an autovacuum which holds it; short tries would never get past
// one. It holds nothing else meanwhile, so that it is in nobody's deadlock. False when there is no vacuum in the way.
func (m *migrator) sendVacuumAway(ctx context.Context, table string) (bool, error) {
	var vacuum bool
	err := m.conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_locks WHERE relation = to_regclass($1) AND granted
		AND mode = 'ShareUpdateExclusiveLock')`, "public."+table).Scan(&vacuum)
	if err != nil || !vacuum {
		return false, err
	}
	err = inTxOnce(ctx, m.conn, func(tx pgx.Tx) error {
		return lockTable(ctx, tx, table, shareRowExclusive, vacuumWait)
	})
	if IsLocked(err) || IsRetryable(err) {
		err = nil // whoever is in the way is no autovacuum; the caller goes on trying
	}
	return true, err
}

// script is one of the repeatable files.
type script struct{ name, text string }

func readScripts(files fs.FS) ([]script, error) {
	names, err := fs.Glob(files, "*.sql") // in the order of their names
	if err != nil {
		return nil, fmt.Errorf("list triggers: %w", err)
	}
	scripts := make([]script, 0, len(names))
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, fmt.Errorf("read triggers: %w", err)
		}
		scripts = append(scripts, script{name: name, text: string(text)})
	}
	return scripts, nil
}

// Trigger is one that this binary's files define.
type Trigger struct {
	Table, Name string
	State       string // as pg_trigger.tgenabled has it: A fires for every writer, R under session_replication_role = replica alone
}

// Enable is the word of ALTER TABLE … ENABLE … TRIGGER that gives it its state.
func (t Trigger) Enable() string {
	if t.State == "R" {
		return "REPLICA"
	}
	return "ALWAYS"
}

// Triggers lists the triggers that a database of this binary's version has, all in schema public.
func Triggers() ([]Trigger, error) {
	scripts, err := readScripts(triggers.Files)
	if err != nil {
		return nil, err
	}
	var all []Trigger
	for _, text := range definitionsOf(scripts).triggers {
		name, state, _ := strings.Cut(text, ":")
		table, name, _ := strings.Cut(name, ".")
		all = append(all, Trigger{Table: table, Name: name, State: state})
	}
	return all, nil
}

// definitions are what the scripts say beside functions: what cannot be replaced without a lock that writers meet.
type definitions struct {
	sum      string
	triggers []string // table.trigger:A (ENABLE ALWAYS) or :R (ENABLE REPLICA), as pg_trigger.tgenabled has it
	views    []string
}

func definitionsOf(scripts []script) definitions {
	d := definitions{views: namesOf(createView, scripts)}
	sum := sha256.New()
	for _, s := range scripts {
		for _, statement := range definition.FindAllString(s.text, -1) {
			sum.Write([]byte(statement))
			if match := enableTrigger.FindStringSubmatch(statement); match != nil {
				d.triggers = append(d.triggers, match[1]+"."+match[3]+":"+match[2][:1])
			}
		}
	}
	d.sum = hex.EncodeToString(sum.Sum(nil))
	return d
}

func withoutDefinitions(scripts []script) []script {
	rest := slices.Clone(scripts)
	for i, s := range rest {
		rest[i].text = definition.ReplaceAllString(s.text, "")
	}
	return rest
}

var (
	// A definition begins a line, outside any function, and ends one.
	definition    = regexp.MustCompile(`(?ms)^(?:CREATE OR REPLACE (?:TRIGGER|VIEW)|ALTER TABLE|DROP TRIGGER)\b.*?;$`)
	enableTrigger = regexp.MustCompile(`^ALTER TABLE (\w+) ENABLE (ALWAYS|REPLICA) TRIGGER (\w+);$`)

	dropTrigger    = regexp.MustCompile(`(?i)\bDROP\s+TRIGGER\b`)
	createView     = regexp.MustCompile(`(?i)\bCREATE\s+(?:OR\s+REPLACE\s+)?VIEW\s+([a-z_][\w.]*)`)
	createFunction = regexp.MustCompile(`(?i)\bCREATE\s+(?:OR\s+REPLACE\s+)?(?:FUNCTION|PROCEDURE)\s+([a-z_][\w.]*)`)
)

// namesOf are the things that the scripts make, with their schema.
func namesOf(create *regexp.Regexp, scripts []script) []string {
	var names []string
	for _, s := range scripts {
		for _, match := range create.FindAllStringSubmatch(s.text, -1) {
			name := strings.ToLower(match[1])
			if !strings.Contains(name, ".") {
				name = "public." + name
			}
			names = append(names, name)
		}
	}
	return names
}
