package realtime

import (
	"testing"
	"time"
)

func TestPresence(t *testing.T) {
	n := startNode(t, colleagues(), fast, quick)
	watcher, foreigner := join(t, n, "8/3"), join(t, n, "9/4")
	watcher.wait("presence:changed") // its own
	foreigner.wait("presence:changed")

	first := join(t, n, "7/3")
	if event := watcher.wait("presence:changed"); event["userId"] != 7.0 || event["status"] != "online" {
		t.Error(event)
	}
	second := join(t, n, "7/3")
	watcher.silent("presence:changed")
	if first.ask("presence:set", map[string]any{"status": "away"})["ok"] != true {
		t.Error("away was refused")
	}
	watcher.silent("presence:changed") // the other socket is there
	second.ask("presence:set", map[string]any{"status": "away"})
	if event := watcher.wait("presence:changed"); event["status"] != "away" {
		t.Error(event)
	}
	first.ask("presence:set", map[string]any{"status": "online"})
	if event := watcher.wait("presence:changed"); event["status"] != "online" {
		t.Error(event)
	}
	_ = first.conn.Close()
	if event := watcher.wait("presence:changed"); event["status"] != "away" {
		t.Error(event)
	}
	foreigner.silent("presence:changed")
}

func TestOfflineAfterTheLastSocket(t *testing.T) {
	n := startNode(t, colleagues(), fast, quick)
	watcher := join(t, n, "8/3")
	watcher.wait("presence:changed")
	first := join(t, n, "7/3")
	watcher.wait("presence:changed")

	// Back in time: nobody notices.
	_ = first.conn.Close()
	eventually(t, "the socket is gone", func() bool { return n.count(7) == 0 })
	if users := presenceOf(watcher); users[7] != "online" {
		t.Error(users)
	}
	second := join(t, n, "7/3")
	back := time.Now()
	eventually(t, "the first one's grace is over", func() bool { return time.Since(back) > 200*time.Millisecond })
	watcher.silent("presence:changed")

	closed := time.Now()
	_ = second.conn.Close()
	event := watcher.wait("presence:changed")
	if event["userId"] != 7.0 || event["status"] != "offline" {
		t.Error(event)
	}
	if took := time.Since(closed); took < 140*time.Millisecond {
		t.Errorf("offline after %v", took)
	}
	seen, err := time.Parse(time.RFC3339, event["lastSeenAt"].(string))
	if err != nil || time.Since(seen) < 140*time.Millisecond || time.Since(seen) > patience {
		t.Errorf("last seen %v ago, %v", time.Since(seen), err)
	}
	if users := presenceOf(watcher); users[7] != "" || users[8] != "online" {
		t.Error(users)
	}
	eventually(t, "forgotten", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.people[7] == nil
	})
}

func presenceOf(w *wire) map[int64]string {
	statuses := map[int64]string{}
	list, _ := w.ask("presence:list", nil)["users"].([]any)
	for _, user := range list {
		u := user.(map[string]any)
		statuses[int64(u["userId"].(float64))], _ = u["status"].(string)
	}
	return statuses
}

func TestTokenExpires(t *testing.T) {
	n := startNode(t, colleagues(), fast)
	w := join(t, n, "7/3/0.4")
	began := time.Now()
	if event := w.wait("auth:expiring"); event["expiresAt"] == "" {
		t.Error(event)
	}
	w.waitClosed()
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Errorf("closed after %v", took)
	}
	for _, name := range w.names() {
		if name == "packet 1" {
			t.Error("a disconnect packet: the client would not come back")
		}
	}
}

func TestTokenInItsLeewayIsWarnedNotClosed(t *testing.T) {
	n := startNode(t, colleagues(), fast)
	w := join(t, n, "7/3/-5")
	w.wait("auth:expiring")
	if w.ask("presence:list", nil)["ok"] != true {
		t.Error("not usable")
	}
}

func TestRefresh(t *testing.T) {
	n := startNode(t, colleagues(), fast)
	w := join(t, n, "7/3/0.5")
	for token, code := range map[string]string{
		"8/3": "invalid_token", "7/4": "invalid_token", "x": "invalid_token", "": "no_token", "7/3/-40": "token_expired",
	} {
		if got := codeOf(t, w.ask("auth:refresh", map[string]any{"token": token})); got != code {
			t.Errorf("refresh with %q: %s", token, got)
		}
	}
	w.wait("auth:expiring")
	answer := w.ask("auth:refresh", map[string]any{"token": "7/3/3600"})
	expires, err := time.Parse(time.RFC3339, answer["expiresAt"].(string))
	if answer["ok"] != true || err != nil || time.Until(expires) < 50*time.Minute {
		t.Error(answer, err)
	}
	began := time.Now()
	eventually(t, "the first token's end", func() bool { return time.Since(began) > 600*time.Millisecond })
	if w.ask("presence:list", nil)["ok"] != true {
		t.Error("not usable")
	}
	if _, warned := w.take("auth:expiring"); warned {
		t.Error("warned of a token that lives")
	}
}
