package realtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/zishang520/socket.io/servers/socket/v3"

	"roombell/internal/auth"
	"roombell/internal/eventlog"
)

var (
	errUserDisabled = errors.New("user disabled")
	errTooMany      = errors.New("too many sockets")
)

// A token that auth accepted in its leeway is given as long, not closed at once.
const leeway = 30 * time.Second

// refusals are the answers to CONNECT after which a standard client stays away.
var refusals = []struct {
	err           error
	code, message string
}{
	{auth.ErrNoToken, "no_token", "Authentication error: No token provided"},
	{auth.ErrInvalidToken, "invalid_token", "Authentication error: Invalid token"},
	{auth.ErrTokenExpired, "token_expired", "Authentication error: Token expired"},
	{errUserDisabled, "user_disabled", "Authentication error: User disabled"},
}

// refusalOf returns the code and message of a refusal; ok is false when err is no verdict on the client, who should
// then come back.
func refusalOf(err error) (code, message string, ok bool) {
	for _, r := range refusals {
		if errors.Is(err, r.err) {
			return r.code, r.message, true
		}
	}
	return "", "", false
}

// handshake is the library's middleware: it lets a socket in by calling next, refuses it by calling next with an error,
// or closes the transport.
//
// The socket joins its rooms between two batches of the log, and before its CONNECT is answered: whatever is recorded
// after the client knows that it is connected is in a later batch, and held for it until `connected` is out.
func (s *Server) handshake(sock *socket.Socket, next func(*socket.ExtendedError)) {
	defer s.rescue("handshake")
	c := s.begin(sock)
	if c == nil {
		sock.Conn().Close(true)
		return
	}
	if err := s.admit(c, sock); err != nil {
		s.turnAway(c, err, next)
		return
	}
	s.attaches.join(func(at eventlog.Cursor, err error) {
		defer s.rescue("attach")
		if err == nil && s.place(c, at) { // what it missed may be far, and thousands may come back at once
			s.entering.join(func() {
				defer s.entering.leave()
				s.enter(c, nil, next)
			})
			return
		}
		go s.enter(c, err, next) // the tail must not wait for the library
	})
}

// attach places a group between two batches.
func (s *Server) attach(group []func(eventlog.Cursor, error)) {
	done := make(chan struct{})
	s.o.Tail.Attach(func(at eventlog.Cursor, err error) {
		defer close(done)
		for _, f := range group {
			f(at, err)
		}
	})
	<-done
}

// enter has the library answer CONNECT, once it is known whether a client that comes back can be told what it missed.
func (s *Server) enter(c *client, err error, next func(*socket.ExtendedError)) {
	defer s.rescue("handshake")
	s.mu.Lock()
	r, sock := c.resume, c.socket
	s.mu.Unlock()
	if err == nil && r != nil && sock != nil {
		if err = s.plan(context.WithoutCancel(sock.Request().Context()), r); err != nil {
			s.adapter.DelAll(sock.Id()) // the library will not: it never hears of it
		}
	}
	if err != nil {
		s.turnAway(c, err, next)
		return
	}
	next(nil)
}

// begin claims the connection for this socket: the second CONNECT on one is a protocol error.
func (s *Server) begin(sock *socket.Socket) *client {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[sock.Conn().Id()]
	if c == nil || c.stage != waiting || s.draining {
		return nil
	}
	c.stage, c.socket = joining, sock
	s.alarms.set(&c.alarm, time.Now().Add(s.o.timing.connect+planTime), func() { s.shut(c) })
	return c
}

