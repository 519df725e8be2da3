package eventlog

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"roombell/internal/eventlog/internal/fault"
)

// chunk is how many events above the highest delivered id one read returns at most.
const chunk = 1000

// guards keep the planner on the two indexes: its guess for txid >= $ is a third of the log, and it would read that. They also keep the
// session alive while nothing happens, and let the server notice within 11 seconds that our host is gone: we may hold the gate. A ring is a
// commit; it must not wait for a flush.
const guards = planGuards + `; SET synchronous_commit = off; SET idle_session_timeout = 0; SET statement_timeout = 0; SET lock_timeout = '7s'; ` +
	`SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3`

const planGuards = `SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off; ` +
	`SET max_parallel_workers_per_gather = 0; SET plan_cache_mode = force_generic_plan`

// readSQL is the read, one statement so that all its parts have one snapshot. Its first row is the head: snapshot, flushed WAL, clock,
// and what was asked for beside ($6: try to become the ringer). The others are what a cursor ($1 id, $2 xmax, $3 running) has not seen:
//
//   - ids above the highest delivered one, $4 of them at most. When there are more, the last one and the snapshot are an exact position,
//     because what lies below is read in full;
//   - ids below it whose transaction began after the cursor's snapshot, or was running in it. `id+0` keeps the planner from reading
//     these through the index on id, which is the whole log.
//
// With $5 every row rings, within the read: Postgres sends one NOTIFY for it when the statement commits, and none when it found nothing.
//
// With tooOld the head also says whether retention has removed something that the cursor has not seen.
func readSQL(omit fault.Step, tooOld bool) string {
	trimmed := "false"
	if tooOld {
		trimmed = trimmedSQL("$1", "$2", "$3")
	}
	const events = `SELECT NULL, NULL, NULL, NULL, NULL, CASE WHEN $5 THEN pg_notify('roombell', '')::text END, ` + columns +
		` FROM public.event_log WHERE `
	above := []string{`(` + events + `id > $1 ORDER BY id LIMIT $4)`}
	late := []string{events + `id+0 <= $1 AND txid >= $2`, events + `id+0 <= $1 AND txid = ANY($3)`}
	switch omit {
	case fault.Snapshot():
		late = nil
	case fault.Hi():
		above, late = nil, []string{events + `txid >= $2`, events + `txid = ANY($3)`}
	}
	return `SELECT pg_current_snapshot(), pg_current_wal_flush_lsn(), clock_timestamp(), CASE WHEN $6 THEN pg_try_advisory_lock(7461, 1) END, ` +
		trimmed + `, NULL::text, NULL::bigint, NULL::xid8, NULL::timestamptz, NULL::bigint, NULL::bigint, NULL::bigint, NULL::bigint[], ` +
		`NULL::text, NULL::text, NULL::json, NULL::bigint[] UNION ALL ` + strings.Join(append(above, late...), ` UNION ALL `)
}

// trimmedSQL asks whether retention has removed something that a position (its id, xmax and what was running) has not seen. What was running
// at the position and had not ended when the slot was emptied had nothing in it: its lock would have kept the slot.
func trimmedSQL(id, xmax, xip string) string {
	return `EXISTS (SELECT FROM public.event_log_trim t WHERE t.max_id > ` + id + ` OR t.max_id > 0 AND (t.max_txid >= ` + xmax + ` OR EXISTS (
		SELECT FROM unnest(` + xip + `::xid8[]) x WHERE x <= t.max_txid AND (t.snapshot IS NULL OR pg_visible_in_snapshot(x, t.snapshot)))))`
}

const columns = `id, txid, created_at, organization_id, chat_id, user_id, audience, kind, event, payload, touched`

// Where the columns are in a row of the read.
const (
	headSnapshot = iota
	headLSN
	headClock
	headLeader
	headTooOld
	_ // the ring
	columnID
	columnTxID
	columnCreatedAt
	columnOrganization
	columnChat
	columnUser
	columnAudience
	columnKind
	columnEvent
	columnPayload
	columnTouched
	columnCount
)

// parameterTypes are those of readSQL, named because a statement with a step left out does not use all of them.
var parameterTypes = [...]uint32{pgtype.Int8OID, pgtype.XID8OID, pgtype.XID8ArrayOID, pgtype.Int8OID, pgtype.BoolOID, pgtype.BoolOID}

// binaryFormat asks for all values in Postgres' binary format: a payload comes as its bytes in either, the rest is shorter.
var binaryFormat = []int16{1}

// answer is what a read returned.
type answer struct {
	snapshot     snapshot
	lsn          uint64
	now          time.Time // the database's clock
	leader       bool      // we are the ringer now
	tooOld       bool
	events       []Event // ascending ids
	transactions int     // of events, about: how often writers would have rung
	full         bool    // there may be more
}

