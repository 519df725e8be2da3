// Package doctor looks at an installation and says what is wrong with it, what that means, and which command mends it.
//
// `roombell doctor` calls Examine; /readyz calls Ready, which are the checks that are cheap, made by the same code. It calls db for what a
// database should have, and auth for the identity provider; all its other statements read catalogs and are its own.
//
//	ready.go     the cheap checks: reachable, a primary, migrated, triggers in force, room in the notification queue, NOTIFY heard
//	listen.go    NOTIFY on the real path, and whether a transaction-pooling proxy stands before it
//	server.go    version, role, durability             log.go        event_log: sequence, retention, clock
//	sessions.go  long transactions, who listens        counters.go   what the projector keeps
//	rows.go      what loads without foreign keys left   settings.go   tokens, origins
//
// It promises to change nothing (the one NOTIFY carries no event, and tails pass over it), to end (each check has its time), to work for a
// role that is no superuser, and to show no secret, no password and nobody's query. What cannot be looked at is a finding too.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"roombell/db"
	"roombell/internal/auth"
)

// Level is how bad a finding is.
type Level int

// The levels, from fine to what keeps events from their clients.
const (
	OK Level = iota
	Note
	Warning
	Broken
)

var levels = [...]string{"ok", "note", "warning", "broken"}

func (l Level) String() string { return levels[l] }

// MarshalText writes the level as it is read in JSON.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// Finding is what a check has to say. Code is stable: programs may decide on it.
type Finding struct {
	Check   string `json:"check"`
	Code    string `json:"code"`
	Level   Level  `json:"level"`
	Title   string `json:"title"`             // names the thing
	Meaning string `json:"meaning,omitempty"` // what it does to people
	Remedy  string `json:"remedy,omitempty"`  // what to do, where that is no command
	Command string `json:"command,omitempty"` // for a shell with DATABASE_URL in its environment
	Err     error  `json:"-"`                 // for the operator's log; it may name hosts and roles
}

// Report is all that was found, in the order of the checks.
type Report struct {
	Findings []Finding `json:"findings"`
}

// Count is the number of findings of a level.
func (r Report) Count(l Level) int {
	n := 0
	for _, f := range r.Findings {
		if f.Level == l {
			n++
		}
	}
	return n
}

// Options are the settings of the installation.
type Options struct {
	DatabaseURL       string
	ListenDatabaseURL string        // empty: DatabaseURL
	Retention         time.Duration // 0: nobody chose one
	Tokens            auth.Options
	Origins           []string

	// Position reads a position as event_log_state.projected has it, and tells which events it has seen.
	Position func(cursor string) (seen func(id int64, txid uint64) bool, err error)

	Now func() time.Time // nil: time.Now
}

// Doctor examines one installation.
type Doctor struct {
	o      Options
	pool   *pgxpool.Pool
	limits limits

	// What checks leave for those after them.
	listening int  // nodes
	ownLog    bool // the log is this cluster's
	unchecked []string
}

// limits are from when on something is said.
type limits struct {
	transaction time.Duration // open for longer: it holds back
	idle        time.Duration // open and doing nothing
	prepared    time.Duration
	silent      time.Duration // a listener that has not read
	behind      time.Duration // counters
	settle      time.Duration // what differs for shorter is just being written
	compare     time.Duration // time for comparing counters
	sample      int64         // rows of a table that are looked at
	hear        time.Duration // a NOTIFY takes no longer
	lock        time.Duration // waiting for somebody's lock
}

var defaultLimits = limits{
	transaction: 5 * time.Minute,
	idle:        time.Minute,
	prepared:    5 * time.Minute,
	silent:      10 * time.Second,
	behind:      time.Minute,
	settle:      2500 * time.Millisecond,
	compare:     10 * time.Second,
	sample:      200_000,
	hear:        3 * time.Second,
	lock:        2 * time.Second,
}

// checkTime is what a check may take that says nothing else.
const checkTime = 10 * time.Second

// need is what a check cannot do without.
type need int

const (
	needNothing  need = iota
	needDatabase      // answers
	needPrimary       // takes writes
	needTables        // has ours
)

// check is one thing to look at.
type check struct {
	name string
	need need
	time time.Duration // 0: checkTime
	look func(*Doctor, context.Context) ([]Finding, error)
}

// checks run one after the other. Readiness comes before them, sessions before what depends on whether somebody serves.
var checks = []check{
	{name: "version", need: needDatabase, look: (*Doctor).version},
	{name: "durability", need: needDatabase, look: (*Doctor).durability},
	{name: "defaults", need: needDatabase, look: (*Doctor).defaults},
	{name: "listen", need: needPrimary, time: 20 * time.Second, look: (*Doctor).listen},
	{name: "role", need: needDatabase, look: (*Doctor).role},
	{name: "service", need: needDatabase, look: (*Doctor).service},
	{name: "settings", need: needTables, look: (*Doctor).settings},
	{name: "sequence", need: needTables, look: (*Doctor).sequence},
	{name: "retention", need: needTables, look: (*Doctor).retention},
	{name: "clock", need: needDatabase, look: (*Doctor).clock},
	{name: "future", need: needTables, look: (*Doctor).future},
	{name: "transactions", need: needDatabase, look: (*Doctor).transactions},
	{name: "prepared", need: needDatabase, look: (*Doctor).prepared},
	{name: "projector", need: needTables, look: (*Doctor).projector},
	{name: "counters", need: needTables, time: 30 * time.Second, look: (*Doctor).counters},
	{name: "rows", need: needTables, time: 30 * time.Second, look: (*Doctor).rows},
	{name: "subscriptions", need: needDatabase, look: (*Doctor).subscriptions},
	{name: "tokens", look: (*Doctor).tokens},
	{name: "origins", look: (*Doctor).origins},
	{name: "redis", look: (*Doctor).redis},
}

