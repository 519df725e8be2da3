package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"roombell/internal/eventlog"
)

// watcher is a tail in this process, which hears everything that is recorded.
type watcher struct {
	hearing
	tail *eventlog.Tail
}

var _ eventlog.Publisher = (*watcher)(nil)

// Publish notes what is heard.
func (t *watcher) Publish(b *eventlog.Batch) {
	for i := range b.Events {
		e := &b.Events[i]
		if !t.event(e.ID) || e.Name != "chat:updated" {
			continue
		}
		var chat struct {
			ID   int64   `json:"id"`
			Name *string `json:"name"`
		}
		if json.Unmarshal(e.Payload, &chat) == nil {
			t.change(e.ID, chat.ID, version(chat.Name))
		}
	}
}

// version reads the name of a chat, a number that every update counts up; -1 where it did not change.
func version(name *string) int {
	if name == nil {
		return -1
	}
	n, err := strconv.Atoi(*name)
	if err != nil {
		return 0 // out of order
	}
	return n
}

// Reset is told by a tail that cannot go on exactly.
func (t *watcher) Reset(reason string, _ eventlog.Cursor) { t.reset(reason) }

// startTails runs the tails until the function that it returns is called.
func (w *world) startTails(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var all errgroup.Group
	for i := range w.o.Tails {
		t := &watcher{hearing: newHearing(w, fmt.Sprint("tail ", i))}
		config, err := pgx.ParseConfig(w.url)
		if err != nil {
			panic(err) // our own server's address
		}
		t.tail = eventlog.NewFaulty(eventlog.Options{ConnConfig: config, Node: fmt.Sprint("stress ", i)}, w.o.Omit, t)
		w.tails = append(w.tails, t)
		all.Go(func() error { return t.tail.Run(ctx) })
	}
	return func() {
		cancel()
		_ = all.Wait() // Run returns nil
	}
}

// awaitTails returns when every tail has read, after this call.
func (w *world) awaitTails(ctx context.Context) error {
	for _, t := range w.tails {
		err := persist(ctx, "wait for a tail", func() error {
			stands := make(chan error, 1)
			t.tail.Attach(func(_ eventlog.Cursor, err error) { stands <- err })
			return <-stands
		})
		if err != nil {
			return err
		}
	}
	return nil
}
