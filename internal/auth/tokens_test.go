package auth

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

var (
	testNow  = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	secret   = []byte("a secret of more than thirty-two bytes")
	previous = []byte("the former secret, thirty-two bytes+")
)

func clock() time.Time { return testNow }

func newVerifier(t testing.TB, o Options) *Verifier {
	t.Helper()
	o.Now = clock
	v, err := NewVerifier(o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// signed makes a token of raw JSON, so that the tests decide how numbers are spelled.
func signed(t testing.TB, method jwt.SigningMethod, key any, header, claims string) string {
	t.Helper()
	b64 := base64.RawURLEncoding
	text := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString([]byte(claims))
	signature, err := method.Sign(text, key)
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + b64.EncodeToString(signature)
}

func hs256(t testing.TB, key []byte, claims string) string {
	t.Helper()
	return signed(t, jwt.SigningMethodHS256, key, `{"alg":"HS256","typ":"JWT"}`, claims)
}

func at(d time.Duration) int64 { return testNow.Add(d).Unix() }

func TestVerifyClaims(t *testing.T) {
	t.Parallel()
	exp := fmt.Sprintf(`"exp":%d`, at(time.Hour))
	tests := []struct {
		name   string
		claims string
		user   int64
		err    error
	}{
		{"numbers", `{"userId":7,"organizationId":3,` + exp + `}`, 7, nil},
		{"numeric strings", `{"userId":"7","organizationId":"3",` + exp + `}`, 7, nil},
		{"sub in place of userId", `{"sub":"7","organizationId":3,` + exp + `}`, 7, nil},
		{"userId goes before sub", `{"userId":7,"sub":"auth0|abc","organizationId":3,` + exp + `}`, 7, nil},
		{"a bad userId is not mended by sub", `{"userId":"x","sub":"7","organizationId":3,` + exp + `}`, 0, ErrInvalidToken},
		{"whole number with a fraction of zeros", `{"userId":7.0,"organizationId":3,` + exp + `}`, 7, nil},
		{"2^53 as a number", `{"userId":9007199254740992,"organizationId":3,` + exp + `}`, 1 << 53, nil},
		{"2^53+1 as a number", `{"userId":9007199254740993,"organizationId":3,` + exp + `}`, 0, ErrInvalidToken},
		{"2^53+1 as a string", `{"userId":"9007199254740993","organizationId":3,` + exp + `}`, 1<<53 + 1, nil},
		{"2^63 as a string", `{"userId":"9223372036854775808","organizationId":3,` + exp + `}`, 0, ErrInvalidToken},
		{"fraction", `{"userId":7.5,"organizationId":3,` + exp + `}`, 0, ErrInvalidToken},
		{"fraction beyond float64", `{"userId":7.00000000000000000001,"organizationId":3,` + exp + `}`, 0, ErrInvalidToken},
		{"exponent", `{"userId":7e1,"organizationId":3,` + exp + `}`, 0, ErrInvalidToken},
		{"zero", `{"userId":0,"organizationId":3,` + exp + `}`, 0, ErrInvalidToken},
		{"negative", `{"userId":-7,"organizationId":3,` + exp + `}`, 0, ErrInvalidToken},
		{"sign in a string", `{"userId":"+7","organizationId":3,` + exp + `}`, 0, ErrInvalidToken},
		{"space in a string", `{"userId":" 7","organizationId":3,` + exp + `}`, 0, ErrInvalidToken},
		{"empty string", `{"userId":"","organizationId":3,` + exp + `}`, 0, ErrInvalidToken},
		{"list", `{"userId":[7],"organizationId":3,` + exp + `}`, 0, ErrInvalidToken},
		{"true", `{"userId":true,"organizationId":3,` + exp + `}`, 0, ErrInvalidToken},
		{"null user with a sub", `{"userId":null,"sub":"7","organizationId":3,` + exp + `}`, 0, ErrInvalidToken},
		{"no user", `{"organizationId":3,` + exp + `}`, 0, ErrInvalidToken},
		{"no organization", `{"userId":7,` + exp + `}`, 0, ErrInvalidToken},
		{"no exp", `{"userId":7,"organizationId":3}`, 0, ErrInvalidToken},
		{"exp null", `{"userId":7,"organizationId":3,"exp":null}`, 0, ErrInvalidToken},
		{"exp a string", `{"userId":7,"organizationId":3,"exp":"2099-01-01"}`, 0, ErrInvalidToken},
		{"exp beyond dates", `{"userId":7,"organizationId":3,"exp":253402300800}`, 0, ErrInvalidToken},
		{"exp beyond numbers", `{"userId":7,"organizationId":3,"exp":1e400}`, 0, ErrTokenExpired},
		{"claims are a list", `[7,3]`, 0, ErrInvalidToken},
		{"claims are null", `null`, 0, ErrInvalidToken},
		{"expired within the leeway", fmt.Sprintf(`{"userId":7,"organizationId":3,"exp":%d}`, at(-29*time.Second)), 7, nil},
		{"expired", fmt.Sprintf(`{"userId":7,"organizationId":3,"exp":%d}`, at(-31*time.Second)), 0, ErrTokenExpired},
		{"expired and not yet valid", fmt.Sprintf(`{"userId":7,"organizationId":3,"exp":%d,"nbf":%d}`, at(-time.Hour), at(time.Hour)), 0, ErrInvalidToken},
		{"nbf within the leeway", fmt.Sprintf(`{"userId":7,"organizationId":3,%s,"nbf":%d}`, exp, at(29*time.Second)), 7, nil},
		{"nbf ahead", fmt.Sprintf(`{"userId":7,"organizationId":3,%s,"nbf":%d}`, exp, at(31*time.Second)), 0, ErrInvalidToken},
		{"iat ahead", fmt.Sprintf(`{"userId":7,"organizationId":3,%s,"iat":%d}`, exp, at(31*time.Second)), 0, ErrInvalidToken},
	}
	v := newVerifier(t, Options{Secret: secret})
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			id, err := v.Verify(t.Context(), hs256(t, secret, test.claims))
			if !errors.Is(err, test.err) || id.UserID != test.user {
				t.Fatalf("got user %d, %v; want %d, %v", id.UserID, err, test.user, test.err)
			}
			if err == nil && id.OrganizationID != 3 {
				t.Fatalf("got organization %d, want 3", id.OrganizationID)
			}
		})
	}
}

