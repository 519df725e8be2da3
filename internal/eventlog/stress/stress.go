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
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"roombell/db"
	"roombell/internal/eventlog/internal/fault"
	"roombell/internal/postgres"
)

const (
	chats         = 40
	organizations = 3
	drainTime     = 20 * time.Second
	stillFor      = 3 * time.Second // nothing more comes after this
)

type options struct {
	Time    time.Duration
	Seed    uint64
	Writers int
	Tails   int
	Omit    fault.Step
	Out     io.Writer
}

// world is one run.
type world struct {
	o       options
	server  *postgres.Server
	url     string
	pool    *pgxpool.Pool // what is not a writer's
	tails   []*watcher
	count   tally
	writing sync.RWMutex // held shared by a writer within a transaction: who holds it exclusively has quiet
	base    int64        // the highest id before the run
}

// run goes through it all and says what came of it. An error means that it could not be done.
func run(ctx context.Context, o options) (r report, err error) {
	if o.Seed == 0 {
		o.Seed = rand.Uint64()
	}
	w := &world{o: o}
	if err := w.setUp(ctx); err != nil {
		return report{}, errors.Join(err, w.tearDown(ctx))
	}
	defer func() { err = errors.Join(err, w.tearDown(ctx)) }()
	stopTails := w.startTails(ctx)
	defer stopTails()
	if err := w.awaitTails(ctx); err != nil {
		return report{}, err
	}
	if err := w.storm(ctx); err != nil {
		return report{}, err
	}
	return w.judge(ctx)
}

func (w *world) setUp(ctx context.Context) error {
	cache, _ := os.UserCacheDir() // without one it takes a second longer
	var err error
	// Nothing is flushed but what commits wait for, so that a crash takes back as much as it can.
	w.server, err = postgres.Start(ctx, postgres.Options{Sync: true, Cache: cache, Settings: map[string]string{
		"wal_writer_delay": "10s", "bgwriter_delay": "10s", "checkpoint_timeout": "1h",
	}})
	if err != nil {
		return err
	}
	w.url = w.server.URL(postgres.Name)
	if err := db.Migrate(ctx, w.url, slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	if w.pool, err = db.Open(ctx, w.url); err != nil {
		return err
	}
	_, err = w.pool.Exec(ctx, fmt.Sprintf(`
		INSERT INTO organizations (name) SELECT 'organization ' || n FROM generate_series(1, %d) n;
		INSERT INTO chats (organization_id, name) SELECT 1 + n %% %d, '0' FROM generate_series(1, %d) n`, organizations, organizations, chats))
	if err != nil {
		return fmt.Errorf("fill the tables: %w", err)
	}
	return w.pool.QueryRow(ctx, `SELECT coalesce(max(id), 0) FROM event_log`).Scan(&w.base)
}

func (w *world) tearDown(ctx context.Context) error {
	if w.pool != nil {
		w.pool.Close()
	}
	if w.server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return w.server.Stop(ctx)
}

// storm is the run: writers and trouble, then writers alone beside one that stays silent, then peace until everything has arrived.
func (w *world) storm(ctx context.Context) error {
	writing, stopWriters := context.WithCancel(ctx)
	defer stopWriters()
	var writers sync.WaitGroup
	for i := range w.o.Writers {
		writers.Go(func() { newWriter(w, i).run(writing) })
	}
	err := w.trouble(ctx)
	var open *silent
	if err == nil {
		// The ringer cannot sleep beside this one: nobody but it will tell the others of what comes now.
		open, err = w.openSilentWriter(ctx)
	}
	if err == nil {
		err = pause(ctx, w.o.Time/20)
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
	if err == nil && complete {
		_, err = w.drain(ctx)
	}
	return err
}

// drain waits until every tail has everything, or nothing comes any more.
func (w *world) drain(ctx context.Context) (complete bool, err error) {
	deadline, still, last := time.Now().Add(drainTime), time.Now(), -1
	for time.Now().Before(deadline) && time.Since(still) < stillFor {
		truth, err := w.truth(ctx)
		if err != nil {
			return false, err
		}
		missing := 0
		for _, t := range w.tails {
			lost, _ := t.compare(truth)
			missing += lost
		}
		if missing == 0 {
			return true, nil
		}
		if missing != last {
			last, still = missing, time.Now()
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return false, err
		}
	}
	return false, nil
}

// truth is what the log holds of this run.
func (w *world) truth(ctx context.Context) (map[int64]bool, error) {
	rows, err := w.pool.Query(ctx, `SELECT id FROM event_log WHERE id > $1`, w.base)
	if err != nil {
		return nil, fmt.Errorf("read the truth: %w", err)
	}
	defer rows.Close()
	truth := map[int64]bool{}
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, fmt.Errorf("read the truth: %w", err)
		}
		truth[id] = true
	}
	return truth, rows.Err()
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
