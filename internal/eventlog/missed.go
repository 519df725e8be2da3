package eventlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"roombell/internal/eventlog/internal/fault"
)

// Why History cannot say what was missed. Other errors mean that the database could not be asked.
var (
	// ErrTooOld means that retention has removed something that the position had not seen.
	ErrTooOld = errors.New("retention has passed the position")
	// ErrMoved means that the server which was asked is not the one that the tail reads: ask again from a new position.
	ErrMoved = errors.New("the server was exchanged meanwhile")
)

const (
	// historyConnections is how many reads of the log go on at once: a storm must not take the database from the writers.
	historyConnections = 4
	// fillEvents is how many events the memory reads back at most.
	fillEvents = 1 << 16
	// pageEvents and pageBytes bound what one read of the log returns: the second by what was read when it was passed.
	pageEvents = 500
	pageBytes  = 1 << 20
	// outlineEvents are read at once without their payloads.
	outlineEvents = 5000
	// openAbove is how many transactions, with their savepoints, can be open at once that are all younger than the last one that ended.
	openAbove = 1 << 14
	// partEvents and partBytes bound what Next returns.
	partEvents = 128
	partBytes  = 12 << 10

	defaultMemory = 64 << 20
)

// HistoryOptions are the needs of a History.
type HistoryOptions struct {
	ConnConfig *pgx.ConnConfig       // as Options.ConnConfig
	Memory     int                   // bytes of recent events to keep; 0: 64 MiB
	Logger     *slog.Logger          // nil is silence
	Registerer prometheus.Registerer // nil means no metrics
}

// History answers what somebody missed between two positions: from the memory of recent events where it reaches back, else from the log,
// on connections of its own. It is a Publisher and has to be one of the tail's. Make it with NewHistory, and Close it.
type History struct {
	pool    *pgxpool.Pool
	memory  *memory
	log     *slog.Logger
	metrics *historyMetrics
	omit    fault.Step

	filling sync.Mutex // held while the memory is filled
	filled  int        // the era after the one that was filled

	mu       sync.Mutex
	switches map[uint32][]promotion // by the timeline that they lead to
}

var _ Publisher = (*History)(nil)

// promotion is where a timeline began.
type promotion struct {
	timeline uint32
	lsn      uint64
}

// NewHistory does not connect: the first question does.
func NewHistory(ctx context.Context, o HistoryOptions) (*History, error) {
	config, err := pgxpool.ParseConfig(o.ConnConfig.ConnString())
	if err != nil {
		return nil, fmt.Errorf("configure the history's connections: %w", err)
	}
	config.ConnConfig = listenConfig(o.ConnConfig, "")
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
	config.ConnConfig.RuntimeParams["application_name"] = "roombell history"
	config.MaxConns, config.MinConns, config.MaxConnIdleTime = historyConnections, 0, time.Minute
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, planGuards+`; SET default_transaction_read_only = on; SET statement_timeout = '15s'`, pgx.QueryExecModeSimpleProtocol)
		return err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("configure the history's connections: %w", err)
	}
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if o.Memory == 0 {
		o.Memory = defaultMemory
	}
	h := &History{omit: omitted(), pool: pool, memory: newMemory(o.Memory), log: log, filled: -1, switches: map[uint32][]promotion{}}
	h.metrics = newHistoryMetrics(o.Registerer, h.memory)
	return h, nil
}

// Close ends its connections when the questions under way are answered.
func (h *History) Close() { h.pool.Close() }

// Publish remembers the batch.
func (h *History) Publish(b *Batch) { h.memory.publish(b) }

// Reset forgets what was before c: it may never have happened.
func (h *History) Reset(_ string, c Cursor) { h.memory.clear(c) }

// Retention asks the database how long the log is kept, and has the memory keep to it.
func (h *History) Retention(ctx context.Context) (time.Duration, error) {
	var seconds float64
	err := h.pool.QueryRow(ctx, `SELECT extract(epoch FROM retention)::float8 FROM public.roombell_settings`).Scan(&seconds)
	if err != nil {
		return 0, fmt.Errorf("read the retention: %w", err)
	}
	retention := time.Duration(seconds * float64(time.Second))
	h.memory.retain(retention)
	return retention, nil
}

// Question asks what a user may have missed on the way from one position to another. To is the tail's own, From a stranger's word: a
// cursor that was forged gets what the user may be told anyway, or an error.
type Question struct {
	From, To               Cursor
	OrganizationID, UserID int64
}

