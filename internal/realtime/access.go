package realtime

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"roombell/internal/eventlog"
)

// doubt is what is not certain any more about a user's rights.
type doubt struct {
	gone  bool               // he was disabled or deleted: nothing to ask
	user  bool               // ask for his row (his tokens may have ended), and for all his chats
	chats map[int64]struct{} // ask for these
	since time.Time          // of the first; the answer is due a moment later
}

type accessLostEvent struct {
	ChatID    int64  `json:"chatId"`
	Reason    string `json:"reason"`
	Timestamp string `json:"timestamp"`
}

// changeRights does what an event of the log means for the rights of open sockets: at once where the event says all,
// else by asking. It does not block.
func (s *Server) changeRights(e *eventlog.Event) {
	switch {
	case e.Kind == eventlog.KindUser:
		s.userChanged(e)
	case e.Kind == eventlog.KindChats:
		s.chatsChanged(append(slices.Clip(e.Touched), e.ChatID))
	case e.Kind == eventlog.KindTruncate:
		s.allChanged()
	case e.Kind == eventlog.KindEvent && e.Name == "chat:deleted":
		s.chatDeleted(e)
	}
}

// userChanged acts on what a KindUser event says: {"userId":7,"active":true,"role":"employee"}.
func (s *Server) userChanged(e *eventlog.Event) {
	var said struct {
		Active *bool `json:"active"`
	}
	known := json.Unmarshal(e.Payload, &said) == nil && said.Active != nil
	s.mu.Lock()
	defer s.mu.Unlock()
	s.staleChecks(func(k *check) bool { return k.userID == e.UserID })
	p := s.people[e.UserID]
	if p == nil {
		return
	}
	if d := s.doubt(p); known && !*said.Active {
		d.gone = true
	} else {
		d.user = true
	}
}

func (s *Server) chatsChanged(chatIDs []int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, chatID := range chatIDs {
		s.staleChat(chatID)
		for c := range s.chats[chatID] {
			s.doubt(c.person).chats[chatID] = struct{}{}
		}
	}
}

// allChanged asks for everything again: after a TRUNCATE a chat's number may come back in another organization.
func (s *Server) allChanged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.staleChecks(func(*check) bool { return true })
	for chatID, clients := range s.chats {
		for c := range clients {
			s.doubt(c.person).chats[chatID] = struct{}{}
		}
	}
}

// everybodyTime is what asking for the rights of all who are connected may take.
const everybodyTime = 30 * time.Second

// doubtEverybody has everybody's rights asked for again, with more time than a single change has: they may be thousands.
func (s *Server) doubtEverybody() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.staleChecks(func(*check) bool { return true })
	for _, p := range s.people {
		d := s.doubt(p)
		d.user = true
		d.since = time.Now().Add(everybodyTime)
	}
}

// chatDeleted takes sockets out of a chat: all of them, or those of the users who lost it.
func (s *Server) chatDeleted(e *eventlog.Event) {
	var said struct {
		ChatID int64  `json:"chatId"`
		Reason string `json:"reason"`
	}
	_ = json.Unmarshal(e.Payload, &said)
	chatID := e.ChatID
	if chatID == 0 {
		chatID = said.ChatID
	}
	s.mu.Lock()
	s.staleChat(chatID)
	for c := range s.chats[chatID] {
		if said.Reason != "access" || c.person.id == e.UserID || slices.Contains(e.Audience, c.person.id) {
			s.leaveChat(c, chatID)
		}
	}
	s.mu.Unlock()
	s.flush()
}

// staleChat makes questions about the chat that are under way be asked again.
func (s *Server) staleChat(chatID int64) {
	for k := range s.checks[chatID] {
		k.stale = true
	}
}

func (s *Server) staleChecks(concerned func(k *check) bool) {
	for _, checks := range s.checks {
		for k := range checks {
			k.stale = k.stale || concerned(k)
		}
	}
}

// doubt returns what there is to ask about p, and has it asked soon. mu is held.
func (s *Server) doubt(p *person) *doubt {
	d := s.doubts[p.id]
	if d == nil {
		d = &doubt{chats: map[int64]struct{}{}, since: time.Now()}
		s.doubts[p.id] = d
		select {
		case s.doubted <- struct{}{}:
		default:
		}
	}
	return d
}

// resolveDoubts asks until ctx ends.
func (s *Server) resolveDoubts(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.doubted:
			s.resolve(ctx, s.takeDoubts())
		}
	}
}

func (s *Server) takeDoubts() map[int64]*doubt {
	s.mu.Lock()
	defer s.mu.Unlock()
	doubts := s.doubts
	s.doubts = map[int64]*doubt{}
	return doubts
}

