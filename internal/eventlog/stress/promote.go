package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"roombell/internal/postgres"
)

const (
	promoteTime = 2 * time.Minute
	// lostTime is for how long the standby gets nothing before the primary is lost.
	lostTime = 700 * time.Millisecond
	// silentFor is how long nothing is delivered before what was heard is compared with what exists.
	silentFor = 500 * time.Millisecond
)

// promote makes the standby the primary while everybody works. Where it loses commits the standby was cut off a moment before: what is
// committed in that moment is heard by clients and then exists no more.
func (w *world) promote(ctx context.Context, lose bool) error {
	ctx, cancel := context.WithTimeout(ctx, promoteTime)
	defer cancel()
	if err := w.follow(ctx); err != nil {
		return fmt.Errorf("make a standby: %w", err)
	}
	if err := w.abandon(ctx, lose); err != nil {
		return fmt.Errorf("lose the primary: %w", err)
	}
	if err := w.forget(ctx, lose); err != nil {
		return fmt.Errorf("compare with the standby: %w", err)
	}
	w.primary, w.standby, w.following = w.standby, w.primary, false
	if err := ask(ctx, w.primary, `SELECT pg_promote(true, 60)`); err != nil {
		return fmt.Errorf("promote the standby: %w", err)
	}
	if lose {
		w.count.losses.Add(1)
	}
	w.count.promotions.Add(1)
	return nil
}

// follow has the standby follow the primary, and returns when it streams.
func (w *world) follow(ctx context.Context) error {
	if !w.following {
		if err := w.standby.Follow(ctx, w.primary); err != nil {
			return err
		}
		w.following = true
	}
	return await(ctx, w.primary, `SELECT EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming')`)
}

// abandon ends the primary: in order, when all that it has committed reaches the standby, or at once, a moment after the standby was cut off.
func (w *world) abandon(ctx context.Context, lose bool) error {
	if !lose {
		return w.primary.Shutdown(ctx)
	}
	if err := w.cutOff(ctx); err != nil {
		return err
	}
	if err := pause(ctx, lostTime); err != nil {
		return err
	}
	return w.primary.Crash(ctx)
}

// cutOff stops the standby's receiver at a moment when it has everything and nothing is prepared: what is prepared now and committed later
// would be heard, lost, and committed once more.
func (w *world) cutOff(ctx context.Context) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	if err := w.commitPrepared(ctx, 1); err != nil {
		return err
	}
	var flushed string
	if err := ask(ctx, w.primary, `SELECT pg_current_wal_flush_lsn()::text`, &flushed); err != nil {
		return err
	}
	if err := await(ctx, w.standby, fmt.Sprintf(`SELECT pg_last_wal_replay_lsn() >= '%s'`, flushed)); err != nil {
		return err
	}
	if err := ask(ctx, w.standby, `ALTER SYSTEM SET primary_conninfo = ''`); err != nil {
		return err
	}
	if err := ask(ctx, w.standby, `SELECT pg_reload_conf()`); err != nil {
		return err
	}
	return await(ctx, w.standby, `SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)`)
}

// forget compares what was heard with what the standby has: nobody hears anything now. Whoever has heard more is to be told.
func (w *world) forget(ctx context.Context, lose bool) error {
	if err := await(ctx, w.standby, `SELECT pg_last_wal_replay_lsn() >= coalesce(pg_last_wal_receive_lsn(), '0/0')`); err != nil {
		return err
	}
	for last := int64(-1); last != w.count.packets.Load() || w.count.stalled.Load() > 0; {
		last = w.count.packets.Load()
		if err := pause(ctx, silentFor); err != nil {
			return err
		}
	}
	conn, err := pgx.Connect(ctx, w.standby.AdminURL(postgres.Name))
	if err != nil {
		return err
	}
	defer closeConn(ctx, conn)
	exists, rows, err := w.whatExists(ctx, conn)
	if err != nil {
		return err
	}
	gone := 0
	for _, h := range w.hearings() {
		h.lose(exists, rows)
		gone += h.gone
	}
	switch {
	case lose:
		// The timeline that begins now: see era.
		w.newEra.Store(w.count.promotions.Load() + 2)
	case gone > w.gone:
		return errors.New("the standby had not received everything, though the primary was shut down in order")
	}
	w.gone = gone
	return nil
}

// whatExists returns the ids in the log, and for each chat the highest id and its name.
func (w *world) whatExists(ctx context.Context, conn *pgx.Conn) (*idset, map[int64]row, error) {
	exists := &idset{}
	err := w.eachEvent(ctx, conn, func(e logged) { exists.add(e.id) })
	if err != nil {
		return nil, nil, err
	}
	rows := map[int64]row{}
	found, err := conn.Query(ctx, `SELECT id, name::int, (SELECT coalesce(max(id), 0) FROM event_log) FROM chats`)
	if err != nil {
		return nil, nil, err
	}
	var chat int64
	var r row
	_, err = pgx.ForEachRow(found, []any{&chat, &r.version, &r.id}, func() error {
		rows[chat] = r
		return nil
	})
	return exists, rows, err
}

// ask runs a statement as superuser, and reads its row into the given variables.
func ask(ctx context.Context, s *postgres.Server, sql string, into ...any) error {
	conn, err := pgx.Connect(ctx, s.AdminURL(postgres.Name))
	if err != nil {
		return err
	}
	defer closeConn(ctx, conn)
	if len(into) == 0 {
		_, err = conn.Exec(ctx, sql)
		return err
	}
	return conn.QueryRow(ctx, sql).Scan(into...)
}

// await asks again until the answer is true.
func await(ctx context.Context, s *postgres.Server, sql string) error {
	for {
		var yes bool
		err := ask(ctx, s, sql, &yes)
		if err == nil && yes {
			return nil
		}
		if p := pause(ctx, 20*time.Millisecond); p != nil {
			return errors.Join(fmt.Errorf("wait for %s: %w", sql, p), err)
		}
	}
}
