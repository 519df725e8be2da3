package inbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/time/rate"
)

// ErrNoDemo says that there are no demo chats to write to.
var ErrNoDemo = errors.New("the database has no demo chats")

// trafficOutbox is how many messages are on their way to the customer at most.
const trafficOutbox = 50

// Traffic writes demo messages to the demo organizations, and to nothing else, until ctx ends; then it returns nil. perSecond counts new messages:
// two of three come from customers, the others are answers whose status goes on to read; operators read now and then. An error of the
// database is logged once and waited for. ErrNoDemo when there is nowhere to write.
func Traffic(ctx context.Context, pool *pgxpool.Pool, perSecond float64, log *slog.Logger) error {
	if perSecond <= 0 {
		return nil
	}
	t := &traffic{pool: pool}
	limit := rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond/10)))
	var wait outage
	for limit.Wait(ctx) == nil {
		if wait.waiting() {
			continue
		}
		err := t.write(ctx)
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, ErrNoDemo) {
			return err
		}
		wait.note(log, "demo messages", err)
	}
	return nil
}

type traffic struct {
	pool   *pgxpool.Pool
	chats  []trafficChat
	looked time.Time
	outbox []int64 // answers that are not read by the customer yet
}

type trafficChat struct {
	ID        int64
	ChannelID *int64
	Operators []int64
}

// write writes one message, and takes an answer and a read mark one step on.
func (t *traffic) write(ctx context.Context) error {
	if err := t.look(ctx); err != nil {
		return err
	}
	if err := t.deliver(ctx); err != nil {
		return err
	}
	chat := t.chats[rand.IntN(len(t.chats))]
	switch {
	case rand.IntN(3) > 0 || len(chat.Operators) == 0:
		return t.receive(ctx, chat)
	case len(t.outbox) < trafficOutbox:
		return t.answer(ctx, chat)
	}
	return t.receive(ctx, chat)
}

// look reads the demo chats again every few seconds: they may be deleted, and others made, at any time.
func (t *traffic) look(ctx context.Context) error {
	if time.Since(t.looked) < 5*time.Second {
		return nil
	}
	there, err := hasDemoMark(ctx, t.pool)
	if err != nil {
		return fmt.Errorf("look for demo data: %w", err)
	}
	if !there {
		return ErrNoDemo
	}
	rows, err := t.pool.Query(ctx, `SELECT c.id, c.channel_id, ARRAY(SELECT u.id FROM users u WHERE u.organization_id = c.organization_id AND u.active)
		FROM roombell.demo d JOIN chats c ON c.organization_id = d.organization_id LEFT JOIN channels h ON h.id = c.channel_id
		WHERE coalesce(h.provider, 'none') = 'none' ORDER BY c.id LIMIT 1000`)
	if err != nil {
		return fmt.Errorf("read demo chats: %w", err)
	}
	if t.chats, err = pgx.CollectRows(rows, pgx.RowToStructByPos[trafficChat]); err != nil {
		return fmt.Errorf("read demo chats: %w", err)
	}
	if len(t.chats) == 0 {
		return ErrNoDemo
	}
	t.looked = time.Now()
	return nil
}

func (t *traffic) receive(ctx context.Context, c trafficChat) error {
	// From the chat, so that one that was deleted since the last look is no error.
	_, err := t.pool.Exec(ctx, "INSERT INTO messages (chat_id, channel_id, content) SELECT id, channel_id, $2 FROM chats WHERE id = $1",
		c.ID, questions[rand.IntN(len(questions))])
	if err != nil {
		return fmt.Errorf("write a demo message: %w", err)
	}
	return nil
}

// answer reads what the customer wrote and answers it, as an operator does.
func (t *traffic) answer(ctx context.Context, c trafficChat) error {
	operator := c.Operators[rand.IntN(len(c.Operators))]
	var id int64
	err := pgx.BeginFunc(ctx, t.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT set_config('roombell.actor', $1, true)", fmt.Sprint(operator)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "UPDATE messages SET is_read_by_operator = true WHERE chat_id = $1 AND NOT from_me AND NOT is_read_by_operator", c.ID)
		if err != nil {
			return err
		}
		return tx.QueryRow(ctx, `INSERT INTO messages (chat_id, channel_id, from_me, sender_user_id, status, content)
			SELECT c.id, c.channel_id, true, u.id, 'pending', $3 FROM chats c JOIN users u ON u.organization_id = c.organization_id
			WHERE c.id = $1 AND u.id = $2 RETURNING id`, c.ID, operator, answers[rand.IntN(len(answers))]).Scan(&id)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // chat or operator is gone
	}
	if err != nil {
		return fmt.Errorf("write a demo answer: %w", err)
	}
	t.outbox = append(t.outbox, id)
	return nil
}

// deliver takes one answer one step on, and most of the time the oldest.
func (t *traffic) deliver(ctx context.Context) error {
	if len(t.outbox) == 0 {
		return nil
	}
	i := rand.IntN(min(3, len(t.outbox)))
	var status string
	err := t.pool.QueryRow(ctx, `UPDATE messages SET status = CASE status WHEN 'pending' THEN 'sending' WHEN 'sending' THEN 'sent'
		WHEN 'sent' THEN 'delivered' ELSE 'read' END WHERE id = $1 RETURNING status`, t.outbox[i]).Scan(&status)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("write a demo status: %w", err)
	}
	if err != nil || status == "read" || status == "failed" {
		t.outbox = append(t.outbox[:i], t.outbox[i+1:]...)
	}
	return nil
}

var questions = []string{
	"Hello, is anybody there?",
	"When will my order arrive?",
	"Can I change the delivery address?",
	"The second item was broken, what now?",
	"Do you have it in blue?",
	"Thanks, that was quick!",
	"I did not get the invoice.",
	"Could you call me back this afternoon?",
	"Is the offer still valid?",
	"🙏",
}

var answers = []string{
	"Good morning! How can I help?",
	"Let me check that for you.",
	"It left our warehouse this morning.",
	"Of course, I have changed it.",
	"I am sorry about that. A new one is on its way.",
	"You will have the invoice within the hour.",
	"Anything else that I can do?",
}
