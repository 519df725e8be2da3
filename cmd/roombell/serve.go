package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"roombell/db"
	"roombell/internal/api"
	"roombell/internal/auth"
	"roombell/internal/eventlog"
	"roombell/internal/inbox"
	"roombell/internal/realtime"
)

type serveCmd struct {
	Settings settings `embed:""`
	Migrate  bool     `env:"ROOMBELL_MIGRATE" help:"Apply migrations first."`
}

// Run serves until it is interrupted.
func (c *serveCmd) Run(ctx context.Context, p *program) error {
	s, err := c.Settings.over(p.settings)
	if err != nil {
		return err
	}
	if err := s.needDatabase(); err != nil {
		return err
	}
	if s.JWTSecret == "" && s.JWKSURL == "" {
		return badUsage("ROOMBELL_JWT_SECRET (32 bytes or more) or ROOMBELL_JWKS_URL is needed: without either no token can be verified")
	}
	log := newLogger(s, p.stderr)
	public, err := net.Listen("tcp", orDefault(s.Addr, defaultAddr))
	if err != nil {
		return err
	}
	admin, err := net.Listen("tcp", orDefault(s.AdminAddr, defaultAdminAddr))
	if err != nil {
		return errors.Join(err, public.Close())
	}
	v, err := newService(ctx, s, log)
	if err != nil {
		return errors.Join(err, public.Close(), admin.Close())
	}
	var parts []part
	if c.Migrate {
		parts = append(parts, part{"migrations", v.migrate})
	}
	return v.run(ctx, public, admin, parts...)
}

func orDefault(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

// service is the whole program, its parts made and idle.
type service struct {
	settings  *settings
	log       *slog.Logger
	registry  *prometheus.Registry
	tls       *tls.Config // nil: plain
	pool      *pgxpool.Pool
	verifier  *auth.Verifier
	tail      *eventlog.Tail
	history   *eventlog.History
	projector *inbox.Projector
	realtime  *realtime.Server
	health    *health
	thrift    thrift
	api       *api.API
}

// openPool is the way of all queries; through a proxy, when there is a direct address beside it.
func (s *settings) openPool(ctx context.Context) (*pgxpool.Pool, error) {
	if s.ListenDatabaseURL != "" {
		return db.Open(ctx, string(s.DatabaseURL), db.ThroughProxy)
	}
	return db.Open(ctx, string(s.DatabaseURL))
}

// newService makes the parts: the tail reads the log and publishes to the history, which remembers the latest for clients
// that come back, to the projector, which keeps the counters of chats, and to the Socket.IO server. It does not wait for the database.
func newService(ctx context.Context, s *settings, log *slog.Logger) (v *service, err error) {
	v = &service{settings: s, log: log, registry: prometheus.NewRegistry()}
	v.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if s.TLSCert != "" {
		pair, err := newCertificate(s.TLSCert, s.TLSKey, log)
		if err != nil {
			return nil, usageError{err}
		}
		v.tls = pair.config()
	}
	v.verifier, err = auth.NewVerifier(auth.Options{
		Secret: []byte(s.JWTSecret), PreviousSecret: []byte(s.JWTSecretPrevious),
		JWKSURL: s.JWKSURL, Issuer: s.JWTIssuer, Audience: s.JWTAudience, Claims: s.claims(), Logger: log,
	})
	if err != nil {
		return nil, err
	}
	listen, err := pgx.ParseConfig(s.listenURL())
	if err != nil {
		return nil, fmt.Errorf("database address for LISTEN: %w", err)
	}
	if v.pool, err = s.openPool(ctx); err != nil {
		return nil, err
	}
	v.projector = inbox.NewProjector(inbox.ProjectorOptions{
		Pool: v.pool, Ringer: func() bool { return v.tail.Status().Ringer }, Logger: log, Registerer: v.registry,
	})
	if v.history, err = eventlog.NewHistory(ctx, eventlog.HistoryOptions{ConnConfig: listen, Logger: log, Registerer: v.registry}); err != nil {
		v.pool.Close()
		return nil, err
	}
	v.realtime, err = realtime.New(realtime.Options{
		Tail: attacher{v}, Tokens: v.verifier, Access: access{inbox.NewAccess(v.pool)}, History: v.history, ResumeLimit: s.ResumeLimit,
		Origins: s.CORSOrigins, RateEvents: s.RateEvents, RateBurst: s.RateBurst, SendQueue: int(s.SendQueue),
		MaxSocketsPerUser: s.MaxSocketsPerUser, MaxSocketsPerAddress: s.MaxSocketsPerAddress,
		TrustedProxies: prefixes(s.TrustedProxies), Drain: s.Drain, Storm: v.thrift.storm, Logger: log, Registerer: v.registry,
	})
	if err != nil {
		v.history.Close()
		v.pool.Close()
		return nil, err
	}
	v.tail = eventlog.New(eventlog.Options{
		ConnConfig: listen, Logger: log, Registerer: v.registry, Node: nodeName(),
	}, v.history, v.projector, v.realtime)
	v.health = newHealth(v.pool, v.tail, log)
	if v.api, err = v.newAPI(); err != nil {
		v.history.Close()
		v.pool.Close()
		return nil, err
	}
	return v, nil
}

// nodeName tells this process from others of the installation.
func nodeName() string {
	host, _ := os.Hostname()
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}

// thrift has garbage collected sooner while many come back at once: what is made for them would double the memory for a few
// seconds in which everybody's is short.
type thrift struct {
	mu      sync.Mutex
	reasons int
	usual   int
}

const thriftPercent = 15

func (t *thrift) storm(begun bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case begun:
		if t.reasons++; t.reasons == 1 {
			t.usual = debug.SetGCPercent(thriftPercent)
		}
	default:
		if t.reasons--; t.reasons == 0 {
			debug.SetGCPercent(t.usual)
		}
	}
}

