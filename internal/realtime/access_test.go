package realtime

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"roombell/internal/eventlog"
)

func batchOf(events ...eventlog.Event) *eventlog.Batch {
	for i := range events {
		events[i].ID += int64(i + 1)
		events[i].RecordedAt = time.Now()
	}
	return &eventlog.Batch{Events: events}
}

func chatDeleted(organization, chatID int64, reason string, audience ...int64) eventlog.Event {
	payload := fmt.Sprintf(`{"chatId" : %d}`, chatID)
	if reason != "" {
		payload = fmt.Sprintf(`{"chatId" : %d, "reason" : %q}`, chatID, reason)
	}
	return eventlog.Event{Kind: eventlog.KindEvent, Name: "chat:deleted", OrganizationID: organization, ChatID: chatID,
		Audience: audience, Payload: []byte(payload)}
}

func userChanged(id int64, active bool) eventlog.Event {
	return eventlog.Event{Kind: eventlog.KindUser, OrganizationID: 3, UserID: id,
		Payload: fmt.Appendf(nil, `{"userId" : %d, "active" : %t, "role" : "employee"}`, id, active)}
}

func chatsChanged(chatIDs ...int64) eventlog.Event {
	return eventlog.Event{Kind: eventlog.KindChats, OrganizationID: 3, Touched: chatIDs}
}

func TestDisabledUserIsDismissed(t *testing.T) {
	h := colleagues()
	n := startNode(t, h, fast, quick)
	first, second, other := join(t, n, "7/3"), join(t, n, "7/3"), join(t, n, "8/3")
	n.Publish(batchOf(userChanged(7, false)))
	for _, w := range []*wire{first, second} {
		w.wait("packet 1")
		w.waitClosed()
	}
	other.silent("packet 1")
}

func TestDeletedUserIsDismissed(t *testing.T) {
	h := colleagues()
	n := startNode(t, h, fast, quick)
	w := join(t, n, "7/3")
	h.change(func() { delete(h.users, 7) })
	n.Publish(batchOf(eventlog.Event{Kind: eventlog.KindUser, OrganizationID: 3, UserID: 7}))
	w.wait("packet 1")
	w.waitClosed()
}

// A node that missed a part of the log missed changes of rights with it.
func TestResetAsksForEverybody(t *testing.T) {
	h := colleagues()
	n := startNode(t, h, fast, quick)
	w, other := join(t, n, "7/3"), join(t, n, "8/3")
	h.change(func() { delete(h.users, 7) })
	n.Reset("retention", eventlog.Cursor{})
	w.wait("packet 1")
	w.waitClosed()
	other.wait("sync:reset")
	other.silent("packet 1")
}

// The row was read before, the event came after: the socket that was being let in is found.
func TestUserDisabledWhileJoining(t *testing.T) {
	h := colleagues()
	still := &stillTail{attached: make(chan func(eventlog.Cursor, error), 1)}
	n := startNode(t, h, fast, quick, func(o *Options) { o.Tail = still })
	w := dial(t, n, "7/3")
	attached := <-still.attached
	n.Publish(batchOf(userChanged(7, false)))
	eventually(t, "the change is known", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.people[7].clients[0].doomed
	})
	attached(eventlog.Cursor{}, nil)
	w.wait("packet 1")
	w.waitClosed()
	if _, ok := w.take("connected"); ok {
		t.Error("connected")
	}
}

// stillTail attaches when the test says so.
type stillTail struct {
	attached chan func(eventlog.Cursor, error)
}

func (s *stillTail) Attach(f func(eventlog.Cursor, error)) { s.attached <- f }

func TestRoleChangeAsksForChats(t *testing.T) {
	h := colleagues()
	h.show(6, 7, 8)
	n := startNode(t, h, fast)
	w, other := join(t, n, "7/3"), join(t, n, "8/3")
	for _, c := range []*wire{w, other} {
		c.ask("subscribe:chat", 5)
		c.ask("subscribe:chat", 6)
	}
	h.show(6, 8)
	n.Publish(batchOf(userChanged(7, true)))
	if event := w.wait("chat:deleted"); event["chatId"] != 6.0 || event["reason"] != "access" {
		t.Error(event)
	}
	if event := other.wait("chat:left"); event["chatId"] != 6.0 || event["userId"] != 7.0 {
		t.Error(event)
	}
	if code := codeOf(t, w.ask("typing:start", 6)); code != "not_subscribed" {
		t.Error(code)
	}
	if w.ask("typing:start", 5)["ok"] != true {
		t.Error("the other chat was lost, too")
	}
}

