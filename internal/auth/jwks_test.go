package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// idp is an identity provider on loopback: it publishes keys over https, or fails.
type idp struct {
	server *httptest.Server
	hits   chan struct{}

	mu     sync.Mutex
	keys   []map[string]string
	broken bool
}

func newIDP(t *testing.T) *idp {
	t.Helper()
	p := &idp{hits: make(chan struct{}, 100)}
	p.server = httptest.NewTLSServer(p)
	t.Cleanup(p.server.Close)
	return p
}

func (p *idp) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() { p.hits <- struct{}{} }()
	if p.broken {
		http.Error(w, "away", http.StatusServiceUnavailable)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"keys": p.keys})
}

func (p *idp) publish(broken bool, keys ...map[string]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys, p.broken = keys, broken
}

// verifier runs a Verifier against the provider until the test ends.
func (p *idp) verifier(t *testing.T, o Options) *Verifier {
	t.Helper()
	o.JWKSURL, o.Issuer, o.Audience, o.Client = p.server.URL, "https://idp.example", "roombell", p.server.Client()
	v := newVerifier(t, o)
	v.provider.atMost = 5 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- v.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run ended with %v", err)
		}
		p.server.Client().CloseIdleConnections()
	})
	return v
}

func jwk(kid string, public crypto.PublicKey) map[string]string {
	enc := base64.RawURLEncoding.EncodeToString
	switch key := public.(type) {
	case *rsa.PublicKey:
		return map[string]string{"kty": "RSA", "kid": kid, "n": enc(key.N.Bytes()), "e": enc(big.NewInt(int64(key.E)).Bytes())}
	case *ecdsa.PublicKey:
		point, err := key.Bytes() // 0x04, X, Y
		if err != nil {
			panic(err)
		}
		half := 1 + len(point)/2
		return map[string]string{"kty": "EC", "kid": kid, "crv": key.Curve.Params().Name, "x": enc(point[1:half]), "y": enc(point[half:])}
	case ed25519.PublicKey:
		return map[string]string{"kty": "OKP", "kid": kid, "crv": "Ed25519", "x": enc(key)}
	}
	return nil
}

func claimsOf(issuer, audience string, exp time.Duration) string {
	return fmt.Sprintf(`{"sub":"7","organizationId":3,"iss":%q,"aud":[%q],"exp":%d}`, issuer, audience, at(exp))
}

func TestVerifyProviderTokens(t *testing.T) {
	t.Parallel()
	rsaKey := newRSA(t)
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edPublic, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	foreign := newRSA(t)
	symmetric := []byte("a symmetric key that was published")
	oct := map[string]string{"kty": "oct", "kid": "o", "k": base64.RawURLEncoding.EncodeToString(symmetric)}
	forEncryption := jwk("enc", &foreign.PublicKey)
	forEncryption["use"] = "enc"
	p := newIDP(t)
	p.publish(false, jwk("r", &rsaKey.PublicKey), jwk("e", &ecKey.PublicKey), jwk("d", edPublic), oct, forEncryption)
	v := p.verifier(t, Options{Secret: secret})

	good := claimsOf("https://idp.example", "roombell", time.Hour)
	rs, es, ed, hs := jwt.SigningMethodRS256, jwt.SigningMethodES256, jwt.SigningMethodEdDSA, jwt.SigningMethodHS256
	tests := []struct {
		name  string
		token string
		err   error
	}{
		{"RS256", signed(t, rs, rsaKey, `{"alg":"RS256","kid":"r"}`, good), nil},
		{"ES256", signed(t, es, ecKey, `{"alg":"ES256","kid":"e"}`, good), nil},
		{"EdDSA", signed(t, ed, edKey, `{"alg":"EdDSA","kid":"d"}`, good), nil},
		{"RS256 without a kid", signed(t, rs, rsaKey, `{"alg":"RS256"}`, good), nil},
		{"our own secret beside it, without issuer", hs256(t, secret, fmt.Sprintf(`{"userId":7,"organizationId":3,"exp":%d}`, at(time.Hour))), nil},
		{"expired", signed(t, rs, rsaKey, `{"alg":"RS256","kid":"r"}`, claimsOf("https://idp.example", "roombell", -time.Hour)), ErrTokenExpired},
		{"another issuer", signed(t, rs, rsaKey, `{"alg":"RS256","kid":"r"}`, claimsOf("https://evil.example", "roombell", time.Hour)), ErrInvalidToken},
		{"another audience", signed(t, rs, rsaKey, `{"alg":"RS256","kid":"r"}`, claimsOf("https://idp.example", "other", time.Hour)), ErrInvalidToken},
		{"no issuer", signed(t, rs, rsaKey, `{"alg":"RS256","kid":"r"}`, fmt.Sprintf(`{"sub":"7","organizationId":3,"aud":"roombell","exp":%d}`, at(time.Hour))), ErrInvalidToken},
		{"another's RSA key under a known kid", signed(t, rs, foreign, `{"alg":"RS256","kid":"r"}`, good), ErrInvalidToken},
		{"RS256 naming the EC key", signed(t, rs, rsaKey, `{"alg":"RS256","kid":"e"}`, good), ErrInvalidToken},
		{"RS512 with the RSA key", signed(t, jwt.SigningMethodRS512, rsaKey, `{"alg":"RS512","kid":"r"}`, good), ErrInvalidToken},
		{"HS256 with the public RSA key as secret", signed(t, hs, publicPEM(t, &rsaKey.PublicKey), `{"alg":"HS256","kid":"r"}`, good), ErrInvalidToken},
		{"HS256 with a published symmetric key", signed(t, hs, symmetric, `{"alg":"HS256","kid":"o"}`, good), ErrInvalidToken},
		{"RS256 by a key for encryption", signed(t, rs, foreign, `{"alg":"RS256","kid":"enc"}`, good), ErrInvalidToken},
		{"unknown kid", signed(t, rs, foreign, `{"alg":"RS256","kid":"nobody"}`, good), ErrInvalidToken},
		{"kid is a number", signed(t, rs, rsaKey, `{"alg":"RS256","kid":7}`, good), ErrInvalidToken},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if _, err := v.Verify(t.Context(), test.token); !errors.Is(err, test.err) {
				t.Fatalf("got %v, want %v", err, test.err)
			}
		})
	}
}

