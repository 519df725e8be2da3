// Package bench measures: rows are written, and every client counts and times what it gets of them.
//
// Run measures an installation, for `roombell bench`: it makes organizations of its own in the installation's database,
// connects clients to the running server, writes at a few rates and deletes everything again.
//
// Measure is `make bench`, the table in the README: Roombell beside a floor (floor.go) and beside bare tables, in one
// cluster, in turns, so that figures of one run may be divided. Each server and each crowd of clients is a process; what
// an experiment does stands in its lab_*.go.
//
// Both work with the same parts: probe.go is what a row carries, write.go the writers, client.go and fleet.go the
// clients, tally.go the counting, report.go the table. Writers of latency are open loop: a row has a due time that does not
// depend on how fast anything is, and the clock runs from then until the client has the row in hand. Every event is
// counted; one lost, doubled or misdirected makes the run fail.
package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"roombell/internal/auth"
)

// Options say which installation Run measures, and how hard. Zero values stand for the defaults given.
type Options struct {
	DatabaseURL string        // a role that may write the business tables
	URL         string        // where the server is that listens to that database, http or https
	Tokens      Issuer        // makes tokens that the server accepts
	Clients     int           // 50
	Rates       []int         // rows a second, one after the other; 10 and 100
	Duration    time.Duration // of each rate; 5 s
	Logger      *slog.Logger  // nil: slog.Default
}

const (
	runOrganizations = 2 // one to see what goes astray from the other
	runChats         = 10
	runWriters       = 8
	runCleanup       = 30 * time.Second
)

// Run measures an installation end to end and returns the table. It writes into organizations that it makes, and deletes
// them before it returns, also when ctx ends; their events stay in the event log for the retention. Its error is ErrLost
// when a client did not get exactly what it should have; the table is returned with it.
func Run(ctx context.Context, o Options) (_ *Report, err error) {
	o.defaults()
	conn, err := pgx.Connect(ctx, o.DatabaseURL)
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	r := newReport("")
	if err := conn.QueryRow(ctx, "SHOW server_version").Scan(&r.Postgres); err != nil {
		return nil, err
	}
	organizations, err := seed(ctx, conn, "roombell bench", runOrganizations, (o.Clients+1)/runOrganizations, runChats)
	if err != nil {
		return nil, err
	}
	o.Logger.Info("bench organizations made", "orgs", []int64{organizations[0].id, organizations[1].id})
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), runCleanup)
		defer cancel()
		err = errors.Join(err, forget(ctx, conn, organizations))
	}()
	if err := o.measure(ctx, r, organizations); err != nil {
		return nil, err
	}
	r.Took = time.Since(r.Started).Seconds()
	return r, r.Err()
}

func (o *Options) defaults() {
	if o.Clients == 0 {
		o.Clients = 50
	}
	if len(o.Rates) == 0 {
		o.Rates = []int{10, 100}
	}
	if o.Duration == 0 {
		o.Duration = 5 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

func (o *Options) measure(ctx context.Context, r *Report, organizations []organization) (err error) {
	seats, err := o.seats(organizations)
	if err != nil {
		return err
	}
	fleet := NewFleet()
	defer fleet.Close()
	took, err := fleet.Dial(ctx, seats)
	if err != nil {
		return fmt.Errorf("connect %d clients to %s: %w", len(seats), o.URL, err)
	}
	for _, q := range quantiles() {
		r.add(Figure{Experiment: "connect", Name: q.name, Unit: "ms", Roombell: ptr(ms(took.Quantile(q.share))),
			Note: fmt.Sprintf("%d clients, from the dial to the event connected", len(seats))})
	}
	w, err := openWriters(ctx, o.DatabaseURL, runWriters)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close(context.WithoutCancel(ctx))) }()
	// Phase 0 is for what a first time costs: plans, caches, a tail that wakes up.
	if _, err := o.rate(ctx, fleet, w, phase{number: 0, organizations: organizations}, runWriters, 2*runWriters); err != nil {
		return err
	}
	for i, rate := range o.Rates {
		run, err := o.rate(ctx, fleet, w, phase{number: i + 1, organizations: organizations}, rate, int(float64(rate)*o.Duration.Seconds()))
		if err != nil {
			return err
		}
		run.report(r)
	}
	return nil
}

func (o *Options) seats(organizations []organization) ([]Seat, error) {
	var seats []Seat
	for i := range o.Clients {
		n := i % len(organizations)
		organization := organizations[n]
		id := auth.Identity{OrganizationID: organization.id, UserID: organization.users[i/len(organizations)]}
		token, _, err := o.Tokens.Issue(id, tokenTTL)
		if err != nil {
			return nil, fmt.Errorf("token for a bench user: %w", err)
		}
		seats = append(seats, Seat{URL: o.URL, Token: token, Organization: n})
	}
	return seats, nil
}

// rateRun is what happened at one rate.
type rateRun struct {
	rate      int
	committed Samples
	Delivery
}

func (o *Options) rate(ctx context.Context, fleet *Fleet, w *writers, p phase, rate, rows int) (rateRun, error) {
	written, err := w.open(ctx, p, float64(rate), rows, nil)
	if err != nil {
		return rateRun{}, err
	}
	d, err := fleet.Await(ctx, p.expect(written.rows))
	return rateRun{rate, written.committed, d}, err
}

func (run rateRun) report(r *Report) {
	name := fmt.Sprintf("%d/s", run.rate)
	for _, q := range quantiles() {
		r.add(Figure{Experiment: name, Name: "due to committed, " + q.name, Unit: "ms", Roombell: ptr(ms(run.committed.Quantile(q.share)))})
	}
	for _, q := range quantiles() {
		f := Figure{Experiment: name, Name: "due to hand, " + q.name, Unit: "ms", Roombell: ptr(ms(run.Delays.Quantile(q.share)))}
		if q.share == 1 {
			f.Losses = lossesOf(run.Delivery)
		}
		r.add(f)
	}
}

type quantile struct {
	name  string
	share float64
}

func quantiles() []quantile { return []quantile{{"p50", 0.5}, {"p99", 0.99}, {"worst", 1}} }
