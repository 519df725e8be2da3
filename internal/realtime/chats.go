package realtime

import (
	"context"
	"errors"
	"time"

	"github.com/zishang520/socket.io/servers/socket/v3"
)

type chatEvent struct {
	ChatID int64 `json:"chatId"`
}

type chatDone struct {
	done
	chatEvent
}

type chatUserEvent struct {
	ChatID int64 `json:"chatId"`
	UserID int64 `json:"userId"`
}

type typingEvent struct {
	ChatID    int64  `json:"chatId"`
	UserID    int64  `json:"userId"`
	UserEmail string `json:"userEmail"`
	Timestamp string `json:"timestamp" format:"date-time"`
}

// lease is a typing:start that ends by itself. The Server's mutex guards it.
type lease struct {
	until time.Time
	alarm alarm
}

// check is a question to Access under way. When what it asks for changes meanwhile, its answer may be the old one.
type check struct {
	userID int64
	stale  bool
}

func (s *Server) subscribe(c *client, arg any) (any, error) {
	chatID, ok := parseChatID(arg)
	if !ok {
		return nil, badRequest(errNoChatID)
	}
	s.mu.Lock()
	_, subscribed := c.chats[chatID]
	full := len(c.chats) >= maxChats
	s.mu.Unlock()
	if !subscribed && full {
		return nil, errTooManyChats()
	}
	if !subscribed {
		if err := s.enterChat(c, chatID); err != nil {
			return nil, err
		}
		s.flush()
	}
	s.tell(c, "subscribed:chat", chatEvent{chatID})
	return chatDone{done{true}, chatEvent{chatID}}, nil
}

// enterChat asks whether the user may see the chat, again when that changed meanwhile, and subscribes the socket.
func (s *Server) enterChat(c *client, chatID int64) error {
	ctx, cancel := s.question(c.socket)
	defer cancel()
	for {
		again, err := s.tryEnter(ctx, c, chatID)
		if errors.Is(err, ErrNotFound) {
			return errChatNotFound()
		}
		if err != nil || !again {
			return err
		}
	}
}

func (s *Server) tryEnter(ctx context.Context, c *client, chatID int64) (again bool, err error) {
	s.mu.Lock()
	if c.stage != live {
		s.mu.Unlock()
		return false, nil
	}
	p := c.person
	k := s.beginCheck(chatID, p.id)
	s.mu.Unlock()

	err = s.o.Access.Chat(ctx, p.id, p.organization, chatID)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.endCheck(chatID, k)
	if err != nil {
		return false, err
	}
	if k.stale {
		return true, nil
	}
	s.joinChat(c, chatID)
	return false, nil
}

func (s *Server) beginCheck(chatID, userID int64) *check {
	k := &check{userID: userID}
	if s.checks[chatID] == nil {
		s.checks[chatID] = map[*check]struct{}{}
	}
	s.checks[chatID][k] = struct{}{}
	return k
}

func (s *Server) endCheck(chatID int64, k *check) {
	delete(s.checks[chatID], k)
	if len(s.checks[chatID]) == 0 {
		delete(s.checks, chatID)
	}
}

// joinChat subscribes a live socket; the first of a user's tells the others. mu is held.
func (s *Server) joinChat(c *client, chatID int64) {
	if c.stage != live {
		return
	}
	first := !c.person.inChat(chatID)
	if c.chats == nil {
		c.chats = map[int64]struct{}{}
	}
	c.chats[chatID] = struct{}{}
	if s.chats[chatID] == nil {
		s.chats[chatID] = map[*client]struct{}{}
	}
	s.chats[chatID][c] = struct{}{}
	c.socket.Join(chatRoom(chatID))
	if first {
		s.postToChat(c.person, chatID, "chat:joined", chatUserEvent{chatID, c.person.id})
	}
}

// leaveChat is its opposite, for a socket that is subscribed. mu is held.
func (s *Server) leaveChat(c *client, chatID int64) {
	s.endLease(c, chatID)
	delete(c.chats, chatID)
	delete(s.chats[chatID], c)
	if len(s.chats[chatID]) == 0 {
		delete(s.chats, chatID)
	}
	c.socket.Leave(chatRoom(chatID))
	if !c.person.inChat(chatID) {
		s.postToChat(c.person, chatID, "chat:left", chatUserEvent{chatID, c.person.id})
	}
}

func (s *Server) unsubscribe(c *client, arg any) (any, error) {
	chatID, ok := parseChatID(arg)
	if !ok {
		return nil, badRequest(errNoChatID)
	}
	s.mu.Lock()
	if _, subscribed := c.chats[chatID]; subscribed {
		s.leaveChat(c, chatID)
	}
	s.mu.Unlock()
	s.flush()
	s.tell(c, "unsubscribed:chat", chatEvent{chatID})
	return chatDone{done{true}, chatEvent{chatID}}, nil
}

// startTyping tells the others, and takes it back by itself when no other start follows.
func (s *Server) startTyping(c *client, arg any) (any, error) {
	chatID, ok := parseChatID(arg)
	if !ok {
		return nil, badRequest(errNoChatID)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, subscribed := c.chats[chatID]; !subscribed {
		return nil, errNotSubscribed()
	}
	l := c.leases[chatID]
	if l == nil {
		l = &lease{}
		if c.leases == nil {
			c.leases = map[int64]*lease{}
		}
		c.leases[chatID] = l
	}
	l.until = time.Now().Add(s.o.timing.typing)
	s.alarms.set(&l.alarm, l.until, func() { s.lapse(c, chatID, l) })
	s.postTyping(c.person, chatID, "typing:start")
	return done{true}, nil
}

func (s *Server) stopTyping(c *client, arg any) (any, error) {
	chatID, ok := parseChatID(arg)
	if !ok {
		return nil, badRequest(errNoChatID)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, subscribed := c.chats[chatID]; !subscribed {
		return nil, errNotSubscribed()
	}
	if c.leases[chatID] != nil {
		s.endLease(c, chatID)
	} else if !c.person.typesIn(chatID) {
		s.postTyping(c.person, chatID, "typing:stop")
	}
	return done{true}, nil
}

// lapse is rung when a lease's time is over.
func (s *Server) lapse(c *client, chatID int64, l *lease) {
	s.mu.Lock()
	// Another start may have come while the alarm was ringing.
	if c.leases[chatID] == l && !time.Now().Before(l.until) {
		s.endLease(c, chatID)
	}
	s.mu.Unlock()
	s.flush()
}

// endLease ends the socket's typing in the chat, if it does; the others hear of it when no other socket of the user
// still types. mu is held.
func (s *Server) endLease(c *client, chatID int64) {
	l := c.leases[chatID]
	if l == nil {
		return
	}
	s.alarms.stop(&l.alarm)
	delete(c.leases, chatID)
	if !c.person.typesIn(chatID) {
		s.postTyping(c.person, chatID, "typing:stop")
	}
}

func (s *Server) postTyping(p *person, chatID int64, name string) {
	s.postToChat(p, chatID, name, typingEvent{chatID, p.id, p.email, timestamp(time.Now())})
}

// postToChat tells the other users in the chat: none of p's own sockets. mu is held.
func (s *Server) postToChat(p *person, chatID int64, name string, event any) {
	s.post([]socket.Room{chatRoom(chatID)}, userRoom(p.id), name, event)
}
