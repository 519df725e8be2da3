package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"roombell/internal/postgres/dbtest"
)

// secure is a client that trusts the certificate in the file, and speaks the protocols alone.
func secure(t *testing.T, certFile string, protocols func(*http.Protocols)) (*http.Client, *tls.Config) {
	t.Helper()
	pem, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatal("no certificate")
	}
	config := &tls.Config{RootCAs: roots, ServerName: "localhost"}
	transport := &http.Transport{TLSClientConfig: config.Clone(), Protocols: new(http.Protocols)}
	protocols(transport.Protocols)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: limit}, config
}

func ask(t *testing.T, client *http.Client, method, url, token, body string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

func TestServeOverTLS(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	p := newPeople(t, d, "ann@a.example")
	dir := t.TempDir()
	certFile, keyFile := writePair(t, dir, 1, time.Now())
	s := serve(t, []string{"DATABASE_URL=" + d.URL, "ROOMBELL_TLS_CERT=" + certFile, "ROOMBELL_TLS_KEY=" + keyFile})
	base := "https" + strings.TrimPrefix(s.public, "http")
	h2, config := secure(t, certFile, func(p *http.Protocols) { p.SetHTTP2(true) })
	h1, _ := secure(t, certFile, func(p *http.Protocols) { p.SetHTTP1(true) })
	eventually(t, func() error {
		if resp, body := ask(t, h2, "GET", base+"/readyz", "", ""); resp.StatusCode != http.StatusOK {
			return fmt.Errorf("/readyz says %d %s", resp.StatusCode, body)
		}
		return nil
	})
	for proto, client := range map[string]*http.Client{"HTTP/2.0": h2, "HTTP/1.1": h1} {
		resp, body := ask(t, client, "GET", base+"/api/v1/me", p.token(t), "")
		if resp.StatusCode != http.StatusOK || resp.Proto != proto || !strings.Contains(body, "ann@a.example") || resp.Header.Get("Strict-Transport-Security") == "" {
			t.Errorf("/me by %s: %s %d %s %v", proto, resp.Proto, resp.StatusCode, body, resp.Header)
		}
		if resp, body := ask(t, client, "GET", base+"/openapi.json", "", ""); resp.StatusCode != http.StatusOK || !strings.Contains(body, `"/api/v1/me"`) {
			t.Errorf("/openapi.json by %s: %d %.200s", proto, resp.StatusCode, body)
		}
		// Long-polling, which browsers send by HTTP/2 as well.
		resp, body = ask(t, client, "GET", base+"/socket.io/?EIO=4&transport=polling", "", "")
		if resp.StatusCode != http.StatusOK || !strings.HasPrefix(body, "0{") {
			t.Fatalf("polling by %s: %d %.200s", proto, resp.StatusCode, body)
		}
		_, rest, _ := strings.Cut(body, `"sid":"`)
		sid, _, _ := strings.Cut(rest, `"`)
		poll := base + "/socket.io/?EIO=4&transport=polling&sid=" + sid
		if resp, body := ask(t, client, "POST", poll, "", `40{"token":"`+p.token(t)+`"}`); resp.StatusCode != http.StatusOK || body != "ok" {
			t.Fatalf("CONNECT by %s: %d %s", proto, resp.StatusCode, body)
		}
		if resp, body := ask(t, client, "GET", poll, "", ""); resp.StatusCode != http.StatusOK || !strings.HasPrefix(body, "40{") {
			t.Errorf("answer to CONNECT by %s: %d %s", proto, resp.StatusCode, body)
		}
	}
	upgrade(t, "wss"+strings.TrimPrefix(base, "https"), config, p.token(t))

	writePair(t, dir, 2, time.Now().Add(time.Minute))
	eventually(t, func() error {
		fresh, _ := secure(t, certFile, func(p *http.Protocols) { p.SetHTTP2(true) })
		fresh.Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify = true
		resp, _ := ask(t, fresh, "GET", base+"/api/v1/me", p.token(t), "")
		if serial := resp.TLS.PeerCertificates[0].SerialNumber.Int64(); serial != 2 || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("serial %d, status %d", serial, resp.StatusCode)
		}
		return nil
	})
}

