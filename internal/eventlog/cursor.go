package eventlog

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math/bits"
	"slices"
)

// An event id is ((offset + timeline) << sequenceBits) | sequence: ids stay safe integers of JavaScript for 1,023 promotions.
const (
	sequenceBits = 43
	sequenceMask = 1<<sequenceBits - 1
	maxEra       = 1<<(63-sequenceBits) - 1 // of offset + timeline, so that an id stays positive
)

// What a cursor may cost us: they come back from strangers.
const (
	maxCursorText = 2048
	maxRunning    = 4096 // transactions listed
	maxLate       = 64   // steps below the first
	maxTxID       = 1<<63 - 1
)

// The first byte of a cursor holds the version of its form and, when it is below shortTimeline, the timeline.
const (
	cursorVersion  = 2 << timelineBits
	timelineBits   = 5
	shortTimeline  = 1<<timelineBits - 1
	systemBytes    = 3
	cursorHeadSize = 1 + systemBytes
)

// ErrCursor is returned for a text that is no cursor of ours, or one that is too long to be looked at.
var ErrCursor = errors.New("unknown cursor")

// Cursor is a position in the log: exactly which events were delivered. It is opaque, comes from the tail, and stays exact over restarts
// and crashes of Postgres and over promotions of a standby. A copy shares its slices; nobody writes to them.
type Cursor struct {
	system   uint32 // folded identifier of the cluster, 24 bits
	timeline uint32
	lsn      uint64 // flushed WAL: what was delivered was committed at or before it
	step

	// late holds further steps while events below the first step's id are being delivered: ids descend, snapshots are ever newer.
	late []step
}

// step says that every event at or below an id whose transaction had ended in a snapshot was delivered.
//
// Both are needed. After a crash transaction ids are given out again, but ids of events are above hi then; ids alone would miss what was
// drawn early and committed late.
type step struct {
	snapshot
	hi int64
}

func (s step) seen(id int64, txid uint64) bool { return id <= s.hi && s.visible(txid) }

// snapshot is a pg_snapshot: every transaction below xmax that is not in xip had ended.
type snapshot struct {
	xmax uint64
	xip  []uint64 // ascending
}

func (s snapshot) xmin() uint64 {
	if len(s.xip) > 0 {
		return s.xip[0]
	}
	return s.xmax
}

func (s snapshot) visible(txid uint64) bool {
	if txid >= s.xmax {
		return false
	}
	if len(s.xip) == 0 || txid < s.xip[0] {
		return true
	}
	_, running := slices.BinarySearch(s.xip, txid)
	return !running
}

// Seen reports whether the event of this id and transaction was delivered before this position.
func (c Cursor) Seen(id int64, txid uint64) bool {
	if c.seen(id, txid) {
		return true
	}
	for _, s := range c.late {
		if s.seen(id, txid) {
			return true
		}
	}
	return false
}

// covers reports whether c has seen all that o has, as far as that can be told step by step: then what c has not seen is among what o has
// not seen.
func (c Cursor) covers(o Cursor) bool {
	if !c.coversStep(o.step) {
		return false
	}
	for _, s := range o.late {
		if !c.coversStep(s) {
			return false
		}
	}
	return true
}

func (c Cursor) coversStep(o step) bool {
	if c.step.covers(o) {
		return true
	}
	for _, s := range c.late {
		if s.covers(o) {
			return true
		}
	}
	return false
}

func (s step) covers(o step) bool { return s.hi >= o.hi && s.snapshot.covers(o.snapshot) }

// covers reports whether every transaction that had ended in o had ended in s.
func (s snapshot) covers(o snapshot) bool {
	for x := s.xmax; x < o.xmax; x++ {
		if x-s.xmax > maxRunning || o.visible(x) {
			return false
		}
	}
	for _, x := range s.xip {
		if o.visible(x) {
			return false
		}
	}
	return true
}

