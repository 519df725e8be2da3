package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// MinSecret is the least number of bytes of an HS256 secret (RFC 7518 §3.2: not shorter than the hash).
	MinSecret = 32

	leeway   = 30 * time.Second
	maxToken = 16 << 10
	// JSON numbers are exact in every language up to 2^53 (RFC 8259 §6); larger ids travel as strings.
	maxJSONNumber = 1 << 53
	// The last second with an RFC 3339 form; a token that ends later is nonsense.
	maxExpiry = 253402300799
)

// Options of a Verifier. At least one of Secret and JWKSURL is set.
type Options struct {
	Secret         []byte // HS256, at least MinSecret bytes
	PreviousSecret []byte // the former secret: verifies, never signs

	JWKSURL  string // https; needs Issuer and Audience
	Issuer   string
	Audience string

	Claims Claims
	Client *http.Client     // for the JWKS; nil: a client with a timeout
	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: slog.Default
}

// Verifier tells who bears a token. It is safe for use by many goroutines.
type Verifier struct {
	secrets  jwt.VerificationKeySet
	provider *provider // nil without a JWKS
	parser   *jwt.Parser
	claims   Claims
}

// NewVerifier returns a Verifier that is ready for tokens of our own secret. Those of an identity provider are
// verified while Run runs; no network is touched before.
func NewVerifier(o Options) (*Verifier, error) {
	if len(o.Secret) == 0 && o.JWKSURL == "" {
		return nil, errors.New("neither a secret nor a JWKS address to verify tokens with")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	v := &Verifier{claims: o.Claims}
	var methods []string
	for _, secret := range [][]byte{o.Secret, o.PreviousSecret} {
		if len(secret) == 0 {
			continue
		}
		if len(secret) < MinSecret {
			return nil, fmt.Errorf("the secret has %d bytes and needs %d", len(secret), MinSecret)
		}
		v.secrets.Keys = append(v.secrets.Keys, secret)
		methods = []string{jwt.SigningMethodHS256.Alg()}
	}
	if o.JWKSURL != "" {
		p, err := newProvider(o)
		if err != nil {
			return nil, err
		}
		v.provider = p
		methods = append(methods, providerMethods()...)
	}
	v.parser = jwt.NewParser(jwt.WithValidMethods(methods), jwt.WithLeeway(leeway), jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(), jwt.WithJSONNumber(), jwt.WithTimeFunc(o.Now))
	return v, nil
}

// Run keeps the identity provider's keys fresh until ctx ends, and then returns nil. A provider that is away is logged
// and tried again; the keys last seen stay good meanwhile.
func (v *Verifier) Run(ctx context.Context) error {
	if v.provider == nil {
		<-ctx.Done()
		return nil
	}
	return v.provider.run(ctx)
}

// FetchKeys asks the identity provider for its keys once, as Run does again and again; without a provider it is nil.
func (v *Verifier) FetchKeys(ctx context.Context) error {
	if v.provider == nil {
		return nil
	}
	return v.provider.fetch(ctx)
}

// Verify returns who bears the token, or ErrNoToken, ErrInvalidToken, ErrTokenExpired or ErrUnavailable. A key that is
// not known yet may be waited for, a few seconds at most.
func (v *Verifier) Verify(ctx context.Context, token string) (Identity, error) {
	if token == "" {
		return Identity{}, ErrNoToken
	}
	if len(token) > maxToken {
		return Identity{}, fmt.Errorf("%w: longer than %d bytes", ErrInvalidToken, maxToken)
	}
	claims := jwt.MapClaims{}
	parsed, err := v.parser.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) { return v.key(ctx, t) })
	if err != nil {
		return Identity{}, refusal(err)
	}
	if parsed.Method != jwt.SigningMethodHS256 {
		if err := v.provider.validator.Validate(claims); err != nil {
			return Identity{}, refusal(err)
		}
	}
	id, err := v.identity(claims)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrInvalidToken, err)
	}
	if parsed.Method == jwt.SigningMethodHS256 {
		id.readOurs(claims)
	}
	return id, nil
}

// key picks the keys by the algorithm's family. The parser let only our methods through, and a key of another type
// fails in the method itself, so an HMAC made with a public key finds only our secrets to be compared with.
func (v *Verifier) key(ctx context.Context, t *jwt.Token) (any, error) {
	if t.Method == jwt.SigningMethodHS256 {
		return v.secrets, nil
	}
	return v.provider.key(ctx, t)
}

// refusal gives the library's error one of our meanings. Expired means: good in all else.
func refusal(err error) error {
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	if !errors.Is(err, jwt.ErrTokenExpired) {
		return fmt.Errorf("%w: %w", ErrInvalidToken, err)
	}
	for _, worse := range []error{jwt.ErrTokenInvalidIssuer, jwt.ErrTokenInvalidAudience, jwt.ErrTokenNotValidYet,
		jwt.ErrTokenUsedBeforeIssued, jwt.ErrTokenRequiredClaimMissing, jwt.ErrInvalidType} {
		if errors.Is(err, worse) {
			return fmt.Errorf("%w: %w", ErrInvalidToken, worse)
		}
	}
	return ErrTokenExpired
}

