package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"roombell/internal/client"
	"roombell/internal/postgres/dbtest"
)

// browser is a client that comes back with its cursor, as a browser does, and remembers what it heard.
type browser struct {
	mu       sync.Mutex
	contents []string
	resets   int
	changed  chan struct{}
	ended    chan error
}

func browse(t *testing.T, url, token string) *browser {
	t.Helper()
	b := &browser{changed: make(chan struct{}), ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	connected := make(chan struct{}, 1)
	go func() {
		b.ended <- client.Follow(ctx, client.Options{URL: url, Token: token}, client.Follower{
			Connected: func(*client.Conn) error { return nil },
			Waiting:   func(cause error, _ time.Duration) { t.Logf("a client was cut: %v", cause) },
			Event: func(e client.Event) error {
				select {
				case connected <- struct{}{}:
				default:
				}
				return b.hear(e)
			},
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-b.ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-connected:
	case <-time.After(limit):
		t.Fatal("no connected event")
	}
	return b
}

func (b *browser) hear(e client.Event) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e.Name {
	case "message:new":
		var message struct{ Content string }
		if err := json.Unmarshal(e.Payload, &message); err != nil {
			return err
		}
		b.contents = append(b.contents, message.Content)
	case "sync:reset":
		b.resets++
	default:
		return nil
	}
	close(b.changed)
	b.changed = make(chan struct{})
	return nil
}

// await waits until n messages were heard, and fails after the time.
func (b *browser) await(t *testing.T, n int, within time.Duration) {
	t.Helper()
	timeout := time.After(within)
	for {
		b.mu.Lock()
		heard, changed := len(b.contents), b.changed
		b.mu.Unlock()
		if heard >= n {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("%d messages of %d were heard within %v", heard, n, within)
		}
	}
}

// typist writes a message every few milliseconds. Their content is their number.
type typist struct {
	mu      sync.Mutex
	written int
	err     error
	stop    func()
}

// newTypist types until the test stops it. A write that waits for longer than a writer ever should is an error.
func newTypist(t *testing.T, d *dbtest.DB, chat int64) *typist {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), d.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `SET lock_timeout = '3s'; SET statement_timeout = '10s'`); err != nil {
		t.Fatal(err)
	}
	w := &typist{}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer conn.Close(context.WithoutCancel(ctx))
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			_, err := conn.Exec(t.Context(), `INSERT INTO messages (chat_id, content) VALUES ($1, $2)`, chat, strconv.Itoa(i))
			w.mu.Lock()
			w.written, w.err = i+1, err
			w.mu.Unlock()
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	}()
	w.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	t.Cleanup(w.stop)
	return w
}

func (w *typist) count(t *testing.T) int {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		t.Fatal("a writer was held up: ", w.err)
	}
	return w.written
}

var ringerMetric = regexp.MustCompile(`(?m)^roombell_eventlog_ringer ([01])$`)

func (s served) rings() bool {
	s.t.Helper()
	code, body := get(s.t, s.admin+"/metrics")
	m := ringerMetric.FindStringSubmatch(body)
	if code != http.StatusOK || m == nil {
		s.t.Fatalf("/metrics says %d", code)
	}
	return m[1] == "1"
}

func (s served) signal(signal syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(signal); err != nil {
		s.t.Fatal(err)
	}
}

func TestNodeThatIsPaused(t *testing.T) {
	t.Parallel()
	pause := 20 * time.Second
	if testing.Short() {
		pause = 6 * time.Second
	}
	// Both wait most of the time: side by side, whatever the number of processors.
	var both sync.WaitGroup
	for name, ringer := range map[string]bool{"the ringer": true, "a follower": false} {
		both.Go(func() { t.Run(name, func(t *testing.T) { testPause(t, pause, ringer) }) })
	}
	both.Wait()
}

func testPause(t *testing.T, pause time.Duration, ringer bool) {
	d := dbtest.New(t)
	p := newPeople(t, d, "ann@a.example")
	env := []string{"DATABASE_URL=" + d.URL}
	first := serve(t, env)
	first.awaitReady(http.StatusOK, "")
	eventually(t, func() error {
		if !first.rings() {
			return errors.New("the only node does not ring")
		}
		return nil
	})
	paused, other := first, serve(t, env)
	other.awaitReady(http.StatusOK, "")
	if !ringer {
		paused, other = other, paused
	}
	far, near := browse(t, paused.public, p.token(t)), browse(t, other.public, p.token(t))
	w := newTypist(t, d, p.chat)
	far.await(t, 50, limit)

	paused.signal(syscall.SIGSTOP)
	began := time.Now()
	t.Cleanup(func() { _ = paused.cmd.Process.Signal(syscall.SIGCONT) })
	took := time.Duration(0)
	for took == 0 || time.Since(began) < pause {
		// A few seconds are what it takes to end a ringer's connection; then, and all the while beside a follower, milliseconds.
		near.await(t, w.count(t), 10*time.Second)
		if took == 0 && other.rings() {
			took = time.Since(began)
		}
		if took == 0 && time.Since(began) > pause+10*time.Second {
			t.Fatal("the other node has not taken over")
		}
	}
	t.Logf("the other node rings %v after the stop; %d messages were written in %v", took, w.count(t), time.Since(began))

	paused.signal(syscall.SIGCONT)
	far.await(t, w.count(t), limit)
	eventually(t, func() error {
		if one, two := paused.rings(), other.rings(); one || !two {
			return fmt.Errorf("the node that was paused rings: %v, the other one: %v", one, two)
		}
		return nil
	})
	more := w.count(t) + 50
	eventually(t, func() error {
		if n := w.count(t); n < more {
			return fmt.Errorf("%d messages of %d are written", n, more)
		}
		return nil
	})
	w.stop()
	for name, b := range map[string]*browser{"at the node that was paused": far, "at the other": near} {
		n := w.count(t)
		b.await(t, n, limit)
		b.mu.Lock()
		contents, resets := slices.Clone(b.contents), b.resets
		b.mu.Unlock()
		for i, content := range contents {
			if content != strconv.Itoa(i) {
				t.Fatalf("%s: message %s where %d was due, of %d", name, content, i, n)
			}
		}
		if len(contents) != n || resets > 0 {
			t.Errorf("%s: %d messages were heard, %d written; %d resets", name, len(contents), n, resets)
		}
	}
}
