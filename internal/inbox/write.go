package inbox

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"

	"roombell/db"
)

// as runs f in a transaction of its own in which the viewer is roombell.actor: events name him as changedByUserId and readByUserId. It
// commits when f returns nil. f may run several times (db.InTx), so that what it hands out it sets anew each time.
func (i *Inbox) as(ctx context.Context, v Viewer, f func(tx pgx.Tx, q *db.Queries) error) error {
	return db.InTx(ctx, i.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT set_config('roombell.actor', $1, true)", strconv.FormatInt(v.ID, 10)); err != nil {
			return fmt.Errorf("say who acts: %w", err)
		}
		return f(tx, i.queries.WithTx(tx))
	})
}
