package realtime

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zishang520/socket.io/servers/engine/v3"
	"github.com/zishang520/socket.io/servers/socket/v3"
	"golang.org/x/time/rate"

	"roombell/internal/eventlog"
)

const (
	path = "/socket.io/"
	// maxPacket is the protocol's default, told to clients as maxPayload. A larger packet closes the connection.
	maxPacket = 1_000_000
)

// Server is the Socket.IO server of one node. It is safe for use by many goroutines.
type Server struct {
	o       Options
	log     *slog.Logger
	origins origins
	io      *socket.Server
	adapter *adapter
	handler http.Handler
	alarms  *alarms
	metrics *serverMetrics

	users    *lookup[User]
	rights   *lookup[ChatRights]
	attaches crowd[func(eventlog.Cursor, error)]
	feeds    *feeds
	recent   recent

	arrivals  arrivals
	entering  queue // of those who come back, until they know whether they can be told what they missed
	replaying queue // of those who are to be told what they missed

	complaints rate.Sometimes // of connections that come again and again

	// mu guards what follows, and clients and people in it. It is never held while something is sent or closed: the
	// library calls back. Joining and leaving rooms happens under it, so that rooms and subscriptions stay one.
	mu            sync.Mutex
	clients       map[string]*client // by the connection's id
	addresses     map[netip.Addr]int
	people        map[int64]*person
	organizations map[int64]map[int64]*person // those of people whose organization was told of them
	chats         map[int64]map[*client]struct{}
	checks        map[int64]map[*check]struct{} // questions to Access under way, by chat
	doubts        map[int64]*doubt              // rights to be asked for again, by user
	outbox        []outgoing
	sending       bool
	draining      bool
	closing       int           // transports being closed
	passed        passage       // since the last line of the log
	empty         chan struct{} // closed when draining is done

	doubted chan struct{} // signals doubts
}

var _ eventlog.Publisher = (*Server)(nil)

// New returns a Server that serves nobody until Run runs: connections wait.
func New(o Options) (*Server, error) {
	if o.Tail == nil || o.Tokens == nil || o.Access == nil {
		return nil, errors.New("realtime needs a tail, an authenticator and access")
	}
	o = o.withDefaults()
	origins, err := parseOrigins(o.Origins)
	if err != nil {
		return nil, err
	}
	s := &Server{
		o: o, log: o.Logger, origins: origins, metrics: newServerMetrics(o.Registerer),
		clients: map[string]*client{}, addresses: map[netip.Addr]int{}, people: map[int64]*person{},
		organizations: map[int64]map[int64]*person{}, chats: map[int64]map[*client]struct{}{},
		checks: map[int64]map[*check]struct{}{}, doubts: map[int64]*doubt{},
		complaints: rate.Sometimes{Interval: time.Second},
		empty:      make(chan struct{}), doubted: make(chan struct{}, 1), feeds: newFeeds(o.Registerer),
	}
	s.alarms = newAlarms(s.rescue)
	s.users, s.rights = newLookup(s.askUsers), newLookup(s.askChatRights)
	s.attaches.serve = s.attach
	s.entering, s.replaying = queue{free: turns, storm: s.o.Storm}, queue{free: turns, storm: s.o.Storm}
	s.arrivals.storm = s.o.Storm
	s.serve()
	return s, nil
}