// attacher closes the circle: the tail publishes to the server, and the server attaches its sockets to the tail.
type attacher struct{ v *service }

func (a attacher) Attach(f func(eventlog.Cursor, error)) { a.v.tail.Attach(f) }

// access gives the answers of inbox in the words of realtime.
type access struct{ *inbox.Access }

func (a access) Users(ctx context.Context, ids []int64) ([]realtime.User, error) {
	found, err := a.Access.Users(ctx, ids)
	users := make([]realtime.User, len(found))
	for i, u := range found {
		users[i] = realtime.User(u)
	}
	return users, err
}

func (a access) Rights(ctx context.Context, chatIDs []int64) ([]realtime.ChatRights, error) {
	found, err := a.Access.Rights(ctx, chatIDs)
	rights := make([]realtime.ChatRights, len(found))
	for i, r := range found {
		rights[i] = realtime.ChatRights(r)
	}
	return rights, err
}

func (a access) Chat(ctx context.Context, userID, organizationID, chatID int64) error {
	return translate(a.Access.Chat(ctx, userID, organizationID, chatID))
}

func translate(err error) error {
	if errors.Is(err, inbox.ErrNotFound) {
		return realtime.ErrNotFound
	}
	return err
}

// stopTime is what a stop may take in all; the contract says 30 s.
const stopTime = 28 * time.Second

// run serves until ctx ends or a part fails, and stops in order: readiness first, then nobody new and the sockets let
// go, then the tail and what hangs on it, with the parts that the caller adds, the admin address, the pool.
func (v *service) run(ctx context.Context, public, admin net.Listener, more ...part) error {
	defer v.pool.Close()
	defer v.history.Close()
	asked := ctx
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	front, middle, back := newStage(ctx, fail), newStage(ctx, fail), newStage(ctx, fail)

	back.start("admin address", func(ctx context.Context) error { return v.serveAdmin(ctx, admin) })
	middle.start("tail", v.tail.Run)
	middle.start("projector", v.projector.Run)
	middle.start("tokens", v.verifier.Run)
	middle.start("readiness", func(ctx context.Context) error { return v.health.watch(ctx, v.settings.Retention) })
	for _, p := range more {
		middle.start(p.name, p.run)
	}
	front.start("sockets", v.realtime.Run)
	front.start("public address", func(ctx context.Context) error { return v.servePublic(ctx, public) })
	v.log.Info("serving", "addr", public.Addr().String(), "admin_addr", admin.Addr().String(), "version", readVersion().version)

	<-ctx.Done()
	v.log.Info("stopping")
	v.health.drain()
	deadline := time.NewTimer(stopTime)
	defer deadline.Stop()
	for _, s := range []*stage{front, middle, back} {
		select {
		case <-s.stop():
		case <-deadline.C:
			return errors.New("the parts did not stop in time")
		}
	}
	v.log.Info("stopped")
	if asked.Err() != nil {
		return nil
	}
	return context.Cause(ctx)
}

// migrate tries until the database is there, and ends the program when it is and refuses.
func (v *service) migrate(ctx context.Context) error {
	for {
		err := migrate(ctx, v.settings, v.log)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if !db.IsUnavailable(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

func (v *service) servePublic(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("/socket.io/", api.Hurry(v.realtime.Handler()))
	mux.Handle("/", v.api.Handler())
	v.health.register(mux, false)
	server := newHTTPServer(mux, v.log)
	if v.tls != nil {
		l = tls.NewListener(l, v.tls)
	}
	// Polls that wait are answered when the sockets are let go.
	return serveHTTP(ctx, server, l, v.settings.Drain+6*time.Second)
}

func (v *service) serveAdmin(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	v.health.register(mux, true)
	mux.Handle("GET /stats", v.api.Installation())
	mux.Handle("GET /metrics", promhttp.HandlerFor(v.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return serveHTTP(ctx, newHTTPServer(mux, v.log), l, time.Second)
}

// newHTTPServer has no timeouts for bodies and answers: sockets and streams are both. The API has its own (internal/api/edge.go), and
// api.Hurry is for the rest.
func newHTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10, // with the path and the query; above it net/http answers 431 in plain text
		// Strangers' broken handshakes are no news.
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// serveHTTP serves until ctx ends; then it takes nothing new and gives requests under way the time to end.
func serveHTTP(ctx context.Context, server *http.Server, l net.Listener, patience time.Duration) error {
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		_ = server.Close() // cuts the requests that would not end
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// part is something that runs until its context ends.
type part struct {
	name string
	run  func(context.Context) error
}

// stage is a set of parts that are stopped together. They do not end with the program's context: each stage waits for
// its turn.
type stage struct {
	ctx    context.Context
	cancel context.CancelFunc
	fail   context.CancelCauseFunc
	parts  sync.WaitGroup
}

func newStage(ctx context.Context, fail context.CancelCauseFunc) *stage {
	s := &stage{fail: fail}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return s
}

// start runs a part. One that fails ends the program.
func (s *stage) start(name string, run func(context.Context) error) {
	s.parts.Go(func() {
		if err := run(s.ctx); err != nil {
			s.fail(fmt.Errorf("%s: %w", name, err))
		}
	})
}

// stop asks the parts to end; the channel is closed when they have.
func (s *stage) stop() <-chan struct{} {
	s.cancel()
	ended := make(chan struct{})
	go func() {
		s.parts.Wait()
		close(ended)
	}()
	return ended
}
