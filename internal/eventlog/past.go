package eventlog

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// beginningSQL is where what retention has removed ends.
const beginningSQL = `SELECT c.system_identifier, roombell.timeline(), greatest(0, (SELECT max(max_id) FROM public.event_log_trim)),
	greatest(0, (SELECT max(max_txid::text::bigint) + 1 FROM public.event_log_trim))
	FROM pg_control_system() c`

// Beginning returns the position that has seen what retention has removed, and nothing else: who goes on from there to the given one gets
// everything that is left. ErrMoved when that is another server's.
func (h *History) Beginning(ctx context.Context, to Cursor) (Cursor, error) {
	var system, timeline, xmax int64
	from := Cursor{system: to.system, timeline: to.timeline}
	if err := h.pool.QueryRow(ctx, beginningSQL).Scan(&system, &timeline, &from.hi, &xmax); err != nil {
		return Cursor{}, fmt.Errorf("find the beginning of the log: %w", err)
	}
	if foldSystem(uint64(system)) != to.system || uint32(timeline) != to.timeline {
		return Cursor{}, ErrMoved
	}
	from.xmax = uint64(xmax)
	return from, nil
}

// PerMinute counts the events of an organization that clients may have heard in the last minute, of everybody with 0: as far as the memory
// of recent events reaches back.
func (h *History) PerMinute(organizationID int64) int {
	return h.memory.since(organizationID, time.Minute)
}

// since counts what came in the last while.
func (m *memory) since(organizationID int64, while time.Duration) int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	first := len(m.parts)
	for first > 0 && time.Since(m.parts[first-1].heard) < while {
		first--
	}
	n := 0
	if organizationID != 0 {
		list := m.organizations[organizationID]
		for i := len(list) - 1; i >= 0 && list[i].part >= m.passed+first; i-- {
			n++
		}
		return n
	}
	for _, p := range m.parts[first:] {
		for i := range p.events {
			if replayed(&p.events[i]) {
				n++
			}
		}
	}
	return n
}

// TraceQuestion names a message, when its row was written and last changed by the database's clock, and in which transaction: 0 for unknown.
type TraceQuestion struct {
	OrganizationID, ChatID, MessageID int64
	From, To                          time.Time
	Last                              int64
}

// Traced is an event of a message.
type Traced struct {
	ID          int64
	Name        string
	RecordedAt  time.Time
	CommittedAt *time.Time // nil: the database does not keep these (track_commit_timestamp), or not any more
}

const (
	// traceEvents is how many events of one message are told of.
	traceEvents = 200
	// traceSlack is how much longer than a row's times its events are looked for: triggers record by the clock, rows have the time at which
	// their transaction began.
	traceSlack = time.Minute
)

// traceSQL finds the events of a message ($3) in an organization ($1) and chat ($2) that were recorded between two times ($4, $5), or by its
// last transaction ($6). No index has messages or times, because every writer would pay for it. Ids ascend with time: where the span begins
// and ends is found by halving, with one look at the index of ids for each step, and it is read by the index of organizations: comparing rows
// leaves the planner no other.
const traceSQL = `WITH RECURSIVE halving(at, low, high) AS (
	SELECT at, (SELECT min(id) FROM public.event_log), (SELECT max(id) + 1 FROM public.event_log) FROM unnest(ARRAY[$4, $5]::timestamptz[]) at
	UNION ALL
	SELECT at, CASE WHEN e.created_at < at THEN e.id + 1 ELSE low END, CASE WHEN e.created_at < at THEN high ELSE m.middle END
	FROM halving, LATERAL (SELECT low + (high - low) / 2 AS middle OFFSET 0) m,
	LATERAL (SELECT id, created_at FROM public.event_log WHERE id >= m.middle ORDER BY id LIMIT 1) e
	WHERE low < high
), span AS MATERIALIZED (
	SELECT max(low) FILTER (WHERE at = $4) AS low, max(low) FILTER (WHERE at = $5) AS high FROM halving
), found AS (
	SELECT l.* FROM span, LATERAL (
	  SELECT id, txid, created_at, chat_id, kind, event, payload FROM public.event_log
	  WHERE (organization_id, id) >= ($1, span.low) AND (organization_id, id) < ($1, span.high)) l
	UNION ALL
	SELECT id, txid, created_at, chat_id, kind, event, payload FROM public.event_log, span
	WHERE txid = $6::text::xid8 AND organization_id+0 = $1 AND id+0 >= span.high
)
SELECT id, event, created_at,
	CASE WHEN current_setting('track_commit_timestamp') = 'on' THEN pg_xact_commit_timestamp(txid::xid) END
FROM found
WHERE chat_id = $2 AND kind = 'event' AND CASE event
	WHEN 'message:new' THEN (payload->>'id')::bigint = $3
	WHEN 'message:updated' THEN (payload->>'messageId')::bigint = $3
	WHEN 'message:status' THEN (payload->>'messageId')::bigint = $3
	WHEN 'messages:read' THEN payload::jsonb->'messageIds' @> to_jsonb($3::bigint)
	ELSE false END
ORDER BY id LIMIT $7`

// Trace returns the events of a message that the log still has, in the order of ids. Sums of bulk writes, which name no message, are not
// among them.
func (h *History) Trace(ctx context.Context, q TraceQuestion) ([]Traced, error) {
	rows, err := h.pool.Query(ctx, traceSQL, q.OrganizationID, q.ChatID, q.MessageID, q.From.Add(-time.Second), q.To.Add(traceSlack),
		strconv.FormatInt(q.Last, 10), traceEvents)
	if err != nil {
		return nil, fmt.Errorf("trace a message: %w", err)
	}
	events, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t Traced, err error) {
		err = row.Scan(&t.ID, &t.Name, &t.RecordedAt, &t.CommittedAt)
		return t, err
	})
	if err != nil {
		return nil, fmt.Errorf("trace a message: %w", err)
	}
	return events, nil
}

// Nodes counts the tails that read this database now.
func (h *History) Nodes(ctx context.Context) (n int, err error) {
	err = h.pool.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name LIKE 'roombell listen%' AND application_name NOT LIKE '% retention'`).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count the nodes: %w", err)
	}
	return n, nil
}