// New returns a Doctor. An address that cannot be read is an error; a database that is away is a finding.
func New(ctx context.Context, o Options) (*Doctor, error) {
	if o.ListenDatabaseURL == "" {
		o.ListenDatabaseURL = o.DatabaseURL
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	pool, err := db.Open(ctx, o.DatabaseURL, db.ThroughProxy, func(c *pgxpool.Config) {
		c.MaxConns = 2
		c.ConnConfig.RuntimeParams["application_name"] = applicationName
	})
	if err != nil {
		return nil, err
	}
	return &Doctor{o: o, pool: pool, limits: defaultLimits}, nil
}

// applicationName is not that of a listener: the doctor must not find itself.
const applicationName = "roombell doctor"

// Close ends the doctor's connections.
func (d *Doctor) Close() { d.pool.Close() }

// Examine makes all checks. It always returns, at the latest some time after ctx has ended, and it is made once.
func (d *Doctor) Examine(ctx context.Context) Report {
	var r Report
	has := d.begin(ctx, &r)
	for _, c := range checks {
		if c.need > has {
			d.unchecked = append(d.unchecked, c.name)
			continue
		}
		r.Findings = append(r.Findings, d.make(ctx, c)...)
	}
	if len(d.unchecked) > 0 {
		r.Findings = append(r.Findings, Finding{
			Check: "doctor", Code: "checks_left_out", Level: Note, Title: fmt.Sprintf("%s not looked at: %s", count(len(d.unchecked), "thing was", "things were"), list(d.unchecked)),
			Meaning: "What is broken above keeps them from being looked at. Mend that, and ask again.",
		})
	}
	return r
}

// begin makes the cheap checks but for the round trip, which is made at length later, and tells what the others may build on.
func (d *Doctor) begin(ctx context.Context, r *Report) need {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	found := readiness(ctx, d.pool)
	if found[0].Code == "database_unreachable" {
		found[0].Meaning += " " + sentence(clean(found[0].Err))
		found = append(d.standbyAlone(ctx), found...)
	}
	r.Findings = append(r.Findings, found...)
	has := needTables
	for _, f := range found {
		switch f.Code {
		case "database_unreachable":
			has = min(has, needNothing)
		case "standby", "read_only":
			has = min(has, needDatabase)
		case "not_migrated", "migrations_pending", "not_checked":
			has = min(has, needPrimary)
		}
	}
	return has
}

// make looks, within the check's time. What it could not look at is what it found.
func (d *Doctor) make(ctx context.Context, c check) []Finding {
	limit := c.time
	if limit == 0 {
		limit = checkTime
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	found, err := c.look(d, ctx)
	if err != nil {
		found = append(found, notChecked(c.name, err))
	}
	for i := range found {
		found[i].Check = c.name
	}
	return found
}

func notChecked(name string, err error) Finding {
	f := Finding{Check: name, Code: "not_checked", Level: Warning, Title: fmt.Sprintf("the check %q could not be made", name), Err: err}
	switch {
	case db.Code(err) == "42501": // insufficient_privilege
		f.Level, f.Meaning = Note, "The role may not see it: "+clean(err)+"."
		f.Remedy = "Use the role that owns the database, or grant it what is missing."
	case db.IsNotFound(err):
		f.Level, f.Meaning = Note, "The row that it reads is missing, as another finding says."
	case db.IsLocked(err):
		f.Meaning, f.Remedy = "Somebody holds a lock on a table that it reads.", "Ask again."
	case db.Code(err) == "57014", errors.Is(err, context.DeadlineExceeded): // query_canceled
		f.Meaning, f.Remedy = "It took longer than it may.", "Ask again when the database has less to do."
	default:
		f.Meaning, f.Remedy = sentence(clean(err)), "See what the database's log says of it, and ask again."
	}
	return f
}

// look runs f in a transaction that cannot write, nor wait for long.
func (d *Doctor) look(ctx context.Context, f func(tx pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, d.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// In the transaction: a proxy may give the next one to another connection.
		_, err := tx.Exec(ctx, `SELECT set_config('lock_timeout', $1, true), set_config('statement_timeout', '30s', true),
			set_config('search_path', 'public', true), set_config('jit', 'off', true)`, fmt.Sprintf("%dms", d.limits.lock.Milliseconds()))
		if err != nil {
			return err
		}
		return f(tx)
	})
}

// ask is look for one row.
func (d *Doctor) ask(ctx context.Context, query string, args []any, into ...any) error {
	return d.look(ctx, func(tx pgx.Tx) error { return tx.QueryRow(ctx, query, args...).Scan(into...) })
}

// collect is look for all rows.
func collect[T any](ctx context.Context, d *Doctor, query string, args ...any) (all []T, err error) {
	err = d.look(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(rows, pgx.RowToStructByPos[T])
		return err
	})
	return all, err
}

// worst is the highest level among findings.
func worst(found []Finding) Level {
	level := OK
	for _, f := range found {
		level = max(level, f.Level)
	}
	return level
}

// Broken is the number of findings for which the command fails.
func (r Report) Broken() int { return r.Count(Broken) }

// ByLevel returns the findings with the worst first, else in the order of the checks.
func (r Report) ByLevel() []Finding {
	sorted := slices.Clone(r.Findings)
	slices.SortStableFunc(sorted, func(a, b Finding) int { return int(b.Level) - int(a.Level) })
	return sorted
}