// position is the one after the answer, for a reader that was at c.
func (a *answer) position(c Cursor) Cursor {
	end := Cursor{system: c.system, timeline: c.timeline, lsn: a.lsn, step: step{snapshot: a.snapshot, hi: c.hi}}
	if n := len(a.events); n > 0 {
		end.hi = max(end.hi, a.events[n-1].ID)
	}
	return end
}

// add takes a row; only the payload is copied, once.
func (a *answer) add(row [][]byte) error {
	if len(row) != columnCount {
		return fmt.Errorf("%d columns, want %d", len(row), columnCount)
	}
	if row[headSnapshot] != nil {
		return a.addHead(row)
	}
	e, err := decodeEvent(row)
	if err != nil {
		return err
	}
	a.events = append(a.events, e)
	return nil
}

func (a *answer) addHead(row [][]byte) error {
	var d rowDecoder
	a.lsn = uint64(d.int64(row[headLSN]))
	a.now = d.time(row[headClock])
	a.leader = d.bool(row[headLeader])
	a.tooOld = d.bool(row[headTooOld])
	a.snapshot = d.snapshot(row[headSnapshot])
	return d.err
}

// finish puts the events in order: those above the highest delivered id come sorted, late ones after them.
func (a *answer) finish(limit int, hi int64) {
	byID := func(x, y Event) int { return cmp.Compare(x.ID, y.ID) }
	if !slices.IsSortedFunc(a.events, byID) {
		slices.SortFunc(a.events, byID)
	}
	above, txid := 0, uint64(0)
	for i := range a.events {
		if a.events[i].ID > hi {
			above++
		}
		if a.events[i].TxID != txid {
			txid = a.events[i].TxID
			a.transactions++
		}
	}
	a.full = above >= limit
}

func decodeEvent(row [][]byte) (Event, error) {
	var d rowDecoder
	e := Event{
		ID:             d.int64(row[columnID]),
		TxID:           uint64(d.int64(row[columnTxID])),
		RecordedAt:     d.time(row[columnCreatedAt]),
		OrganizationID: d.int64(row[columnOrganization]),
		ChatID:         d.int64(row[columnChat]),
		UserID:         d.int64(row[columnUser]),
		Audience:       d.int64s(row[columnAudience]),
		Kind:           parseKind(row[columnKind]),
		Payload:        slices.Clone(row[columnPayload]),
		Touched:        d.int64s(row[columnTouched]),
	}
	name, ok := contractName(row[columnEvent])
	if !ok {
		name = string(row[columnEvent])
	}
	e.Name = name
	return e, d.err
}

var errFormat = errors.New("not in the binary format expected")

// rowDecoder reads values in Postgres' binary format (send functions in src/backend/utils/adt). NULL is the zero value.
type rowDecoder struct{ err error }

func (d *rowDecoder) int64(b []byte) int64 {
	if b == nil {
		return 0
	}
	if len(b) != 8 {
		d.err = errFormat
		return 0
	}
	return int64(binary.BigEndian.Uint64(b))
}

func (d *rowDecoder) bool(b []byte) bool { return len(b) == 1 && b[0] == 1 }

// time reads timestamptz_send: microseconds since 2000.
func (d *rowDecoder) time(b []byte) time.Time {
	const epoch = 946_684_800_000_000
	return time.UnixMicro(epoch + d.int64(b)).UTC()
}

// snapshot reads pg_snapshot_send: count, xmin, xmax, and the running transactions in ascending order.
func (d *rowDecoder) snapshot(b []byte) snapshot {
	if len(b) < 20 || len(b) != 20+8*int(binary.BigEndian.Uint32(b)) {
		d.err = errFormat
		return snapshot{}
	}
	s := snapshot{xmax: uint64(d.int64(b[12:20]))}
	if n := len(b)/8 - 2; n > 0 {
		s.xip = make([]uint64, 0, n)
	}
	for b = b[20:]; len(b) > 0; b = b[8:] {
		s.xip = append(s.xip, binary.BigEndian.Uint64(b))
	}
	return s
}

// int64s reads array_send of bigint[]: dimensions, flags, type, then length and lower bound of the only dimension, then length and value
// of each element. An empty array has no dimension. Elements that are NULL are left out.
func (d *rowDecoder) int64s(b []byte) []int64 {
	if b == nil {
		return nil
	}
	if len(b) == 12 {
		return []int64{}
	}
	if len(b) < 20 || binary.BigEndian.Uint32(b) != 1 {
		d.err = errFormat
		return nil
	}
	list := make([]int64, 0, min(int(binary.BigEndian.Uint32(b[12:])), len(b)/4))
	for b = b[20:]; len(b) >= 4; {
		size := int32(binary.BigEndian.Uint32(b))
		b = b[4:]
		if size < 0 {
			continue
		}
		if size != 8 || len(b) < 8 {
			d.err = errFormat
			return nil
		}
		list = append(list, d.int64(b[:8]))
		b = b[8:]
	}
	return list
}

