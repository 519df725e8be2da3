package inbox

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"roombell/db"
	"roombell/internal/eventlog"
)

const (
	// savedChats is how many unfinished chats a stored position names at most: with more it is not stored, and the former one stays.
	savedChats = 10_000

	// catchUpLimit is about how many events a new ringer reads, catchUpPage at a time; with more of them comparing all chats is cheaper.
	catchUpLimit = 20_000
	catchUpPage  = 1000

	// pageMost is how many chats one step of a reconcile compares at most, and pageTime what it should take.
	pageMost = 1000
	pageTime = 250 * time.Millisecond

	// readTime bounds what a take-over and a step of a reconcile may take.
	readTime = 30 * time.Second
)

// savedPosition is what event_log_state.projected holds: every chat that was touched at or before the cursor is done, except Chats.
type savedPosition struct {
	Cursor string  `json:"cursor"`
	Chats  []int64 `json:"chats,omitempty"`
}

// reconcile is the comparison of all chats, by id.
type reconcile struct {
	running bool
	after   int64
	page    chunk
	found   int // chats that differed
}

// takeOver finds what the former ringer left undone: by its stored position, or where there is none that can be used by comparing all chats.
func (p *Projector) takeOver(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	p.reconcile = reconcile{}
	text, err := p.queries.LoadProjected(ctx)
	if err != nil && !db.IsNotFound(err) {
		return fmt.Errorf("load the position of counters: %w", err)
	}
	var saved savedPosition
	var from eventlog.Cursor
	if text != nil && json.Unmarshal([]byte(*text), &saved) == nil {
		from, _ = eventlog.ParseCursor(saved.Cursor) // zero when it is none
	}
	if from.IsZero() {
		p.drift()
		return nil
	}
	return p.catchUp(ctx, from, saved.Chats)
}

// catchUp notes what was touched since a position, and the chats that were not done at it.
func (p *Projector) catchUp(ctx context.Context, from eventlog.Cursor, undone []int64) error {
	page := eventlog.Page{End: from, More: true}
	for read := 0; page.More && read < catchUpLimit; read += len(page.Events) {
		var err error
		if page, err = eventlog.Read(ctx, p.pool, page.End, catchUpPage); err != nil {
			return fmt.Errorf("read the log since the position of counters: %w", err)
		}
		p.noteAll(page.Events)
	}
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if page.TooOld || page.More {
		p.drifted = true
	}
	for _, chat := range undone {
		p.touch(chat, now, true)
	}
	// What was published meanwhile is noted already, and is further.
	if p.position.IsZero() {
		p.position = page.End
	}
	return nil
}

func (p *Projector) noteAll(events []eventlog.Event) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range events {
		p.note(&events[i], now)
	}
}

// drift makes the next turns compare all chats.
func (p *Projector) drift() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drifted = true
}

// reconcileStep compares some chats when all are to be compared and not many wait; those that differ are touched. more: another step would
// find work.
func (p *Projector) reconcileStep(ctx context.Context) (more bool, err error) {
	if !p.wantsReconcile() {
		return false, nil
	}
	began, size := time.Now(), p.reconcile.page.size
	page, err := p.compare(ctx, p.reconcile.after, size)
	if err != nil {
		p.reconcile.page.size = 1
		return false, fmt.Errorf("compare chats with their messages: %w", err)
	}
	p.reconcile.page.took(size, time.Since(began))
	if page.LastID == 0 {
		p.reconcile, p.savedAt = reconcile{}, time.Time{} // stored at once: the next ringer need not compare them again
		p.log.Debug("all chats were compared with their messages")
		return false, nil
	}
	p.reconcile.after = page.LastID
	p.reconcile.found += len(page.Drifted)
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, chat := range page.Drifted {
		p.touch(chat, now, true)
	}
	return p.touched.pending < reconcileRoom, nil
}

// compare looks at the next chats after an id.
func (p *Projector) compare(ctx context.Context, after int64, size int) (page db.FindDriftedChatsRow, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	err = pgx.BeginTxFunc(ctx, p.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT "+planGuards); err != nil {
			return err
		}
		page, err = db.New(tx).FindDriftedChats(ctx, after, int32(size))
		return err
	})
	return page, err
}

// wantsReconcile begins one, or begins it again, when events may have been missed.
func (p *Projector) wantsReconcile() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drifted {
		p.drifted = false
		p.reconcile = reconcile{running: true, page: chunk{size: pageMost, most: pageMost, time: pageTime}}
		p.metrics.reconciles.Inc()
	}
	return p.reconcile.running && p.touched.pending < reconcileRoom
}

// save stores the position. While chats are being compared the former one stays: it is the one that is true.
func (p *Projector) save(ctx context.Context) error {
	text, ok := p.saveable()
	if !ok || text == p.saved {
		p.savedAt = time.Now()
		return nil
	}
	n, err := p.queries.StoreProjected(ctx, &text)
	if err != nil {
		return fmt.Errorf("store the position of counters: %w", err)
	}
	if n == 0 {
		p.log.Warn("event_log_state has no row: the position of counters is not kept")
	}
	p.saved, p.savedAt = text, time.Now()
	return nil
}

func (p *Projector) saveable() (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drifted || p.reconcile.running || p.position.IsZero() || p.touched.pending > savedChats {
		return "", false
	}
	// A batch and its chats are noted under one lock, so the list has all that the cursor claims.
	text, err := json.Marshal(savedPosition{Cursor: p.position.String(), Chats: p.touched.list()})
	return string(text), err == nil
}
