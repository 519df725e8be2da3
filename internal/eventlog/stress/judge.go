package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// logged is what the log says of an event: whom it is for.
type logged struct {
	id                       int64
	organization, chat, user int64 // 0: none
	audience                 []int64
	restricted               bool   // audience says who hears it
	heard                    bool   // clients hear of its kind at all
	at                       string // transaction and time
}

// eachEvent reads the log of this run.
func (w *world) eachEvent(ctx context.Context, conn *pgx.Conn, f func(logged)) error {
	rows, err := conn.Query(ctx, `
		SELECT id, coalesce(organization_id, 0), coalesce(chat_id, 0), coalesce(user_id, 0), audience, audience IS NOT NULL, kind IN ('event', 'custom'), txid || ' ' || created_at
		FROM event_log WHERE id > $1`, w.base)
	if err != nil {
		return fmt.Errorf("read the truth: %w", err)
	}
	var e logged
	_, err = pgx.ForEachRow(rows, []any{&e.id, &e.organization, &e.chat, &e.user, &e.audience, &e.restricted, &e.heard, &e.at}, func() error {
		f(e)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the truth: %w", err)
	}
	return nil
}

// isFor tells whether the log addresses the event to the person.
func (e logged) isFor(p *person) bool {
	switch {
	case !e.heard || e.organization != p.organization:
		return false
	case e.user != 0:
		return e.user == p.id
	case e.restricted:
		return slices.Contains(e.audience, p.id)
	}
	return true
}

// verdict is how somebody's hearing compares with the log.
type verdict struct {
	name                            string
	heard                           int
	lost, dup, order, leak, phantom int
	phantoms                        []int64  // some of the ids that were heard and are not in the log
	missing                         []logged // some of those that were lost
	unjust                          int      // resets without a reason
	silence                         int      // events that a promotion has lost, and he was not told
	resets                          map[string]int
	complaints                      []string
}

// compare reads the log and says how each hearing differs from it. events is how many there are.
func (w *world) compare(ctx context.Context) (verdicts []verdict, events int, err error) {
	all := w.hearings()
	verdicts = make([]verdict, len(all))
	exists := &idset{}
	err = w.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		return w.eachEvent(ctx, conn.Conn(), func(e logged) {
			exists.add(e.id)
			for i, h := range all {
				w.weigh(&verdicts[i], h, w.listener(i), e)
			}
		})
	})
	for i, h := range all {
		h.conclude(&verdicts[i], exists)
	}
	return verdicts, exists.n, err
}

// listener is the person of a hearing, nil for a tail.
func (w *world) listener(i int) *person {
	if i -= len(w.tails); i >= 0 {
		return w.clients[i].who
	}
	return nil
}

// weigh compares one event of the log.
func (w *world) weigh(v *verdict, h *hearing, p *person, e logged) {
	due := p == nil || e.isFor(p)
	heard := h.has(e.id)
	switch {
	case due && !heard:
		v.lost++
		v.missing = append(v.missing[:min(10, len(v.missing))], e)
	case heard && !due, heard && p != nil && !w.sees(p, e.chat):
		v.leak++
	}
}

// conclude adds what was noted on the way.
func (h *hearing) conclude(v *verdict, exists *idset) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v.name, v.heard, v.dup, v.order, v.unjust, v.silence = h.name, h.heard.n, h.dup, h.order, h.unjust, h.owed
	v.phantoms, v.phantom = h.heard.without(exists, 3)
	v.resets, v.complaints = h.resets, h.complaints
}
