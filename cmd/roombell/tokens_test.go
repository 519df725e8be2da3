package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"roombell/internal/auth"
	"roombell/internal/client"
	"roombell/internal/postgres/dbtest"
)

// call sends a request below /api/v1 and returns the answer's status and body.
func call(t *testing.T, url, token, method, path, body string) (int, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url+"/api/v1"+path, bytes.NewBufferString(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, text
}

// ends waits until the connection is closed by its transport; with a disconnect packet a standard client would stay away.
func ends(t *testing.T, conn *client.Conn) {
	t.Helper()
	guard := time.AfterFunc(limit, func() {
		t.Error("the socket of an ended token is open")
		_ = conn.Close()
	})
	defer guard.Stop()
	for {
		_, err := conn.Next()
		if errors.Is(err, client.ErrDisconnected) {
			t.Error("a disconnect packet")
		}
		if err != nil {
			return
		}
	}
}

// refused connects with a token that was ended.
func refused(t *testing.T, url, token string) {
	t.Helper()
	var refusal *client.ConnectError
	conn, err := client.Dial(t.Context(), client.Options{URL: url, Token: token})
	if err == nil {
		_, err = conn.Next()
		_ = conn.Close()
	}
	if !errors.As(err, &refusal) || refusal.Code != "invalid_token" {
		t.Errorf("got %v, want invalid_token", err)
	}
}

// Two nodes on one database: whatever ends a user's tokens on one of them closes his sockets on both, and only his.
func TestEndedTokens(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	p, other := newPeople(t, d, "ann@a.example"), newPeople(t, d, "bob@b.example")
	hash, err := auth.HashPassword("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	exec1(t, d, "UPDATE users SET password_hash = $2 WHERE id = $1", p.user, hash)
	env := []string{"DATABASE_URL=" + d.URL, "ROOMBELL_JWT_SECRET=" + testSecret}
	a, b := serve(t, env), serve(t, env)
	a.awaitReady(http.StatusOK, "")
	b.awaitReady(http.StatusOK, "")
	bystander := connect(t, b.public, other.token(t))

	login := func(password string) string {
		t.Helper()
		status, body := call(t, b.public, "", "POST", "/auth/login", `{"email":"ann@a.example","password":"`+password+`"}`)
		var got struct{ Token string }
		if err := json.Unmarshal(body, &got); err != nil || status != http.StatusOK {
			t.Fatalf("%d %s", status, body)
		}
		return got.Token
	}
	password := "correct horse"
	for name, end := range map[string]func(token string){
		"logout-all": func(token string) {
			if status, body := call(t, a.public, token, "POST", "/auth/logout-all", ""); status != http.StatusNoContent {
				t.Errorf("%d %s", status, body)
			}
		},
		"SQL": func(string) {
			hash, err := auth.HashPassword("another horse")
			if err != nil {
				t.Fatal(err)
			}
			exec1(t, d, "UPDATE users SET password_hash = $2 WHERE id = $1", p.user, hash)
			password = "another horse"
		},
		"admin set-password": func(string) {
			must(t, env, "a third horse\n", "admin", "set-password", "--email", "ann@a.example")
			password = "a third horse"
		},
	} {
		token := login(password)
		printed := strings.TrimSpace(must(t, env, "", "token", "--user", strconv.FormatInt(p.user, 10)))
		conns := []*client.Conn{connect(t, a.public, token), connect(t, b.public, token), connect(t, b.public, printed)}
		end(token)
		ended := time.Now()
		for _, conn := range conns {
			ends(t, conn)
		}
		t.Logf("%s: sockets ended after %v", name, time.Since(ended))
		for _, old := range []string{token, printed} {
			refused(t, a.public, old)
			if status, body := call(t, b.public, old, "GET", "/me", ""); status != http.StatusUnauthorized {
				t.Errorf("%s: %d %s", name, status, body)
			}
		}
		connect(t, a.public, login(password))
		connect(t, a.public, strings.TrimSpace(must(t, env, "", "token", "--user", strconv.FormatInt(p.user, 10))))
	}
	exec1(t, d, `SELECT notify_user($1, 'still', '{}')`, other.user)
	next(t, bystander, "still")
}
