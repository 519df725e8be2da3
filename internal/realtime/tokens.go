package realtime

import (
	"errors"
	"time"

	"roombell/internal/auth"
)

type expiringEvent struct {
	ExpiresAt string `json:"expiresAt" format:"date-time"`
}

type refreshDone struct {
	done
	ExpiresAt string `json:"expiresAt" format:"date-time"`
}

// tokenMark is what one can tell by whether a socket's token was ended.
type tokenMark struct {
	generation int32
	issued     time.Time
}

func markOf(id auth.Identity) tokenMark { return tokenMark{id.Generation, id.IssuedAt} }

func (m tokenMark) void(generation int32, from *time.Time) bool {
	return auth.Identity{Generation: m.generation, IssuedAt: m.issued}.Void(generation, from)
}

// endTokens closes the transports of those of a user's sockets whose tokens were ended by a changed password or a logout everywhere, those
// that are being let in included. A standard client comes back, and is let in with a newer token or told that its own will not do.
func (s *Server) endTokens(p *person) {
	s.mu.Lock()
	var ended []*client
	for _, c := range p.clients {
		if c.token.void(p.generation, p.tokensFrom) {
			ended = append(ended, c)
		}
	}
	s.mu.Unlock()
	for _, c := range ended {
		s.metrics.expired.Inc()
		s.shut(c)
	}
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
	// By the row as it was last read: when a change of it is on its way, the socket ends with the others.
	if id.Void(c.person.generation, c.person.tokensFrom) {
		return nil, refusedToken(auth.ErrInvalidToken)
	}
	c.token = markOf(id)
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
