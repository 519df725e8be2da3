package realtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"roombell/internal/eventlog"
)

// Why a Feed ends, or does not begin. Other errors mean that the log or the rights could not be asked: come back with the last cursor.
var (
	// ErrStopping says that this node lets everybody go.
	ErrStopping = errors.New("the server stops")
	// ErrTooManyFeeds says that the user has as many open as sockets are allowed to him.
	ErrTooManyFeeds = errors.New("too many streams of one user")
	// ErrLost says that the listener may not listen any more; Listener.Check's error is wrapped beside it.
	ErrLost = errors.New("access was lost")
)

// liveFor is how long after the batch an event may be told as it was addressed. Later, rights are asked for, as for a client that comes back.
const liveFor = 400 * time.Millisecond

// Listener is who hears the log without a socket, by HTTP.
type Listener struct {
	UserID, OrganizationID int64
	Admin                  bool
	// Wants says which events; nil: all. Words of ours (sync:…, connected) come in any case.
	Wants func(name string, chatID int64) bool
	// Check asks again who he is; an error ends the feed. Of a Feed alone, which needs it.
	Check func(ctx context.Context) (admin bool, err error)
}

// Line is an event as a listener is told it.
type Line struct {
	Name   string
	Data   []byte // the payload, as on a socket
	Cursor string // the position after it; empty: it moves nobody
	Custom bool   // Name is a user's word: notify_user, broadcast_to_organization
}

// Feed tells a listener what a socket that came with the same cursor would be told of the log: connected, what was missed, sync:complete,
// then live events, and sync:reset and sync:cursor in their place. It keeps nothing of what it has to tell but its position: who reads
// slowly is told from the history's memory, or from the log. Its methods but Close are for one goroutine.
type Feed struct {
	s     *Server
	r     resume
	wants func(string, int64) bool
	check func(context.Context) (bool, error)
	wake  chan struct{}

	first   []Line    // to be told before anything else
	telling bool      // r.missed is on its way
	heard   time.Time // when what is on its way was heard by the node; zero: before the feed began
	owes    bool      // sync:cursor
	era     int       // of place, when the telling began

	// feeds.mu guards what follows.
	place struct {
		at, to eventlog.Cursor // told up to; heard by the node up to
		news   time.Time       // the first that there is to tell behind what is being told; zero: nothing
		busy   bool
		era    int // counts resets
	}
	asked  feedNews
	closed bool
}

// feedNews is what a feed is to do beside events.
type feedNews struct {
	doubt    bool
	position bool
	resets   []Line
	err      error
}

// feeds are those that are open on this node.
type feeds struct {
	mu      sync.Mutex
	open    map[*Feed]struct{}
	users   map[int64]int
	stopped bool

	count prometheus.Gauge
	lines prometheus.Counter
	ended *prometheus.CounterVec
}

func newFeeds(r prometheus.Registerer) *feeds {
	f := &feeds{
		open: map[*Feed]struct{}{}, users: map[int64]int{},
		count: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "roombell_realtime_streams", Help: "Event streams that are open.",
		}),
		lines: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "roombell_realtime_stream_events_total", Help: "Events of the log handed to an event stream.",
		}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "roombell_realtime_streams_cut_total",
			Help: "Event streams that we ended: lost (access), slow, stopping, unavailable (the log or the rights could not be asked).",
		}, []string{"reason"}),
	}
	if r != nil {
		r.MustRegister(f.count, f.lines, f.ended)
	}
	return f
}

// Feed begins one. The cursor is the client's word, empty for from now on. Close it.
func (s *Server) Feed(ctx context.Context, l Listener, cursor string) (*Feed, error) {
	f := &Feed{s: s, wants: l.Wants, check: l.Check, wake: make(chan struct{}, 1)}
	f.r.ear = ear{user: l.UserID, organization: l.OrganizationID, admin: l.Admin, outside: true}
	if err := s.feeds.reserve(f, s.o.MaxSocketsPerUser); err != nil {
		return nil, err
	}
	if err := f.begin(ctx, cursor); err != nil {
		f.Close(false)
		return nil, err
	}
	return f, nil
}

