package realtime

import (
	"net/http"
	"net/netip"
	"strings"

	"golang.org/x/time/rate"
)

// maxChats is how many chats a socket may be subscribed to.
const maxChats = 1000

// allow takes one of the socket's events out of its budget. Only the socket's task queue calls it.
func (s *Server) allow(c *client) bool {
	if c.limiter == nil {
		c.limiter = rate.NewLimiter(rate.Limit(s.o.RateEvents), s.o.RateBurst)
	}
	return c.limiter.Allow()
}

// received is called on the connection's reader, after the library queued the packet it read: to wait here is to read
// no more.
func (s *Server) received(c *client) {
	s.mu.Lock()
	sock := c.socket
	s.mu.Unlock()
	if sock == nil {
		return
	}
	room := c.backlog.add()
	sock.Enqueue(c.backlog.done)
	if room != nil {
		<-room
	}
}

// full tells whether the address has all the connections it may have. For a cheap answer: register counts.
func (s *Server) full(address netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	most := s.o.MaxSocketsPerAddress
	return most > 0 && s.addresses[address] >= most
}

// countAddress is false when the address has too many connections. mu is held.
func (s *Server) countAddress(c *client) bool {
	most := s.o.MaxSocketsPerAddress
	if most <= 0 {
		c.address = netip.Addr{}
		return true
	}
	if s.addresses[c.address] >= most {
		return false
	}
	s.addresses[c.address]++
	return true
}

func (s *Server) uncountAddress(c *client) {
	if s.o.MaxSocketsPerAddress <= 0 {
		return
	}
	if s.addresses[c.address]--; s.addresses[c.address] <= 0 {
		delete(s.addresses, c.address)
	}
}

// address returns where a request comes from. X-Forwarded-For is read from its end, where our own proxies write, and
// believed as long as trusted proxies wrote it.
func (s *Server) address(r *http.Request) netip.Addr {
	address := parseAddress(r.RemoteAddr)
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && s.trusted(address); i-- {
		hop := parseAddress(strings.TrimSpace(hops[i]))
		if !hop.IsValid() {
			break
		}
		address = hop
	}
	return address
}

func (s *Server) trusted(address netip.Addr) bool {
	for _, network := range s.o.TrustedProxies {
		if network.Contains(address) {
			return true
		}
	}
	return false
}

// parseAddress reads an address with or without a port; the result is invalid when it is neither.
func parseAddress(text string) netip.Addr {
	if withPort, err := netip.ParseAddrPort(text); err == nil {
		return withPort.Addr().Unmap().WithZone("")
	}
	address, _ := netip.ParseAddr(text)
	return address.Unmap().WithZone("")
}