// serve sets up the library, with our transports and adapter, and the handler in front of it.
func (s *Server) serve() {
	wire := newTransportMetrics(s.o.Registerer)
	o := socket.DefaultServerOptions()
	o.SetPath(strings.TrimSuffix(path, "/"))
	o.SetServeClient(false)
	o.SetPingInterval(s.o.PingInterval)
	o.SetPingTimeout(s.o.PingTimeout)
	o.SetConnectTimeout(s.o.timing.connect)
	o.SetMaxHttpBufferSize(maxPacket)
	o.SetTransports(newTransports(transportOptions{SendQueue: s.o.SendQueue, PingTimeout: s.o.PingTimeout, Metrics: wire}))
	o.SetAdapter(&adapterBuilder{sendQueue: s.o.SendQueue, metrics: wire})
	s.io = socket.NewServer(nil, o)
	s.adapter = s.io.Sockets().Adapter().(*adapter)
	s.io.Use(s.handshake)
	_ = s.io.On("connection", s.connected)
	s.io.ServeHandler(o)
	// Before mount, whose listener has the connection read: ours must know it by then.
	_ = s.io.Engine().On("connection", s.arrived)
	s.handler = s.admission(s.origins.crossOrigin(mount(s.io, o)))
}

// admission turns away what would only be closed again.
func (s *Server) admission(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != path:
			http.NotFound(w, r)
		case r.URL.Query().Has("sid"):
			next.ServeHTTP(w, r)
		case s.stopping():
			w.Header().Set("Connection", "close")
			http.Error(w, "shutting down", http.StatusServiceUnavailable)
		case s.full(s.address(r)):
			http.Error(w, "too many connections from this address", http.StatusTooManyRequests)
		default:
			s.arrivals.count(time.Now())
			next.ServeHTTP(w, r)
		}
	})
}

func (s *Server) stopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// Handler serves Socket.IO below /socket.io/, HTTP and upgrades.
func (s *Server) Handler() http.Handler { return s.handler }

// Run keeps time and asks for rights until ctx ends. Then it lets no new connection in, closes the transports one by
// one over Options.Drain, so that clients come back elsewhere, and returns nil when the last is gone.
func (s *Server) Run(ctx context.Context) error {
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	var parts sync.WaitGroup
	parts.Go(func() { s.alarms.run(inner) })
	parts.Go(func() { s.resolveDoubts(inner) })
	parts.Go(func() { s.sweep(inner) })
	parts.Go(func() { s.freshen(inner) })
	<-ctx.Done()
	s.drain()
	stop()
	parts.Wait()
	s.report()
	return nil
}

// drain closes every transport, evenly over the time, and waits for the last.
func (s *Server) drain() {
	s.mu.Lock()
	s.draining = true
	clients := slices.Collect(maps.Values(s.clients))
	s.mu.Unlock()
	s.feeds.stop()
	s.settle()

	began := time.Now()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for i, c := range clients {
		due := began.Add(s.o.Drain * time.Duration(i) / time.Duration(len(clients)))
		// Ten thousand connections need no ten thousand sleeps.
		if wait := time.Until(due); wait > time.Millisecond {
			pause.Reset(wait)
			<-pause.C
		}
		s.shut(c)
	}
	pause.Reset(5 * time.Second)
	select {
	case <-s.empty:
	case <-pause.C:
		s.log.Warn("connections did not close in time")
	}
}

// settle tells drain when the last connection is gone.
func (s *Server) settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.draining || len(s.clients) > 0 || s.closing > 0 {
		return
	}
	select {
	case <-s.empty:
	default:
		close(s.empty)
	}
}

// passage counts who came and went.
type passage struct{ came, resumed, went int }

// report says at info how many came and went, when there is something to say.
func (s *Server) report() {
	s.mu.Lock()
	p, sockets := s.passed, len(s.clients)
	s.passed = passage{}
	s.mu.Unlock()
	if p != (passage{}) {
		s.log.Info("sockets", "open", sockets, "came", p.came, "resumed", p.resumed, "went", p.went)
	}
}

// sweep ends the sockets whose connection went without a word: the library's close and connect can miss each other.
func (s *Server) sweep(ctx context.Context) {
	tick := time.NewTicker(s.o.timing.sweep)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.report()
			for _, c := range s.orphans() {
				s.metrics.orphans.Inc()
				s.dismiss(c)
				s.gone(c)
			}
		}
	}
}

