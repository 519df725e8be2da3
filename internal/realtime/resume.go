package realtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"roombell/internal/eventlog"
)

// Reasons of sync:reset that are decided here; eventlog has the others.
const resetTooMany = "too_many"

const (
	// planTime bounds the first look at what a client missed. The log may be asked by thousands at once.
	planTime = 30 * time.Second
	// maxCursor is what is given back of a cursor that cannot be read: what eventlog reads at most.
	maxCursor = 2048
	// outlineFactor times the limit is how many events are looked at for those that a client may hear of.
	outlineFactor = 10
	// rightsAtOnce is how many chats one question about rights names.
	rightsAtOnce = 5000
	// rightsAge is how old they may get while a client reads slowly: who loses a chat hears nothing of it after a second.
	rightsAge = 700 * time.Millisecond
	// turns is how many clients are told at once what they missed, turn for how long each counts as one of them.
	turns = 128
	turn  = 500 * time.Millisecond
)

// resume is a client on its way from the position that it brought to the node's. Its own goroutine's, after place.
type resume struct {
	brought string           // the cursor as the client sent it; empty when it was too long to be kept
	reset   string           // the reason of a sync:reset that comes first; empty: none
	resumed bool             // what was missed is told
	from    eventlog.Cursor  // where that begins
	to      eventlog.Cursor  // where it ends: what comes after waits for the client
	start   eventlog.Cursor  // of the sync:reset
	missed  *eventlog.Missed // nil: to be asked for again
	told    int              // events of the replay
	began   time.Time

	ear
}

// ear is who asks, and what is known of his rights: what he may hear of the log.
type ear struct {
	user, organization int64
	admin              bool
	outside            bool // no socket is his: admin is not ours to look up
	rights             []answered
	askedAt            time.Time // the first of rights
}

// answered is what was said of some chats' rights.
type answered struct {
	chats []int64              // ascending
	found map[int64]ChatRights // of those that exist, and of others
}

// plan finds out whether the client can be told what it missed. An error means that this cannot be known now.
func (s *Server) plan(ctx context.Context, r *resume) error {
	ctx, cancel := context.WithTimeout(ctx, planTime)
	defer cancel()
	from, err := eventlog.ParseCursor(r.brought)
	if err == nil && s.o.History != nil {
		err = s.look(ctx, r, from)
	} else {
		err = eventlog.ErrCursor
	}
	r.start = r.to
	switch {
	case errors.Is(err, eventlog.ErrCursor):
		r.reset = eventlog.ResetUnknownCursor
	case errors.Is(err, eventlog.ErrTooOld):
		r.reset = eventlog.ResetRetention
	case errors.Is(err, errTooManyMissed):
		r.reset = resetTooMany
	case err != nil:
		return fmt.Errorf("find what was missed: %w", err)
	default:
		r.resumed = true
		if r.missed.Failover {
			r.reset, r.start = eventlog.ResetFailover, r.missed.Start()
		}
		if r.missed.FromMemory {
			r.missed = nil // thousands may wait for their turn: the memory is asked again then
		}
		return nil
	}
	r.missed = nil
	return nil
}

var errTooManyMissed = errors.New("more was missed than ROOMBELL_RESUME_LIMIT")

// look asks for the events between from and r.to, and for today's rights on their chats, and counts.
func (s *Server) look(ctx context.Context, r *resume, from eventlog.Cursor) error {
	missed, err := s.o.History.Missed(ctx, eventlog.Question{From: from, To: r.to, OrganizationID: r.organization, UserID: r.user})
	if err != nil {
		return err
	}
	r.from, r.missed, r.rights = from, missed, nil
	seen := 0
	err = missed.Each(ctx, func(*eventlog.Event) bool {
		seen++
		return seen <= s.o.ResumeLimit
	})
	if err != nil || seen <= s.o.ResumeLimit {
		return err
	}
	var chats []int64
	err = missed.Each(ctx, func(e *eventlog.Event) bool {
		chats = append(chats, e.ChatID)
		return len(chats) <= outlineFactor*s.o.ResumeLimit
	})
	if err != nil {
		return err
	}
	if len(chats) > outlineFactor*s.o.ResumeLimit {
		return errTooManyMissed
	}
	if err := s.askRights(ctx, &r.ear, chats); err != nil {
		return err
	}
	n := 0
	err = missed.Each(ctx, func(e *eventlog.Event) bool {
		if r.mayHear(e) {
			n++
		}
		return n <= s.o.ResumeLimit
	})
	if err == nil && n > s.o.ResumeLimit {
		err = errTooManyMissed
	}
	return err
}

// askRights asks about chats that were not asked about lately.
func (s *Server) askRights(ctx context.Context, r *ear, chats []int64) error {
	if now := time.Now(); len(r.rights) == 0 || now.Sub(r.askedAt) > rightsAge {
		r.rights, r.askedAt = nil, now
		if !r.outside {
			r.admin = s.isAdmin(r.user)
		}
	}
	slices.Sort(chats)
	chats = slices.DeleteFunc(slices.Compact(chats), func(id int64) bool {
		_, known := r.rightsOn(id)
		return id == 0 || known
	})
	ctx, cancel := context.WithTimeout(ctx, s.o.timing.lookup)
	defer cancel()
	for part := range slices.Chunk(chats, rightsAtOnce) {
		found, err := s.rights.get(ctx, part...)
		if err != nil {
			return fmt.Errorf("ask for rights on chats: %w", err)
		}
		r.rights = append(r.rights, answered{slices.Clone(part), found})
	}
	return nil
}

