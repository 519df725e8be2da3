package bench

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"roombell/internal/client"
)

// Seat is one client to be connected.
type Seat struct {
	URL          string
	Token        string // for Socket.IO; empty: a plain WebSocket, whose frames are rows
	Organization int    // the number that Expect knows the organization by
	Hold         bool   // does not read after the handshake, until the fleet is released
}

// socketIO reports whether the seat speaks Socket.IO.
func (s Seat) socketIO() bool { return s.Token != "" }

// frames is a connection that is read frame by frame; *client.Conn is one. A frame is valid until the next call.
type frames interface {
	NextFrame() ([]byte, error)
	Close() error
}

var (
	_ frames = (*client.Conn)(nil)
	_ frames = (*plainConn)(nil)
)

// listener is one connected client. It looks at a frame's first bytes, finds the probe and decodes nothing, the same for
// both servers, so that what a client costs is equal in both.
type listener struct {
	seat  Seat
	conn  frames
	fleet *Fleet

	mu      sync.Mutex // tallies are read by reports
	tallies map[int]*tally
}

// How the frames begin that the bench knows (Socket.IO protocol 5: an event packet).
var (
	frameConnected  = []byte(`42["connected"`)
	frameMessageNew = []byte(`42["message:new"`)
)

const readBuffer = 1 << 10

// dial connects the seat and, for Socket.IO, comes back after the event "connected": from then on it hears its rooms.
func (f *Fleet) dial(ctx context.Context, seat Seat) (*listener, error) {
	l := &listener{seat: seat, fleet: f, tallies: map[int]*tally{}}
	if !seat.socketIO() {
		conn, err := dialPlain(ctx, seat.URL)
		if err != nil {
			return nil, err
		}
		l.conn = conn
		return l, nil
	}
	conn, err := client.Dial(ctx, client.Options{URL: seat.URL, Token: seat.Token, ReadBuffer: readBuffer})
	if err != nil {
		return nil, err
	}
	l.conn = conn
	for {
		frame, err := conn.NextFrame()
		if err != nil {
			conn.Close()
			return nil, fmt.Errorf("wait for connected: %w", err)
		}
		if bytes.HasPrefix(frame, frameConnected) {
			return l, nil
		}
	}
}

// run reads until the connection ends. A seat that holds waits for the release first.
func (l *listener) run() {
	if l.seat.Hold {
		<-l.fleet.released
	}
	for {
		frame, err := l.conn.NextFrame()
		if err != nil {
			return
		}
		l.handle(frame, time.Now())
	}
}

// handle counts a frame that was in hand at the given time.
func (l *listener) handle(frame []byte, at time.Time) {
	l.fleet.frames.Add(1)
	if l.seat.socketIO() && !bytes.HasPrefix(frame, frameMessageNew) {
		return
	}
	if p, ok := parseProbe(frame); ok && p.seq < maxSeq {
		l.note(p, at)
	}
}

// maxSeq bounds the memory of a tally, whatever arrives.
const maxSeq = 1 << 26

func (l *listener) note(p probe, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tallies[p.phase]
	if t == nil {
		t = &tally{}
		l.tallies[p.phase] = t
	}
	if t.note(p.seq, at.Sub(p.due), at) {
		l.fleet.arrivals.Add(1)
	}
}

// missing is the number of the phase's rows that the client has not got yet.
func (l *listener) missing(e Expect) int64 {
	if l.seat.Hold {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	want := int64(e.of(l.seat.Organization))
	if t := l.tallies[e.Phase]; t != nil {
		want -= int64(t.distinct)
	}
	return max(want, 0)
}

// collect adds what the client got of the phase to d, and forgets it. Rows that the phase did not write for this client's
// organization are strays.
func (l *listener) collect(e Expect, d *Delivery) {
	if l.seat.Hold {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tallies[e.Phase]
	if t == nil {
		t = &tally{}
	}
	delete(l.tallies, e.Phase)
	want, mine := e.of(l.seat.Organization), t.count(e, l.seat.Organization)
	d.Expected += int64(want)
	d.Received += int64(mine)
	d.Lost += int64(want - mine)
	d.Strays += int64(t.distinct - mine)
	d.Duplicates += int64(t.duplicates)
	d.Delays = append(d.Delays, t.delays...)
	if t.last.After(d.Last) {
		d.Last = t.last
	}
}

// plainConn is a WebSocket without Socket.IO, as small as client.Conn.
type plainConn struct {
	ws  *websocket.Conn
	buf bytes.Buffer
}

func dialPlain(ctx context.Context, url string) (*plainConn, error) {
	d := websocket.Dialer{HandshakeTimeout: floorHandshakeTimeout, ReadBufferSize: readBuffer, WriteBufferSize: readBuffer}
	ws, _, err := d.DialContext(ctx, url, nil)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return &plainConn{ws: ws}, nil
}

func (c *plainConn) NextFrame() ([]byte, error) {
	_, r, err := c.ws.NextReader()
	if err != nil {
		return nil, err
	}
	c.buf.Reset()
	if _, err := c.buf.ReadFrom(r); err != nil {
		return nil, err
	}
	return c.buf.Bytes(), nil
}

func (c *plainConn) Close() error { return c.ws.Close() }
