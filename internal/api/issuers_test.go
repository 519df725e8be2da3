package api_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"roombell/internal/api"
	"roombell/internal/auth"
	"roombell/internal/inbox"
)

// provider is an identity provider with a key of each kind.
type provider struct {
	server *httptest.Server
	keys   map[string]crypto.Signer // by kid
}

var b64 = base64.RawURLEncoding.EncodeToString

func newProvider(t *testing.T) *provider {
	t.Helper()
	rsaKey, err1 := rsa.GenerateKey(rand.Reader, 2048)
	ecKey, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, edKey, err3 := ed25519.GenerateKey(rand.Reader)
	point, err4 := ecKey.PublicKey.Bytes() // 0x04, X, Y
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			t.Fatal(err)
		}
	}
	set := map[string]any{"keys": []map[string]string{
		{"kid": "r", "kty": "RSA", "n": b64(rsaKey.N.Bytes()), "e": b64(big.NewInt(int64(rsaKey.E)).Bytes())},
		{"kid": "e", "kty": "EC", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])},
		{"kid": "d", "kty": "OKP", "crv": "Ed25519", "x": b64(edKey.Public().(ed25519.PublicKey))},
	}}
	p := &provider{keys: map[string]crypto.Signer{"r": rsaKey, "e": ecKey, "d": edKey}}
	p.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(set) }))
	t.Cleanup(p.server.Close)
	return p
}

// issues is s with a token of the provider's.
func (p *provider) issues(t *testing.T, s someone, organizationID int64, method jwt.SigningMethod, kid string, more jwt.MapClaims) someone {
	t.Helper()
	claims := jwt.MapClaims{"sub": "auth0|ann", "userId": s.id, "organizationId": organizationID, "iss": "https://idp.example", "aud": "roombell",
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()}
	for k, v := range more {
		claims[k] = v
	}
	token := jwt.NewWithClaims(method, claims)
	token.Header["kid"] = kid
	text, err := token.SignedString(p.keys[kid])
	if err != nil {
		t.Fatal(err)
	}
	s.token = text
	return s
}

// verifying is the option of an API that verifies by o.
func verifying(t *testing.T, o auth.Options) func(*api.Options) {
	t.Helper()
	v, err := auth.NewVerifier(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.FetchKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	return func(o *api.Options) { o.Tokens = v }
}

// Tokens of an identity provider are as good as our own, beside them, and end with them.
func TestProviderTokens(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	h := newHouse(t, verifying(t, auth.Options{Secret: []byte(secret), JWKSURL: p.server.URL, Issuer: "https://idp.example", Audience: "roombell",
		Client: p.server.Client()}))
	ann, org := h.member(h.ours, "ann@ours.example", inbox.Manager), h.ours.id
	ours := h.loggedIn(ann)
	theirs := map[string]someone{
		"RS256": p.issues(t, ann, org, jwt.SigningMethodRS256, "r", nil),
		"ES256": p.issues(t, ann, org, jwt.SigningMethodES256, "e", nil),
		// Claims of ours in another's token mean nothing.
		"EdDSA": p.issues(t, ann, org, jwt.SigningMethodEdDSA, "d", jwt.MapClaims{"gen": 77, "auth_time": time.Now().Unix(), "role": "admin"}),
	}
	h.request(ours, "GET", "/me", nil).want(t, 200, "")
	for name, who := range theirs {
		if me := decode[api.User](t, h.request(who, "GET", "/me", nil).want(t, 200, "")); me.ID != ann.id || me.Role != "manager" {
			t.Errorf("%s: %+v", name, me)
		}
		h.request(who, "POST", "/users", `{"email":"eve@ours.example"}`).want(t, 403, "forbidden")
		h.request(who, "POST", "/auth/refresh", nil).want(t, 401, "login_required")
	}
	for name, claims := range map[string]jwt.MapClaims{
		"another audience": {"aud": "elsewhere"}, "another issuer": {"iss": "https://evil.example"}, "another organization": {"organizationId": h.theirs.id},
	} {
		if a := h.request(p.issues(t, ann, org, jwt.SigningMethodRS256, "r", claims), "GET", "/me", nil); a.status != 401 {
			t.Errorf("%s: %d", name, a.status)
		}
	}
	h.request(p.issues(t, ann, org, jwt.SigningMethodRS256, "r", jwt.MapClaims{"exp": time.Now().Add(-time.Minute).Unix()}), "GET", "/me", nil).
		want(t, 401, "token_expired")
	h.request(ours, "POST", "/auth/logout-all", nil).want(t, 204, "")
	for _, who := range theirs {
		h.request(who, "GET", "/me", nil).want(t, 401, "invalid_token")
	}
	later := jwt.MapClaims{"iat": time.Now().Add(5 * time.Second).Unix()}
	h.request(p.issues(t, ann, org, jwt.SigningMethodES256, "e", later), "GET", "/me", nil).want(t, 200, "")
}

// While the secret is changed, tokens of the former one are good, and are refreshed to those of the new one.
func TestSecretRotation(t *testing.T) {
	t.Parallel()
	const next = "the next secret of the tests, 32 bytes and more"
	h := newHouse(t)
	ann := h.loggedIn(h.member(h.ours, "ann@ours.example", inbox.Employee))
	issuer, err := auth.NewIssuer([]byte(next), auth.Claims{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	signing := func(o *api.Options) { o.Session.Issuer = issuer }
	both := h.twin(signing, verifying(t, auth.Options{Secret: []byte(next), PreviousSecret: []byte(secret)}))
	after := h.twin(signing, verifying(t, auth.Options{Secret: []byte(next)}))

	both.request(ann, "GET", "/me", nil).want(t, 200, "")
	after.request(ann, "GET", "/me", nil).want(t, 401, "invalid_token")
	fresh := ann
	fresh.token = decode[api.Token](t, both.request(ann, "POST", "/auth/refresh", nil).want(t, 200, "")).Token
	after.request(fresh, "GET", "/me", nil).want(t, 200, "")
	h.request(fresh, "GET", "/me", nil).want(t, 401, "invalid_token") // a node that was not told of the new one
}
