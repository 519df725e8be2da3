package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"roombell/internal/auth"
)

// LabOptions say what `make bench` measures and with what.
type LabOptions struct {
	Roombell string // the binary under test
	// Self returns a command that runs the bench's own program: `floor --listen ADDRESS`, which is ServeFloor with the
	// database's URL on its standard input, and `load`, which is ServeLoad on standard input and output.
	Self          func(args ...string) *exec.Cmd
	Dir           string                       // a folder for whatever the server wants to store
	URL           func(database string) string // of the cluster, for the role that owns the databases
	AdminURL      func(database string) string // of the same cluster, for a superuser
	Owner         string                       // that role
	Only          []string                     // experiments to run; empty: all
	Seconds       float64                      // how long one measurement writes; 0: 8
	Rounds        int                          // how often what is compared takes turns; 0: 3
	Progress      io.Writer                    // a line for each thing that begins
	Log           string                       // the file that the cluster's log is in
	Clients       int                          // that come back in resume; 0: 10,000
	Organizations int                          // of them; 0: 200
	Profiles      string                       // a folder for profiles of resume; empty: none are made
	Chats         int                          // of the organization of api; 0: 100,000
	Messages      int                          // in them; 0: 2,000,000
}

// Lab runs experiments on Roombell and on the floor, in one cluster and in turns, so that their figures may be divided.
type Lab struct {
	options   LabOptions
	window    time.Duration
	tokens    *auth.Issuer
	databases struct{ roombell, bare, floor *labDatabase }
	// The same ids in all three databases: they are copies.
	organizations []organization // a hundred, with a hundred users each
	large         organization   // one, with a thousand
	files         uint64
	phases        int
	report        *Report
}

// labDatabase is one of the three databases.
type labDatabase struct{ name, url string }

// labSecret signs the tokens of throw-away users in throw-away databases.
const labSecret = "the bench signs with this and nobody else ever does"

const (
	labOrganizations = 100
	labUsers         = 100
	labLargeUsers    = 1000
	labChats         = 20
)

// experiment is one part of the table.
type experiment struct {
	name string
	run  func(*Lab, context.Context) error
}

func experiments() []experiment {
	return []experiment{
		{"writers", (*Lab).writers},
		{"latency", (*Lab).latency},
		{"fanout", (*Lab).fanout},
		{"bulk", (*Lab).bulk},
		{"backfill", (*Lab).backfill},
		{"idle", (*Lab).idle},
		{"slow", (*Lab).slow},
		{"resume", (*Lab).resume},
		{"cursor", (*Lab).cursor},
		{"api", (*Lab).api},
	}
}

// Experiments returns the names that LabOptions.Only takes, in the order of the table.
func Experiments() []string {
	var names []string
	for _, e := range experiments() {
		names = append(names, e.name)
	}
	return names
}

// Measure runs the experiments and returns the table, and of a run that broke off what there is of it. Its error is
// ErrLost when a client did not get exactly what it should have.
func Measure(ctx context.Context, o LabOptions) (*Report, error) {
	if o.Seconds == 0 {
		o.Seconds = 8
	}
	if o.Rounds == 0 {
		o.Rounds = 3
	}
	tokens, err := auth.NewIssuer([]byte(labSecret), auth.Claims{}, nil)
	if err != nil {
		return nil, err
	}
	l := &Lab{options: o, window: time.Duration(o.Seconds * float64(time.Second)), tokens: tokens, report: newReport(o.Roombell)}
	// Clients and server have ten thousand sockets each.
	if l.files, err = raiseFileLimit(1 << 16); err != nil {
		return nil, fmt.Errorf("raise the limit of open files: %w", err)
	}
	defer func() { l.report.Took = time.Since(l.report.Started).Seconds() }()
	if err := l.prepare(ctx); err != nil {
		return l.report, fmt.Errorf("prepare: %w", err)
	}
	for _, e := range experiments() {
		if len(o.Only) > 0 && !slices.Contains(o.Only, e.name) {
			continue
		}
		if err := e.run(l, ctx); err != nil {
			return l.report, fmt.Errorf("%s: %w", e.name, err)
		}
	}
	return l.report, l.report.Err()
}

