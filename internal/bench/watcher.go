package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"

	"roombell/internal/client"
)

// watcher is a client that adds up what sums tell it: a user of one organization, in the bench's own process.
type watcher struct {
	conn *client.Conn
	done chan struct{}

	mu    sync.Mutex
	heard heard
}

// heard is what a client got: events by name, and the figures of all chats:updated.
type heard struct {
	events                      map[string]int
	count                       int // of rows, as the sums say
	new, updated, deleted, read int // of their chats
}

// total is how many events there were, but for those that single writes bring.
func (h heard) total() int {
	n := 0
	for name, events := range h.events {
		if name != "message:new" && name != "presence:changed" {
			n += events
		}
	}
	return n
}

func watch(ctx context.Context, seat Seat) (*watcher, error) {
	conn, err := client.Dial(ctx, client.Options{URL: seat.URL, Token: seat.Token, ReadBuffer: readBuffer})
	if err != nil {
		return nil, fmt.Errorf("connect a watcher: %w", err)
	}
	for {
		event, err := conn.Next()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("wait for connected: %w", err), conn.Close())
		}
		if event.Name == "connected" {
			break
		}
	}
	w := &watcher{conn: conn, done: make(chan struct{}), heard: heard{events: map[string]int{}}}
	go w.run()
	return w, nil
}

// run reads until the connection ends, which may be the server's doing: whose organization is deleted is sent away.
func (w *watcher) run() {
	defer close(w.done)
	for {
		event, err := w.conn.Next()
		if err != nil {
			return
		}
		w.note(event)
	}
}

func (w *watcher) note(event client.Event) {
	var sum struct {
		Count int
		Chats []struct{ New, Updated, Deleted, Read int }
	}
	if event.Name == "chats:updated" && json.Unmarshal(event.Payload, &sum) != nil {
		return // and missing from the figures, which are compared
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	h := &w.heard
	h.events[event.Name]++
	h.count += sum.Count
	for _, c := range sum.Chats {
		h.new, h.updated, h.deleted, h.read = h.new+c.New, h.updated+c.Updated, h.deleted+c.Deleted, h.read+c.Read
	}
}

// take returns what was heard since it was last called.
func (w *watcher) take() heard {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.heard
	h.events = maps.Clone(h.events)
	w.heard = heard{events: map[string]int{}}
	return h
}

func (w *watcher) close() error {
	err := w.conn.Close()
	<-w.done
	return err
}
