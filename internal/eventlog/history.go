package eventlog

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"roombell/internal/eventlog/internal/fault"
)

// Beginner starts transactions: a pool or a connection.
type Beginner interface {
	BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error)
}

// Page is a part of the log.
type Page struct {
	Events []Event // ascending ids
	End    Cursor  // the position after them
	More   bool    // there are more after End
	TooOld bool    // retention has removed what was asked for, or the position is another cluster's: Events is empty, End is where it is now
}

// Since returns everything that from has not seen, of all organizations, in ascending order of ids, and the position after it. The zero
// Cursor has seen nothing. tooOld means that retention has removed something that from had not seen, or that from belongs to another
// cluster: then there are no events, and to is the log's present end.
func Since(ctx context.Context, db Beginner, from Cursor) (events []Event, to Cursor, tooOld bool, err error) {
	for {
		page, err := Read(ctx, db, from, chunk)
		if err != nil || page.TooOld {
			return nil, page.End, page.TooOld, err
		}
		events = append(events, page.Events...)
		if from = page.End; !page.More {
			return events, page.End, false, nil
		}
	}
}

// Read returns a part of what from has not seen: everything up to the highest id that from knows, and limit events above it at most. Its End
// is exact: reading on from there misses nothing and repeats nothing.
func Read(ctx context.Context, db Beginner, from Cursor, limit int) (Page, error) {
	var page Page
	err := pgx.BeginTxFunc(ctx, db, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// For this transaction alone: the connection is somebody's.
		if _, err := tx.Exec(ctx, strings.ReplaceAll(planGuards, "SET ", "SET LOCAL "), pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		var err error
		page, err = readPage(ctx, tx, from, limit)
		return err
	})
	if err != nil {
		return Page{}, fmt.Errorf("read the event log's history: %w", err)
	}
	return page, nil
}

func readPage(ctx context.Context, tx pgx.Tx, from Cursor, limit int) (Page, error) {
	var system, timeline int64
	if err := tx.QueryRow(ctx, `SELECT system_identifier, roombell.timeline() FROM pg_control_system()`).Scan(&system, &timeline); err != nil {
		return Page{}, err
	}
	here := Cursor{system: foldSystem(uint64(system)), timeline: uint32(timeline)}
	if !from.IsZero() && from.system != here.system {
		return endPage(ctx, tx, here)
	}
	a, err := queryPage(ctx, tx, from, limit, math.MaxInt)
	if err != nil {
		return Page{}, err
	}
	if a.tooOld {
		return endPage(ctx, tx, here)
	}
	end := a.position(from)
	end.system, end.timeline = here.system, here.timeline
	unseen := slices.DeleteFunc(a.events, func(e Event) bool { return from.Seen(e.ID, e.TxID) })
	return Page{Events: unseen, End: end, More: a.full}, nil
}

// querier is a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, arguments ...any) (pgx.Rows, error)
}

// queryPage reads what from has not seen. errTooMuch stops it when the payloads come to more bytes than that.
func queryPage(ctx context.Context, q querier, from Cursor, limit, bytes int) (*answer, error) {
	rows, err := q.Query(ctx, readSQL(fault.None(), true), pgx.QueryResultFormats{pgx.BinaryFormatCode},
		from.hi, from.xmax, append([]uint64{}, from.xip...), int64(limit), false, false)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	a := &answer{}
	for rows.Next() {
		row := rows.RawValues()
		if err := a.add(row); err != nil {
			return nil, err
		}
		if bytes -= len(row[columnPayload]); bytes < 0 {
			return nil, errTooMuch
		}
	}
	a.finish(limit, from.hi)
	return a, rows.Err()
}

func endPage(ctx context.Context, tx pgx.Tx, here Cursor) (Page, error) {
	rows, err := tx.Query(ctx, endSQL, pgx.QueryResultFormats{pgx.BinaryFormatCode})
	if err != nil {
		return Page{}, err
	}
	end, err := readEnd(rows, here)
	return Page{End: end, TooOld: true}, err
}

// endSQL asks for the position that has seen everything visible. What retention has removed counts for the highest id: else it would look as
// if this position had missed it.
const endSQL = `SELECT pg_current_snapshot(), pg_current_wal_flush_lsn(),
	greatest(0, (SELECT max(id) FROM public.event_log), (SELECT max(max_id) FROM public.event_log_trim))`

// readEnd fills in a cursor whose system and timeline are known.
func readEnd(rows pgx.Rows, c Cursor) (Cursor, error) {
	defer rows.Close()
	var d rowDecoder
	for rows.Next() {
		row := rows.RawValues()
		c.lsn = uint64(d.int64(row[1]))
		c.step = step{snapshot: d.snapshot(row[0]), hi: d.int64(row[2])}
	}
	return c, errors.Join(rows.Err(), d.err)
}
