package eventlog

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
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

const cursorVersion = 1

// ErrCursor is returned for a text that is no cursor of ours, or one that is too long to be looked at.
var ErrCursor = errors.New("unknown cursor")

// Cursor is a position in the log: exactly which events were delivered. It is opaque, comes from the tail, and stays exact over restarts
// and crashes of Postgres and over promotions of a standby. A copy shares its slices; nobody writes to them.
type Cursor struct {
	system   uint32 // folded identifier of the cluster
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

// String returns the cursor as clients keep it: 30 to 60 characters of the base64url alphabet beside a dozen writers.
func (c Cursor) String() string {
	var buf [192]byte
	return encodeText(c.appendTail(c.appendHead(buf[:0]), c.hi))
}

// foldSystem shortens a system identifier (seconds, microseconds and process id of initdb): enough to tell clusters apart.
func foldSystem(id uint64) uint32 { return uint32(id>>32) ^ uint32(id) }

// appendHead appends everything before the id, which is what the cursors of one batch share:
// version, system, timeline, LSN, snapshot.
func (c Cursor) appendHead(b []byte) []byte {
	b = append(b, cursorVersion)
	b = binary.BigEndian.AppendUint32(b, c.system)
	b = binary.AppendUvarint(b, uint64(c.timeline))
	b = binary.AppendUvarint(b, c.lsn)
	return appendSnapshot(b, c.snapshot)
}

// appendTail appends the id and the late steps.
func (c Cursor) appendTail(b []byte, hi int64) []byte {
	b = appendID(b, hi)
	b = binary.AppendUvarint(b, uint64(len(c.late)))
	for _, s := range c.late {
		b = appendID(appendSnapshot(b, s.snapshot), s.hi)
	}
	return b
}

func appendID(b []byte, id int64) []byte {
	b = binary.AppendUvarint(b, uint64(id)>>sequenceBits)
	return binary.AppendUvarint(b, uint64(id)&sequenceMask)
}

// appendSnapshot writes xmax, the oldest running transactions as gaps, and the others as a bitmap of the range up to xmax, split where that
// is shortest: an old transaction far below the others must not stretch the bitmap.
func appendSnapshot(b []byte, s snapshot) []byte {
	split := shortestSplit(s)
	b = binary.AppendUvarint(b, s.xmax)
	b = binary.AppendUvarint(b, uint64(split))
	for i := range split {
		b = binary.AppendUvarint(b, gap(s, i))
	}
	if split == len(s.xip) {
		return binary.AppendUvarint(b, 0)
	}
	first := s.xip[split]
	width := s.xmax - first
	b = binary.AppendUvarint(b, width)
	at := len(b)
	b = append(b, make([]byte, (width+7)/8)...)
	for _, x := range s.xip[split:] {
		b[at+int((x-first)/8)] |= 1 << ((x - first) % 8)
	}
	return b
}

// gap is the distance of a listed transaction to the one before it, of the first to xmax.
func gap(s snapshot, i int) uint64 {
	if i == 0 {
		return s.xmax - s.xip[0]
	}
	return s.xip[i] - s.xip[i-1]
}

func shortestSplit(s snapshot) int {
	best, shortest, gaps := len(s.xip), ^uint64(0), uint64(0)
	for i := 0; ; i++ {
		size := gaps + 1
		if i < len(s.xip) {
			width := s.xmax - s.xip[i]
			size = gaps + uvarintLen(width) + (width+7)/8
		}
		if size < shortest {
			best, shortest = i, size
		}
		if i == len(s.xip) {
			return best
		}
		gaps += uvarintLen(gap(s, i))
	}
}

func uvarintLen(v uint64) uint64 {
	n := uint64(1)
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
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
	if err != nil || len(b) < 5 || b[0] != cursorVersion {
		return Cursor{}, ErrCursor
	}
	d := decoder{rest: b[5:]}
	c := Cursor{system: binary.BigEndian.Uint32(b[1:5])}
	c.timeline = uint32(d.number(maxEra))
	c.lsn = d.number(1<<64 - 1)
	c.step = d.step()
	c.late = d.lateSteps(c.step)
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

func (d *decoder) step() step {
	s := step{snapshot: d.snapshot()}
	s.hi = int64(d.number(maxEra)<<sequenceBits | d.number(sequenceMask))
	return s
}

// lateSteps reads the steps below the first, each with a lower id.
func (d *decoder) lateSteps(above step) []step {
	n := d.number(maxLate)
	var late []step
	for range n {
		s := d.step()
		if d.bad || s.hi >= above.hi {
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
	gaps := d.number(uint64(len(d.rest))) // each takes a byte at least
	for i := range gaps {
		g := d.number(s.xmax)
		if d.bad || g == 0 {
			d.bad = true
			return snapshot{}
		}
		if i == 0 {
			s.xip = append(s.xip, s.xmax-g)
		} else {
			s.xip = append(s.xip, s.xip[i-1]+g)
		}
	}
	d.bitmap(&s)
	return d.checked(s)
}

func (d *decoder) bitmap(s *snapshot) {
	width := d.number(s.xmax)
	bytes := width/8 + min(width%8, 1)
	if d.bad || bytes > uint64(len(d.rest)) {
		d.bad = true
		return
	}
	first := s.xmax - width
	for i := range width {
		if d.rest[i/8]&(1<<(i%8)) != 0 {
			s.xip = append(s.xip, first+i)
		}
	}
	d.rest = d.rest[bytes:]
}

func (d *decoder) checked(s snapshot) snapshot {
	d.running += len(s.xip)
	last := len(s.xip) - 1
	if d.running > maxRunning || last >= 0 && s.xip[last] >= s.xmax {
		d.bad = true
	}
	for i := 1; i <= last; i++ {
		if s.xip[i] <= s.xip[i-1] {
			d.bad = true
		}
	}
	return s
}