func TestChatsChangedAsksTheirSubscribers(t *testing.T) {
	h := colleagues()
	h.show(6, 7, 8)
	n := startNode(t, h, fast)
	w, twin, other := join(t, n, "7/3"), join(t, n, "7/3"), join(t, n, "8/3")
	w.ask("subscribe:chat", 5)
	w.ask("subscribe:chat", 6)
	other.ask("subscribe:chat", 5)
	h.show(5, 8)
	h.show(6, 8)
	n.Publish(batchOf(chatsChanged(5)))
	if event := w.wait("chat:deleted"); event["chatId"] != 5.0 || event["reason"] != "access" {
		t.Error(event)
	}
	twin.wait("chat:deleted")
	other.wait("chat:left")
	other.silent("chat:deleted")
	if w.ask("typing:start", 6)["ok"] != true {
		t.Error("a chat that nobody doubted was asked for")
	}
}

// What cannot be asked for is not kept: the client comes back and is asked from the start.
func TestDoubtWithoutDatabaseClosesTheTransport(t *testing.T) {
	h := colleagues()
	n := startNode(t, h, fast)
	w, other := join(t, n, "7/3"), join(t, n, "8/3")
	w.ask("subscribe:chat", 5)
	h.change(func() { h.away = errors.New("away") })
	began := time.Now()
	n.Publish(batchOf(chatsChanged(5)))
	w.waitClosed()
	if took := time.Since(began); took > time.Second {
		t.Errorf("closed after %v", took)
	}
	if _, ok := w.take("packet 1"); ok {
		t.Error("a disconnect packet: the client would not come back")
	}
	other.silent("chat:deleted")
}

func TestLostChat(t *testing.T) {
	n := startNode(t, colleagues(), fast)
	w, other := join(t, n, "7/3"), join(t, n, "8/3")
	w.ask("subscribe:chat", 5)
	other.ask("subscribe:chat", 5)
	n.Publish(batchOf(chatDeleted(3, 5, "access", 7)))
	if event := w.wait("chat:deleted"); event["reason"] != "access" || event["eventId"] == nil {
		t.Error(event)
	}
	other.wait("chat:left")
	other.silent("chat:deleted")
	if code := codeOf(t, w.ask("typing:start", 5)); code != "not_subscribed" {
		t.Error(code)
	}
	if other.ask("typing:start", 5)["ok"] != true {
		t.Error("the other user lost it, too")
	}
}

func TestDeletedChat(t *testing.T) {
	n := startNode(t, colleagues(), fast)
	w, other := join(t, n, "7/3"), join(t, n, "8/3")
	w.ask("subscribe:chat", 5)
	other.ask("subscribe:chat", 5)
	n.Publish(batchOf(chatDeleted(3, 5, "")))
	for _, c := range []*wire{w, other} {
		if event := c.wait("chat:deleted"); event["chatId"] != 5.0 || event["reason"] != nil {
			t.Error(event)
		}
		if code := codeOf(t, c.ask("typing:start", 5)); code != "not_subscribed" {
			t.Error(code)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.chats) != 0 {
		t.Error("the chat is still known: ", n.chats)
	}
}

// After TRUNCATE … RESTART IDENTITY a chat's number may be another organization's.
func TestTruncateAsksForEverything(t *testing.T) {
	h := colleagues()
	n := startNode(t, h, fast)
	w, foreigner := join(t, n, "7/3"), join(t, n, "9/4")
	w.ask("subscribe:chat", 5)
	h.show(5, 9)
	n.Publish(batchOf(eventlog.Event{Kind: eventlog.KindTruncate}))
	for _, c := range []*wire{w, foreigner} {
		if event := c.wait("sync:reset"); event["reason"] != "truncate" || event["cursor"] == nil {
			t.Error(event)
		}
	}
	w.wait("chat:deleted")
	if code := codeOf(t, w.ask("typing:start", 5)); code != "not_subscribed" {
		t.Error(code)
	}
}