// begin attaches the feed between two batches, and finds out whether it can be told what it missed.
func (f *Feed) begin(ctx context.Context, cursor string) error {
	at, err := f.s.position(ctx, func(at eventlog.Cursor) { f.s.feeds.attach(f, at) })
	if err != nil {
		return err
	}
	said := connectedEvent{
		Message: "Connected to Roombell", UserID: f.r.user, OrganizationID: f.r.organization, Timestamp: timestamp(time.Now()), Cursor: at.String(),
	}
	if cursor != "" {
		if len(cursor) <= maxCursor {
			f.r.brought = cursor
		}
		f.r.to, f.r.began = at, time.Now()
		if err := f.s.plan(ctx, &f.r); err != nil {
			return err
		}
		said.Cursor, said.Resumed = f.r.brought, f.r.resumed
		f.telling = f.r.resumed
	}
	f.first = append(f.first, Line{Name: "connected", Data: body(said), Cursor: said.Cursor})
	if f.r.reset != "" {
		f.first = append(f.first, resetLine(f.r.reset, f.r.start.String()))
	}
	if f.telling {
		return f.s.ask(ctx, &f.r, 0)
	}
	return nil
}

func resetLine(reason, cursor string) Line {
	return Line{Name: "sync:reset", Data: body(resetEvent{Reason: reason, Cursor: cursor}), Cursor: cursor}
}

// position is where the tail stands, by a read that began after the call. attached is called there, between two batches.
func (s *Server) position(ctx context.Context, attached func(eventlog.Cursor)) (eventlog.Cursor, error) {
	type place struct {
		at  eventlog.Cursor
		err error
	}
	placed := make(chan place, 1)
	s.attaches.join(func(at eventlog.Cursor, err error) {
		defer s.rescue("attach")
		if err == nil && attached != nil {
			attached(at)
		}
		placed <- place{at, err}
	})
	select {
	case p := <-placed:
		return p.at, p.err
	case <-ctx.Done():
		return eventlog.Cursor{}, ctx.Err()
	}
}

// Close lets go of the feed. cut says that its client was given up because it does not read.
func (f *Feed) Close(cut bool) {
	if cut {
		f.s.feeds.ended.WithLabelValues("slow").Inc()
	}
	f.s.feeds.release(f)
}

