package eventlog

import (
	"encoding/base64"
	"encoding/binary"
)

// Batch is what one read found: events in ascending order of ids, and the way from one position to the next. It is never empty, and it
// is safe for concurrent use as long as nobody changes it.
type Batch struct {
	Events []Event

	prev, end Cursor
	late      int    // Events[:late] have ids below what was delivered before: their transactions ended late
	head      []byte // of the cursors after the late ones
	lateHead  []byte // of the cursors after late events, up to their own id; nil where they differ in more than that
}

// newBatch makes the batch that leads from prev to end. Events are in ascending order of ids and exactly what end has seen and prev has not.
func newBatch(prev, end Cursor, events []Event) *Batch {
	b := &Batch{Events: events, prev: prev, end: end, head: end.appendHead(nil)}
	for b.late < len(events) && events[b.late].ID <= prev.hi {
		b.late++
	}
	if b.late > 0 && len(prev.late) == 0 {
		h := b.position(prev).appendHead(nil)
		h = binary.AppendUvarint(appendID(h, prev.hi), 1)
		b.lateHead = appendSnapshot(h, end.snapshot)
	}
	return b
}

// End returns the position after the whole batch.
func (b *Batch) End() Cursor { return b.end }

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
	switch {
	case b.head == nil: // not made by the tail
		return b.at(i).appendTail(b.at(i).appendHead(raw), b.at(i).hi)
	case i == len(b.Events)-1:
		return append(appendID(append(raw, b.head...), b.end.hi), 0)
	case i >= b.late:
		return append(appendID(append(raw, b.head...), b.Events[i].ID), 0)
	case b.lateHead != nil:
		return appendID(append(raw, b.lateHead...), b.Events[i].ID)
	}
	c := b.at(i)
	return c.appendTail(c.appendHead(raw), c.hi)
}

// at is the position after event i.
//
// Late events come first. After one of them all that prev has seen was delivered, and of what the new snapshot shows only the late ones up
// to this id: a second step. The first event above prev's id ends that: everything at or below it that the new snapshot shows was delivered.
func (b *Batch) at(i int) Cursor {
	id := b.Events[i].ID
	switch {
	case i == len(b.Events)-1:
		return b.end
	case id > b.prev.hi:
		c := b.end
		c.hi = id
		return c
	}
	c := b.position(b.prev)
	c.late = nil
	for _, s := range b.prev.late {
		if s.hi > id { // the others are covered by the new step
			c.late = append(c.late, s)
		}
	}
	c.late = append(c.late, step{snapshot: b.end.snapshot, hi: id})
	return c
}

// position is prev as a position of a client that has heard something of this batch.
func (b *Batch) position(prev Cursor) Cursor {
	prev.system, prev.timeline = b.end.system, b.end.timeline
	prev.lsn = max(prev.lsn, b.end.lsn)
	return prev
}
