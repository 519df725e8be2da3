package doctor

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"roombell/internal/auth"
	"roombell/internal/postgres/dbtest"
)

// identityProvider publishes a key, or answers with a status.
func identityProvider(t *testing.T, status int) auth.Options {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	check0(t, err)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"keys":[{"kty":"OKP","crv":"Ed25519","use":"sig","kid":"1","x":%q}]}`, base64.RawURLEncoding.EncodeToString(public))
	}))
	t.Cleanup(server.Close)
	client := server.Client()
	t.Cleanup(client.CloseIdleConnections)
	return auth.Options{JWKSURL: server.URL + "/keys?hunter2", Issuer: "https://id.example", Audience: "inbox", Client: client}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	for _, test := range []struct {
		name   string
		tokens func(t *testing.T) auth.Options
		code   string
		level  Level
	}{
		{"a secret", func(*testing.T) auth.Options { return auth.Options{Secret: []byte(secretOfTests)} }, "tokens_ok", OK},
		{"nothing", func(*testing.T) auth.Options { return auth.Options{} }, "jwt_missing", Broken},
		{"a short secret", func(*testing.T) auth.Options { return auth.Options{Secret: []byte("hunter2")} }, "jwt_refused", Broken},
		{"a weak secret", func(*testing.T) auth.Options { return auth.Options{Secret: []byte(strings.Repeat("secret", 8))} }, "jwt_secret_weak", Warning},
		{"a former secret", func(*testing.T) auth.Options {
			return auth.Options{Secret: []byte(secretOfTests), PreviousSecret: []byte(strings.ToUpper(secretOfTests))}
		}, "jwt_secret_previous", Note},
		{"a provider", func(t *testing.T) auth.Options { return identityProvider(t, http.StatusOK) }, "tokens_ok", OK},
		{"a provider that fails", func(t *testing.T) auth.Options { return identityProvider(t, http.StatusBadGateway) }, "jwks_unreachable", Broken},
		{"a provider that is away", func(t *testing.T) auth.Options {
			o := identityProvider(t, http.StatusOK)
			o.JWKSURL = "https://127.0.0.1:1/keys?hunter2"
			return o
		}, "jwks_unreachable", Broken},
		{"a provider that fails beside a secret", func(t *testing.T) auth.Options {
			o := identityProvider(t, http.StatusNotFound)
			o.Secret = []byte(secretOfTests)
			return o
		}, "jwks_unreachable", Warning},
		{"a provider without issuer", func(t *testing.T) auth.Options {
			o := identityProvider(t, http.StatusOK)
			o.Issuer = ""
			return o
		}, "jwt_refused", Broken},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := options(d.URL)
			o.Tokens = test.tokens(t)
			expect(t, examine(t, o), test.level, test.code)
		})
	}
}

// Whoever runs the command beside a service, as for dev, need not have its secrets.
func TestTokensOfARunningService(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	service(t, d.URL)
	o := options(d.URL)
	o.Tokens = auth.Options{}
	expect(t, examine(t, o), Note, "jwt_not_here")
}

func TestOrigins(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		origins []string
		codes   []string
		level   Level
	}{
		{nil, []string{"origins_ok"}, OK},
		{[]string{"https://inbox.example"}, []string{"origins_ok"}, OK},
		{[]string{"http://localhost:5173", "http://127.0.0.1:3000", "http://[::1]"}, []string{"origins_ok"}, OK},
		{[]string{"*"}, []string{"origins_any"}, Warning},
		{[]string{"http://inbox.example"}, []string{"origins_http"}, Warning},
		{[]string{"*", "http://inbox.example"}, []string{"origins_any", "origins_http"}, Warning},
	} {
		doctor := &Doctor{o: Options{Origins: test.origins}}
		found, err := doctor.origins(context.Background())
		check0(t, err)
		var codes []string
		for _, f := range found {
			codes = append(codes, f.Code)
		}
		if !slices.Equal(codes, test.codes) || worst(found) != test.level {
			t.Errorf("%q: %+v", test.origins, found)
		}
	}
}
