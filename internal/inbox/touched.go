package inbox

import (
	"slices"
	"time"
)

const (
	// rest is the least time between two computations of one chat. The first write after it is computed at once; where they come without a
	// pause, each computation costs the writers as much as a write, and the counters need be right only within a second.
	rest = 750 * time.Millisecond

	// touchedLimit bounds the memory that a bulk write, or a Postgres that is away, can make us hold.
	touchedLimit = 100_000

	// bulkTouched is from how many chats on an event counts as bulk, which waits behind single messages.
	bulkTouched = 20
)

// touched is the set of chats whose counters may be wrong. It is not safe for concurrent use.
type touched struct {
	chats   map[int64]*touch
	pending int
}

type touch struct {
	since time.Time // first write that is not in the counters yet; zero: nothing is to be done
	due   time.Time // not to be looked at before
	tries int       // in vain, in a row
	bulk  bool
}

func newTouched() *touched {
	return &touched{chats: map[int64]*touch{}}
}

// add reports false when there is no room; the set is as it was.
func (t *touched) add(chat int64, now time.Time, bulk bool) bool {
	c := t.chats[chat]
	if c == nil {
		if len(t.chats) >= touchedLimit {
			return false
		}
		c = &touch{bulk: bulk, due: now}
		t.chats[chat] = c
	}
	if c.since.IsZero() {
		c.since = now
		t.pending++
	}
	c.bulk = c.bulk && bulk
	return true
}

// due returns at most n chats whose time has come, ascending; single writes go before bulk.
func (t *touched) due(now time.Time, n int) []int64 {
	var single, bulk []int64
	for id, c := range t.chats {
		switch {
		case c.since.IsZero() || c.due.After(now):
		case !c.bulk:
			single = append(single, id)
		case len(bulk) < n:
			bulk = append(bulk, id)
		}
	}
	chats := single
	if len(chats) < n {
		chats = append(chats, bulk[:min(len(bulk), n-len(chats))]...)
	}
	// Of more single ones than fit, those that wait longest.
	if len(chats) > n {
		slices.SortFunc(chats, func(a, b int64) int { return t.chats[a].since.Compare(t.chats[b].since) })
		chats = chats[:n]
	}
	slices.Sort(chats)
	return chats
}

// start takes the chats out, before their messages are read: what is written from then on is a new touch. It returns what was known of those
// that still were in.
func (t *touched) start(chats []int64) map[int64]touch {
	taken := make(map[int64]touch, len(chats))
	for _, id := range chats {
		c := t.chats[id]
		if c == nil || c.since.IsZero() {
			continue
		}
		taken[id] = *c
		c.since = time.Time{}
		t.pending--
	}
	return taken
}

// finish keeps a chat away until its rest is over.
func (t *touched) finish(chat int64, due time.Time) {
	if c := t.chats[chat]; c != nil {
		c.due, c.tries = due, 0
		c.bulk = c.bulk && !c.since.IsZero()
	}
}

// retry puts a chat back that was started in vain.
func (t *touched) retry(chat int64, was touch, due time.Time) {
	c := t.chats[chat]
	if c == nil {
		c = &touch{}
		t.chats[chat] = c
	}
	if c.since.IsZero() {
		t.pending++
	}
	*c = touch{since: was.since, due: due, tries: was.tries + 1, bulk: was.bulk}
}

// forget drops chats that have nothing to be done and no rest to keep.
func (t *touched) forget(now time.Time) {
	for id, c := range t.chats {
		if c.since.IsZero() && !c.due.After(now) {
			delete(t.chats, id)
		}
	}
}

// expire drops chats that were touched before a time, and what forget drops.
func (t *touched) expire(before, now time.Time) {
	for id, c := range t.chats {
		if !c.since.IsZero() && c.since.Before(before) {
			delete(t.chats, id)
			t.pending--
		}
	}
	t.forget(now)
}

// list returns the chats that are not done, ascending.
func (t *touched) list() []int64 {
	chats := make([]int64, 0, t.pending)
	for id, c := range t.chats {
		if !c.since.IsZero() {
			chats = append(chats, id)
		}
	}
	slices.Sort(chats)
	return chats
}

func (t *touched) clear() {
	clear(t.chats)
	t.pending = 0
}