func TestVerifyOptionalClaims(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, Options{Secret: secret})
	claims := fmt.Sprintf(`{"userId":7,"organizationId":3,"email":"ada@example.com","role":["a","b"],"exp":%d}`, at(time.Hour))
	id, err := v.Verify(t.Context(), hs256(t, secret, claims))
	want := Identity{UserID: 7, OrganizationID: 3, Email: "ada@example.com", ExpiresAt: testNow.Add(time.Hour)}
	if err != nil || id != want {
		t.Fatalf("got %+v, %v; want %+v", id, err, want)
	}
}

func TestVerifyClaimNames(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, Options{Secret: secret, Claims: Claims{User: "https://example.com/uid", Organization: "org"}})
	good := fmt.Sprintf(`{"https://example.com/uid":7,"org":"3","exp":%d}`, at(time.Hour))
	if id, err := v.Verify(t.Context(), hs256(t, secret, good)); err != nil || id.UserID != 7 || id.OrganizationID != 3 {
		t.Fatalf("got %+v, %v", id, err)
	}
	other := fmt.Sprintf(`{"userId":7,"sub":"7","org":3,"exp":%d}`, at(time.Hour))
	if _, err := v.Verify(t.Context(), hs256(t, secret, other)); !errors.Is(err, ErrInvalidToken) {
		t.Fatalf("the default names were read beside the configured ones: %v", err)
	}
}

