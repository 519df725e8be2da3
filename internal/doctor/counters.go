package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"roombell/db"
)

const (
	comparePage = 1000 // chats
	driftedMost = 1000
	behindPage  = 1000 // events
	behindMost  = 10_000

	recompute = `UPDATE chats c SET unread_count = f.unread, last_message_at = f.latest FROM (SELECT id, ` +
		`(SELECT count(*) FROM messages m WHERE m.chat_id = t.id AND NOT m.from_me AND NOT m.is_read_by_operator) AS unread, ` +
		`(SELECT max(m.timestamp) FROM messages m WHERE m.chat_id = t.id) AS latest FROM chats t OFFSET 0) f ` +
		`WHERE f.id = c.id AND (c.unread_count <> f.unread OR c.last_message_at IS DISTINCT FROM f.latest)`
)

// byIndex keeps statistics from before a bulk write from having all messages read for each chat.
const byIndex = `SELECT set_config('enable_seqscan', 'off', true)`

// projector asks how far the counters' position is behind the log.
func (d *Doctor) projector(ctx context.Context) ([]Finding, error) {
	var stored *string
	if err := d.ask(ctx, `SELECT projected FROM event_log_state`, nil, &stored); err != nil {
		return nil, err
	}
	if stored == nil || !d.ownLog {
		return []Finding{{
			Code: "projector_has_no_position", Level: Note, Title: "the counters of chats have no position in the log",
			Meaning: "The next node that takes them over compares all chats with their messages first.",
		}}, nil
	}
	// As inbox writes it.
	var position struct{ Cursor string }
	if err := json.Unmarshal([]byte(*stored), &position); err != nil {
		return nil, errors.New("the position of the counters cannot be read")
	}
	seen, err := d.o.Position(position.Cursor)
	if err != nil {
		return nil, fmt.Errorf("the position of the counters cannot be read: %w", err)
	}
	unseen, age, err := d.unseen(ctx, seen)
	if err != nil {
		return nil, err
	}
	return []Finding{d.judgeProjector(unseen, age)}, nil
}

func (d *Doctor) judgeProjector(unseen int, age time.Duration) Finding {
	if unseen == 0 || age < d.limits.behind {
		return Finding{Code: "projector_ok", Title: "the counters of chats have seen the log up to its end"}
	}
	number := strconv.Itoa(unseen)
	if unseen >= behindMost {
		number += " or more"
	}
	f := Finding{
		Code: "projector_behind", Level: Warning, Title: fmt.Sprintf("the counters of chats are %s behind (%s events)", span(age), number),
		Meaning: "unread_count and last_message_at of the chats in them may be old.",
		Remedy:  "See the log of the node that rings and roombell_inbox_counter_lag_seconds: the database is slow, or somebody holds the chats.",
	}
	if d.listening == 0 {
		f.Code, f.Level, f.Remedy, f.Command = "projector_waits", Note, "They are made good when a service runs:", "roombell serve"
	}
	return f
}

// logged is an event as positions see it.
type logged struct {
	ID   int64
	TxID string
	Age  float64
}

// unseen counts the newest events that a position has not seen, and tells the age of the oldest.
func (d *Doctor) unseen(ctx context.Context, seen func(int64, uint64) bool) (n int, oldest time.Duration, err error) {
	for below := int64(math.MaxInt64); n < behindMost; {
		page, err := collect[logged](ctx, d, `SELECT id, txid::text, extract(epoch FROM clock_timestamp() - created_at)::float8
			FROM event_log WHERE id < $1 ORDER BY id DESC LIMIT $2`, below, behindPage)
		if err != nil {
			return 0, 0, err
		}
		before := n
		for _, e := range page {
			txid, err := strconv.ParseUint(e.TxID, 10, 64)
			if err != nil {
				return 0, 0, err
			}
			if !seen(e.ID, txid) {
				n, oldest = n+1, max(oldest, seconds(e.Age))
			}
			below = e.ID
		}
		if n == before || len(page) < behindPage {
			break
		}
	}
	return n, oldest, nil
}