func (v *Verifier) identity(claims jwt.MapClaims) (Identity, error) {
	expires, err := claims.GetExpirationTime()
	if err != nil || expires == nil || expires.Unix() <= 0 || expires.Unix() > maxExpiry {
		return Identity{}, errors.New("exp is no date")
	}
	name := v.claims.user()
	if _, ok := claims[name]; !ok && v.claims.User == "" {
		name = subjectClaim
	}
	userID, err := idClaim(claims, name)
	if err != nil {
		return Identity{}, err
	}
	organizationID, err := idClaim(claims, v.claims.organization())
	if err != nil {
		return Identity{}, err
	}
	id := Identity{UserID: userID, OrganizationID: organizationID, ExpiresAt: expires.UTC()}
	if issued, err := claims.GetIssuedAt(); err == nil && issued != nil {
		id.IssuedAt = issued.UTC()
	}
	// Claims of the same name but another type (a list of roles) belong to somebody else's convention.
	id.Email, _ = claims["email"].(string)
	id.Role, _ = claims["role"].(string)
	return id, nil
}

// The claims of our own tokens. auth_time is OpenID Connect's word (Core 1.0 §2); gen is ours.
const (
	generationClaim = "gen"
	loginClaim      = "auth_time"
)

// readOurs reads what only our secret may say: an identity provider's claims of the same names mean something else.
func (id *Identity) readOurs(claims jwt.MapClaims) {
	if n, ok := parseID(claims[generationClaim]); ok && n <= math.MaxInt32 {
		id.Generation = int32(n)
	}
	if at, ok := parseID(claims[loginClaim]); ok && at <= maxExpiry {
		id.LoginAt = time.Unix(at, 0).UTC()
	}
}

func idClaim(claims jwt.MapClaims, name string) (int64, error) {
	value, ok := claims[name]
	if !ok {
		return 0, fmt.Errorf("claim %s is missing", name)
	}
	id, ok := parseID(value)
	if !ok {
		return 0, fmt.Errorf("claim %s is no id", name)
	}
	return id, nil
}

// parseID reads a JSON number or a numeric string exactly: no rounding, no signs, nothing but a positive whole number.
func parseID(value any) (int64, bool) {
	switch v := value.(type) {
	case json.Number:
		whole, fraction, _ := strings.Cut(v.String(), ".")
		if strings.Trim(fraction, "0") != "" {
			return 0, false
		}
		id, ok := parseDigits(whole)
		return id, ok && id <= maxJSONNumber
	case string:
		return parseDigits(v)
	default:
		return 0, false
	}
}

func parseDigits(s string) (int64, bool) {
	id, err := strconv.ParseInt(s, 10, 64)
	if err != nil || id <= 0 || strconv.FormatInt(id, 10) != s {
		return 0, false
	}
	return id, true
}

// Issuer signs tokens of our own, HS256.
type Issuer struct {
	secret []byte
	claims Claims
	now    func() time.Time
}

// NewIssuer returns an Issuer whose tokens a Verifier with the same secret and claims accepts. now may be nil.
func NewIssuer(secret []byte, claims Claims, now func() time.Time) (*Issuer, error) {
	if len(secret) < MinSecret {
		return nil, fmt.Errorf("the secret has %d bytes and needs %d", len(secret), MinSecret)
	}
	if now == nil {
		now = time.Now
	}
	return &Issuer{secret: secret, claims: claims, now: now}, nil
}

// Issue returns a token for id that lives for ttl, and when it ends. It is issued now, whatever id says. Without a Generation the
// token is told from voided ones by its time alone; without a LoginAt it cannot be refreshed.
func (i *Issuer) Issue(id Identity, ttl time.Duration) (string, time.Time, error) {
	if id.UserID <= 0 || id.OrganizationID <= 0 {
		return "", time.Time{}, errors.New("issue token: it needs a user and an organization")
	}
	// Whole seconds, as NumericDate has them: what is returned is what the token says.
	now := i.now().Truncate(time.Second).UTC()
	expires := now.Add(ttl).Truncate(time.Second)
	claims := jwt.MapClaims{
		"sub": strconv.FormatInt(id.UserID, 10),
		"iat": now.Unix(),
		"exp": expires.Unix(),
	}
	if id.Email != "" {
		claims["email"] = id.Email
	}
	if id.Role != "" {
		claims["role"] = id.Role
	}
	if id.Generation > 0 {
		claims[generationClaim] = id.Generation
	}
	if !id.LoginAt.IsZero() {
		claims[loginClaim] = id.LoginAt.Unix()
	}
	claims[i.claims.user()] = claimID(id.UserID)
	claims[i.claims.organization()] = claimID(id.OrganizationID)
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(i.secret)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("issue token: %w", err)
	}
	return token, expires, nil
}

func claimID(id int64) any {
	if id > maxJSONNumber {
		return strconv.FormatInt(id, 10)
	}
	return id
}

func checkJWKSURL(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return errors.New("the JWKS address must be https")
	}
	return nil
}
