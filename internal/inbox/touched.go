package inbox

import (
	"slices"
	"time"
)

const (
	// The least time between two computations of one chat. The first write after it is computed at once; where they come without a pause,
	// each computation costs the writers as much as a write, and the counters need be right only within a second. Hence the rest of single
	// writes grows with the number of chats that are written to, restPerChat each; those of a bulk write are told in sums, which cost less.
	restLeast   = 250 * time.Millisecond
	restMost    = 750 * time.Millisecond
	restPerChat = 500 * time.Microsecond
	restBulk    = 400 * time.Millisecond

	// touchedLimit bounds the memory that a bulk write, or a Postgres that is away, can make us hold.
	touchedLimit = 100_000
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
		c = &touch{due: now}
		t.chats[chat] = c
	}
	if c.since.IsZero() {
		c.since, c.bulk = now, bulk
		t.pending++
	}
	c.bulk = c.bulk && bulk
	return true
}

// due returns the chats whose time has come, ascending: at most n of those of single writes, which wait longest, and all of bulk ones.
func (t *touched) due(now time.Time, n int) (singles, bulk []int64) {
	for id, c := range t.chats {
		switch {
		case c.since.IsZero() || c.due.After(now):
		case c.bulk:
			bulk = append(bulk, id)
		default:
			singles = append(singles, id)
		}
	}
	if len(singles) > n {
		slices.SortFunc(singles, func(a, b int64) int { return t.chats[a].since.Compare(t.chats[b].since) })
		singles = singles[:n]
	}
	slices.Sort(singles)
	slices.Sort(bulk)
	return singles, bulk
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

// rest is how long a chat that was computed is left alone.
func (t *touched) rest(bulk bool) time.Duration {
	if bulk {
		return restBulk
	}
	return max(restLeast, min(restMost, time.Duration(len(t.chats))*restPerChat))
}

// finish keeps a chat away until its rest is over.
func (t *touched) finish(chat int64, due time.Time) {
	if c := t.chats[chat]; c != nil {
		c.due, c.tries = due, 0
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

// transactions are the latest thousand of a kind. The zero value is empty. One that did not commit must be forgotten, and all of them when
// commits may have been lost: after a crash or a promotion their numbers are given out again.
type transactions struct {
	known map[uint64]bool
	ring  [1024]uint64
	next  int
}

func (t *transactions) add(txid uint64) {
	if t.known == nil {
		t.known = map[uint64]bool{}
	}
	delete(t.known, t.ring[t.next])
	t.known[txid] = true
	t.ring[t.next] = txid
	t.next = (t.next + 1) % len(t.ring)
}

func (t *transactions) forget(txid uint64) { delete(t.known, txid) }

func (t *transactions) clear() { clear(t.known) }

func (t *transactions) has(txid uint64) bool { return t.known[txid] }