// admit finds out who it is, and enlists the socket with him. The first error is the answer.
func (s *Server) admit(c *client, sock *socket.Socket) error {
	ctx, cancel := s.question(sock)
	defer cancel()
	token, resume, err := credentials(sock.Handshake())
	if err != nil {
		return err
	}
	id, err := s.o.Tokens.Verify(ctx, token)
	if err != nil {
		return err
	}
	// Enlisted before the row is read: a change that the row does not show finds the socket.
	if err := s.enlist(c, id); err != nil {
		return err
	}
	users, err := s.users.get(ctx, id.UserID)
	user, exists := users[id.UserID]
	switch {
	case err != nil:
		return err
	case !exists || user.OrganizationID != id.OrganizationID:
		return auth.ErrInvalidToken
	case !user.Active:
		return errUserDisabled
	case id.Void(user.Generation, user.TokensFrom):
		return auth.ErrInvalidToken
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.expires, c.resume = id.ExpiresAt, resume
	if resume != nil {
		resume.user, resume.organization, resume.began = user.ID, user.OrganizationID, time.Now()
	}
	c.person.organization, c.person.email, c.person.role = user.OrganizationID, user.Email, user.Role
	if user.Generation > c.person.generation { // a recheck may have read a later row
		c.person.generation, c.person.tokensFrom = user.Generation, user.TokensFrom
	}
	return nil
}

// credentials takes the token out of auth.token, else out of the header, and the cursor if one came with it. Nothing of
// the handshake is kept: the library would hold it, token and all, for as long as the socket lives.
func credentials(h *socket.Handshake) (token string, r *resume, err error) {
	auths, headers := h.Auth, h.Headers
	*h = socket.Handshake{}
	if cursor := auths["cursor"]; cursor != nil && cursor != "" {
		r = &resume{}
		if text, ok := cursor.(string); ok && len(text) <= maxCursor {
			r.brought = text
		}
	}
	if auths["token"] == nil {
		return bearer(headers), r, nil
	}
	token, ok := auths["token"].(string)
	if !ok {
		return "", nil, auth.ErrInvalidToken
	}
	return token, r, nil
}

// bearer is the token of an Authorization header (RFC 6750 §2.1), empty without one.
func bearer(headers map[string]any) string {
	header, _ := headers["Authorization"].([]string)
	if len(header) == 0 {
		return ""
	}
	scheme, token, _ := strings.Cut(header[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// enlist counts the socket as one of the user's. Until the first is let in, nothing is known of him but his number.
func (s *Server) enlist(c *client, id auth.Identity) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	userID := id.UserID
	p := s.people[userID]
	if p == nil {
		p = &person{id: userID}
		s.people[userID] = p
	}
	if most := s.o.MaxSocketsPerUser; most > 0 && len(p.clients) >= most {
		return fmt.Errorf("user %d: %w", userID, errTooMany)
	}
	c.person, c.token = p, markOf(id)
	p.clients = append(p.clients, c)
	return nil
}

// delist takes enlist back and returns whose socket it was, 0 when it was nobody's yet.
func (s *Server) delist(c *client) (userID int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.person != nil {
		userID = c.person.id
	}
	s.leave(c)
	c.person, c.socket = nil, nil
	return userID
}

// turnAway refuses the socket, or closes its transport when nothing was found against it.
func (s *Server) turnAway(c *client, err error, next func(*socket.ExtendedError)) {
	userID := s.delist(c)
	code, message, refused := refusalOf(err)
	if !refused {
		result := "unavailable"
		if errors.Is(err, errTooMany) {
			result = "too_many_sockets"
		}
		s.metrics.handshakes.WithLabelValues(result).Inc()
		s.complaints.Do(func() { s.log.Warn("connections closed before they were let in", "user", userID, "err", err) })
		s.shut(c)
		return
	}
	s.mu.Lock()
	if c.stage == left && !c.closed {
		c.stage = waiting // within its time the client may try another token
	}
	s.mu.Unlock()
	s.metrics.handshakes.WithLabelValues(code).Inc()
	s.log.Debug("connection refused", "user", userID, "err", err)
	next(socket.NewExtendedError(message, map[string]any{"code": code}))
}

// place joins the rooms that every socket is in, and says whether the client comes back. It is called between two batches.
func (s *Server) place(c *client, at eventlog.Cursor) (resumes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.stage != joining {
		return false // the library finds the connection closed
	}
	c.position = at.String()
	c.socket.Join(organizationRoom(c.person.organization), userRoom(c.person.id))
	if c.resume == nil {
		return false
	}
	c.resume.to = at
	s.adapter.expect(c.socket.Id())
	return true
}

type connectedEvent struct {
	Message        string `json:"message"`
	UserID         int64  `json:"userId"`
	OrganizationID int64  `json:"organizationId"`
	Timestamp      string `json:"timestamp" format:"date-time"`
	Cursor         string `json:"cursor"`
	Resumed        bool   `json:"resumed" doc:"What was missed follows, then sync:complete"`
}

type resetEvent struct {
	Reason string `json:"reason" enum:"retention,unknown_cursor,too_many,failover,truncate"`
	Cursor string `json:"cursor"`
}

// connected is called by the library when CONNECT was answered, on the socket's task queue: no event of the client is
// looked at before it returns.
func (s *Server) connected(args ...any) {
	defer s.rescue("connect")
	sock := args[0].(*socket.Socket)
	c := s.client(sock)
	if c == nil || sock.Conn().ReadyState() != "open" {
		sock.Disconnect(true)
		return
	}
	_ = sock.On("disconnect", func(...any) { s.ended(c) })
	sock.OnAny(func(args ...any) { s.answer(c, args) })
	ctx, end := context.WithCancel(context.WithoutCancel(sock.Request().Context()))
	first, r, ok := s.letIn(c, end)
	if !ok {
		end()
		s.dismiss(c)
		return
	}
	if r == nil {
		s.adapter.release(sock.Id(), first)
	} else {
		s.adapter.begin(sock.Id(), first)
		s.replaying.join(func() { s.replay(ctx, c, r) })
	}
	s.metrics.handshakes.WithLabelValues("ok").Inc()
	s.flush()
}

// letIn makes the socket live and returns the event that it hears before any other, and what it missed before that. A
// client that brought a cursor is given its own back: it keeps every cursor that it sees, and with a later one it would
// lose what it has not been told yet.
func (s *Server) letIn(c *client, end context.CancelFunc) (first *encodedEvent, r *resume, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.stage != joining || c.doomed {
		return nil, nil, false
	}
	p, now := c.person, time.Now()
	said := connectedEvent{
		Message: "Connected to Roombell", UserID: p.id, OrganizationID: p.organization, Timestamp: timestamp(now), Cursor: c.position,
	}
	if r = c.resume; r != nil {
		said.Cursor, said.Resumed = r.brought, r.resumed
	}
	c.position, c.resume, c.end = "", nil, end
	c.stage = live
	s.metrics.sockets.Inc()
	s.passed.came++
	if said.Resumed {
		s.passed.resumed++
	}
	s.log.Debug("socket opened", "user", p.id, "org", p.organization, "resumed", said.Resumed)
	s.keepToken(c, c.expires)
	p.seen = now
	s.notice(p)
	return encodeEvent("connected", body(said)), r, true
}

// question bounds what is asked of others on behalf of a socket.
func (s *Server) question(sock *socket.Socket) (context.Context, context.CancelFunc) {
	// The request's own context ended with its upgrade.
	return context.WithTimeout(context.WithoutCancel(sock.Request().Context()), s.o.timing.lookup)
}

// timestampLayout is RFC 3339 in UTC, with the microseconds that the database has.
const timestampLayout = "2006-01-02T15:04:05.000000Z"

func timestamp(t time.Time) string { return t.UTC().Format(timestampLayout) }

// body encodes an event of our own. What we encode always can be.
func body(event any) []byte {
	encoded, err := json.Marshal(event)
	if err != nil {
		panic(err)
	}
	return encoded
}
