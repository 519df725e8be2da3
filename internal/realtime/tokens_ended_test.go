package realtime

import (
	"context"
	"fmt"
	"testing"
	"time"

	"roombell/internal/auth"
	"roombell/internal/eventlog"
)

// generations verifies tokens of our own: "user/organization/generation". Those of generation 0 were issued elsewhere, a minute ago.
type generations struct{ *house }

func (g generations) Verify(_ context.Context, token string) (auth.Identity, error) {
	id := auth.Identity{ExpiresAt: time.Now().Add(time.Hour), IssuedAt: time.Now().Add(-time.Minute)}
	if _, err := fmt.Sscanf(token, "%d/%d/%d", &id.UserID, &id.OrganizationID, &id.Generation); err != nil {
		return id, auth.ErrInvalidToken
	}
	return id, nil
}

func tokensOf(h *house) func(*Options) {
	h.generation(7, 1)
	return func(o *Options) { o.Tokens = generations{h} }
}

// generation ends a user's older tokens, as the trigger does.
func (h *house) generation(userID int64, n int32) {
	h.change(func() {
		u := h.users[userID]
		u.Generation = n
		if n > 1 {
			now := time.Now()
			u.TokensFrom = &now
		}
		h.users[userID] = u
	})
}

// The transport is closed, not the socket: a standard client comes back and hears what is wrong with its token.
func TestEndedTokensCloseTransports(t *testing.T) {
	h := colleagues()
	n := startNode(t, h, fast, tokensOf(h))
	first, second, foreign, other := join(t, n, "7/3/1"), join(t, n, "7/3/1"), join(t, n, "7/3/0"), join(t, n, "8/3/0")
	h.generation(7, 2)
	n.Publish(batchOf(userChanged(7, true)))
	for _, w := range []*wire{first, second, foreign} {
		w.waitClosed()
		if _, ok := w.take("packet 1"); ok {
			t.Error("a disconnect packet: the client would stay away")
		}
	}
	other.silent("packet 1")

	for token, code := range map[string]string{"7/3/1": "invalid_token", "7/3/0": "invalid_token"} {
		refused := dial(t, n, token).wait("packet 4")
		if data, _ := refused["data"].(map[string]any); data["code"] != code {
			t.Errorf("%s: %v", token, refused)
		}
	}
	join(t, n, "7/3/2").silent("packet 1")
}

func TestEndedTokenIsNoRefresh(t *testing.T) {
	h := colleagues()
	h.generation(7, 2)
	n := startNode(t, h, fast, func(o *Options) { o.Tokens = generations{h} })
	w := join(t, n, "7/3/2")
	for _, token := range []string{"7/3/1", "7/3/0"} {
		if code := codeOf(t, w.ask("auth:refresh", map[string]any{"token": token})); code != "invalid_token" {
			t.Errorf("%s: %q", token, code)
		}
	}
	if answer := w.ask("auth:refresh", map[string]any{"token": "7/3/2"}); answer["ok"] != true {
		t.Error(answer)
	}
}

// The row was read before, the event came after: the socket that was being let in is found.
func TestTokenEndedWhileJoining(t *testing.T) {
	h := colleagues()
	still := &stillTail{attached: make(chan func(eventlog.Cursor, error), 1)}
	n := startNode(t, h, fast, tokensOf(h), func(o *Options) { o.Tail = still })
	w := dial(t, n, "7/3/1")
	attached := <-still.attached
	h.generation(7, 2)
	n.Publish(batchOf(userChanged(7, true)))
	w.waitClosed()
	attached(eventlog.Cursor{}, nil)
	if _, ok := w.take("connected"); ok {
		t.Error("connected")
	}
}
