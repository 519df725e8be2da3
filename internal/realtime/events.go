package realtime

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/zishang520/socket.io/servers/socket/v3"
)

// failure is what a client is told when its event was not done.
type failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (f *failure) Error() string { return f.Code + ": " + f.Message }

func badRequest(message string) error { return &failure{"bad_request", message} }

func errRateLimited() error  { return &failure{"rate_limited", "Too many events, slow down"} }
func errChatNotFound() error { return &failure{"chat_not_found", "There is no such chat"} }
func errNotSubscribed() error {
	return &failure{"not_subscribed", "Subscribe to the chat first"}
}
func errTooManyChats() error { return &failure{"too_many_chats", "Unsubscribe from some chats first"} }
func errUnavailable() error {
	return &failure{"unavailable", "This cannot be checked just now, try again"}
}

const errNoChatID = "Give the chat as a number, a numeric string or {chatId}"

// done is the answer to an event that was done; answers that say more embed it.
type done struct {
	OK bool `json:"ok" const:"true"`
}

type failed struct {
	OK    bool     `json:"ok" const:"false"`
	Error *failure `json:"error"`
}

type errorEvent struct {
	failure
	Event string `json:"event,omitempty"`
}

// answer is called on the socket's task queue with each event of the client, one after the other.
func (s *Server) answer(c *client, args []any) {
	e := parseClientEvent(args)
	result, err := s.handle(c, e)
	s.flush()
	outcome := "ok"
	if err != nil {
		outcome = s.fail(c, e, err)
	} else if e.ack != nil {
		acknowledge(e.ack, result)
	}
	s.metrics.clientEvents.WithLabelValues(outcome).Inc()
}

// handle does what the event asks for. The result is what the acknowledgement says.
func (s *Server) handle(c *client, e clientEvent) (result any, err error) {
	err = &failure{"internal", "Something went wrong"} // stands when a handler panics
	defer s.rescue("client event")
	if !s.allow(c) {
		return nil, errRateLimited()
	}
	s.see(c)
	switch e.name {
	case "subscribe:chat":
		result, err = s.subscribe(c, e.arg)
	case "unsubscribe:chat":
		result, err = s.unsubscribe(c, e.arg)
	case "typing:start":
		result, err = s.startTyping(c, e.arg)
	case "typing:stop":
		result, err = s.stopTyping(c, e.arg)
	case "presence:set":
		result, err = s.setPresence(c, e.arg)
	case "presence:list":
		result, err = s.listPresence(c)
	case "auth:refresh":
		result, err = s.refreshToken(c, e.arg)
	default:
		err = badRequest("There is no such event")
	}
	return result, err
}

func (s *Server) see(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.stage == live {
		c.person.seen = time.Now()
	}
}

// fail tells the client what went wrong, as the acknowledgement when it asked for one, and returns the code.
func (s *Server) fail(c *client, e clientEvent, err error) string {
	var f *failure
	if !errors.As(err, &f) {
		s.log.Warn("client event could not be answered", "event", label(e.name), "err", err)
		_ = errors.As(errUnavailable(), &f)
	}
	if e.ack != nil {
		acknowledge(e.ack, failed{Error: f})
		return f.Code
	}
	s.tell(c, "error", errorEvent{failure: *f, Event: label(e.name)})
	return f.Code
}

// label is an event's name as it may be shown: strangers choose it, up to the length of a packet.
func label(name string) string {
	const most = 255
	if len(name) <= most {
		return name
	}
	return strings.ToValidUTF8(name[:most], "")
}

func acknowledge(ack socket.Ack, result any) {
	ack([]any{json.RawMessage(body(result))}, nil)
}

// tell sends an event to one socket, after what its rooms were sent before.
func (s *Server) tell(c *client, name string, event any) {
	s.adapter.deliver(c.room(), "", encodeEvent(name, body(event)))
}

// outgoing is an event that was decided on under the Server's mutex, and goes out after it.
type outgoing struct {
	rooms  []socket.Room
	except socket.Room // empty: nobody
	event  *encodedEvent
}

// post puts an event into the outbox: to who is in one of rooms and not in except. mu is held; whoever let go of it calls
// flush.
func (s *Server) post(rooms []socket.Room, except socket.Room, name string, event any) {
	s.outbox = append(s.outbox, outgoing{rooms, except, encodeEvent(name, body(event))})
}

// flush sends what is in the outbox, in the order in which it was decided on: two goroutines must not turn online and
// offline around. Whoever finds another at it leaves the rest to that one.
func (s *Server) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sending {
		return
	}
	s.sending = true
	for len(s.outbox) > 0 {
		batch := s.outbox
		s.outbox = nil
		s.mu.Unlock()
		for _, o := range batch {
			s.deliver(o)
		}
		s.mu.Lock()
	}
	s.sending = false
}

func (s *Server) deliver(o outgoing) {
	defer s.rescue("deliver")
	s.adapter.deliver(o.rooms, o.except, o.event)
}
