package eventlog

import (
	"encoding/base64"
)

// Batch is a part of the log in ascending order of ids, with the positions after each event. It is never empty, and it is safe for
// concurrent use as long as nobody changes it.
type Batch struct {
	Events []Event

	way  way
	open bool // of a replay: the last event is not the end of the way
}

// newBatch makes the batch that leads from prev to end. Events are in ascending order of ids and exactly what end has seen and prev has not.
func newBatch(prev, end Cursor, events []Event) *Batch {
	return &Batch{Events: events, way: newWay(prev, end, len(events) > 0 && events[0].ID <= prev.hi)}
}

// End returns the position after the whole batch.
func (b *Batch) End() Cursor { return b.way.to }

// Cursor returns the position after event i in its text form: who has heard the batch up to and including that event, and comes back with
// it, misses nothing and hears nothing twice. It is made on each call.
func (b *Batch) Cursor(i int) string {
	var buf [256]byte
	return string(b.AppendCursor(buf[:0], i))
}

// AppendCursor appends what Cursor returns; the text needs no escaping in JSON.
func (b *Batch) AppendCursor(text []byte, i int) []byte {
	var buf [192]byte
	return base64.RawURLEncoding.AppendEncode(text, b.appendCursor(buf[:0], i))
}

func (b *Batch) appendCursor(raw []byte, i int) []byte {
	if i == len(b.Events)-1 && !b.open {
		return b.way.to.appendTail(append(raw, b.way.head...), b.way.to.hi)
	}
	return b.way.append(raw, b.Events[i].ID)
}

// at is the position after event i.
func (b *Batch) at(i int) Cursor {
	if i == len(b.Events)-1 && !b.open {
		return b.way.to
	}
	return b.way.at(b.Events[i].ID)
}

// way leads from one position to a later one: who takes it hears what the second has seen and the first has not, by ascending ids.
type way struct {
	from, to Cursor
	head     []byte // of the cursors after events above from's id
	lateHead []byte // of those after events below it, up to their own id; nil where they differ in more than that
	noLate   bool   // of a control: see fault.X
}

func newWay(from, to Cursor, late bool) way {
	if from.timeline < to.timeline && from.hi > to.hi {
		from = from.without(to.hi)
	}
	w := way{from: from, to: to, head: to.appendHead(nil)}
	if late && len(from.late) == 0 {
		h := w.stamp(from).appendHead(nil)
		w.lateHead = appendSnapshot(appendID(h, from.hi, true), to.snapshot)
	}
	return w
}

// without is c where no event above an id exists: those that it saw were lost by a promotion. A position must not look ahead of the nodes'.
func (c Cursor) without(hi int64) Cursor {
	late := c.late
	for c.late = nil; len(late) > 0 && late[0].hi >= hi; late = late[1:] {
		c.step = late[0] // newer, and higher than what is left of the former
	}
	c.hi, c.late = hi, late
	return c
}

// append appends the position after the event of this id, which is not the last of the way.
func (w *way) append(raw []byte, id int64) []byte {
	switch {
	case id >= w.from.hi:
		return appendID(append(raw, w.head...), id, false)
	case w.lateHead != nil && !w.noLate:
		return appendID(append(raw, w.lateHead...), id, false)
	}
	c := w.at(id)
	return c.appendTail(c.appendHead(raw), c.hi)
}

// at is the position after the event of this id, which is not the last of the way.
//
// Events below from's id, late ones, come first. After one of them all that from has seen was delivered, and of what the new snapshot shows
// only the late ones up to this id: a second step. The first event above from's id ends that: everything at or below it that the new
// snapshot shows was delivered.
func (w *way) at(id int64) Cursor {
	if id >= w.from.hi { // its own id: what it had not seen of it came late
		c := w.to
		c.hi = id
		return c
	}
	c := w.stamp(w.from)
	if w.noLate {
		return c
	}
	c.late = nil
	for _, s := range w.from.late {
		if s.hi > id { // the others are covered by the new step
			c.late = append(c.late, s)
		}
	}
	c.late = append(c.late, step{snapshot: w.to.snapshot, hi: id})
	return c
}

// stamp is c as a position of a client that has heard something of this way.
func (w *way) stamp(c Cursor) Cursor {
	c.lsn = max(c.lsn, w.to.lsn)
	if c.timeline != w.to.timeline { // what was seen beyond the promotion does not exist
		c.lsn = w.to.lsn
	}
	c.system, c.timeline = w.to.system, w.to.timeline
	return c
}