// appendTxIDs appends array_recv's form of xid8[].
func appendTxIDs(b []byte, list []uint64) []byte {
	if len(list) == 0 {
		return append(b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, pgtype.XID8OID>>8, pgtype.XID8OID&0xff)
	}
	b = append(b, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, pgtype.XID8OID>>8, pgtype.XID8OID&0xff)
	b = binary.BigEndian.AppendUint32(b, uint32(len(list)))
	b = append(b, 0, 0, 0, 1)
	for _, x := range list {
		b = append(b, 0, 0, 0, 8)
		b = binary.BigEndian.AppendUint64(b, x)
	}
	return b
}

// readMode says why a read is made and what goes with it.
type readMode struct {
	cause string
	ring  bool // tell the other nodes when it finds something
	lead  bool // try to become the ringer
	gap   bool // ask whether retention has passed us
}

// found is what a read came to, over all its chunks.
type found struct {
	events, transactions int
	leader, tooOld       bool
}

// read publishes everything that the cursor has not seen, in chunks, and moves it; then it answers those who asked for the position before
// it began. On an error what was published is published, and the cursor stands after it.
func (s *session) read(ctx context.Context, mode readMode) (found, error) {
	waiting := s.t.requests.take()
	if s.t.omit == fault.Fresh() {
		s.t.answerStale(&waiting)
	}
	if err := s.ping(ctx, waiting.pings); err != nil {
		taken{attaches: waiting.attaches}.refuse()
		return found{}, err
	}
	f, err := s.readChunks(ctx, mode)
	if err != nil || f.tooOld {
		// Not at the position that the waiting were promised.
		taken{attaches: waiting.attaches}.refuse()
		return f, err
	}
	for _, attached := range waiting.attaches {
		attached(s.t.cursor, nil)
	}
	return f, nil
}

func (s *session) readChunks(ctx context.Context, mode readMode) (found, error) {
	var f found
	for {
		began := time.Now()
		a, err := s.query(ctx, mode)
		if err != nil {
			return f, fmt.Errorf("read the event log: %w", err)
		}
		s.lastRead = time.Now()
		s.t.metrics.readTime.Observe(s.lastRead.Sub(began).Seconds())
		s.t.metrics.reads.WithLabelValues(mode.cause).Inc()
		f.leader = f.leader || a.leader
		if a.tooOld {
			f.tooOld = true
			return f, nil
		}
		f.events += len(a.events)
		f.transactions += a.transactions
		s.t.deliver(a, s.lastRead)
		if !a.full {
			return f, nil
		}
		mode.lead, mode.gap = false, false
	}
}

// query runs the read: one round trip.
func (s *session) query(ctx context.Context, mode readMode) (*answer, error) {
	ctx, heard, cancel := patient(ctx)
	defer cancel()
	c := s.t.cursor
	statement, parameters := s.reading, s.parameters(c, mode)
	if mode.gap {
		statement = s.readingGap
	}
	rows := s.pg.ExecStatement(ctx, statement, parameters, binaryFormat, binaryFormat)
	a := &answer{}
	for rows.NextRow() {
		heard()
		if row := rows.Values(); row[headSnapshot] != nil {
			// What was heard until now was committed before this snapshot. Postgres sends nothing of the kind while a statement runs.
			s.bell = false
		}
		if err := a.add(rows.Values()); err != nil {
			_, closed := rows.Close()
			return nil, errors.Join(err, closed)
		}
	}
	if _, err := rows.Close(); err != nil {
		return nil, cmp.Or(context.Cause(ctx), err)
	}
	a.finish(chunk, c.hi)
	return a, nil
}

// parameters are those of readSQL in binary; they live until the next read.
func (s *session) parameters(c Cursor, mode readMode) [][]byte {
	b := s.buffer[:0]
	b = binary.BigEndian.AppendUint64(b, uint64(c.hi))
	b = binary.BigEndian.AppendUint64(b, c.xmax)
	b = binary.BigEndian.AppendUint64(b, chunk)
	b = append(b, byteOf(mode.ring), byteOf(mode.lead))
	b = appendTxIDs(b, c.xip)
	s.buffer = b
	return append(s.values[:0], b[0:8], b[8:16], b[26:], b[16:24], b[24:25], b[25:26])
}

func byteOf(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// deliver moves the cursor and publishes what was found on the way, in one step: nothing can come between.
func (t *Tail) deliver(a *answer, answered time.Time) {
	prev := t.cursor
	t.cursor = a.position(prev)
	t.setStatus(func(s *Status) { s.Cursor, s.LastRead = t.cursor, answered })
	if len(a.events) == 0 {
		return
	}
	b := newBatch(prev, t.cursor, a.events)
	b.way.noLate = t.omit == fault.X()
	t.metrics.published(a.events, a.now, answered)
	for _, p := range t.publishers {
		p.Publish(b)
	}
}
