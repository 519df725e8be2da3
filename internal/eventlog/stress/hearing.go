package main

import (
	"math/bits"
	"sync"
)

// idset is a set of event ids. They come from one sequence, so a bit each is little: 128 KB for a million events.
type idset struct {
	pages map[int64]*idpage
	n     int

	at   int64 // the page that was used last
	page *idpage
}

const pageBits = 16

type idpage [1 << (pageBits - 6)]uint64

func (s *idset) find(id int64, add bool) *idpage {
	at := id >> pageBits
	if s.page != nil && s.at == at {
		return s.page
	}
	p := s.pages[at]
	if p == nil && !add {
		return nil
	}
	if p == nil {
		if s.pages == nil {
			s.pages = map[int64]*idpage{}
		}
		p = new(idpage)
		s.pages[at] = p
	}
	s.at, s.page = at, p
	return p
}

func (s *idset) has(id int64) bool {
	p := s.find(id, false)
	return p != nil && p[id>>6%int64(len(p))]&(1<<(id&63)) != 0
}

// add reports whether the id is new.
func (s *idset) add(id int64) bool {
	p := s.find(id, true)
	word := &p[id>>6%int64(len(p))]
	if *word&(1<<(id&63)) != 0 {
		return false
	}
	*word |= 1 << (id & 63)
	s.n++
	return true
}

// keep removes what is not in other, and returns how much that was.
func (s *idset) keep(other *idset) (removed int) {
	var none idpage
	for at, p := range s.pages {
		q := other.pages[at]
		if q == nil {
			q = &none
		}
		for i := range p {
			removed += bits.OnesCount64(p[i] &^ q[i])
			p[i] &= q[i]
		}
	}
	s.n -= removed
	return removed
}

// without returns up to most ids that are not in other, and how many there are.
func (s *idset) without(other *idset, most int) (ids []int64, n int) {
	for at, p := range s.pages {
		for i, word := range p {
			if q := other.pages[at]; q != nil {
				word &^= q[i]
			}
			n += bits.OnesCount64(word)
			for ; word != 0 && len(ids) < most; word &= word - 1 {
				ids = append(ids, at<<pageBits|int64(i)<<6|int64(bits.TrailingZeros64(word)))
			}
		}
	}
	return ids, n
}

// row is how far a listener has followed a row of chats.
type row struct {
	id      int64 // of the last event
	version int   // its name, which writers count up
}

// hearing is what one listener, a tail or a client, has heard.
type hearing struct {
	name string
	w    *world

	mu      sync.Mutex
	heard   idset
	rows    map[int64]row // by chat
	highest int64
	dup     int
	order   int
	resets  map[string]int
	unjust  int // resets that nothing here accounts for
	owed    int // events heard that a promotion has lost, while nobody has said so
	gone    int // the same, in all

	complaints []string // what no standard client survives
}

func newHearing(w *world, name string) hearing {
	return hearing{name: name, w: w, rows: map[int64]row{}, resets: map[string]int{}}
}

// event notes an event and reports whether it is a new one.
func (h *hearing) event(id int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.highest = max(h.highest, id)
	if h.heard.add(id) {
		return true
	}
	h.dup++
	return false
}

// change looks whether the changes of a chat come in order: their ids ascend, and so does the name, where it changed (version is not -1).
func (h *hearing) change(id, chat int64, version int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.rows[chat]
	if id <= r.id || version >= 0 && version <= r.version {
		h.order++
	}
	r.id = max(r.id, id)
	r.version = max(r.version, version)
	h.rows[chat] = r
}

// reset notes that the listener was told to refetch. Only a promotion that lost commits is a reason here, and only until the listener has
// heard something of the new primary.
func (h *hearing) reset(reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.resets[reason]++
	if reason != "failover" || era(h.highest) >= h.w.newEra.Load() {
		h.unjust++
		return
	}
	h.owed = 0
}

// era is the part of an event's id that every promotion raises.
func era(id int64) int64 { return id >> 43 }

// lose forgets what a promotion has lost: whoever heard some of it must be told. rows are as the new primary has them.
func (h *hearing) lose(exists *idset, rows map[int64]row) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.heard.keep(exists)
	h.owed += n
	h.gone += n
	for chat, r := range h.rows {
		h.rows[chat] = row{id: min(r.id, rows[chat].id), version: min(r.version, rows[chat].version)}
	}
}

// complain notes what no standard client survives.
func (h *hearing) complain(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.complaints = append(h.complaints, err.Error())
}

// has is heard.has for another goroutine.
func (h *hearing) has(id int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.heard.has(id)
}
