package eventlog

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	connectTimeout = 5 * time.Second
	openTimeout    = 20 * time.Second // several hosts may be tried
	closeTimeout   = 3 * time.Second

	// queryTimeout is how long the server may be silent when it was asked. Where it vanished behind a proxy, whose kernel answers keepalives,
	// this is what notices: with the second that a sleeping ringer waits between two reads, after 9 s. A server that is alive and waits for
	// a lock says so before (lock_timeout in guards).
	queryTimeout = 8 * time.Second

	// gapAfter is how long without a read makes the tail ask whether retention has passed it, on a connection that lived on. Retention leaves
	// alone what became visible within that time (retention.go).
	gapAfter = 20 * time.Second

	channelName   = "roombell"
	pingPrefix    = "ping "
	maxPings      = 64
	readStatement = "roombell_read"
	gapStatement  = "roombell_read_gap"
)

var (
	errStandby = errors.New("connected to a read-only standby")
	errStale   = errors.New("the server's timeline is older than what was read already: a former primary")
	errSilent  = fmt.Errorf("the server has been silent for %v", queryTimeout)
	errTooOld  = errors.New("retention has passed the position")
)

// session is one connection's life. It does everything: LISTEN, reads, locks, rings.
type session struct {
	t    *Tail
	conn *pgx.Conn
	pg   *pgconn.PgConn

	bell     bool // another session rang since the last read began
	rung     int  // how often, ever
	ringer   bool
	armed    bool
	lastRead time.Time
	pings    []ping
	pingNo   int
	cleaning cleaning

	reading, readingGap *pgconn.StatementDescription

	buffer []byte // of the read's parameters
	values [7][]byte
}

// ping is a round trip under way.
type ping struct {
	payload string
	heard   []chan<- error
}

// listenConfig is the connection's configuration: the kernel notices within 11 seconds that a host vanished, and only a primary will do.
func listenConfig(given *pgx.ConnConfig, node string) *pgx.ConnConfig {
	c := given.Copy()
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = connectTimeout
	}
	dialer := &net.Dialer{
		Timeout:         c.ConnectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3},
	}
	c.DialFunc = dialer.DialContext
	if c.ValidateConnect == nil {
		c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = strings.TrimSpace("roombell listen " + node)
	}
	// What is not prepared by hand is rare.
	c.DefaultQueryExecMode = pgx.QueryExecModeDescribeExec
	return c
}

// open connects and prepares; it does not touch the tail, so that it may run on another goroutine.
func (t *Tail) open(ctx context.Context) (*session, error) {
	s := &session{t: t}
	config := t.config.Copy()
	config.OnNotification = s.notified
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	var err error
	if s.conn, err = pgx.ConnectConfig(ctx, config); err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	s.pg = s.conn.PgConn()
	if err := s.prepare(ctx); err != nil {
		s.close(ctx)
		return nil, err
	}
	return s, nil
}

func (s *session) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	// LISTEN before the first read: what is committed between the two is then read twice, not lost.
	if _, err := s.pg.Exec(ctx, guards+"; LISTEN "+channelName).ReadAll(); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	var err error
	if s.reading, err = s.pg.Prepare(ctx, readStatement, readSQL(s.t.omit, false), parameterTypes[:]); err != nil {
		return fmt.Errorf("prepare the read: %w", err)
	}
	if s.readingGap, err = s.pg.Prepare(ctx, gapStatement, readSQL(s.t.omit, true), parameterTypes[:]); err != nil {
		return fmt.Errorf("prepare the read after a gap: %w", err)
	}
	return nil
}

// close ends the connection; the locks go with it.
func (s *session) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	s.cleaning.stop()
	// Its error says that the connection was not there any more.
	_ = s.conn.Close(ctx)
	select {
	case <-s.pg.CleanupDone():
	case <-ctx.Done():
	}
	for _, p := range s.pings {
		taken{pings: p.heard}.refuse()
	}
	s.pings = nil
}

// run lives until the connection breaks or ctx ends.
func (s *session) run(ctx context.Context) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	s.t.connected()
	return s.follow(ctx)
}

// begin looks at what has become of the server since the last connection, and catches up.
func (s *session) begin(ctx context.Context) error {
	h, err := s.hello(ctx)
	if err != nil {
		return fmt.Errorf("recognize the server: %w", err)
	}
	if h.timeline == 0 {
		return errStandby
	}
	if h.logSystem == nil || *h.logSystem != h.system {
		if err := s.adopt(ctx, h); err != nil {
			return fmt.Errorf("take over the log of another cluster: %w", err)
		}
	}
	if h.timeline > 1 {
		if err := s.noteTimeline(ctx, h.timeline); err != nil {
			return fmt.Errorf("note the promotion: %w", err)
		}
	}
	c := s.t.cursor
	switch {
	case c.IsZero():
		return s.start(ctx, h, "")
	case c.system != foldSystem(uint64(h.system)):
		return s.start(ctx, h, ResetUnknownCursor)
	case uint32(h.timeline) < c.timeline:
		return errStale
	case uint32(h.timeline) > c.timeline:
		if err := s.promoted(ctx, h); err != nil {
			return err
		}
	}
	return s.resume(ctx, h)
}