// Missed is the answer: events of the organization, those of other users' own left out, and those that concern everybody, in ascending
// order of ids, which respects commits. Whether the user may hear of an event's chat is not looked at.
type Missed struct {
	// Failover says that a promotion lost commits: some events that were heard may not exist. What exists follows.
	Failover bool
	// FromMemory says that the log was not read.
	FromMemory bool

	h     *History
	q     Question
	way   way
	ready []*Event // read and not returned yet
	all   bool     // ready has the rest
	after int64    // the last id that was read from the log
}

// Missed begins to answer. ErrCursor, ErrTooOld and ErrMoved say why it cannot; the first costs no query.
func (h *History) Missed(ctx context.Context, q Question) (*Missed, error) {
	if q.From.system != q.To.system || q.From.timeline > q.To.timeline ||
		q.From.timeline == q.To.timeline && (q.From.hi > q.To.hi || q.From.lsn > q.To.lsn) {
		return nil, ErrCursor
	}
	m := &Missed{h: h, q: q, way: newWay(q.From, q.To, true)}
	m.way.noLate = h.omit == fault.X()
	if q.From.timeline < q.To.timeline {
		exact, err := h.exact(ctx, q.From, q.To)
		if err != nil {
			return nil, err
		}
		m.Failover = !exact && h.omit != fault.Timeline()
	}
	if m.remember() {
		return m, nil
	}
	if err := h.fill(ctx, q.To); err != nil {
		h.log.Warn("the memory of recent events could not be filled", "err", err)
	} else if m.remember() {
		return m, nil
	}
	h.metrics.log.Inc()
	return m, m.read(ctx)
}

// remember answers from the memory, if it can.
func (m *Missed) remember() bool {
	events, ok := m.h.memory.missed(m.q.From, m.q.To, m.q.OrganizationID, m.concerns)
	if !ok {
		return false
	}
	m.ready, m.all, m.FromMemory = events, true, true
	m.h.metrics.memory.Inc()
	return true
}

func (m *Missed) concerns(e *Event) bool {
	return replayed(e) && (e.UserID == 0 || e.UserID == m.q.UserID)
}

// Start returns From as a position on To's timeline: who has been told of a failover and has heard nothing yet comes back with it.
func (m *Missed) Start() Cursor { return m.way.stamp(m.way.from) }

// Chats returns the chats of the events that are at hand, once for each event.
func (m *Missed) Chats() []int64 {
	chats := make([]int64, 0, len(m.ready))
	for _, e := range m.ready {
		chats = append(chats, e.ChatID)
	}
	return chats
}

// Each calls f with every event that is still to come, until f returns false. Those that are not at hand have no payload.
func (m *Missed) Each(ctx context.Context, f func(e *Event) bool) error {
	for _, e := range m.ready {
		if !f(e) {
			return nil
		}
	}
	for after, all := m.after, m.all; !all; {
		page, err := m.page(ctx, after, outline)
		if err != nil {
			return err
		}
		for _, e := range page.events {
			if !f(e) {
				return nil
			}
		}
		after, all = page.last, page.all
	}
	return nil
}

// Next returns the next events, a dozen kilobytes of them, or nil after the last. ErrTooOld and ErrMoved may come up on the way.
func (m *Missed) Next(ctx context.Context) (*Batch, error) {
	for len(m.ready) == 0 {
		if m.all {
			return nil, nil
		}
		if err := m.read(ctx); err != nil {
			return nil, err
		}
	}
	n, bytes := 0, 0
	for n < len(m.ready) && n < partEvents && (n == 0 || bytes+len(m.ready[n].Payload) <= partBytes) {
		bytes += len(m.ready[n].Payload)
		n++
	}
	b := &Batch{Events: make([]Event, n), way: m.way, open: true}
	for i, e := range m.ready[:n] {
		b.Events[i] = *e
	}
	m.ready = m.ready[n:]
	return b, nil
}

// read takes the next page from the log.
func (m *Missed) read(ctx context.Context) error {
	page, err := m.page(ctx, m.after, pageEvents)
	if err != nil {
		return err
	}
	m.ready, m.after, m.all = append(m.ready, page.events...), page.last, page.all
	return nil
}

// outline asks for a page without payloads.
const outline = -1

type page struct {
	events []*Event
	last   int64 // the highest id that was looked at
	all    bool
}

