package db

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
)

// txTries is how often InTx runs its function at most.
const txTries = 5

// Beginner starts transactions: a pool, a connection, or a transaction (then savepoints).
type Beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// InTx runs f in a transaction and commits it when f returns nil. When Postgres gave the transaction up in favour of another one (serialization
// failure, deadlock) f runs again, five times at most, so f must have no effect outside tx. f's own error comes back as it is, after a rollback.
func InTx(ctx context.Context, b Beginner, f func(tx pgx.Tx) error) error {
	for try := 1; ; try++ {
		err := inTxOnce(ctx, b, f)
		if err == nil || !IsRetryable(err) || try == txTries {
			return err
		}
		if pause(ctx, backoff(try, 10*time.Millisecond, 200*time.Millisecond)) != nil {
			return err
		}
	}
}

func inTxOnce(ctx context.Context, b Beginner, f func(tx pgx.Tx) error) (err error) {
	tx, err := b.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	// Also after a panic in f, so that the connection does not go back with a transaction in it. Nothing happens after a commit.
	defer func() {
		rollback := tx.Rollback(context.WithoutCancel(ctx))
		if err != nil && rollback != nil && !errors.Is(rollback, pgx.ErrTxClosed) {
			err = errors.Join(err, fmt.Errorf("roll back: %w", rollback))
		}
	}()
	if err := f(tx); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// backoff doubles from low to high with the tries (the first is 1) and takes a random part of it, so that two who collided do not meet again.
func backoff(try int, low, high time.Duration) time.Duration {
	d := high
	if shift := try - 1; shift < 20 {
		d = min(high, low<<shift)
	}
	return d/2 + rand.N(d/2+1)
}

// pause waits, or returns ctx's error when that ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
