package inbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"roombell/db"
)

// ErrKeyInUse says that a request with the same idempotency key is being answered just now.
var ErrKeyInUse = errors.New("a request with this idempotency key is still running")

// Kept answers are removed by whoever comes by with a key: every sweepEach-th of a process takes the oldest sweepMost along, so that they go faster
// than they come, and no request pays for a long pause.
const (
	sweepEach = 64
	sweepMost = 256
)

// onceTries is how often a write by key is begun at most: again when an answer came between the look and the write, or was too old.
const onceTries = 3

// Once makes a write happen once however often it is asked for. Keys belong to organization and user, for 24 hours; a try that was rolled back
// leaves nothing. The zero value is for a write that happens each time.
type Once struct {
	Key     string
	Request []byte // a hash of what is asked for, and where: the key with another one is refused
	Status  int    // of the answer, to be kept with it
}

// remembered is the answer that was kept by this key, for the same request only.
func (o Once) remembered(request []byte, status int32, answer []byte) (s Sent, err error) {
	if !bytes.Equal(request, o.Request) {
		return s, &InvalidError{Code: "idempotency_key_reused", Message: "The idempotency key was used for another request."}
	}
	return sent(status, answer)
}

func sent(status int32, answer []byte) (s Sent, err error) {
	if err := json.Unmarshal(answer, &s.Message); err != nil {
		return s, fmt.Errorf("read a kept answer: %w", err)
	}
	s.Status = int(status)
	return s, nil
}

// lookUp takes the key for the rest of the transaction, and says what was answered by it, if anything was.
func (o Once) lookUp(ctx context.Context, q *db.Queries, v Viewer) (s Sent, found bool, err error) {
	if o.Key == "" {
		return s, false, nil
	}
	ours, err := q.LockIdempotencyKey(ctx, v.OrganizationID, v.ID, o.Key)
	if err != nil {
		return s, false, fmt.Errorf("take an idempotency key: %w", err)
	}
	if !ours {
		return s, false, ErrKeyInUse
	}
	// After the lock, in a statement of its own: its snapshot has what the last holder kept.
	row, err := q.GetIdempotentAnswer(ctx, v.OrganizationID, v.ID, o.Key)
	if db.IsNotFound(err) {
		return s, false, nil
	}
	if err != nil {
		return s, false, fmt.Errorf("look for a kept answer: %w", err)
	}
	s, err = o.remembered(row.Request, row.Status, row.Answer)
	return s, true, err
}

// keep stores the answer in the transaction that made it true.
func (o Once) keep(ctx context.Context, q *db.Queries, v Viewer, m Message) error {
	if o.Key == "" {
		return nil
	}
	answer, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("keep an answer: %w", err)
	}
	if err := q.ForgetIdempotentAnswer(ctx, v.OrganizationID, v.ID, o.Key); err != nil {
		return fmt.Errorf("forget an old answer: %w", err)
	}
	err = q.KeepIdempotentAnswer(ctx, db.KeepIdempotentAnswerParams{OrganizationID: v.OrganizationID, UserID: v.ID, Key: o.Key,
		Request: o.Request, Status: int32(o.Status), Answer: answer})
	if err != nil {
		return fmt.Errorf("keep an answer: %w", err)
	}
	return nil
}

// sweep removes old answers now and then, before the write, so that an error of the database is the request's.
func (i *Inbox) sweep(ctx context.Context, o Once) error {
	if o.Key == "" || i.keyed.Add(1)%sweepEach != 1 {
		return nil
	}
	if err := i.queries.SweepIdempotentAnswers(ctx, sweepMost); err != nil {
		return fmt.Errorf("remove old answers: %w", err)
	}
	return nil
}