// counters compares chats with their messages, as many as the time allows.
func (d *Doctor) counters(ctx context.Context) ([]Finding, error) {
	compared, whole, drifted, err := d.compare(ctx)
	if err != nil {
		return nil, err
	}
	wrong, err := d.settled(ctx, drifted)
	if err != nil {
		return nil, err
	}
	scope := fmt.Sprintf("of %s compared", count(compared, "chat", "chats"))
	if !whole {
		scope += ", a part of all"
	}
	if len(wrong) == 0 {
		return []Finding{{Code: "counters_ok", Title: "unread_count and last_message_at are right: none " + scope + " differs"}}, nil
	}
	var ids []string
	for _, id := range wrong {
		ids = append(ids, strconv.FormatInt(id, 10))
	}
	f := Finding{
		Code: "counters_wrong", Level: Warning, Title: fmt.Sprintf("unread_count or last_message_at is wrong for %s %s: chat %s", count(len(wrong), "chat", "chats"), scope, list(ids)),
		Meaning: "They are kept within a second of a write. These were missed, or were changed by somebody else.",
		Remedy:  "Compute them anew; clients hear chat:updated:", Command: psql(recompute),
	}
	if d.listening == 0 {
		f.Code, f.Level, f.Meaning = "counters_wait", Note, "Nobody keeps them while no service runs."
		f.Remedy, f.Command = "They are made good when one does:", "roombell serve"
	}
	return []Finding{f}, nil
}

// compare goes through the chats from a place that chance chooses, so that a part is not always the same.
func (d *Doctor) compare(ctx context.Context) (compared int, whole bool, drifted []int64, err error) {
	var last int64
	if err := d.ask(ctx, `SELECT coalesce(max(id), 0) FROM chats`, nil, &last); err != nil || last == 0 {
		return 0, true, nil, err
	}
	first := rand.Int64N(last)
	deadline := time.Now().Add(d.limits.compare)
	after, wrapped := first, false
	for time.Now().Before(deadline) && len(drifted) < driftedMost {
		until := int64(math.MaxInt64)
		if wrapped {
			until = first
		}
		page, size, err := d.comparePage(ctx, after, until)
		if err != nil {
			return compared, false, drifted, err
		}
		drifted = append(drifted, page.Drifted...)
		if compared += size; page.LastID == 0 && !wrapped {
			after, wrapped = 0, true
			continue
		}
		if after = page.LastID; page.LastID == 0 || page.LastID >= until {
			return compared, true, drifted, nil
		}
	}
	return compared, false, drifted, nil
}

func (d *Doctor) comparePage(ctx context.Context, after, until int64) (page db.FindDriftedChatsRow, size int, err error) {
	err = d.look(ctx, func(tx pgx.Tx) error {
		if _, err = tx.Exec(ctx, byIndex); err != nil {
			return err
		}
		if page, err = db.New(tx).FindDriftedChats(ctx, after, comparePage); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT count(*) FROM chats WHERE id > $1 AND id <= least($2::bigint, $3)`, after, page.LastID, until).Scan(&size)
	})
	return page, size, err
}

// settled are those of the chats that are wrong, and were left so for longer than a write takes to be counted.
func (d *Doctor) settled(ctx context.Context, chats []int64) ([]int64, error) {
	before, err := d.differing(ctx, chats)
	if err != nil || len(before) == 0 {
		return nil, err
	}
	if err := pause(ctx, d.limits.settle); err != nil {
		return nil, err
	}
	after, err := d.differing(ctx, chats)
	var wrong []int64
	for id, figures := range after {
		// One that was written meanwhile is being kept, and was touched again.
		if was, ok := before[id]; ok && was == figures {
			wrong = append(wrong, id)
		}
	}
	slices.Sort(wrong)
	return wrong, err
}

// differing are the figures of those of the chats that are not what their messages say.
func (d *Doctor) differing(ctx context.Context, chats []int64) (map[int64]string, error) {
	if len(chats) == 0 {
		return nil, nil
	}
	figures := map[int64]string{}
	err := d.look(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, byIndex); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT c.id, c.unread_count, coalesce(c.last_message_at::text, '') FROM chats c WHERE c.id = ANY($1) AND (
			c.unread_count <> (SELECT count(*) FROM messages m WHERE m.chat_id = c.id AND NOT m.from_me AND NOT m.is_read_by_operator)
			OR c.last_message_at IS DISTINCT FROM (SELECT max(m.timestamp) FROM messages m WHERE m.chat_id = c.id))`, chats)
		if err != nil {
			return err
		}
		var id int64
		var unread int32
		var latest string
		_, err = pgx.ForEachRow(rows, []any{&id, &unread, &latest}, func() error {
			figures[id] = fmt.Sprint(unread, " ", latest)
			return nil
		})
		return err
	})
	return figures, err
}
