package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"roombell/internal/eventlog"
)

// watcher is a tail and what it has published.
type watcher struct {
	name string
	tail *eventlog.Tail

	mu       sync.Mutex
	heard    map[int64]int
	versions map[int64]int // of each chat's name, which writers count up
	dup      int
	order    int
	resets   []string
}

var _ eventlog.Publisher = (*watcher)(nil)

// Publish counts.
func (t *watcher) Publish(b *eventlog.Batch) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range b.Events {
		e := &b.Events[i]
		t.heard[e.ID]++
		if t.heard[e.ID] > 1 {
			t.dup++
			continue
		}
		t.checkOrder(e)
	}
}

// checkOrder looks whether the name of a chat, a number that every update counts up, went backwards.
func (t *watcher) checkOrder(e *eventlog.Event) {
	if e.Name != "chat:updated" {
		return
	}
	var chat struct {
		ID   int64  `json:"id"`
		Name string `json:"name"`
	}
	if json.Unmarshal(e.Payload, &chat) != nil {
		t.order++
		return
	}
	version, err := strconv.Atoi(chat.Name)
	if err != nil || version <= t.versions[chat.ID] {
		t.order++
	}
	t.versions[chat.ID] = version
}

// Reset is a failure: nothing here loses commits.
func (t *watcher) Reset(reason string, _ eventlog.Cursor) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.resets = append(t.resets, reason)
}

// compare returns how many events of the log were not heard, and how many were heard that are not in it.
func (t *watcher) compare(truth map[int64]bool) (lost, phantom int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id := range truth {
		if t.heard[id] == 0 {
			lost++
		}
	}
	for id := range t.heard {
		if !truth[id] {
			phantom++
		}
	}
	return lost, phantom
}

// startTails runs the tails until the function that it returns is called.
func (w *world) startTails(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var all errgroup.Group
	for i := range w.o.Tails {
		t := &watcher{name: fmt.Sprint("stress ", i), heard: map[int64]int{}, versions: map[int64]int{}}
		config, err := pgx.ParseConfig(w.url)
		if err != nil {
			panic(err) // our own server's address
		}
		t.tail = eventlog.NewFaulty(eventlog.Options{ConnConfig: config, Node: t.name}, w.o.Omit, t)
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