func TestVerifySignature(t *testing.T) {
	t.Parallel()
	claims := fmt.Sprintf(`{"userId":7,"organizationId":3,"exp":%d}`, at(time.Hour))
	good := hs256(t, secret, claims)
	dot := strings.LastIndexByte(good, '.')
	rsaKey := newRSA(t)
	tests := []struct {
		name  string
		token string
		err   error
	}{
		{"our secret", good, nil},
		{"the former secret", hs256(t, previous, claims), nil},
		{"a foreign secret", hs256(t, []byte("somebody else's secret of 32 bytes"), claims), ErrInvalidToken},
		{"empty", "", ErrNoToken},
		{"not a token", "x", ErrInvalidToken},
		{"two dots", "..", ErrInvalidToken},
		{"no signature", good[:dot+1], ErrInvalidToken},
		{"four parts", good + ".x", ErrInvalidToken},
		{"too long", strings.Repeat("a", maxToken+1), ErrInvalidToken},
		{"alg none", signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, `{"alg":"none"}`, claims), ErrInvalidToken},
		{"alg None with our signature", b64(`{"alg":"None"}`) + good[strings.IndexByte(good, '.'):], ErrInvalidToken},
		{"no alg", b64(`{"typ":"JWT"}`) + good[strings.IndexByte(good, '.'):], ErrInvalidToken},
		{"HS512 with our secret", signed(t, jwt.SigningMethodHS512, secret, `{"alg":"HS512"}`, claims), ErrInvalidToken},
		{"RS256 without a JWKS", signed(t, jwt.SigningMethodRS256, rsaKey, `{"alg":"RS256","kid":"r"}`, claims), ErrInvalidToken},
		{"key of its own in the header", signed(t, jwt.SigningMethodRS256, rsaKey, `{"alg":"RS256","jwk":{"kty":"RSA"}}`, claims), ErrInvalidToken},
	}
	v := newVerifier(t, Options{Secret: secret, PreviousSecret: previous})
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if _, err := v.Verify(t.Context(), test.token); !errors.Is(err, test.err) {
				t.Fatalf("got %v, want %v", err, test.err)
			}
		})
	}
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func newRSA(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func publicPEM(t testing.TB, key crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestNewVerifierRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		o    Options
	}{
		{"nothing", Options{}},
		{"only a former secret", Options{PreviousSecret: previous}},
		{"31 bytes", Options{Secret: secret[:31]}},
		{"former secret of 31 bytes", Options{Secret: secret, PreviousSecret: previous[:31]}},
		{"JWKS by http", Options{JWKSURL: "http://idp.example/keys", Issuer: "i", Audience: "a"}},
		{"JWKS without issuer", Options{JWKSURL: "https://idp.example/keys", Audience: "a"}},
		{"JWKS without audience", Options{JWKSURL: "https://idp.example/keys", Issuer: "i"}},
		{"JWKS without a host", Options{JWKSURL: "https:///keys", Issuer: "i", Audience: "a"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if _, err := NewVerifier(test.o); err == nil {
				t.Fatal("accepted")
			}
		})
	}
}