// missedSQL reads events of an organization ($1) for a user ($2) above an id ($3) that a cursor ($4 its id, $5 what was running) has not
// seen, $6 at most. Late events are looked for among the transactions that the cursor saw running ($5) and those that had begun by then. An
// id at or below the cursor's was drawn before its snapshot was taken, and the transaction had its own id by then (triggers see to that); but
// xmax is one above the highest transaction that had ended, so younger ones that were open are at or above it ($10), and listed nowhere. All
// from there to the youngest had none ended between them: $11 bounds how many those can have been. The head says which server answers, and whether retention has removed what is asked for: something that a position ($7, $8,
// $9) has not seen.
func missedSQL(columns string) string {
	const concerns = ` AND kind IN ('event', 'custom', 'truncate') AND (user_id IS NULL OR user_id = $2)`
	from := `SELECT ` + columns + ` FROM public.event_log WHERE `
	return `SELECT c.system_identifier, roombell.timeline(), ` + trimmedSQL("$7", "$8", "$9") + `, e.*
		FROM pg_control_system() c LEFT JOIN LATERAL (
		  (` + from + `organization_id = $1 AND id > greatest($3::bigint, $4::bigint)` + concerns + ` ORDER BY id LIMIT $6)
		  UNION ALL (` + from + `organization_id IS NULL AND id+0 > greatest($3::bigint, $4::bigint)` + concerns + ` ORDER BY id+0 LIMIT $6)
		  UNION ALL (` + from + `txid = ANY($5) AND id+0 > $3 AND id+0 <= $4 AND (organization_id+0 = $1 OR organization_id IS NULL)` + concerns + ` ORDER BY id+0 LIMIT $6)
		  UNION ALL (` + from + `$3::bigint < $4::bigint AND txid >= $10 AND txid < $11 AND id <= $4 AND id+0 > $3 AND (organization_id+0 = $1 OR organization_id IS NULL)` + concerns + ` ORDER BY id+0 LIMIT $6)
		  ORDER BY id LIMIT $6) e ON true`
}

const columnsWithoutPayload = `id, txid, created_at, organization_id, chat_id, user_id, audience, kind, event, NULL::json AS payload, NULL::bigint[] AS touched`

var (
	pageSQL    = missedSQL(columns)
	outlineSQL = missedSQL(columnsWithoutPayload)
)

// The head of missedSQL's rows, before the columns of the event.
const (
	missedSystem = iota
	missedTimeline
	missedTooOld
	missedHead
)

// page reads limit events after an id. It returns what From has not seen and To has.
func (m *Missed) page(ctx context.Context, after int64, limit int) (page, error) {
	sql := pageSQL
	if limit == outline {
		sql, limit = outlineSQL, outlineEvents
	}
	began := time.Now()
	stands := m.q.From.step
	if after > 0 && after >= stands.hi { // late ones are done
		stands = step{hi: after, snapshot: m.q.To.snapshot}
	}
	rows, err := m.h.pool.Query(ctx, sql, pgx.QueryResultFormats{pgx.BinaryFormatCode}, m.q.OrganizationID, m.q.UserID, after, m.q.From.hi,
		append([]uint64{}, m.q.From.xip...), limit, stands.hi, stands.xmax, append([]uint64{}, stands.xip...),
		m.q.From.xmax, m.q.From.xmax+openAbove)
	if err != nil {
		return page{}, fmt.Errorf("read what was missed: %w", err)
	}
	defer rows.Close()
	p := page{last: after}
	n, bytes := 0, 0
	for bytes <= pageBytes && rows.Next() {
		row := rows.RawValues()
		if err := m.checkHead(row); err != nil {
			return page{}, err
		}
		if row[missedHead] == nil {
			break // no events
		}
		// The columns of the read, behind a head that is as long as that one's.
		e, err := decodeEvent(append(make([][]byte, columnID, columnCount), row[missedHead:]...))
		if err != nil {
			return page{}, fmt.Errorf("read what was missed: %w", err)
		}
		n, bytes, p.last = n+1, bytes+len(e.Payload), e.ID
		if !m.q.From.Seen(e.ID, e.TxID) && m.q.To.Seen(e.ID, e.TxID) {
			p.events = append(p.events, &e)
		}
	}
	p.all = n < limit && bytes <= pageBytes
	rows.Close()
	m.h.metrics.readTime.Observe(time.Since(began).Seconds())
	if err := rows.Err(); err != nil {
		return page{}, fmt.Errorf("read what was missed: %w", err)
	}
	return p, nil
}