// rightsOn returns the rights on a chat, nil when it is gone; known is false when they were not asked for.
func (r *ear) rightsOn(chatID int64) (rights *ChatRights, known bool) {
	for _, a := range r.rights {
		if _, asked := slices.BinarySearch(a.chats, chatID); asked {
			if found, exists := a.found[chatID]; exists {
				return &found, true
			}
			return nil, true
		}
	}
	return nil, false
}

// chatsOf returns the chats that a part of the log names.
func chatsOf(events []eventlog.Event) []int64 {
	var chats []int64
	for i := range events {
		chats = append(chats, events[i].ChatID)
		for _, sum := range sums(&events[i]).Chats {
			chats = append(chats, sum.ID)
		}
	}
	return chats
}

func (s *Server) isAdmin(userID int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.people[userID]
	return p != nil && p.role == roleAdmin
}

// mayHear decides whether a replay has the event for this user: by today's rights on its chat, where that is gone by who
// was addressed. What says that somebody gained or lost a chat is for those who were meant.
func (r *ear) mayHear(e *eventlog.Event) bool {
	addressed := e.Audience == nil || slices.Contains(e.Audience, r.user)
	switch {
	case e.Kind == eventlog.KindTruncate:
		return true
	case e.OrganizationID != r.organization:
		return false
	case e.UserID != 0:
		return e.UserID == r.user
	case e.ChatID == 0 || e.Kind == eventlog.KindEvent && (e.Name == "chat:deleted" || e.Name == "chats:updated"):
		return addressed // of a sum, what it names is looked at when it is sent
	case e.Kind == eventlog.KindEvent && e.Name == "chat:new":
		return addressed && r.sees(e.ChatID, true)
	}
	return r.sees(e.ChatID, addressed)
}

// sees reports whether the user may see a chat today; of one that is gone, whether he was addressed.
func (r *ear) sees(chatID int64, addressed bool) bool {
	rights, _ := r.rightsOn(chatID)
	switch {
	case rights == nil:
		return addressed
	case !rights.Restricted || r.admin:
		return true
	}
	return slices.Contains(rights.Users, r.user)
}

const roleAdmin = "admin"

// bulk is what realtime knows of a chats:updated.
type bulk struct {
	Reason    string    `json:"reason" enum:"bulk"`
	Count     int64     `json:"count" doc:"Rows of the statement"`
	Chats     []chatSum `json:"chats" doc:"At most 500"`
	Truncated bool      `json:"truncated" doc:"There are more than 500 chats, and none is named"`
	AtLeast   bool      `json:"atLeast,omitempty" const:"true" doc:"Figures are lower bounds"`
}

type chatSum struct {
	ID      int64 `json:"id"`
	New     int64 `json:"new"`
	Updated int64 `json:"updated"`
	Deleted int64 `json:"deleted"`
	Read    int64 `json:"read"`
}

// sums reads a chats:updated; other events have none.
func sums(e *eventlog.Event) bulk {
	var b bulk
	if e.Kind != eventlog.KindEvent || e.Name != "chats:updated" || json.Unmarshal(e.Payload, &b) != nil {
		return bulk{}
	}
	return b
}

// restrain takes out of a sum the chats that the user may not see, and reports whether anything is left of it.
func (r *ear) restrain(e *eventlog.Event) bool {
	b := sums(e)
	if len(b.Chats) == 0 {
		return true // of too many chats to be named
	}
	seen := slices.DeleteFunc(slices.Clone(b.Chats), func(sum chatSum) bool { return !r.sees(sum.ID, true) })
	switch len(seen) {
	case 0:
		return false
	case len(b.Chats):
		return true
	}
	b.Chats, b.Count = seen, 0
	for _, sum := range seen {
		b.Count += sum.New + sum.Updated + sum.Deleted + sum.Read
	}
	e.Payload = body(b)
	return true
}

// replay tells the client what it missed, as fast as it reads, and makes it live. What cannot be told to the end ends the
// connection: the client comes back with the last cursor that it got.
func (s *Server) replay(ctx context.Context, c *client, r *resume) {
	defer s.rescue("replay")
	// Who reads slowly does not keep the others waiting: he gives his turn up after a moment.
	leave := sync.OnceFunc(s.replaying.leave)
	defer leave()
	defer time.AfterFunc(turn, leave).Stop()
	s.metrics.replays.Inc()
	defer s.metrics.replays.Dec()
	err := s.tellMissed(ctx, c, r)
	if err != nil {
		s.metrics.resumes.WithLabelValues("broken").Inc()
		s.log.Debug("replay ended early", "user", r.user, "told", r.told, "err", err)
		s.shut(c)
		return
	}
	result := r.reset
	if result == "" {
		result = "ok"
	}
	s.metrics.resumes.WithLabelValues(result).Inc()
	s.metrics.resumeTime.Observe(time.Since(r.began).Seconds())
}

