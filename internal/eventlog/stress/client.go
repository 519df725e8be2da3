package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"roombell/internal/client"
)

// pollEvery is how many clients there are for one that polls.
const pollEvery = 8

// visitor is a client of the contract: it keeps the last cursor of any payload, and comes back with it.
type visitor struct {
	hearing
	who   *person
	polls bool
	r     *rand.Rand

	cursor  string
	last    *node
	arrived chan struct{} // closed at the first connected
	once    sync.Once
}

// connection is what the two transports have in common.
type connection interface {
	NextFrame() ([]byte, error)
	Emit(name string, argument any, ack func(json.RawMessage)) error
	Close() error
}

// payload is what a client looks at of any event.
type payload struct {
	Cursor  string  `json:"cursor"`
	EventID int64   `json:"eventId"`
	ID      int64   `json:"id"`
	Name    *string `json:"name"`
	Reason  string  `json:"reason"`
	Resumed bool    `json:"resumed"`
}

// startClients lets the clients in and returns when each has been told its first position. They leave when the function is called that it
// returns.
func (w *world) startClients(ctx context.Context) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	stop = func() {
		cancel()
		all.Wait()
	}
	for i := range w.o.Clients {
		v := &visitor{
			hearing: newHearing(w, fmt.Sprint("client ", i)),
			who:     w.people[i%len(w.people)],
			polls:   i%pollEvery == pollEvery-1,
			r:       rand.New(rand.NewPCG(w.o.Seed, uint64(1000+i))),
			arrived: make(chan struct{}),
		}
		w.clients = append(w.clients, v)
		all.Go(func() { v.run(ctx) })
	}
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	for _, v := range w.clients {
		select {
		case <-v.arrived:
		case <-timer.C:
			return stop, fmt.Errorf("%s is not let in", v.name)
		case <-ctx.Done():
			return stop, ctx.Err()
		}
	}
	return stop, nil
}

func (v *visitor) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := v.visit(ctx)
		var refused *client.ConnectError
		if errors.As(err, &refused) || errors.Is(err, client.ErrDisconnected) || errors.Is(err, client.ErrProtocol) {
			v.complain(err) // a standard client stays away after these
		}
		_ = pause(ctx, v.away()) // the loop ends with ctx
	}
}

// away is how long the client stays away: mostly as long as a reconnect takes, sometimes as long as a tunnel.
func (v *visitor) away() time.Duration {
	switch {
	case v.w.calm.Load():
		return 50 * time.Millisecond
	case v.r.IntN(10) == 0:
		return time.Duration(v.r.IntN(4000)) * time.Millisecond
	}
	return time.Duration(v.r.IntN(100)) * time.Millisecond
}

// visit is one connection's life.
func (v *visitor) visit(ctx context.Context) error {
	conn, err := v.dial(ctx)
	if err != nil {
		v.w.count.unreachable.Add(1)
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if v.r.IntN(3) == 0 {
		// Whoever is in a chat's room beside his others must not hear an event twice.
		if err := conn.Emit("subscribe:chat", 1+v.r.IntN(chats), nil); err != nil {
			return err
		}
	}
	p := v.plan()
	end := time.AfterFunc(p.time, func() { v.breakOff(conn) })
	defer end.Stop()
	return v.listen(ctx, conn, p)
}

// dial goes to another node than the last time.
func (v *visitor) dial(ctx context.Context) (connection, error) {
	n := v.w.nodes[v.r.IntN(len(v.w.nodes))]
	if n == v.last {
		n = v.w.nodes[v.r.IntN(len(v.w.nodes))]
	}
	v.last = n
	o := client.Options{URL: *n.url.Load(), Token: v.who.token, Cursor: v.cursor, ConnectTimeout: 15 * time.Second}
	if v.polls {
		return dialPolling(ctx, o, v.r)
	}
	return client.Dial(ctx, o)
}

// plan says when a connection is to break.
type plan struct {
	packets int // after so many; 0: whatever comes
	time    time.Duration
	stall   int // after so many packets nothing is read for a while; 0: never
}

func (v *visitor) plan() plan {
	p := plan{time: time.Duration(500+v.r.IntN(8000)) * time.Millisecond}
	switch v.r.IntN(10) {
	case 0, 1: // between connected and sync:complete
		p.packets = 1 + v.r.IntN(4)
	case 2, 3, 4:
		p.packets = 1 + v.r.IntN(300)
	}
	if v.r.IntN(20) == 0 {
		p.stall = 1 + v.r.IntN(50)
	}
	return p
}

// breakOff ends a connection from another goroutine, unless all is calm.
func (v *visitor) breakOff(conn connection) {
	if v.w.calm.Load() {
		return
	}
	v.w.count.cuts.Add(1)
	if c, ok := conn.(*polling); ok {
		c.breakOff()
		return
	}
	_ = conn.Close()
}

func (v *visitor) listen(ctx context.Context, conn connection, p plan) error {
	for n := 1; ; n++ {
		frame, err := conn.NextFrame()
		if err != nil {
			return err
		}
		if err := v.take(frame); err != nil {
			return err
		}
		if v.w.calm.Load() {
			continue
		}
		if n == p.packets {
			v.w.count.cuts.Add(1)
			return nil
		}
		if n == p.stall {
			if err := v.stall(ctx); err != nil {
				return err
			}
		}
	}
}

// stall reads nothing for a while, as a sleeping tab does.
func (v *visitor) stall(ctx context.Context) error {
	v.w.count.stalled.Add(1)
	defer v.w.count.stalled.Add(-1)
	return pause(ctx, 1500*time.Millisecond)
}

// take reads an event as a stranger would.
func (v *visitor) take(frame []byte) error {
	v.w.count.packets.Add(1)
	rest, ok := bytes.CutPrefix(frame, []byte(`42["`))
	name, rest, found := bytes.Cut(rest, []byte(`"`))
	if !ok || !found {
		return fmt.Errorf("event %.40q: %w", frame, client.ErrProtocol)
	}
	var p payload
	rest = bytes.TrimSuffix(bytes.TrimPrefix(rest, []byte(",")), []byte("]"))
	if err := json.Unmarshal(rest, &p); err != nil {
		return fmt.Errorf("payload of %s: %w: %w", name, client.ErrProtocol, err)
	}
	// In this order, as the JavaScript of the documentation has it: first the event is heard, then the cursor kept.
	v.hear(string(name), p)
	if p.Cursor != "" {
		v.cursor = p.Cursor
	}
	return nil
}

func (v *visitor) hear(name string, p payload) {
	switch name {
	case "connected":
		v.connected(p)
	case "sync:complete":
		v.w.count.resumes.Add(1)
	case "sync:reset":
		v.reset(p.Reason)
	}
	if p.EventID == 0 {
		return
	}
	v.w.count.deliveries.Add(1)
	if v.event(p.EventID) && name == "chat:updated" {
		v.change(p.EventID, p.ID, version(p.Name))
	}
}

func (v *visitor) connected(p payload) {
	v.w.count.connects.Add(1)
	if v.cursor != "" && p.Resumed && p.Cursor != v.cursor {
		v.complain(errors.New("connected moves the cursor: whoever is cut off now loses the rest of the replay"))
	}
	v.once.Do(func() { close(v.arrived) })
}
