package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"roombell/db"
)

type forgetCmd struct {
	Chat         int64 `env:"ROOMBELL_FORGET_CHAT" xor:"what" placeholder:"ID" help:"The chat with its messages."`
	User         int64 `env:"ROOMBELL_FORGET_USER" xor:"what" placeholder:"ID" help:"The user with what was for them alone; chats and messages stay, without the name."`
	Organization int64 `env:"ROOMBELL_FORGET_ORGANIZATION" xor:"what" placeholder:"ID" help:"The organization with everything in it."`
}

// erasure says how one kind of thing is forgotten. The row is locked first: whoever writes beside it has then either
// committed, and is seen by the statements that follow, or fails.
type erasure struct {
	what   string
	lock   string
	delete string
	// log is the condition on event_log rows that concern it, without those that this transaction writes itself: the
	// clients' word that the chat is gone must reach them.
	log string
}

func (c *forgetCmd) erasure() (erasure, int64, bool) {
	switch {
	case c.Chat != 0:
		return erasure{"chat", `SELECT 1 FROM chats WHERE id = $1 FOR UPDATE`, `DELETE FROM chats WHERE id = $1`, `chat_id = $1`}, c.Chat, true
	case c.User != 0:
		return erasure{"user", `SELECT 1 FROM users WHERE id = $1 FOR UPDATE`, `DELETE FROM users WHERE id = $1`, `user_id = $1`}, c.User, true
	case c.Organization != 0:
		return erasure{"organization", `SELECT 1 FROM organizations WHERE id = $1 FOR UPDATE`, `DELETE FROM organizations WHERE id = $1`, `organization_id = $1`}, c.Organization, true
	}
	return erasure{}, 0, false
}

// Run erases in one transaction. What cannot be found in the tables any more is still looked for in the log, so that the
// command can be run for what was deleted before. Times and ids stay in the log; names and contents do not.
func (c *forgetCmd) Run(ctx context.Context, p *program) error {
	e, id, ok := c.erasure()
	if !ok {
		return badUsage("one of --chat, --user and --organization is needed")
	}
	return p.withPool(ctx, func(pool *pgxpool.Pool) error {
		var rows, events int64
		err := db.InTx(ctx, pool, func(tx pgx.Tx) error {
			var err error
			rows, events, err = e.forget(ctx, tx, id)
			return err
		})
		if err != nil {
			return fmt.Errorf("forget %s %d: %w", e.what, id, err)
		}
		if rows == 0 && events == 0 {
			return fmt.Errorf("there is no %s %d, neither in the tables nor in the event log", e.what, id)
		}
		_, err = fmt.Fprintf(p.stdout, "%s %d is forgotten, %d events of the log are blank\n", e.what, id, events)
		return err
	})
}

func (e erasure) forget(ctx context.Context, tx pgx.Tx, id int64) (rows, events int64, err error) {
	var one int
	if err := tx.QueryRow(ctx, e.lock, id).Scan(&one); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, 0, fmt.Errorf("lock it: %w", err)
	}
	deleted, err := tx.Exec(ctx, e.delete, id)
	if err != nil {
		return 0, 0, fmt.Errorf("delete it: %w", err)
	}
	// Answers that are kept for Idempotency-Keys go with their user; those of a chat are found by what they say.
	if e.what == "chat" {
		if _, err := tx.Exec(ctx, `DELETE FROM idempotency_keys WHERE answer->>'chatId' = $1::bigint::text`, id); err != nil {
			return 0, 0, fmt.Errorf("forget kept answers: %w", err)
		}
	}
	// A touch is heard by no client, and the counters of chats need no content: a replay passes over the blank rows.
	// Rights (user, chats) and endings (chat:deleted) carry ids alone, and others still depend on them.
	blanked, err := tx.Exec(ctx, `UPDATE event_log SET kind = 'touch', event = NULL, payload = NULL, user_id = NULL, audience = NULL
		WHERE `+e.log+` AND kind IN ('event', 'custom') AND event IS DISTINCT FROM 'chat:deleted' AND txid <> pg_current_xact_id()`, id)
	if err != nil {
		return 0, 0, fmt.Errorf("blank the event log: %w", err)
	}
	// The nodes keep the latest events in memory for clients that come back.
	_, err = tx.Exec(ctx, `WITH told AS (INSERT INTO event_log (id, slot, kind)
		VALUES (roombell.base() + nextval('event_log_seq'), roombell.slot(), 'forget') RETURNING id) SELECT roombell.wake() FROM told`)
	if err != nil {
		return 0, 0, fmt.Errorf("have the nodes forget it: %w", err)
	}
	return deleted.RowsAffected(), blanked.RowsAffected(), nil
}
