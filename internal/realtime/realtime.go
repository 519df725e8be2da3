// Package realtime is the Socket.IO server: it lets people in, keeps what each socket may hear, and hands them the
// events that the log brings.
//
// Events come from eventlog's tail, which calls Publish with batches in order; realtime adds the position to each and
// gives it to the rooms that Rooms names. What is born on a socket (typing, presence, joined and left) never touches
// the database. The package knows no SQL either: who a user is and what he may see it asks through Access.
//
// What it promises: a client's first event is `connected`, and every event recorded after the position in it follows,
// in order, once, whatever number of rooms the socket is in. Rights live in memory, so sockets work on while the
// database is away; rights that were lost are acted on within a second, and when they cannot be asked for, the
// transport is closed and the client comes back to be asked again. Nothing here waits for a client that reads slowly.
//
// server.go holds the parts together, handshake.go lets in, events.go answers what clients send, people.go, chats.go,
// access.go and tokens.go are the answers, publish.go is the way out, limits.go the bounds. Below them, transport.go,
// adapter.go, frame.go, polling.go and slim.go are our half of the Socket.IO library, whose only importer this package is.
package realtime

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"roombell/internal/auth"
	"roombell/internal/eventlog"
)

// ErrNotFound is Access's answer for what is not there, or not for this user to see: strangers cannot tell the two.
var ErrNotFound = errors.New("not found")

// Attacher finds the place between two batches where a socket can begin. *eventlog.Tail is one. Attach calls f exactly
// once, never before a read that began after Attach; with an error when the log cannot be read.
type Attacher interface {
	Attach(f func(at eventlog.Cursor, err error))
}

// Authenticator tells who bears a token, or returns one of auth's errors. *auth.Verifier is one.
type Authenticator interface {
	Verify(ctx context.Context, token string) (auth.Identity, error)
}

// Access answers what only the database knows. Errors other than ErrNotFound mean that it could not be asked.
type Access interface {
	// Users returns the rows of those of the users that exist, active or not.
	Users(ctx context.Context, ids []int64) ([]User, error)
	// Chat returns nil when the user may see the chat, and ErrNotFound when there is no such chat in the organization
	// or he may not.
	Chat(ctx context.Context, userID, organizationID, chatID int64) error
	// Chats returns those of chatIDs that the user may see.
	Chats(ctx context.Context, userID int64, chatIDs []int64) ([]int64, error)
	// Rights returns who may see those of the chats that exist.
	Rights(ctx context.Context, chatIDs []int64) ([]ChatRights, error)
}

// History knows what was missed between two positions, and how long it does. *eventlog.History is one.
type History interface {
	Missed(ctx context.Context, q eventlog.Question) (*eventlog.Missed, error)
	Retention(ctx context.Context) (time.Duration, error)
	// Beginning is the position before everything that the log still has, for a reader who goes on from there to the given one.
	Beginning(ctx context.Context, to eventlog.Cursor) (eventlog.Cursor, error)
}

// ChatRights says who may see a chat.
type ChatRights struct {
	ChatID     int64
	Restricted bool    // else the whole organization
	Users      []int64 // of a restricted chat: its members and assignee. Admins see it beside them
}

// User is what realtime needs to know of one.
type User struct {
	ID             int64
	OrganizationID int64
	Email          string
	Role           string
	Active         bool
	Generation     int32      // of his tokens, of our own
	TokensFrom     *time.Time // other tokens that were issued before are void; nil: none is
}

// Options of a Server. Tail, Tokens and Access are needed; what else is zero gets the contract's default where it has no
// meaning of its own.
type Options struct {
	Tail   Attacher
	Tokens Authenticator
	Access Access
	// History is what clients resume from. Without one each cursor is unknown, and no sync:cursor is sent.
	History History

	ResumeLimit          int            // missed events that a client is given before it is told too_many
	Origins              []string       // foreign origins that browsers may come from; "*" is every one
	RateEvents           float64        // client events a second and socket
	RateBurst            int            // and how many at once
	SendQueue            int            // bytes that may already wait for a client when one more event comes
	MaxSocketsPerUser    int            // 0: no limit
	MaxSocketsPerAddress int            // 0: no limit
	TrustedProxies       []netip.Prefix // networks whose X-Forwarded-For is believed
	Drain                time.Duration  // the time over which Run lets the sockets go at its end; 0: at once
	PingInterval         time.Duration
	PingTimeout          time.Duration

	// Storm is told when hundreds come at once, and when that is over; of connections and of replays, so that begun may be told twice
	// before an end. It must not block; nil: nobody.
	Storm func(begun bool)

	Logger     *slog.Logger          // nil: slog.Default
	Registerer prometheus.Registerer // nil: no metrics

	timing timing // what the contract fixes; tests shorten it
}

// timing is every span that the contract fixes or that only bounds us.
type timing struct {
	typing  time.Duration // a typing:start ends by itself
	offline time.Duration // from the last socket's end to offline
	warning time.Duration // from auth:expiring to the token's end
	connect time.Duration // a connection without CONNECT is closed
	linger  time.Duration // from the disconnect packet to the transport's close
	lookup  time.Duration // a question to the database on behalf of a client
	recheck time.Duration // the same when rights may have been lost: the contract gives one second in all
	sweep   time.Duration // between two searches for sockets whose connection is gone
}

func (o Options) withDefaults() Options {
	set(&o.RateEvents, 20)
	set(&o.RateBurst, 40)
	set(&o.SendQueue, 1<<20)
	set(&o.ResumeLimit, 20_000)
	set(&o.PingInterval, 25*time.Second)
	set(&o.PingTimeout, 20*time.Second)
	set(&o.Logger, slog.Default())
	if o.Storm == nil {
		o.Storm = func(bool) {}
	}
	set(&o.timing.typing, 6*time.Second)
	set(&o.timing.offline, 10*time.Second)
	set(&o.timing.warning, time.Minute)
	set(&o.timing.connect, 10*time.Second)
	set(&o.timing.linger, time.Second)
	set(&o.timing.lookup, 3*time.Second)
	set(&o.timing.recheck, 700*time.Millisecond)
	set(&o.timing.sweep, 30*time.Second)
	return o
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