// IsZero reports whether this is the zero Cursor, which has seen nothing.
func (c Cursor) IsZero() bool { return c.timeline == 0 }

// String returns the cursor as clients keep it: 30 characters of the base64url alphabet, 48 beside 32 writers, 74 beside 200.
func (c Cursor) String() string {
	var buf [192]byte
	return encodeText(c.appendTail(c.appendHead(buf[:0]), c.hi))
}

// foldSystem shortens a system identifier (seconds, microseconds and process id of initdb): enough to tell clusters apart.
func foldSystem(id uint64) uint32 {
	folded := uint32(id>>32) ^ uint32(id)
	return (folded ^ folded>>24) & (1<<(8*systemBytes) - 1)
}

// appendHead appends everything before the id, which is what the cursors of one batch share:
// version and timeline, system, LSN, snapshot.
func (c Cursor) appendHead(b []byte) []byte {
	short := min(c.timeline, shortTimeline)
	b = append(b, cursorVersion|byte(short), byte(c.system>>16), byte(c.system>>8), byte(c.system))
	if short == shortTimeline {
		b = binary.AppendUvarint(b, uint64(c.timeline))
	}
	b = binary.AppendUvarint(b, c.lsn)
	return appendSnapshot(b, c.snapshot)
}

// appendTail appends the id and the late steps, each of which says whether another follows.
func (c Cursor) appendTail(b []byte, hi int64) []byte {
	b = appendID(b, hi, len(c.late) > 0)
	for i, s := range c.late {
		b = appendID(appendSnapshot(b, s.snapshot), s.hi, i+1 < len(c.late))
	}
	return b
}

func appendID(b []byte, id int64, more bool) []byte {
	era := uint64(id) >> sequenceBits << 1
	if more {
		era |= 1
	}
	return binary.AppendUvarint(binary.AppendUvarint(b, era), uint64(id)&sequenceMask)
}

// appendSnapshot writes xmax and the running transactions as the distances from one to the one below it, each in a few bits.
//
// A distance is an exponential Golomb code: v + 1<<order in binary, led by as many zeros as it has bits beyond order + 1. With the best
// order that takes little more than the information that is in it, whether transactions are dense, scattered, in runs, or one is a day old.
func appendSnapshot(b []byte, s snapshot) []byte {
	order := bestOrder(s)
	b = binary.AppendUvarint(b, s.xmax)
	b = binary.AppendUvarint(b, uint64(len(s.xip))<<orderBits|uint64(order))
	w := bitWriter{to: b}
	for i := len(s.xip) - 1; i >= 0; i-- {
		w.golomb(order, s.distance(i))
	}
	return w.to
}

const orderBits = 3

// distance is how many transactions lie between a listed one and the one listed above it, or xmax.
func (s snapshot) distance(i int) uint64 {
	if i == len(s.xip)-1 {
		return s.xmax - s.xip[i] - 1
	}
	return s.xip[i+1] - s.xip[i] - 1
}

func bestOrder(s snapshot) (best int) {
	shortest := ^uint64(0)
	for order := range 1 << orderBits {
		size := uint64(0)
		for i := range s.xip {
			n := bits.Len64(s.distance(i) + 1<<order)
			size += uint64(2*n - order - 1)
		}
		if size < shortest {
			best, shortest = order, size
		}
	}
	return best
}

// bitWriter appends bits, the highest of each byte first.
type bitWriter struct {
	to   []byte
	free int // bits of the last byte
}

func (w *bitWriter) golomb(order int, v uint64) {
	v += 1 << order // no transaction id is near 2^63
	n := bits.Len64(v)
	w.bits(0, n-order-1)
	w.bits(v, n)
}

func (w *bitWriter) bits(v uint64, n int) {
	for n > 0 {
		if w.free == 0 {
			w.to, w.free = append(w.to, 0), 8
		}
		m := min(n, w.free)
		n, w.free = n-m, w.free-m
		w.to[len(w.to)-1] |= byte(v>>n&(1<<m-1)) << w.free
	}
}