// upgrade connects as browsers do: ALPN names HTTP/1.1 alone.
func upgrade(t *testing.T, base string, config *tls.Config, token string) {
	t.Helper()
	config = config.Clone()
	config.NextProtos = []string{"http/1.1"}
	dialer := &websocket.Dialer{TLSClientConfig: config, HandshakeTimeout: limit}
	conn, resp, err := dialer.DialContext(t.Context(), base+"/socket.io/?EIO=4&transport=websocket", nil)
	if err != nil {
		t.Fatalf("upgrade: %v %v", err, resp)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(limit))
	if err := conn.WriteMessage(websocket.TextMessage, []byte(`40{"token":"`+token+`"}`)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"0{", "40{", `42["connected"`} {
		if _, text, err := conn.ReadMessage(); err != nil || !strings.HasPrefix(string(text), want) {
			t.Fatalf("%q %v, want %s", text, err, want)
		}
	}
}

// Whoever sends a body byte by byte would hold a goroutine and a connection for hours, with or without a token.
func TestServeCutsSlowSenders(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	s := serve(t, []string{"DATABASE_URL=" + d.URL})
	s.awaitReady(http.StatusOK, "")
	_, opened := get(t, s.public+"/socket.io/?EIO=4&transport=polling")
	_, rest, _ := strings.Cut(opened, `"sid":"`)
	sid, _, _ := strings.Cut(rest, `"`)
	var cut sync.WaitGroup
	for _, path := range []string{"/api/v1/auth/login", "/api/v1/me", "/nowhere", "/socket.io/?EIO=4&transport=polling&sid=" + sid} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.public, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{", path); err != nil {
			t.Fatal(err)
		}
		cut.Go(func() { trickle(t, path, conn) })
	}
	cut.Wait()
}

// trickle sends a byte now and then until the server has closed the connection.
func trickle(t *testing.T, path string, conn net.Conn) {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_, _ = io.Copy(io.Discard, conn)
	}()
	late := time.NewTimer(limit)
	defer late.Stop()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-closed:
			return
		case <-ticker.C:
			_, _ = io.WriteString(conn, " ")
		case <-late.C:
			t.Errorf("%s: still heard after %v", path, limit)
			return
		}
	}
}

// An identity provider's tokens are only as good as the way that its keys come, and must be meant for us.
func TestIdentityProviderNeedsHTTPSIssuerAndAudience(t *testing.T) {
	t.Parallel()
	const issuer, audience, secret = "ROOMBELL_JWT_ISSUER=i", "ROOMBELL_JWT_AUDIENCE=a", "ROOMBELL_JWT_SECRET=" + testSecret
	for _, test := range []struct {
		name string
		env  []string
		ok   bool
	}{
		{"all of it", []string{"ROOMBELL_JWKS_URL=https://idp.example/keys", issuer, audience}, true},
		{"without audience", []string{"ROOMBELL_JWKS_URL=https://idp.example/keys", issuer}, false},
		{"without issuer", []string{"ROOMBELL_JWKS_URL=https://idp.example/keys", audience}, false},
		{"without either, beside a secret", []string{"ROOMBELL_JWKS_URL=https://idp.example/keys", secret}, false},
		{"http", []string{"ROOMBELL_JWKS_URL=http://idp.example/keys", issuer, audience}, false},
		{"http on this machine", []string{"ROOMBELL_JWKS_URL=http://127.0.0.1/keys", issuer, audience}, false},
		{"a file", []string{"ROOMBELL_JWKS_URL=file:///keys", issuer, audience}, false},
		{"no host", []string{"ROOMBELL_JWKS_URL=https:///keys", issuer, audience}, false},
		{"audience alone", []string{audience, secret}, false},
	} {
		r := roombell(t, test.env, "", "version")
		if ok := r.code == exitDone; ok != test.ok || !ok && (r.code != exitUsage || !strings.Contains(r.stderr, "ROOMBELL_J") || strings.Count(r.stderr, "\n") != 1) {
			t.Errorf("%s: exit %d, %q", test.name, r.code, r.stderr)
		}
	}
}
