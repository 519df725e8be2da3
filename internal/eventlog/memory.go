package eventlog

import (
	"slices"
	"sort"
	"sync"
	"time"
	"unsafe"
)

// memory holds the latest events of all organizations, so that a storm of clients that come back costs the log one read. It holds
// everything that its start has not seen, up to the tail's position; the oldest part goes when there is no room.
type memory struct {
	limit int // bytes

	mu            sync.RWMutex
	keep          time.Duration // how long parts stay; 0: as long as there is room
	known         bool          // start says something
	start         Cursor
	parts         []part
	passed        int // parts that were dropped before parts[0]
	bytes         int
	organizations map[int64][]remembered // in the order of parts; 0 is what concerns everybody
	era           int                    // counts what made it empty: what was read before does not belong in it after
}

// part is what is dropped at once.
type part struct {
	events []Event
	end    Cursor // what it has not seen is in later parts
	bytes  int
	heard  time.Time // by this clock
}

// remembered is an event that a client may have missed.
type remembered struct {
	event *Event
	part  int // counted from the first that ever was
}

func newMemory(limit int) *memory {
	return &memory{limit: limit, organizations: map[int64][]remembered{}}
}

// replayed reports whether clients hear of such events at all.
func replayed(e *Event) bool {
	return e.Kind == KindEvent || e.Kind == KindCustom || e.Kind == KindTruncate
}

func footprint(events []Event) int {
	n := len(events) * int(unsafe.Sizeof(Event{})+unsafe.Sizeof(remembered{}))
	for i := range events {
		n += len(events[i].Payload) + 8*(len(events[i].Audience)+len(events[i].Touched))
	}
	return n
}

// publish takes a batch of the tail.
func (m *memory) publish(b *Batch) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.ContainsFunc(b.Events, func(e Event) bool { return e.Kind == KindForget }) {
		m.clearLocked(b.End())
		return
	}
	if !m.known {
		m.known, m.start = true, b.way.from
	}
	m.addLocked(part{events: b.Events, end: b.End(), bytes: footprint(b.Events), heard: time.Now()})
	m.trimLocked()
}

// clear forgets everything; what comes is after c.
func (m *memory) clear(c Cursor) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clearLocked(c)
}

func (m *memory) clearLocked(c Cursor) {
	m.passed += len(m.parts)
	m.known, m.start, m.parts, m.bytes = true, c, nil, 0
	m.era++
	clear(m.organizations)
}

func (m *memory) addLocked(p part) {
	at := m.passed + len(m.parts)
	m.parts = append(m.parts, p)
	m.bytes += p.bytes
	for i := range p.events {
		if e := &p.events[i]; replayed(e) {
			m.organizations[e.OrganizationID] = append(m.organizations[e.OrganizationID], remembered{e, at})
		}
	}
}

// retain sets how long parts stay. What the log does not keep any more the memory does not give either, or it would depend on the node
// what a client is told.
func (m *memory) retain(keep time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keep = keep
	m.trimLocked()
}

// trimLocked drops the oldest parts while there is no room for them, or they are too old.
func (m *memory) trimLocked() {
	for len(m.parts) > 0 && (m.bytes > m.limit || m.keep > 0 && time.Since(m.parts[0].heard) > m.keep) {
		p := m.parts[0]
		m.parts[0] = part{}
		m.parts = m.parts[1:]
		m.passed++
		m.start, m.bytes = p.end, m.bytes-p.bytes
		for i := range p.events {
			if e := &p.events[i]; replayed(e) {
				m.popLocked(e.OrganizationID)
			}
		}
	}
}

func (m *memory) popLocked(organizationID int64) {
	list := m.organizations[organizationID]
	list[0] = remembered{}
	if len(list) == 1 {
		delete(m.organizations, organizationID)
		return
	}
	m.organizations[organizationID] = list[1:]
}

// missed returns what from has not seen and to has, of an organization and of everybody and as far as it concerns the one who asks, in
// ascending order of ids; ok is false when the memory does not reach back to from.
func (m *memory) missed(from, to Cursor, organizationID int64, concerns func(*Event) bool) (events []*Event, ok bool) {
	m.expire()
	m.mu.RLock()
	defer m.mu.RUnlock()
	if !m.known || !from.covers(m.start) {
		return nil, false
	}
	// Parts whose end from has seen hold nothing for it. The search may stop early, which costs time alone.
	first := m.passed + sort.Search(len(m.parts), func(i int) bool { return !from.covers(m.parts[i].end) })
	for _, id := range []int64{organizationID, 0} {
		list := m.organizations[id]
		list = list[sort.Search(len(list), func(i int) bool { return list[i].part >= first }):]
		events = slices.Grow(events, len(list))
		for _, r := range list {
			if concerns(r.event) && !from.Seen(r.event.ID, r.event.TxID) && to.Seen(r.event.ID, r.event.TxID) {
				events = append(events, r.event)
			}
		}
	}
	sortByID(events)
	// What was read from the log may have been on its way through the tail.
	return slices.CompactFunc(events, func(a, b *Event) bool { return a.ID == b.ID }), true
}

// expire drops what is too old. Thousands may ask at once: they do not wait for each other when there is nothing to drop.
func (m *memory) expire() {
	m.mu.RLock()
	old := len(m.parts) > 0 && m.keep > 0 && time.Since(m.parts[0].heard) > m.keep
	m.mu.RUnlock()
	if old {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.trimLocked()
	}
}

func sortByID(events []*Event) {
	slices.SortFunc(events, func(a, b *Event) int {
		switch {
		case a.ID < b.ID:
			return -1
		case a.ID > b.ID:
			return 1
		}
		return 0
	})
}

// fillSize is how many events make one part of what is read from the log.
const fillSize = 500

// fill puts what was read from the log before what the tail brought since: everything that from has not seen and to has, in ascending order
// of ids, read at ended by the database's clock. It is dropped when the memory was cleared since the era was asked for.
func (m *memory) fill(era int, from, to Cursor, events []Event, ended time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.era != era {
		return
	}
	if m.known && !to.covers(m.start) { // there would be a gap between the two
		return
	}
	since := m.parts
	events = without(events, since)
	m.passed += len(since)
	m.known, m.start, m.parts, m.bytes = true, from, nil, 0
	clear(m.organizations)
	w := newWay(from, to, true)
	now := time.Now()
	for len(events) > 0 {
		n := min(fillSize, len(events))
		m.addLocked(part{events: slices.Clone(events[:n]), end: w.at(events[n-1].ID), bytes: footprint(events[:n]),
			heard: now.Add(-max(0, ended.Sub(events[n-1].RecordedAt)))})
		events = events[n:]
	}
	for _, p := range since {
		m.addLocked(p)
	}
	m.trimLocked()
}

// without takes out what is in parts.
func without(events []Event, parts []part) []Event {
	there := map[int64]struct{}{}
	for _, p := range parts {
		for i := range p.events {
			there[p.events[i].ID] = struct{}{}
		}
	}
	return slices.DeleteFunc(events, func(e Event) bool {
		_, known := there[e.ID]
		return known
	})
}

func (m *memory) currentEra() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.era
}

// size is what it holds, in events and bytes.
func (m *memory) size() (events, bytes int) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, p := range m.parts {
		events += len(p.events)
	}
	return events, m.bytes
}