func (s *Server) orphans() []*client {
	s.mu.Lock()
	defer s.mu.Unlock()
	var orphans []*client
	for _, c := range s.clients {
		if c.conn.ReadyState() == "closed" {
			orphans = append(orphans, c)
		}
	}
	return orphans
}

// arrived is called by the engine with each new connection, before anything is read from it.
func (s *Server) arrived(args ...any) {
	conn := args[0].(engine.Socket)
	c := &client{conn: conn, address: s.address(conn.Request().Request())}
	if !s.register(c) {
		conn.Close(true)
		return
	}
	// The library's own listeners were there first: its socket has ended when ours hears of it.
	_ = conn.On("data", func(...any) { s.received(c) })
	_ = conn.Once("close", func(...any) { s.gone(c) })
	if conn.ReadyState() == "closed" {
		s.gone(c)
	}
}

func (s *Server) register(c *client) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining || !s.countAddress(c) {
		return false
	}
	s.clients[c.conn.Id()] = c
	s.alarms.set(&c.alarm, time.Now().Add(s.o.timing.connect), func() { s.shut(c) })
	return true
}

// client returns the one that a socket of the library belongs to, nil when its connection is gone.
func (s *Server) client(sock *socket.Socket) *client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clients[sock.Conn().Id()]
}

// gone is called when the connection has closed, perhaps more than once.
func (s *Server) gone(c *client) {
	s.mu.Lock()
	if c.closed {
		s.mu.Unlock()
		return
	}
	c.closed = true
	delete(s.clients, c.conn.Id())
	s.uncountAddress(c)
	s.alarms.stop(&c.alarm)
	s.leave(c)
	end := c.end
	s.mu.Unlock()

	if end != nil {
		end()
	}
	c.backlog.end()
	s.flush()
	s.settle()
}

// ended is called when the socket has ended: with its connection, by the client's own word or by ours. The library
// calls it twice now and then, and its reasons cannot be believed.
func (s *Server) ended(c *client) {
	s.mu.Lock()
	s.leave(c)
	if !c.closed {
		s.alarms.set(&c.alarm, time.Now().Add(s.o.timing.linger), func() { s.shut(c) })
	}
	s.mu.Unlock()
	c.backlog.end()
	s.flush()
}

// leave takes the socket out of everything it was in. Idempotent; mu is held.
func (s *Server) leave(c *client) {
	was := c.stage
	c.stage = left
	if was != joining && was != live {
		return
	}
	p := c.person
	if p == nil {
		return
	}
	if was == live {
		p.seen = time.Now()
		s.metrics.sockets.Dec()
		s.passed.went++
		s.log.Debug("socket closed", "user", p.id, "org", p.organization)
	}
	p.clients = slices.DeleteFunc(p.clients, func(other *client) bool { return other == c })
	for chatID := range c.chats {
		s.leaveChat(c, chatID)
	}
	s.notice(p)
}

// shut closes the transport, without waiting for it: a TLS connection may take its time. A standard client comes back.
func (s *Server) shut(c *client) {
	s.mu.Lock()
	s.closing++
	s.mu.Unlock()
	go func() {
		defer s.rescue("close")
		defer func() {
			s.mu.Lock()
			s.closing--
			s.mu.Unlock()
			s.settle()
		}()
		c.conn.Close(true)
	}()
}

// dismiss ends the socket with the packet after which a standard client stays away, and then the transport.
func (s *Server) dismiss(c *client) {
	s.mu.Lock()
	sock := c.socket
	s.mu.Unlock()
	if sock != nil {
		sock.Disconnect(false)
	}
	s.ended(c)
}

// rescue is deferred where the library or a clock calls us: a bug in one answer must not take the others with it.
func (s *Server) rescue(where string) {
	if r := recover(); r != nil {
		s.metrics.panics.Inc()
		s.log.Error("panic", "in", where, "err", r, "stack", string(debug.Stack()))
	}
}
