package client

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

// follower collects what Follow tells, and stops it at the event named "end".
type follower struct {
	events   []string
	waits    int
	connects int
}

var errEnd = errors.New("end of the test")

func (f *follower) hooks() Follower {
	return Follower{
		Connected: func(*Conn) error { f.connects++; return nil },
		Event: func(e Event) error {
			f.events = append(f.events, e.Name)
			if e.Name == "end" {
				return errEnd
			}
			return nil
		},
		Waiting: func(error, time.Duration) { f.waits++ },
		first:   time.Millisecond,
	}
}

func TestFollowResumesFromLastCursor(t *testing.T) {
	t.Parallel()
	auths := make(chan string, 4)
	url := serve(t,
		func(p *peer) {
			auths <- p.accept()
			p.send(`42["one",{"cursor":"c1"}]`, `42["two",{"cursor":"c2"}]`, `42["typing:start",{"chatId":1}]`)
		},
		func(*peer) {}, // closed before OPEN: also survived
		func(p *peer) { auths <- p.accept() },
		func(p *peer) {
			auths <- p.accept()
			p.send(`42["end",{"cursor":"c3"}]`)
			p.next()
		},
	)
	var f follower
	err := Follow(t.Context(), Options{URL: url, Token: "t", Cursor: "c0"}, f.hooks())
	if !errors.Is(err, errEnd) {
		t.Fatalf("ended with %v", err)
	}
	for _, want := range []string{`{"cursor":"c0","token":"t"}`, `{"cursor":"c2","token":"t"}`, `{"cursor":"c2","token":"t"}`} {
		if got := <-auths; got != want {
			t.Errorf("auth %s, want %s", got, want)
		}
	}
	if want := []string{"one", "two", "typing:start", "end"}; !slices.Equal(f.events, want) {
		t.Errorf("events %v, want %v", f.events, want)
	}
	if f.connects != 3 || f.waits != 3 {
		t.Errorf("%d connects, %d waits", f.connects, f.waits)
	}
}

func TestFollowStopsWhenRefused(t *testing.T) {
	t.Parallel()
	refuse := func(p *peer) {
		p.send(openPacket)
		p.next()
		p.send(`44{"message":"Authentication error: Invalid token","data":{"code":"invalid_token"}}`)
		p.next()
	}
	tests := []struct {
		name   string
		script func(*peer)
		want   func(error) bool
	}{
		{"connect_error", refuse, func(err error) bool { var r *ConnectError; return errors.As(err, &r) && r.Code == "invalid_token" }},
		{"disconnect packet", func(p *peer) { p.accept(); p.send("41"); p.next() }, func(err error) bool { return errors.Is(err, ErrDisconnected) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var f follower
			if err := Follow(t.Context(), Options{URL: serve(t, test.script), Token: "t"}, f.hooks()); !test.want(err) || f.waits != 0 {
				t.Fatalf("ended with %v after %d waits", err, f.waits)
			}
		})
	}
}

func TestFollowGivesUpABadURL(t *testing.T) {
	t.Parallel()
	var f follower
	if err := Follow(t.Context(), Options{URL: "localhost:3000", Token: "t"}, f.hooks()); !errors.Is(err, ErrBadURL) || f.waits != 0 {
		t.Fatalf("ended with %v after %d waits", err, f.waits)
	}
}

func TestFollowEndsWithContext(t *testing.T) {
	t.Parallel()
	left := make(chan string, 1)
	url := serve(t, func(p *peer) { p.accept(); p.send(`42["one"]`); left <- p.next() })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var f follower
	hooks := f.hooks()
	hooks.Event = func(Event) error { cancel(); return nil }
	if err := Follow(ctx, Options{URL: url, Token: "t"}, hooks); err != nil {
		t.Fatal(err)
	}
	if got := <-left; got != "41" {
		t.Errorf("left with %q in place of a disconnect packet", got)
	}
}

func TestFollowEndsWhileWaiting(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var f follower
	hooks := f.hooks()
	hooks.first = time.Hour
	hooks.Waiting = func(error, time.Duration) { cancel() }
	if err := Follow(ctx, Options{URL: serve(t, func(*peer) {}), Token: "t"}, hooks); err != nil {
		t.Fatal(err)
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	for range 200 {
		var b backoff
		for _, around := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second} {
			if got := b.next(); got < around/2 || got > min(around*3/2, mostDelay) {
				t.Fatalf("delay %v around %v", got, around)
			}
		}
		b.reset()
		if got := b.next(); got > 1500*time.Millisecond {
			t.Fatalf("delay %v after a reset", got)
		}
	}
}