func encodeText(b []byte) string {
	var buf [256]byte
	return string(base64.RawURLEncoding.AppendEncode(buf[:0], b))
}

// ParseCursor reads what String wrote. Every other text gives ErrCursor, as does one over 2 KB or with more than 4,096 transactions; the
// cost is bounded by the text's length. A text that parses may still be forged: it names events, it does not allow to read them.
func ParseCursor(text string) (Cursor, error) {
	if text == "" || len(text) > maxCursorText {
		return Cursor{}, ErrCursor
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < cursorHeadSize || b[0]&^shortTimeline != cursorVersion {
		return Cursor{}, ErrCursor
	}
	d := decoder{rest: b[cursorHeadSize:]}
	c := Cursor{timeline: uint32(b[0] & shortTimeline), system: uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])}
	if c.timeline == shortTimeline {
		c.timeline = uint32(d.number(maxEra))
	}
	c.lsn = d.number(1<<64 - 1)
	var more bool
	c.step, more = d.step()
	c.late = d.lateSteps(c.step, more)
	if d.bad || len(d.rest) > 0 || c.timeline == 0 {
		return Cursor{}, ErrCursor
	}
	return c, nil
}

// decoder reads varints and remembers whether anything was wrong; after that its answers mean nothing.
type decoder struct {
	rest    []byte
	running int
	bad     bool
}

func (d *decoder) number(limit uint64) uint64 {
	v, n := binary.Uvarint(d.rest)
	if d.bad || n <= 0 || v > limit {
		d.bad = true
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) step() (s step, more bool) {
	s.snapshot = d.snapshot()
	era := d.number(maxEra<<1 | 1)
	s.hi = int64(era>>1<<sequenceBits | d.number(sequenceMask))
	return s, era&1 != 0
}

// lateSteps reads the steps below the first, each with a lower id.
func (d *decoder) lateSteps(above step, more bool) []step {
	var late []step
	for more {
		var s step
		s, more = d.step()
		if d.bad || s.hi >= above.hi || len(late) == maxLate {
			d.bad = true
			return nil
		}
		late = append(late, s)
		above = s
	}
	return late
}

func (d *decoder) snapshot() snapshot {
	s := snapshot{xmax: d.number(maxTxID)}
	head := d.number(maxRunning<<orderBits | 1<<orderBits - 1)
	n, order := head>>orderBits, int(head&(1<<orderBits-1))
	if d.running += int(n); d.running > maxRunning || n > 8*uint64(len(d.rest)) { // each takes a bit at least
		d.bad = true
	}
	if d.bad || n == 0 {
		return s
	}
	s.xip = make([]uint64, n)
	r := bitReader{from: d.rest}
	above := s.xmax
	for i := n; i > 0 && !r.bad; i-- {
		if v := r.golomb(order); v < above {
			above -= v + 1
		} else {
			r.bad = true
		}
		s.xip[i-1] = above
	}
	d.rest, d.bad = d.rest[(r.at+7)/8:], r.bad
	return s
}

// bitReader reads what bitWriter wrote, and remembers whether there was too little of it.
type bitReader struct {
	from []byte
	at   int
	bad  bool
}

func (r *bitReader) golomb(order int) uint64 {
	n := order
	for !r.bad && r.bits(1) == 0 {
		n++
	}
	if r.bad = r.bad || n >= 63; r.bad {
		return 0
	}
	return 1<<n + r.bits(n) - 1<<order
}

func (r *bitReader) bits(n int) (v uint64) {
	if r.bad = r.bad || r.at+n > 8*len(r.from); r.bad {
		return 0
	}
	for range n {
		v = v<<1 | uint64(r.from[r.at/8]>>(7-r.at%8)&1)
		r.at++
	}
	return v
}
