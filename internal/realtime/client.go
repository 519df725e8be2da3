package realtime

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/zishang520/socket.io/servers/engine/v3"
	"github.com/zishang520/socket.io/servers/socket/v3"
	"golang.org/x/time/rate"
)

// stage is how far a connection has come.
type stage uint8

const (
	waiting stage = iota // for CONNECT
	joining              // CONNECT is being looked at
	live                 // let in: it has a person
	left                 // the socket has ended; the transport may stand for a moment more
)

// client is one Engine.IO connection and the one socket on it. The Server's mutex guards it, but for what says otherwise.
type client struct {
	conn    engine.Socket
	address netip.Addr // invalid when it was not counted
	stage   stage
	closed  bool    // the connection is gone
	doomed  bool    // its user was disabled while it was joining
	resume  *resume // it brought a cursor: until it is let in
	alarm   alarm   // the one moment that matters next: no CONNECT, the token's last minute or end, the transport's end

	socket  *socket.Socket
	person  *person // while joining or live
	token   tokenMark
	expires time.Time // the token, as it says
	ends    time.Time // when its socket is closed
	warned  bool      // auth:expiring is out
	away    bool

	chats  map[int64]struct{} // subscribed; nil until the first
	leases map[int64]*lease   // typing, by chat; nil until the first

	limiter  *rate.Limiter      // of the socket's own task queue; nil until the first event
	position string             // where in the log it begins; set before it is let in, and dropped then
	end      context.CancelFunc // of what is done for it on other goroutines; nil until it is let in
	backlog  backlog            // has a lock of its own
}

// person is a user with sockets, or one whose last socket went a moment ago. The Server's mutex guards it.
type person struct {
	id           int64
	organization int64 // the table's; 0 until a socket was let in
	email, role  string
	generation   int32      // of his tokens, as the row was last read
	tokensFrom   *time.Time // likewise
	clients      []*client  // joining and live
	status       string     // as the organization was told; empty: it was not
	seen         time.Time
	leaving      bool  // the last socket went, offline is not said yet
	alarm        alarm // then it is
}

// room is the one that this socket alone is in.
func (c *client) room() []socket.Room { return []socket.Room{socket.Room(c.socket.Id())} }

func (p *person) inChat(chatID int64) bool {
	return slices.ContainsFunc(p.clients, func(c *client) bool {
		_, ok := c.chats[chatID]
		return ok
	})
}

func (p *person) typesIn(chatID int64) bool {
	return slices.ContainsFunc(p.clients, func(c *client) bool { return c.leases[chatID] != nil })
}

// presence is the most present of his sockets: away only when all are.
func (p *person) presence() string {
	status := statusOffline
	for _, c := range p.clients {
		switch {
		case c.stage != live:
		case c.away:
			status = statusAway
		default:
			return statusOnline
		}
	}
	return status
}

// backlog counts the packets that wait in the library's queue of a socket while an answer waits for the database. Past
// maxBacklog the connection is not read any more, and its sender feels it. The library itself would queue without end.
type backlog struct {
	mu      sync.Mutex
	waiting int
	room    chan struct{} // closed when there is room; nil while nobody waits
	ended   bool
}

const maxBacklog = 256

// add counts a packet, and returns what to wait for before the next is read: nil for nothing.
func (b *backlog) add() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting++
	if b.waiting <= maxBacklog || b.ended {
		return nil
	}
	if b.room == nil {
		b.room = make(chan struct{})
	}
	return b.room
}

func (b *backlog) done() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting--
	if b.waiting <= maxBacklog/2 {
		b.open()
	}
}

// end lets whoever waits go, for ever.
func (b *backlog) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	b.open()
}

func (b *backlog) open() {
	if b.room != nil {
		close(b.room)
		b.room = nil
	}
}