// Next returns what comes next, and nothing when nothing came in the time. After an error there is nothing more: ErrStopping, ErrLost, ctx's,
// or one that says what could not be asked.
func (f *Feed) Next(ctx context.Context, patience time.Duration) ([]Line, error) {
	enough := time.NewTimer(patience)
	defer enough.Stop()
	for {
		lines, wait, err := f.step(ctx)
		if err != nil && ctx.Err() == nil {
			f.s.feeds.note(err)
		}
		if err != nil || len(lines) > 0 {
			return lines, err
		}
		if !wait {
			continue
		}
		select {
		case <-f.wake:
		case <-enough.C:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// step does the next thing that there is to do.
func (f *Feed) step(ctx context.Context) (lines []Line, wait bool, err error) {
	news := f.s.feeds.take(f)
	if news.err != nil {
		return nil, false, news.err
	}
	if news.doubt {
		if err := f.recheck(ctx); err != nil {
			return nil, false, err
		}
	}
	if len(news.resets) > 0 {
		f.telling, f.r.missed = false, nil
	}
	if lines = append(f.first, news.resets...); len(lines) > 0 {
		f.first = nil
		return lines, false, nil
	}
	f.owes = f.owes || news.position
	if f.telling {
		lines, err = f.part(ctx)
		return lines, false, err
	}
	if f.next() {
		return nil, false, f.look(ctx)
	}
	if f.owes {
		f.owes = false
		return []Line{f.positionLine()}, false, nil
	}
	return nil, true, nil
}

// look has what was heard meanwhile at hand.
func (f *Feed) look(ctx context.Context) (err error) {
	f.r.missed, err = f.s.o.History.Missed(ctx, eventlog.Question{From: f.r.from, To: f.r.to, OrganizationID: f.r.organization, UserID: f.r.user})
	if err == nil && f.r.missed.Failover {
		err = eventlog.ErrMoved // what was told may not exist: let him come back with his cursor
	}
	f.telling = true
	return err
}

// recheck asks whether he may listen still. What cannot be found out in time ends the feed: who comes back is asked from the start.
func (f *Feed) recheck(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, f.s.o.timing.recheck)
	defer cancel()
	admin, err := f.check(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	f.r.admin, f.r.rights = admin, nil
	return nil
}

// next takes up what was heard meanwhile.
func (f *Feed) next() bool {
	all := f.s.feeds
	all.mu.Lock()
	defer all.mu.Unlock()
	p := &f.place
	if p.news.IsZero() {
		return false
	}
	f.r.from, f.r.to, f.heard, f.era = p.at, p.to, p.news, p.era
	p.news, p.busy = time.Time{}, true
	return true
}

// part returns the next part of what is on its way, which may have nothing for this listener.
func (f *Feed) part(ctx context.Context) ([]Line, error) {
	batch, err := f.r.missed.Next(ctx)
	if err != nil {
		return nil, err
	}
	if batch == nil {
		return f.arrive(), nil
	}
	live := !f.heard.IsZero() && time.Since(f.heard) < liveFor
	if !live {
		if err := f.s.askRights(ctx, &f.r.ear, chatsOf(batch.Events)); err != nil {
			return nil, err
		}
	}
	lines := f.s.lines(&f.r.ear, batch, live, f.wants)
	f.r.told += len(lines)
	f.s.feeds.lines.Add(float64(len(lines)))
	return lines, nil
}

// arrive notes that all up to r.to was told.
func (f *Feed) arrive() []Line {
	f.telling, f.r.missed = false, nil
	all := f.s.feeds
	all.mu.Lock()
	if p := &f.place; p.busy && f.era == p.era {
		p.at, p.busy = f.r.to, false
	}
	all.mu.Unlock()
	if !f.heard.IsZero() {
		return nil
	}
	cursor := f.r.to.String()
	return []Line{{Name: "sync:complete", Data: body(completeEvent{Replayed: f.r.told, Cursor: cursor}), Cursor: cursor}}
}

func (f *Feed) positionLine() Line {
	f.s.feeds.mu.Lock()
	defer f.s.feeds.mu.Unlock()
	cursor := f.place.at.String()
	return Line{Name: "sync:cursor", Data: body(cursorEvent{cursor}), Cursor: cursor}
}

// lines are what the listener hears of a batch: as it was addressed while it is live, else by today's rights, which were asked for.
func (s *Server) lines(r *ear, batch *eventlog.Batch, live bool, wants func(string, int64) bool) []Line {
	var lines []Line
	for i := range batch.Events {
		e := &batch.Events[i]
		if live && !r.addressed(e) || !live && (!r.mayHear(e) || !r.restrain(e)) {
			continue
		}
		if e.Kind == eventlog.KindTruncate {
			lines = append(lines, resetLine(resetTruncate, batch.Cursor(i)))
			continue
		}
		if wants != nil && !wants(e.Name, e.ChatID) {
			continue
		}
		if data := s.wireEvent(nil, batch, i); data != nil {
			lines = append(lines, Line{Name: e.Name, Data: data, Cursor: batch.Cursor(i), Custom: e.Kind == eventlog.KindCustom})
		}
	}
	return lines
}

// addressed says whether a socket of the user would be in one of the event's rooms.
func (r *ear) addressed(e *eventlog.Event) bool {
	switch {
	case e.Kind == eventlog.KindTruncate:
		return true
	case e.UserID != 0:
		return e.UserID == r.user && e.OrganizationID == r.organization
	case e.Audience != nil:
		return slices.Contains(e.Audience, r.user)
	}
	return e.OrganizationID == r.organization
}

func (a *feeds) reserve(f *Feed, most int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.stopped:
		return ErrStopping
	case most > 0 && a.users[f.r.user] >= most:
		return ErrTooManyFeeds
	}
	a.users[f.r.user]++
	a.open[f] = struct{}{}
	a.count.Inc()
	return nil
}

func (a *feeds) attach(f *Feed, at eventlog.Cursor) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f.place.at, f.place.to = at, at
	f.asked.doubt = true // of what changed after he was let in
}

func (a *feeds) release(f *Feed) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if f.closed {
		return
	}
	f.closed = true
	delete(a.open, f)
	if a.users[f.r.user]--; a.users[f.r.user] == 0 {
		delete(a.users, f.r.user)
	}
	a.count.Dec()
}

