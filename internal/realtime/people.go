package realtime

import (
	"cmp"
	"slices"
	"time"

	"github.com/zishang520/socket.io/servers/socket/v3"
)

const (
	statusOnline  = "online"
	statusAway    = "away"
	statusOffline = "offline"
)

type presenceEvent struct {
	UserID     int64  `json:"userId"`
	Status     string `json:"status" enum:"online,away,offline"`
	LastSeenAt string `json:"lastSeenAt" format:"date-time"`
}

type presenceDone struct {
	done
	Status string `json:"status" enum:"online,away"`
}

type presenceList struct {
	done
	Users []presenceEvent `json:"users"`
}

func (s *Server) setPresence(c *client, arg any) (any, error) {
	status, ok := parsePresence(arg)
	if !ok {
		return nil, badRequest(`Give {status}: "online" or "away"`)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.stage == live {
		c.away = status == statusAway
		s.notice(c.person)
	}
	return presenceDone{done{true}, status}, nil
}

// listPresence lists the organization's people who are not offline, by id.
func (s *Server) listPresence(c *client) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := presenceList{done: done{true}, Users: []presenceEvent{}}
	if c.stage != live {
		return list, nil
	}
	for _, p := range s.organizations[c.person.organization] {
		list.Users = append(list.Users, p.event())
	}
	slices.SortFunc(list.Users, func(a, b presenceEvent) int { return cmp.Compare(a.UserID, b.UserID) })
	return list, nil
}

func (p *person) event() presenceEvent {
	return presenceEvent{p.id, p.status, timestamp(p.seen)}
}

// notice is called whenever the sockets of a person changed: it tells his organization when that changes his presence,
// and forgets him when nobody was told of him. mu is held.
func (s *Server) notice(p *person) {
	status := p.presence()
	switch {
	case status != statusOffline:
		s.alarms.stop(&p.alarm)
		p.leaving = false
		s.announce(p, status)
	case p.status == "" && len(p.clients) == 0:
		delete(s.people, p.id)
	case p.status != "" && !p.leaving:
		p.leaving = true
		s.alarms.set(&p.alarm, time.Now().Add(s.o.timing.offline), func() { s.depart(p) })
	}
}

// depart is rung when the last socket's end was long enough ago.
func (s *Server) depart(p *person) {
	s.mu.Lock()
	if p.leaving {
		p.leaving = false
		s.announce(p, statusOffline)
		p.status = ""
		s.notice(p)
	}
	s.mu.Unlock()
	s.flush()
}

func (s *Server) announce(p *person, status string) {
	if p.status == status {
		return
	}
	p.status = status
	s.index(p)
	s.post([]socket.Room{organizationRoom(p.organization)}, "", "presence:changed", p.event())
}

// index keeps the people who are not offline by organization.
func (s *Server) index(p *person) {
	members := s.organizations[p.organization]
	if p.status != statusOffline {
		if members == nil {
			members = map[int64]*person{}
			s.organizations[p.organization] = members
		}
		members[p.id] = p
		return
	}
	if delete(members, p.id); len(members) == 0 {
		delete(s.organizations, p.organization)
	}
}