func TestProviderAwayAtStartThenBack(t *testing.T) {
	t.Parallel()
	key := newRSA(t)
	p := newIDP(t)
	p.publish(true)
	v := p.verifier(t, Options{})
	token := signed(t, jwt.SigningMethodRS256, key, `{"alg":"RS256","kid":"r"}`, claimsOf("https://idp.example", "roombell", time.Hour))
	<-p.hits
	if _, err := v.Verify(t.Context(), token); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("got %v, want ErrUnavailable while the provider is away", err)
	}
	p.publish(false, jwk("r", &key.PublicKey))
	eventually(t, func() error { _, err := v.Verify(t.Context(), token); return err })
}

// A provider that fails later takes nothing away: the keys last seen stay good.
func TestProviderAwayLater(t *testing.T) {
	t.Parallel()
	key, next := newRSA(t), newRSA(t)
	p := newIDP(t)
	p.publish(false, jwk("r", &key.PublicKey))
	v := p.verifier(t, Options{})
	claims := claimsOf("https://idp.example", "roombell", time.Hour)
	known := signed(t, jwt.SigningMethodRS256, key, `{"alg":"RS256","kid":"r"}`, claims)
	eventually(t, func() error { _, err := v.Verify(t.Context(), known); return err })

	p.publish(true)
	unknown := signed(t, jwt.SigningMethodRS256, next, `{"alg":"RS256","kid":"next"}`, claims)
	if _, err := v.Verify(t.Context(), unknown); !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrInvalidToken) {
		t.Fatalf("got %v", err)
	}
	if _, err := v.Verify(t.Context(), known); err != nil {
		t.Fatalf("a known key was forgotten: %v", err)
	}
}

func TestProviderRotatesKeys(t *testing.T) {
	t.Parallel()
	key, next := newRSA(t), newRSA(t)
	p := newIDP(t)
	p.publish(false, jwk("r", &key.PublicKey))
	v := p.verifier(t, Options{})
	claims := claimsOf("https://idp.example", "roombell", time.Hour)
	former := signed(t, jwt.SigningMethodRS256, key, `{"alg":"RS256","kid":"r"}`, claims)
	eventually(t, func() error { _, err := v.Verify(t.Context(), former); return err })

	p.publish(false, jwk("next", &next.PublicKey))
	rotated := signed(t, jwt.SigningMethodRS256, next, `{"alg":"RS256","kid":"next"}`, claims)
	eventually(t, func() error { _, err := v.Verify(t.Context(), rotated); return err })
	if _, err := v.Verify(t.Context(), former); !errors.Is(err, ErrInvalidToken) {
		t.Fatalf("a withdrawn key is still good: %v", err)
	}
}

func TestProviderRedirectedToHTTP(t *testing.T) {
	t.Parallel()
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"keys":[]}`) }))
	defer plain.Close()
	server := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusFound))
	defer server.Close()
	v := newVerifier(t, Options{JWKSURL: server.URL, Issuer: "i", Audience: "a", Client: server.Client()})
	if err := v.provider.fetch(t.Context()); err == nil {
		t.Fatal("followed a redirect to http")
	}
}

// A token that waits for a key gives up with its context.
func TestVerifyWaitsNoLongerThanContext(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, Options{JWKSURL: "https://idp.example/keys", Issuer: "i", Audience: "a"}) // Run does not run
	token := signed(t, jwt.SigningMethodRS256, newRSA(t), `{"alg":"RS256","kid":"r"}`, claimsOf("i", "a", time.Hour))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Verify(ctx, token); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("got %v", err)
	}
}

func eventually(t *testing.T, f func() error) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(20 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("still %v", err)
		}
	}
}