// prepare makes the three databases: Roombell's, a copy without its triggers, and a copy of that with the floor's.
func (l *Lab) prepare(ctx context.Context) error {
	l.progress("databases")
	admin, err := pgx.Connect(ctx, l.options.AdminURL("postgres"))
	if err != nil {
		return err
	}
	defer admin.Close(context.WithoutCancel(ctx))
	if err := admin.QueryRow(ctx, "SHOW server_version").Scan(&l.report.Postgres); err != nil {
		return err
	}
	db := &l.databases
	for _, d := range []struct {
		database   **labDatabase
		name, from string
		furnish    func(context.Context, *labDatabase) error
	}{
		{&db.roombell, "bench_roombell", "template1", l.migrate},
		{&db.bare, "bench_bare", "bench_roombell", l.strip},
		{&db.floor, "bench_floor", "bench_bare", l.furnishFloor},
	} {
		_, err := admin.Exec(ctx, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s OWNER %s", d.name, d.from, pgx.Identifier{l.options.Owner}.Sanitize()))
		if err != nil {
			return err
		}
		*d.database = &labDatabase{name: d.name, url: l.options.URL(d.name)}
		if err := d.furnish(ctx, *d.database); err != nil {
			return fmt.Errorf("database %s: %w", d.name, err)
		}
	}
	return l.calibrate(ctx)
}

func (l *Lab) migrate(ctx context.Context, d *labDatabase) error {
	cmd := exec.CommandContext(ctx, l.options.Roombell, "migrate", "up")
	cmd.Env = []string{"DATABASE_URL=" + d.url, "HOME=" + l.options.Dir}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("migrate: %w\n%s", err, out)
	}
	return d.with(ctx, func(conn *pgx.Conn) (err error) {
		if l.organizations, err = seed(ctx, conn, "bench", labOrganizations, labUsers, labChats); err != nil {
			return err
		}
		large, err := seed(ctx, conn, "bench large", 1, labLargeUsers, labChats)
		if err != nil {
			return err
		}
		l.large = large[0]
		_, err = conn.Exec(ctx, "ANALYZE")
		return err
	})
}

func (l *Lab) strip(ctx context.Context, d *labDatabase) error {
	return d.with(ctx, func(conn *pgx.Conn) error {
		if err := dropTriggers(ctx, conn); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, "ANALYZE")
		return err
	})
}

func (l *Lab) furnishFloor(ctx context.Context, d *labDatabase) error {
	return d.with(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, floorTrigger+"ANALYZE;")
		return err
	})
}

// calibrate measures what a commit costs that is alone.
func (l *Lab) calibrate(ctx context.Context) error {
	w, err := openWriters(ctx, l.databases.bare.url, 1)
	if err != nil {
		return err
	}
	r, err := w.closed(ctx, l.phase(l.organizations, 0, 0), 1, 200*time.Millisecond, 500*time.Millisecond)
	if r.counted > 0 {
		l.report.CommitTime = ms(r.window) / float64(r.counted)
	}
	return errors.Join(err, w.close(ctx))
}

// with connects to the database for the time of f.
func (d *labDatabase) with(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, d.url)
	if err != nil {
		return err
	}
	return errors.Join(f(conn), conn.Close(context.WithoutCancel(ctx)))
}

// phase numbers a run of writes.
func (l *Lab) phase(organizations []organization, chats, size int) phase {
	l.phases++
	return phase{number: l.phases, organizations: organizations, chats: chats, size: size}
}

// lossTimeout is how long nothing new may arrive until the rest counts as lost. Longer than any recovery of Roombell's.
const lossTimeout = 15 * time.Second

func (p phase) expect(rows int) Expect {
	return Expect{Phase: p.number, Rows: rows, Organizations: len(p.organizations), Timeout: lossTimeout}
}

func (l *Lab) progress(format string, args ...any) {
	if l.options.Progress != nil {
		fmt.Fprintf(l.options.Progress, format+"\n", args...)
	}
}

// turns returns what is compared in the order of a round: forwards, then backwards, so that a machine that gets slower
// or faster favours nobody.
func turns[T any](round int, compared ...T) []T {
	if round%2 == 1 {
		slices.Reverse(compared)
	}
	return compared
}

// spread describes what the rounds gave.
func spread(what string, figures []float64) string {
	if len(figures) < 2 {
		return ""
	}
	return fmt.Sprintf("%s by round %s", what, strings.Join(formatAll(figures), ", "))
}

// notes joins those that say something.
func notes(all ...string) string {
	return strings.Join(slices.DeleteFunc(all, func(s string) bool { return s == "" }), "; ")
}

func formatAll(figures []float64) []string {
	var all []string
	for _, f := range figures {
		all = append(all, fmt.Sprintf("%.3g", f))
	}
	return all
}

// ratios divides round by round.
func ratios(a, b []float64) []float64 {
	var r []float64
	for i := range min(len(a), len(b)) {
		r = append(r, a[i]/b[i])
	}
	return r
}