// resume reads what was missed while there was no connection.
func (s *session) resume(ctx context.Context, h hello) error {
	f, err := s.read(ctx, readMode{cause: causeResume, gap: true})
	if err == nil && f.tooOld {
		return s.start(ctx, h, ResetRetention)
	}
	return err
}

// hello is what a server says of itself.
type hello struct {
	system    int64
	timeline  int64 // 0: a standby
	logSystem *int64
}

func (s *session) hello(ctx context.Context) (hello, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	var h hello
	err := s.conn.QueryRow(ctx, `
		SELECT c.system_identifier, CASE WHEN pg_is_in_recovery() THEN 0 ELSE roombell.timeline() END, s.system_identifier
		FROM pg_control_system() c, public.event_log_state s`).Scan(&h.system, &h.timeline, &h.logSystem)
	return h, err
}

// start takes the position where the log is now: everything visible is seen. With a reason clients are told that they have missed something.
func (s *session) start(ctx context.Context, h hello, reason string) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	rows, err := s.conn.Query(ctx, endSQL, pgx.QueryResultFormats{pgx.BinaryFormatCode})
	if err != nil {
		return fmt.Errorf("find the end of the event log: %w", err)
	}
	c, err := readEnd(rows, Cursor{system: foldSystem(uint64(h.system)), timeline: uint32(h.timeline)})
	if err != nil {
		return fmt.Errorf("find the end of the event log: %w", err)
	}
	s.lastRead = time.Now()
	s.t.cursor = c
	s.t.setStatus(func(st *Status) { st.Cursor, st.LastRead = c, s.lastRead })
	if reason != "" {
		s.t.reset(reason)
	}
	return nil
}

// notified is called by pgx for each notification, within whatever the session is doing.
func (s *session) notified(_ *pgconn.PgConn, n *pgconn.Notification) {
	if n.Channel != channelName {
		return
	}
	if strings.HasPrefix(n.Payload, pingPrefix) {
		s.pinged(n)
		return
	}
	if n.PID != s.pg.PID() { // our own ring tells us nothing
		s.bell = true
		s.rung++
		s.t.metrics.wakes.Inc()
	}
}

// ping sends one NOTIFY for all who wait for a round trip.
func (s *session) ping(ctx context.Context, waiting []chan<- error) error {
	if len(waiting) == 0 {
		return nil
	}
	s.pingNo++
	p := ping{payload: fmt.Sprint(pingPrefix, s.t.nonce, " ", s.pingNo), heard: waiting}
	s.pings = append(s.pings, p)
	if len(s.pings) > maxPings { // nothing is heard on this connection
		taken{pings: s.pings[0].heard}.refuse()
		s.pings = s.pings[1:]
	}
	return s.exec(ctx, "SELECT pg_notify($1, $2)", channelName, p.payload)
}

func (s *session) pinged(n *pgconn.Notification) {
	for i, p := range s.pings {
		if p.payload == n.Payload {
			for _, heard := range p.heard {
				heard <- nil
			}
			s.pings = append(s.pings[:i:i], s.pings[i+1:]...)
			return
		}
	}
}

// patient returns a context that ends when the server was silent for queryTimeout since heard was last called: an answer of a million events
// over a slow line takes its time, and a server that vanished in the middle of it is noticed as soon as any.
func patient(ctx context.Context) (_ context.Context, heard func(), cancel context.CancelFunc) {
	ctx, end := context.WithCancelCause(ctx)
	timer := time.AfterFunc(queryTimeout, func() { end(errSilent) })
	return ctx, func() { timer.Reset(queryTimeout) }, func() {
		timer.Stop()
		end(nil)
	}
}

// exec runs a statement outside a transaction.
func (s *session) exec(ctx context.Context, sql string, arguments ...any) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	_, err := s.conn.Exec(ctx, sql, arguments...)
	return err
}

// ask runs a statement that answers yes or no.
func (s *session) ask(ctx context.Context, sql string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	var yes bool
	err := s.conn.QueryRow(ctx, sql).Scan(&yes)
	return yes, err
}

// What ended a wait.
type wake int

const (
	wakeTime wake = iota
	wakeBell
	wakeCall // somebody wants the position
)

// listen waits on the connection until another session rings, somebody asks for the position, or the time is over.
func (s *session) listen(ctx context.Context, until time.Time) (wake, error) {
	if s.bell {
		return wakeBell, nil
	}
	waiting, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	if !s.t.requests.await(cancel) {
		return wakeCall, nil
	}
	err := s.hear(waiting)
	called := s.t.requests.awaited()
	switch {
	case s.bell:
		return wakeBell, nil
	case ctx.Err() != nil:
		return wakeTime, ctx.Err()
	case err != nil && (waiting.Err() == nil || s.pg.IsClosed()):
		return wakeTime, fmt.Errorf("listen: %w", err)
	case called:
		return wakeCall, nil
	}
	return wakeTime, nil
}

// hear returns when the bell has rung, or with an error. The deadline of ctx leaves the connection in order.
func (s *session) hear(ctx context.Context) error {
	for !s.bell {
		if err := s.pg.WaitForNotification(ctx); err != nil {
			return err
		}
	}
	return nil
}

// sleep waits beside the connection.
func (s *session) sleep(ctx context.Context, d time.Duration) (wake, error) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return wakeTime, nil
	case <-s.t.requests.wake:
		return wakeCall, nil
	case <-ctx.Done():
		return wakeTime, ctx.Err()
	}
}