func (m *Missed) checkHead(row [][]byte) error {
	var d rowDecoder
	system, timeline := uint64(d.int64(row[missedSystem])), d.int64(row[missedTimeline])
	switch tooOld := d.bool(row[missedTooOld]); {
	case d.err != nil:
		return d.err
	case foldSystem(system) != m.q.To.system || uint32(timeline) != m.q.To.timeline:
		return ErrMoved
	case tooOld:
		return ErrTooOld
	}
	return nil
}

// exact reports whether everything that somebody may have heard at a position still exists: no promotion since began before it.
func (h *History) exact(ctx context.Context, from, to Cursor) (bool, error) {
	switches, err := h.promotions(ctx, to)
	if err != nil {
		return false, err
	}
	known := uint32(0)
	for _, p := range switches {
		if p.timeline > from.timeline && p.timeline <= to.timeline {
			known++
			if p.lsn < from.lsn {
				return false, nil
			}
		}
	}
	return known == to.timeline-from.timeline, nil // one that nobody recorded may have been anywhere
}

// promotions returns what is recorded of them. The tail records a timeline before it stands on it, so an answer stays right.
func (h *History) promotions(ctx context.Context, to Cursor) ([]promotion, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if known, ok := h.switches[to.timeline]; ok {
		return known, nil
	}
	rows, err := h.pool.Query(ctx, `SELECT timeline, (switch_lsn - '0/0')::bigint FROM public.event_log_timelines`)
	if err != nil {
		return nil, fmt.Errorf("read the promotions: %w", err)
	}
	switches, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (promotion, error) {
		var timeline, lsn int64
		err := row.Scan(&timeline, &lsn)
		return promotion{uint32(timeline), uint64(lsn)}, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the promotions: %w", err)
	}
	h.switches = map[uint32][]promotion{to.timeline: switches}
	return switches, nil
}

// fillSQL finds where the latest $1 events begin, by id and by transaction, above everything that retention has removed.
const fillSQL = `SELECT c.system_identifier, roombell.timeline(),
	greatest(0, (SELECT id FROM public.event_log ORDER BY id DESC OFFSET $1 LIMIT 1), (SELECT max(max_id) FROM public.event_log_trim)),
	greatest(0, (SELECT txid::text::bigint FROM public.event_log ORDER BY txid DESC, id DESC OFFSET $1 LIMIT 1),
	  (SELECT max(max_txid::text::bigint) + 1 FROM public.event_log_trim))
	FROM pg_control_system() c`

var errTooMuch = errors.New("more than there is room for")

// fill has the memory reach back into the log, once after a start and after each time that it was emptied: who comes back after a deploy
// was there a moment before it.
func (h *History) fill(ctx context.Context, at Cursor) error {
	h.filling.Lock()
	defer h.filling.Unlock()
	era := h.memory.currentEra()
	if h.filled == era {
		return nil
	}
	for n, began := fillEvents, time.Now(); ; n /= 8 {
		from, a, err := h.readBack(ctx, at, n)
		if errors.Is(err, errTooMuch) { // long payloads
			if n == 0 {
				h.filled = era // there is no room for anything
				return nil
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("read the latest events: %w", err)
		}
		h.memory.fill(era, from, a.position(from), a.events, a.now)
		h.filled = era
		h.metrics.fills.Inc()
		h.log.Info("recent events are in memory", "events", len(a.events), "took", time.Since(began))
		return nil
	}
}

// readBack reads the latest n events: everything that from has not seen.
func (h *History) readBack(ctx context.Context, at Cursor, n int) (from Cursor, a *answer, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err = h.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		var system, timeline, xmax int64
		from = Cursor{system: at.system, timeline: at.timeline}
		if err := conn.QueryRow(ctx, fillSQL, n).Scan(&system, &timeline, &from.hi, &xmax); err != nil {
			return err
		}
		from.xmax = uint64(xmax)
		if foldSystem(uint64(system)) != at.system || uint32(timeline) != at.timeline {
			return ErrMoved
		}
		// More than twice as many have come meanwhile, or hang on a transaction that is as old as they are.
		if a, err = queryPage(ctx, conn.Conn(), from, 2*n, h.memory.limit); err != nil {
			cancel() // the rest need not be sent
			return err
		}
		switch {
		case a.tooOld: // retention came in between
			return ErrTooOld
		case a.full:
			return errTooMuch
		}
		return nil
	})
	return from, a, err
}
