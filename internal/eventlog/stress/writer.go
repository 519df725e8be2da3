package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
)

// writer is one connection that writes, again and again: as rows come in real life, and worse.
type writer struct {
	w    *world
	i    int
	r    *rand.Rand
	conn *pgx.Conn

	prepares bool // this transaction will be prepared: it must not lock rows that others wait for
}

func newWriter(w *world, i int) *writer {
	return &writer{w: w, i: i, r: rand.New(rand.NewPCG(w.o.Seed, uint64(i)))}
}

func (w *writer) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := w.connect(ctx); err != nil {
			_ = pause(ctx, 20*time.Millisecond) // the server is away; the loop ends with ctx
			continue
		}
		w.w.writing.RLock()
		err := w.transaction(ctx)
		w.w.writing.RUnlock()
		w.w.count.transactions.Add(1)
		if err != nil { // killed, crashed, deadlock, or a refused PREPARE: whatever was open is rolled back
			w.w.count.broken.Add(1)
			w.close(ctx)
		}
	}
	w.close(ctx)
}

func (w *writer) connect(ctx context.Context) (err error) {
	if w.conn != nil {
		return nil
	}
	dialing, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if w.conn, err = pgx.Connect(dialing, w.w.url+"&application_name=stress_writer"); err != nil {
		w.conn = nil
		return err
	}
	if w.i%2 == 1 { // the trigger turns it back for its transaction
		return w.exec(ctx, "SET synchronous_commit = off")
	}
	return nil
}

func (w *writer) close(ctx context.Context) {
	if w.conn != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = w.conn.Close(ctx) // it may be gone
		w.conn = nil
	}
}

func (w *writer) exec(ctx context.Context, sql string, arguments ...any) error {
	_, err := w.conn.Exec(ctx, sql, arguments...)
	return err
}

func (w *writer) one(in int) bool { return w.r.IntN(in) == 0 }

func (w *writer) transaction(ctx context.Context) error {
	w.prepares = false
	if w.one(3) {
		return w.write(ctx)
	}
	w.prepares = w.one(40)
	begin := "BEGIN"
	if w.prepares {
		begin = "BEGIN; SET LOCAL roombell.two_phase = 'on'"
	}
	if err := w.exec(ctx, begin); err != nil {
		return err
	}
	if err := w.statements(ctx); err != nil {
		return err
	}
	if err := w.linger(ctx); err != nil {
		return err
	}
	switch {
	case w.r.IntN(100) < 15:
		w.w.count.rollbacks.Add(1)
		return w.exec(ctx, "ROLLBACK")
	case w.prepares:
		w.w.count.prepared.Add(1)
		return w.exec(ctx, fmt.Sprintf("PREPARE TRANSACTION 'w%d %d'", w.i, w.r.Uint64()))
	}
	return w.exec(ctx, "COMMIT")
}

func (w *writer) statements(ctx context.Context) error {
	if err := w.write(ctx); err != nil {
		return err
	}
	for range w.r.IntN(3) {
		if err := w.savepoint(ctx); err != nil {
			return err
		}
	}
	// The row's lock is held to the end: last, so that writers do not wait for the long ones only.
	if !w.prepares && w.one(2) {
		return w.rename(ctx)
	}
	return nil
}

func (w *writer) savepoint(ctx context.Context) error {
	if err := w.exec(ctx, "SAVEPOINT s"); err != nil {
		return err
	}
	if err := w.write(ctx); err != nil {
		return err
	}
	if w.r.IntN(10) < 3 {
		w.w.count.savepoints.Add(1)
		return w.exec(ctx, "ROLLBACK TO SAVEPOINT s")
	}
	return nil
}

func (w *writer) write(ctx context.Context) error {
	if w.prepares {
		return w.messages(ctx)
	}
	switch w.r.IntN(36) {
	case 0, 1, 2:
		return w.rename(ctx)
	case 3:
		return w.exec(ctx, `SELECT notify_user($1, 'stress:personal', '{"text": "for you"}')`, 1+w.r.IntN(people))
	case 4:
		return w.exec(ctx, `SELECT broadcast_to_organization($1, 'stress:all', '{"text": "for all"}')`, 1+w.r.IntN(organizations))
	case 5:
		return w.exec(ctx, `INSERT INTO notifications (user_id, message) VALUES ($1, 'a notice')`, 1+w.r.IntN(people))
	case 6:
		return w.exec(ctx, `UPDATE messages SET is_read_by_operator = true WHERE chat_id = $1 AND NOT from_me AND NOT is_read_by_operator`, 1+w.r.IntN(chats))
	}
	return w.messages(ctx)
}

// messages are mostly our own: the unread ones of a chat are counted again and again.
func (w *writer) messages(ctx context.Context) error {
	return w.exec(ctx, `INSERT INTO messages (chat_id, from_me, content) SELECT $1, $3, 'message ' || n FROM generate_series(1, $2) n`,
		1+w.r.IntN(chats), 1+w.r.IntN(6), w.r.IntN(3) > 0)
}

func (w *writer) rename(ctx context.Context) error {
	return w.exec(ctx, `UPDATE chats SET name = (name::int + 1)::text WHERE id = $1`, 1+w.r.IntN(chats))
}

// linger keeps some transactions open for a while, so that they commit far below the highest id.
func (w *writer) linger(ctx context.Context) error {
	switch {
	case w.one(200):
		w.w.count.long.Add(1)
		return pause(ctx, time.Duration(300+w.r.IntN(1200))*time.Millisecond)
	case w.one(4):
		return pause(ctx, time.Duration(w.r.IntN(10_000))*time.Microsecond)
	}
	return nil
}

// silent is a transaction that wrote while the gate was open: it will commit without a word, and the ringer cannot sleep before.
type silent struct {
	conn *pgx.Conn
	tx   pgx.Tx
}

func (w *world) openSilentWriter(ctx context.Context) (*silent, error) {
	s := &silent{}
	err := persist(ctx, "open a silent writer", func() error {
		if s.conn == nil || s.conn.IsClosed() {
			var err error
			if s.conn, err = pgx.Connect(ctx, w.url); err != nil {
				return err
			}
		}
		return s.begin(ctx)
	})
	return s, err
}

func (s *silent) begin(ctx context.Context) error {
	tx, err := s.conn.Begin(ctx)
	if err != nil {
		return err
	}
	var holds bool
	_, err = tx.Exec(ctx, `INSERT INTO messages (chat_id, content) VALUES (1, 'silent')`)
	if err == nil {
		err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' AND mode = 'ShareLock')`).Scan(&holds)
	}
	if err == nil && !holds {
		err = fmt.Errorf("the ringer sleeps beside all these writers")
	}
	if err != nil {
		_ = tx.Rollback(ctx) // err says more
		return err
	}
	s.tx = tx
	return nil
}

func (s *silent) commit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	defer s.conn.Close(ctx)
	if err := s.tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit the silent writer: %w", err)
	}
	return nil
}