var errGone = errors.New("the connection has ended")

func (s *Server) tellMissed(ctx context.Context, c *client, r *resume) error {
	id := c.socket.Id()
	if r.reset != "" {
		b := newBurst()
		b.add("sync:reset", body(resetEvent{Reason: r.reset, Cursor: r.start.String()}))
		b.seal()
		if !s.adapter.burst(id, b) {
			return errGone
		}
	}
	for laps := 0; ; laps++ {
		if err := s.stream(ctx, c, r, laps); err != nil {
			return err
		}
		if !s.adapter.await(ctx, id) {
			return errGone
		}
		var last []*encodedEvent
		if r.resumed {
			last = append(last, encodeEvent("sync:complete", body(completeEvent{Replayed: r.told, Cursor: r.to.String()})))
		}
		taken, lapsed := s.adapter.catchUp(id, last...)
		switch {
		case taken:
			return nil
		case !lapsed:
			return errGone
		}
		if err := s.lap(ctx, c, r); err != nil {
			return err
		}
	}
}

// lap begins again from where the replay stands: more came meanwhile than could wait.
func (s *Server) lap(ctx context.Context, c *client, r *resume) error {
	type place struct {
		at  eventlog.Cursor
		err error
	}
	placed := make(chan place, 1)
	s.attaches.join(func(at eventlog.Cursor, err error) {
		s.adapter.expect(c.socket.Id())
		placed <- place{at, err}
	})
	var p place
	select {
	case p = <-placed:
	case <-ctx.Done():
		return errGone
	}
	if p.err != nil {
		return p.err
	}
	r.from, r.to, r.missed = r.to, p.at, nil
	return nil
}

type completeEvent struct {
	Replayed int    `json:"replayed"`
	Cursor   string `json:"cursor"`
}

// stream sends what was missed, a dozen kilobytes at a time. After a reset there is something only when the client lapsed.
func (s *Server) stream(ctx context.Context, c *client, r *resume, laps int) error {
	if !r.resumed && laps == 0 {
		return nil
	}
	if err := s.ask(ctx, r, laps); err != nil {
		return err
	}
	for {
		batch, err := r.missed.Next(ctx)
		if err != nil || batch == nil {
			return err
		}
		if !s.adapter.await(ctx, c.socket.Id()) {
			return errGone
		}
		if err := s.askRights(ctx, &r.ear, chatsOf(batch.Events)); err != nil {
			return err
		}
		if !s.adapter.burst(c.socket.Id(), s.encodeMissed(r, batch)) {
			return errGone
		}
	}
}

// ask has r.missed at hand, and today's rights on the chats of what is at hand of it.
func (s *Server) ask(ctx context.Context, r *resume, laps int) error {
	ctx, cancel := context.WithTimeout(ctx, planTime)
	defer cancel()
	if r.missed == nil {
		if err := s.look(ctx, r, r.from); err != nil {
			return err
		}
		if laps > 0 && r.missed.Failover {
			return eventlog.ErrMoved // what the client heard before may not exist: let it come back with its cursor
		}
	}
	return s.askRights(ctx, &r.ear, r.missed.Chats())
}

// queue has at most `free` of those who come run at once; the others wait in line, and cost nothing but their place.
type queue struct {
	storm func(begun bool) // told when more than stormSize wait, and when nobody does any more

	mu       sync.Mutex
	free     int
	waiting  []func()
	storming bool
}

const stormSize = 500

// join runs f on a goroutine of its own when its turn comes. f calls leave once.
func (q *queue) join(f func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.free == 0 {
		q.waiting = append(q.waiting, f)
		q.tell(len(q.waiting) > stormSize)
		return
	}
	q.free--
	go f()
}

// tell says when a storm has begun. mu is held.
func (q *queue) tell(begun bool) {
	if begun != q.storming && (begun || len(q.waiting) == 0) {
		q.storming = begun
		q.storm(begun)
	}
}

// leave gives the turn to the next.
func (q *queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		q.waiting = nil
		q.free++
		q.tell(false)
		return
	}
	next := q.waiting[0]
	q.waiting[0] = nil
	q.waiting = q.waiting[1:]
	go next()
}

// encodeMissed makes a burst of what the client may hear of a batch.
func (s *Server) encodeMissed(r *resume, batch *eventlog.Batch) *burst {
	b := newBurst()
	var wire []byte
	for i := range batch.Events {
		e := &batch.Events[i]
		if !r.mayHear(e) || !r.restrain(e) {
			continue
		}
		if e.Kind == eventlog.KindTruncate {
			b.add("sync:reset", body(resetEvent{Reason: resetTruncate, Cursor: batch.Cursor(i)}))
			continue
		}
		if wire = s.wireEvent(wire[:0], batch, i); wire == nil {
			continue
		}
		b.add(e.Name, wire)
		r.told++
	}
	b.seal()
	s.metrics.replayed.Add(float64(len(b.frames)))
	return b
}