func (a *feeds) take(f *Feed) feedNews {
	a.mu.Lock()
	defer a.mu.Unlock()
	news := f.asked
	f.asked = feedNews{err: news.err}
	return news
}

// note notes why a feed ended.
func (a *feeds) note(err error) {
	switch {
	case errors.Is(err, ErrLost):
		a.ended.WithLabelValues("lost").Inc()
	case errors.Is(err, ErrStopping):
		a.ended.WithLabelValues("stopping").Inc()
	default:
		a.ended.WithLabelValues("unavailable").Inc()
	}
}

// each calls fn with every feed under the lock.
func (a *feeds) each(fn func(f *Feed)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for f := range a.open {
		fn(f)
	}
}

func (f *Feed) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// publish notes how far the node has heard, and wakes those for whom there is something. It does not block.
func (a *feeds) publish(b *eventlog.Batch) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.open) == 0 {
		return
	}
	now, end := time.Now(), b.End()
	organizations, users := concerned(b)
	for f := range a.open {
		p := &f.place
		if p.to.IsZero() {
			continue // not attached yet
		}
		p.to = end
		if users[f.r.user] {
			f.asked.doubt = true
			f.poke()
		}
		switch {
		case organizations[f.r.organization] || organizations[0]:
			if p.news.IsZero() {
				p.news = now
			}
			f.poke()
		case p.news.IsZero() && !p.busy:
			p.at = end // the history's memory need not reach back to where a quiet one stood
		}
	}
}

// concerned returns whose clients hear something of the batch, and whose rights may have changed.
func concerned(b *eventlog.Batch) (organizations, users map[int64]bool) {
	organizations, users = map[int64]bool{}, map[int64]bool{}
	for i := range b.Events {
		switch e := &b.Events[i]; e.Kind {
		case eventlog.KindEvent, eventlog.KindCustom, eventlog.KindTruncate:
			organizations[e.OrganizationID] = true
		case eventlog.KindUser:
			users[e.UserID] = true
		}
	}
	return organizations, users
}

// reset has every feed go on from at: what was before cannot be told by events.
func (a *feeds) reset(reason string, at eventlog.Cursor) {
	line := resetLine(reason, at.String())
	a.each(func(f *Feed) {
		p := &f.place
		if p.to.IsZero() {
			return
		}
		p.at, p.to, p.news, p.busy = at, at, time.Time{}, false
		p.era++
		f.asked.doubt = true
		f.asked.resets = append(f.asked.resets, line)
		f.poke()
	})
}

// freshen has every feed tell its position.
func (a *feeds) freshen() {
	a.each(func(f *Feed) {
		f.asked.position = true
		f.poke()
	})
}

// stop ends all feeds, and lets none begin.
func (a *feeds) stop() {
	a.mu.Lock()
	a.stopped = true
	a.mu.Unlock()
	a.each(func(f *Feed) {
		f.asked.err = ErrStopping
		f.poke()
	})
}
