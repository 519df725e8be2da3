package realtime

import (
	"cmp"
	"slices"
	"time"
)

// Presence is whether somebody is there.
type Presence struct {
	UserID     int64
	Status     string // online or away
	LastSeenAt time.Time
}

// Presence lists the people of an organization who are not offline on this node, by id.
func (s *Server) Presence(organizationID int64) []Presence {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []Presence{}
	for _, p := range s.organizations[organizationID] {
		list = append(list, Presence{p.id, p.status, p.seen.UTC()})
	}
	slices.SortFunc(list, func(a, b Presence) int { return cmp.Compare(a.UserID, b.UserID) })
	return list
}

// Figures are how many are connected to this node.
type Figures struct {
	Sockets       int
	Streams       int
	UsersOnline   int
	Organizations int // with somebody online
}

// Figures counts an organization's, or with 0 everybody's.
func (s *Server) Figures(organizationID int64) Figures {
	var f Figures
	s.mu.Lock()
	for id, members := range s.organizations {
		if organizationID != 0 && id != organizationID {
			continue
		}
		f.Organizations++
		f.UsersOnline += len(members)
		for _, p := range members {
			for _, c := range p.clients {
				if c.stage == live {
					f.Sockets++
				}
			}
		}
	}
	s.mu.Unlock()
	s.feeds.each(func(feed *Feed) {
		if organizationID == 0 || feed.r.organization == organizationID {
			f.Streams++
		}
	})
	return f
}
