package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"roombell/db"
	"roombell/internal/eventlog/internal/fault"
	"roombell/internal/postgres"
)

const (
	drainTime = time.Minute
	stillFor  = 5 * time.Second // nothing more comes after this
	quietFor  = time.Second     // nothing more is recorded after this
)

type options struct {
	Time     time.Duration
	Seed     uint64
	Writers  int
	Tails    int
	Nodes    int
	Clients  int
	Clean    int // promotions of a standby that has everything
	Lossy    int // and of one that has not
	Roombell string
	Bin      string
	Logs     string
	Omit     fault.Step
	Progress io.Writer // hears each minute how far it is; nil: nobody
}

// logLevel is that of the servers.
func (o options) logLevel() string {
	if o.Logs != "" {
		return "debug"
	}
	return "info"
}

// world is one run.
type world struct {
	o         options
	dir       string // for the server's binary
	roombell  string
	secret    string
	primary   *postgres.Server
	standby   *postgres.Server // nil where nobody is promoted
	following bool             // the standby does
	url       string           // of whichever is the primary
	pool      *pgxpool.Pool    // what is not a writer's
	nodes     []*node
	tails     []*watcher
	clients   []*visitor
	people    []*person
	chats     map[int64]chat
	count     tally
	gone      int
	newEra    atomic.Int64 // of the primary since the last promotion that lost commits, or 0
	calm      atomic.Bool  // nobody breaks off
	writing   sync.RWMutex // held shared by a writer within a transaction: who holds it exclusively has quiet
	base      int64        // the highest id before the run
	began     time.Time    // this part of it
	phases    []string     // how long the parts took
	said      time.Duration
}

// run goes through it all and says what came of it. An error means that it could not be done.
func run(ctx context.Context, o options) (r report, err error) {
	if o.Seed == 0 {
		o.Seed = rand.Uint64()
	}
	w := &world{o: o}
	defer func() { err = errors.Join(err, w.tearDown(ctx)) }()
	w.phase("")
	if err := w.setUp(ctx); err != nil {
		return report{}, err
	}
	stopTails := w.startTails(ctx)
	defer stopTails()
	if err := w.awaitTails(ctx); err != nil {
		return report{}, err
	}
	if err := w.startNodes(ctx); err != nil {
		return report{}, err
	}
	w.calm.Store(true)
	stopClients, err := w.startClients(ctx)
	defer stopClients()
	if err != nil {
		return report{}, err
	}
	if err := w.storm(ctx); err != nil {
		return report{}, err
	}
	w.phase("until everything was there")
	return w.judge(ctx)
}

