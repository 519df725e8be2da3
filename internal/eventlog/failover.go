package eventlog

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"roombell/internal/eventlog/internal/fault"
)

// adoptTimeout leaves a slow disk the time to remove a large log.
const adoptTimeout = time.Minute

// noteTimeline records once where the server's timeline began: what was shown of the former one beyond that point may not exist any more.
// Replay has ended there when the server was promoted since it started; after a clean restart nobody knows, and nothing is recorded.
func (s *session) noteTimeline(ctx context.Context, timeline int64) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	return s.durably(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO public.event_log_timelines (timeline, switch_lsn)
			SELECT $1::bigint, pg_last_wal_replay_lsn()
			WHERE pg_last_wal_replay_lsn() IS NOT NULL AND NOT EXISTS (SELECT FROM public.event_log_timelines WHERE timeline = $1)
			ON CONFLICT DO NOTHING`, timeline)
		return err
	})
}

// promoted goes on with the same cursor on a higher timeline. It stays exact for everything that exists; clients are told when they may have
// been shown what does not.
func (s *session) promoted(ctx context.Context, h hello) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	c := &s.t.cursor
	if s.t.omit == fault.Timeline() {
		c.timeline = uint32(h.timeline)
		return nil
	}
	var exact bool
	var kept, highest int64
	// A promotion that nobody recorded may have been anywhere.
	err := s.conn.QueryRow(ctx, `
		SELECT count(*) = $2::bigint - $1::bigint AND min(switch_lsn) - '0/0'::pg_lsn >= $3::numeric, coalesce(min(switch_lsn) - '0/0'::pg_lsn, 0)::bigint,
		  greatest(0, (SELECT max(id) FROM public.event_log), (SELECT max(max_id) FROM public.event_log_trim))
		FROM public.event_log_timelines WHERE timeline > $1 AND timeline <= $2`,
		int64(c.timeline), h.timeline, fmt.Sprint(c.lsn)).Scan(&exact, &kept, &highest)
	if err != nil {
		return fmt.Errorf("compare with the promotion: %w", err)
	}
	s.t.log.Info("the server was promoted", "from", c.timeline, "timeline", h.timeline, "exact", exact)
	c.timeline = uint32(h.timeline)
	if !exact {
		// The new primary's WAL and its events may end before what was seen of the lost one: no position may look ahead of those to come.
		c.lsn, c.hi = min(c.lsn, uint64(kept)), min(c.hi, highest)
		s.t.reset(ResetFailover)
	}
	return nil
}

// adopt makes the log of a restored or upgraded database this cluster's. Its rows carry transaction ids of the other cluster and would look
// running or unborn for ever, so they go; ids begin above every one that was ever used.
func (s *session) adopt(ctx context.Context, h hello) error {
	ctx, cancel := context.WithTimeout(ctx, adoptTimeout)
	defer cancel()
	return s.durably(ctx, func(tx pgx.Tx) error {
		var adopted bool
		err := tx.QueryRow(ctx, `SELECT system_identifier IS NOT DISTINCT FROM $1 FROM public.event_log_state FOR UPDATE`, h.system).Scan(&adopted)
		if err != nil || adopted { // by another node
			return err
		}
		s.t.log.Warn("the event log is another cluster's: emptying it", "system", h.system)
		if _, err := tx.Exec(ctx, `LOCK TABLE public.event_log IN ACCESS EXCLUSIVE MODE`); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			UPDATE public.event_log_state SET system_identifier = $1, timeline_offset = greatest(timeline_offset, 1 - $2 + greatest(
				(SELECT max(id) >> 43 FROM public.event_log),
				(SELECT max(max_id) >> 43 FROM public.event_log_trim),
				timeline_offset + 1,
				timeline_offset + (SELECT max(timeline) FROM public.event_log_timelines)))`, h.system, h.timeline)
		if err != nil {
			return err
		}
		for _, sql := range []string{
			`TRUNCATE public.event_log, public.event_log_timelines`,
			`UPDATE public.event_log_trim SET max_id = 0, max_txid = '0', emptied_at = NULL`,
		} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	})
}

// durably runs f in a transaction that is flushed, unlike the session's others, and that does not wait for locks for long.
func (s *session) durably(ctx context.Context, f func(tx pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, s.conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL synchronous_commit = local; SET LOCAL lock_timeout = '5s'`, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		return f(tx)
	})
}