// resolve asks about several users at a time: one must not use up the time of the others.
func (s *Server) resolve(ctx context.Context, doubts map[int64]*doubt) {
	places := make(chan struct{}, 8)
	var asking sync.WaitGroup
	for userID, d := range doubts {
		places <- struct{}{}
		asking.Go(func() {
			defer func() { <-places }()
			defer s.rescue("rights")
			s.metrics.rights.WithLabelValues(s.recheck(ctx, userID, d)).Inc()
		})
	}
	asking.Wait()
}

// recheck takes from a user's sockets what he may not have any more. When that cannot be found out in time, their
// transports are closed: who comes back is asked from the start.
func (s *Server) recheck(ctx context.Context, userID int64, d *doubt) (result string) {
	ctx, cancel := context.WithDeadline(ctx, d.since.Add(s.o.timing.recheck))
	defer cancel()
	disabled, err := d.gone, error(nil)
	if d.user && !disabled {
		disabled, err = s.recheckUser(ctx, userID)
	}
	if disabled {
		s.dismissUser(userID)
		return "disabled"
	}
	var lost []int64
	if err == nil {
		lost, err = s.recheckChats(ctx, userID, d)
	}
	switch {
	case err != nil:
		s.log.Warn("rights could not be checked, sockets closed", "user", userID, "err", err)
		s.shutUser(userID)
		return "unavailable"
	case len(lost) > 0:
		s.loseChats(userID, lost)
		return "lost"
	}
	return "kept"
}

func (s *Server) recheckUser(ctx context.Context, userID int64) (disabled bool, err error) {
	users, err := s.users.get(ctx, userID)
	if err != nil {
		return false, err
	}
	user, exists := users[userID]
	if !exists || !user.Active {
		return true, nil
	}
	s.mu.Lock()
	p := s.people[userID]
	if p != nil {
		p.email, p.role, p.generation, p.tokensFrom = user.Email, user.Role, user.Generation, user.TokensFrom
	}
	s.mu.Unlock()
	if p != nil {
		s.endTokens(p)
	}
	return false, nil
}

// recheckChats returns the chats among the doubted ones that the user is subscribed to and may not see.
func (s *Server) recheckChats(ctx context.Context, userID int64, d *doubt) ([]int64, error) {
	chatIDs := s.subscribed(userID, d)
	if len(chatIDs) == 0 {
		return nil, nil
	}
	seen, err := s.o.Access.Chats(ctx, userID, chatIDs)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(chatIDs, func(id int64) bool { return slices.Contains(seen, id) }), nil
}

func (s *Server) subscribed(userID int64, d *doubt) []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.people[userID]
	if p == nil {
		return nil
	}
	ids := map[int64]struct{}{}
	for _, c := range p.clients {
		for chatID := range c.chats {
			if _, doubted := d.chats[chatID]; doubted || d.user {
				ids[chatID] = struct{}{}
			}
		}
	}
	list := make([]int64, 0, len(ids))
	for id := range ids {
		list = append(list, id)
	}
	slices.Sort(list)
	return list
}

// loseChats takes the user's sockets out of the chats, and tells all of them.
func (s *Server) loseChats(userID int64, chatIDs []int64) {
	s.mu.Lock()
	if p := s.people[userID]; p != nil {
		for _, chatID := range chatIDs {
			for _, c := range p.clients {
				if _, subscribed := c.chats[chatID]; subscribed {
					s.leaveChat(c, chatID)
				}
			}
			s.post(userRooms(userID), "", "chat:deleted", accessLostEvent{chatID, "access", timestamp(time.Now())})
		}
	}
	s.mu.Unlock()
	s.flush()
}

// dismissUser ends the sockets of a disabled user, those that are being let in included.
func (s *Server) dismissUser(userID int64) {
	for _, c := range s.sockets(userID) {
		s.mu.Lock()
		c.doomed = true
		isLive := c.stage == live
		s.mu.Unlock()
		if isLive {
			s.dismiss(c)
		}
	}
}

func (s *Server) shutUser(userID int64) {
	for _, c := range s.sockets(userID) {
		s.shut(c)
	}
}

func (s *Server) sockets(userID int64) []*client {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.people[userID]; p != nil {
		return slices.Clone(p.clients)
	}
	return nil
}

func (s *Server) askUsers(ctx context.Context, ids []int64) (map[int64]User, error) {
	users, err := s.o.Access.Users(ctx, ids)
	found := make(map[int64]User, len(users))
	for _, u := range users {
		found[u.ID] = u
	}
	return found, err
}

func (s *Server) askChatRights(ctx context.Context, ids []int64) (map[int64]ChatRights, error) {
	rights, err := s.o.Access.Rights(ctx, ids)
	found := make(map[int64]ChatRights, len(rights))
	for _, r := range rights {
		found[r.ChatID] = r
	}
	return found, err
}