func (w *world) setUp(ctx context.Context) error {
	if err := w.build(ctx); err != nil {
		return err
	}
	w.phase("build")
	if err := w.startServers(ctx); err != nil {
		return err
	}
	if err := db.Migrate(ctx, w.url, slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	var err error
	if w.pool, err = db.Open(ctx, w.url+"&application_name=stress"); err != nil {
		return err
	}
	if w.o.Omit == fault.Timeline() {
		_, err := w.pool.Exec(ctx, `CREATE OR REPLACE FUNCTION roombell.base() RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT roombell.timeline_offset() << 43'`)
		if err != nil {
			return fmt.Errorf("leave the timeline out: %w", err)
		}
	}
	if err := w.populate(ctx); err != nil {
		return err
	}
	return w.pool.QueryRow(ctx, `SELECT coalesce(max(id), 0) FROM event_log`).Scan(&w.base)
}

// build makes the server's binary where none is given.
func (w *world) build(ctx context.Context) (err error) {
	if w.roombell = w.o.Roombell; w.roombell != "" || w.o.Nodes == 0 {
		return nil
	}
	if w.dir, err = os.MkdirTemp("", "roombell-stress-"); err != nil {
		return err
	}
	w.roombell, err = build(ctx, w.dir, w.o.Omit != fault.None())
	return err
}

func (w *world) startServers(ctx context.Context) (err error) {
	cache, _ := os.UserCacheDir() // without one it takes a second longer
	// Nothing is flushed but what commits wait for, so that a crash takes back as much as it can.
	o := postgres.Options{Sync: true, Cache: cache, Bin: w.o.Bin, Settings: map[string]string{
		"wal_writer_delay": "10s", "bgwriter_delay": "10s", "checkpoint_timeout": "1h",
		"wal_keep_size": "2GB", "wal_retrieve_retry_interval": "50ms",
	}}
	if w.primary, err = postgres.Start(ctx, o); err != nil {
		return err
	}
	w.url = w.primary.URL(postgres.Name)
	if w.o.Clean+w.o.Lossy == 0 {
		return nil
	}
	if w.standby, err = postgres.Start(ctx, o); err != nil {
		return err
	}
	w.url = postgres.SharedURL(postgres.Name, w.primary, w.standby)
	return w.follow(ctx) // before that it would be taken for the primary
}

func (w *world) tearDown(ctx context.Context) error {
	err := w.stopNodes()
	if w.pool != nil {
		w.pool.Close()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	for _, s := range []*postgres.Server{w.primary, w.standby} {
		if s != nil {
			err = errors.Join(err, s.Stop(ctx))
		}
	}
	if w.dir != "" {
		err = errors.Join(err, os.RemoveAll(w.dir))
	}
	return err
}

// hearings are all who listen.
func (w *world) hearings() []*hearing {
	var all []*hearing
	for _, t := range w.tails {
		all = append(all, &t.hearing)
	}
	for _, v := range w.clients {
		all = append(all, &v.hearing)
	}
	return all
}

// phase notes how long a part of the run took.
func (w *world) phase(name string) {
	if now := time.Now(); !w.began.IsZero() {
		w.phases = append(w.phases, fmt.Sprint(name, " ", now.Sub(w.began).Round(100*time.Millisecond)))
	}
	w.began = time.Now()
}

// storm is the run: writers and trouble, then writers alone beside one that stays silent, then peace until everything has arrived.
func (w *world) storm(ctx context.Context) error {
	writing, stopWriters := context.WithCancel(ctx)
	defer stopWriters()
	var writers sync.WaitGroup
	for i := range w.o.Writers {
		writers.Go(func() { newWriter(w, i).run(writing) })
	}
	w.calm.Store(false)
	w.phase("set-up")
	err := w.trouble(ctx)
	w.phase("storm")
	w.calm.Store(true)
	var open *silent
	if err == nil {
		// The ringer cannot sleep beside this one: nobody but it will tell the others of what comes now.
		open, err = w.openSilentWriter(ctx)
	}
	if err == nil {
		err = pause(ctx, min(w.o.Time/20, 5*time.Second))
	}
	stopWriters()
	writers.Wait()
	if err == nil {
		err = w.commitPrepared(ctx, 1)
	}
	complete := false
	if err == nil {
		complete, err = w.drain(ctx)
	}
	if open != nil {
		err = errors.Join(err, open.commit(ctx))
	}
	switch {
	case err == nil && complete:
		_, err = w.drain(ctx)
	case err == nil: // it has failed; what was committed just now is counted again, and that is heard as well
		err = pause(ctx, quietFor)
	}
	return err
}

// drain waits until everybody has everything and nothing more is recorded, or nothing comes any more.
func (w *world) drain(ctx context.Context) (complete bool, err error) {
	deadline, still := time.Now().Add(drainTime), time.Now()
	lastMissing, lastEvents := -1, -1
	for time.Now().Before(deadline) && time.Since(still) < stillFor {
		began := time.Now()
		verdicts, events, err := w.compare(ctx)
		if err != nil {
			return false, err
		}
		missing, repeated := 0, 0
		for _, v := range verdicts {
			missing += v.lost
			repeated += v.dup
		}
		if repeated > 0 {
			return false, nil // it has failed
		}
		if missing != lastMissing || events != lastEvents {
			lastMissing, lastEvents, still = missing, events, began
		}
		// Servers go on to write: they count what is unread.
		if missing == 0 && time.Since(still) > quietFor {
			return true, nil
		}
		if err := pause(ctx, max(50*time.Millisecond, 2*time.Since(began))); err != nil {
			return false, err
		}
	}
	return false, nil
}

// pause waits, or returns ctx's error when that ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// persist tries until f succeeds, over crashes of the server.
func persist(ctx context.Context, what string, f func() error) error {
	deadline := time.Now().Add(time.Minute)
	for {
		err := f()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: %w", what, err)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}
