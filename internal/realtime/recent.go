package realtime

import (
	"sync"
	"time"
)

// Handed says what this node did with an event of the log.
type Handed struct {
	HeardAt     time.Time
	DeliveredAt time.Time // when the last socket's queue had it; zero: there was none
	Sockets     int
}

// recentEvents is how many events back a trace can tell: 2 MiB of them.
const recentEvents = 1 << 16

// recent remembers what became of the latest events. One slot an event, whatever the number of its sockets.
type recent struct {
	mu   sync.Mutex
	ring []handing // made with the first
	next int
}

type handing struct {
	event            int64
	heard, delivered int64 // Unix, nanoseconds
	sockets          int64
}

func (r *recent) note(event int64, heard, delivered time.Time, sockets int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ring == nil {
		r.ring = make([]handing, recentEvents)
	}
	r.ring[r.next] = handing{event, heard.UnixNano(), delivered.UnixNano(), int64(sockets)}
	r.next = (r.next + 1) % recentEvents
}

// Handed returns what this node did with those of the events that it remembers: tens of thousands of the latest since its start.
func (s *Server) Handed(events []int64) map[int64]Handed {
	wanted := make(map[int64]struct{}, len(events))
	for _, id := range events {
		wanted[id] = struct{}{}
	}
	found := map[int64]Handed{}
	s.recent.mu.Lock()
	defer s.recent.mu.Unlock()
	for _, h := range s.recent.ring {
		if _, ok := wanted[h.event]; !ok || h.event == 0 {
			continue
		}
		handed := Handed{HeardAt: time.Unix(0, h.heard).UTC(), Sockets: int(h.sockets)}
		if h.sockets > 0 {
			handed.DeliveredAt = time.Unix(0, h.delivered).UTC()
		}
		found[h.event] = handed
	}
	return found
}