func TestIssuedTokenVerifies(t *testing.T) {
	t.Parallel()
	for _, claims := range []Claims{{}, {User: "uid", Organization: "org"}} {
		issuer, err := NewIssuer(secret, claims, clock)
		if err != nil {
			t.Fatal(err)
		}
		want := Identity{UserID: 1<<53 + 1, OrganizationID: 3, Email: "ada@example.com", Role: "admin",
			Generation: 5, LoginAt: testNow.Add(-time.Hour)}
		token, expires, err := issuer.Issue(want, 90*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		want.ExpiresAt, want.IssuedAt = testNow.Add(90*time.Minute), testNow
		got, err := newVerifier(t, Options{Secret: secret, Claims: claims}).Verify(t.Context(), token)
		if err != nil || got != want || !expires.Equal(want.ExpiresAt) {
			t.Fatalf("got %+v until %v, %v; want %+v", got, expires, err, want)
		}
	}
}

func TestIssueRefuses(t *testing.T) {
	t.Parallel()
	if _, err := NewIssuer(secret[:31], Claims{}, nil); err == nil {
		t.Fatal("a short secret was accepted")
	}
	issuer, err := NewIssuer(secret, Claims{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := issuer.Issue(Identity{UserID: 7}, time.Hour); err == nil {
		t.Fatal("a token without an organization was issued")
	}
}

func FuzzVerify(f *testing.F) {
	v := newVerifier(f, Options{Secret: secret})
	f.Add(hs256(f, secret, `{"userId":7,"organizationId":3,"exp":4102444800}`))
	f.Add(b64(`{"alg":"none"}`) + "." + b64(`{"userId":7}`) + ".")
	f.Add("a.b.c")
	f.Add("")
	f.Fuzz(func(t *testing.T, token string) {
		id, err := v.Verify(t.Context(), token)
		if err == nil && (id.UserID <= 0 || id.OrganizationID <= 0 || !id.ExpiresAt.After(testNow.Add(-leeway))) {
			t.Fatalf("accepted %+v", id)
		}
		if err != nil && !errors.Is(err, ErrNoToken) && !errors.Is(err, ErrInvalidToken) && !errors.Is(err, ErrTokenExpired) {
			t.Fatalf("an error without a meaning: %v", err)
		}
	})
}

// FuzzClaims signs whatever comes, so that the fuzzer gets past the signature.
func FuzzClaims(f *testing.F) {
	v := newVerifier(f, Options{Secret: secret})
	f.Add(`{"userId":7,"organizationId":"3","exp":4102444800}`)
	f.Add(`{"sub":"9007199254740993","organizationId":3.0,"exp":4102444800.5,"nbf":1}`)
	f.Add(`{"userId":1e3,"organizationId":-1,"exp":"x"}`)
	f.Fuzz(func(t *testing.T, claims string) {
		id, err := v.Verify(t.Context(), hs256(t, secret, claims))
		if err != nil {
			return
		}
		var said map[string]json.RawMessage
		if err := json.Unmarshal([]byte(claims), &said); err != nil {
			return // the library reads the first JSON value and does not mind what follows
		}
		name := "userId"
		if _, ok := said[name]; !ok {
			name = "sub"
		}
		if got := strings.Trim(string(said[name]), `"`); !strings.HasPrefix(got, fmt.Sprint(id.UserID)) && !strings.Contains(got, `\`) {
			t.Fatalf("claim %s read as %d", said[name], id.UserID)
		}
	})
}

func TestVoid(t *testing.T) {
	t.Parallel()
	before, after := testNow.Add(-time.Second), testNow.Add(time.Second)
	tests := []struct {
		name string
		id   Identity
		from *time.Time
		want bool
	}{
		{"of this generation", Identity{Generation: 4}, &testNow, false},
		{"of this generation, by a clock that is behind", Identity{Generation: 4, IssuedAt: before}, &testNow, false},
		{"of the former generation", Identity{Generation: 3, IssuedAt: after}, &testNow, true},
		{"of a generation that a failover lost", Identity{Generation: 5, IssuedAt: after}, &testNow, true},
		{"of another issuer, later", Identity{IssuedAt: after}, &testNow, false},
		{"of another issuer, before", Identity{IssuedAt: before}, &testNow, true},
		{"does not say when", Identity{}, &testNow, true},
		{"does not say when, and nothing was ended", Identity{}, nil, false},
		{"before, and nothing was ended", Identity{IssuedAt: before}, nil, false},
	}
	for _, test := range tests {
		if got := test.id.Void(4, test.from); got != test.want {
			t.Errorf("%s: void %t", test.name, got)
		}
	}
}

// What an identity provider means by gen and auth_time is not ours: see also TestVerifyProviderTokens.
func TestVerifyOurClaims(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, Options{Secret: secret})
	for claims, want := range map[string]Identity{
		`"gen":3,"auth_time":1700000000`:    {Generation: 3, LoginAt: time.Unix(1700000000, 0).UTC()},
		`"gen":"3","auth_time":"yesterday"`: {Generation: 3},
		`"gen":0,"auth_time":-5`:            {},
		`"gen":2147483648`:                  {},
		`"gen":[1],"auth_time":1e300`:       {},
	} {
		id, err := v.Verify(t.Context(), hs256(t, secret, fmt.Sprintf(`{"userId":7,"organizationId":3,"exp":%d,%s}`, at(time.Hour), claims)))
		if err != nil || id.Generation != want.Generation || !id.LoginAt.Equal(want.LoginAt) {
			t.Errorf("%s: %+v, %v", claims, id, err)
		}
	}
}
