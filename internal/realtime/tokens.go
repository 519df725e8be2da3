package realtime

import (
	"errors"
	"time"

	"roombell/internal/auth"
)

type expiringEvent struct {
	ExpiresAt string `json:"expiresAt"`
}

type refreshDone struct {
	done
	ExpiresAt string `json:"expiresAt"`
}

// keepToken remembers when the socket's token ends, and watches it. mu is held.
func (s *Server) keepToken(c *client, expires time.Time) {
	now := time.Now()
	remaining := expires.Sub(now)
	if remaining < 0 {
		remaining += leeway
	}
	// Of the monotonic clock from here on, as every other alarm: a step of the wall clock ends no sockets.
	c.expires, c.ends, c.warned = expires, now.Add(remaining), false
	s.alarms.set(&c.alarm, c.ends.Add(-s.o.timing.warning), func() { s.watchToken(c) })
}

// watchToken is rung when the token's last minute begins, and when it ends: then the transport is closed, so that a
// standard client comes back and is told why if it has no other token.
func (s *Server) watchToken(c *client) {
	s.mu.Lock()
	now := time.Now()
	if c.stage != live || now.Before(c.ends.Add(-s.o.timing.warning)) {
		s.mu.Unlock()
		return
	}
	ended := !now.Before(c.ends)
	if !ended {
		s.alarms.set(&c.alarm, c.ends, func() { s.watchToken(c) })
	}
	// On a node that lags the end may have come before the warning; the client is told all the same.
	if !c.warned {
		c.warned = true
		s.post(c.room(), "", "auth:expiring", expiringEvent{timestamp(c.expires)})
	}
	s.mu.Unlock()
	s.flush()
	if ended {
		s.metrics.expired.Inc()
		s.shut(c)
	}
}

// refreshToken takes another token of the same user in the same organization for this socket.
func (s *Server) refreshToken(c *client, arg any) (any, error) {
	token, ok := parseToken(arg)
	if !ok {
		return nil, badRequest("Give {token}")
	}
	ctx, cancel := s.question(c.socket)
	defer cancel()
	id, err := s.o.Tokens.Verify(ctx, token)
	if err != nil {
		return nil, refusedToken(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.stage != live {
		return nil, errUnavailable()
	}
	if id.UserID != c.person.id || id.OrganizationID != c.person.organization {
		return nil, refusedToken(auth.ErrInvalidToken)
	}
	s.keepToken(c, id.ExpiresAt)
	return refreshDone{done{true}, timestamp(id.ExpiresAt)}, nil
}

// refusedToken is err as the handshake would say it.
func refusedToken(err error) error {
	code, message, refused := refusalOf(err)
	if !refused {
		return errors.Join(errUnavailable(), err)
	}
	return &failure{code, message}
}
