package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
)

const (
	refreshEvery = 15 * time.Minute
	// The provider is asked at most this often, however many tokens with unknown keys arrive.
	refreshAtMost = 5 * time.Second
	// A bit more than refreshAtMost and the answer: a token signed with a brand-new key is waited for, not refused,
	// because a standard client never retries after a refusal.
	keyWait      = 10 * time.Second
	retryAtLeast = time.Minute
	fetchTimeout = 5 * time.Second
	maxJWKS      = 1 << 20
)

// provider holds the published keys of an identity provider. Only run fetches; Verify asks run to and waits.
type provider struct {
	url       string
	client    *http.Client
	log       *slog.Logger
	storage   jwkset.Storage
	keys      keyfunc.Keyfunc
	validator *jwt.Validator
	every     time.Duration
	atMost    time.Duration

	ask chan struct{} // capacity one: "somebody waits for a key"

	mu     sync.Mutex
	done   chan struct{} // closed and replaced after each fetch
	failed error         // of the last fetch; before the first: not asked yet
}

func providerMethods() []string {
	return []string{jwt.SigningMethodRS256.Alg(), jwt.SigningMethodES256.Alg(), jwt.SigningMethodEdDSA.Alg()}
}

func newProvider(o Options) (*provider, error) {
	if err := checkJWKSURL(o.JWKSURL); err != nil {
		return nil, err
	}
	if o.Issuer == "" || o.Audience == "" {
		return nil, errors.New("the JWKS address needs an issuer and an audience")
	}
	p := &provider{
		url:     o.JWKSURL,
		client:  httpsOnly(o.Client),
		log:     o.Logger,
		storage: jwkset.NewMemoryStorage(),
		validator: jwt.NewValidator(jwt.WithLeeway(leeway), jwt.WithIssuer(o.Issuer), jwt.WithAudience(o.Audience),
			jwt.WithTimeFunc(o.Now)),
		every:  refreshEvery,
		atMost: refreshAtMost,
		ask:    make(chan struct{}, 1),
		done:   make(chan struct{}),
		failed: errors.New("not asked yet"),
	}
	if p.log == nil {
		p.log = slog.Default()
	}
	keys, err := keyfunc.New(keyfunc.Options{Storage: p.storage})
	if err != nil {
		return nil, fmt.Errorf("keep identity provider's keys: %w", err)
	}
	p.keys = keys
	return p, nil
}

// httpsOnly copies the client and refuses redirects that leave https.
func httpsOnly(given *http.Client) *http.Client {
	client := http.Client{Timeout: fetchTimeout}
	if given != nil {
		client = *given
	}
	client.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		if r.URL.Scheme != "https" || len(via) > 3 {
			return errors.New("redirected away from https, or too often")
		}
		return nil
	}
	return &client
}

// run fetches at once, then regularly, and sooner when a token names a key that is not known.
func (p *provider) run(ctx context.Context) error {
	retry := p.atMost
	for {
		err := p.fetch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		delay := p.every
		if err != nil {
			retry = min(2*retry, retryAtLeast)
			delay = retry
			p.log.Warn("identity provider's keys could not be fetched", "err", err, "next_try", delay)
		} else {
			retry = p.atMost
		}
		p.finish(err)
		if !p.pause(ctx, delay) {
			return nil
		}
	}
}

// pause waits until the next fetch is due and reports false when ctx ended: after delay, or sooner when somebody asks,
// but never within atMost of the last.
func (p *provider) pause(ctx context.Context, delay time.Duration) bool {
	short := time.NewTimer(p.atMost)
	defer short.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-short.C:
	}
	long := time.NewTimer(delay - p.atMost)
	defer long.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-long.C:
	case <-p.ask:
	}
	return true
}

func (p *provider) finish(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed = err
	close(p.done)
	p.done = make(chan struct{})
}

func (p *provider) state() (done <-chan struct{}, failed error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done, p.failed
}

// key returns the key that the token names. One that is not known is waited for until the next fetch has ended; when
// that fetch failed, the answer is ErrUnavailable, else that there is no such key.
func (p *provider) key(ctx context.Context, t *jwt.Token) (any, error) {
	done, _ := p.state()
	key, known, err := p.lookup(ctx, t)
	if known {
		return key, err
	}
	select {
	case p.ask <- struct{}{}:
	default:
	}
	wait := time.NewTimer(keyWait)
	defer wait.Stop()
	select {
	case <-done:
	case <-wait.C:
		return nil, ErrUnavailable
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
	if key, known, err = p.lookup(ctx, t); known {
		return key, err
	}
	if _, failed := p.state(); failed != nil {
		return nil, ErrUnavailable
	}
	return nil, errors.New("no such key")
}

// lookup says known when what we hold decides: a key, several for a token that names none, or an error of the token's.
func (p *provider) lookup(ctx context.Context, t *jwt.Token) (key any, known bool, err error) {
	key, err = p.keys.KeyfuncCtx(ctx)(t)
	set, isSet := key.(jwt.VerificationKeySet)
	unknown := errors.Is(err, jwkset.ErrKeyNotFound) || err == nil && isSet && len(set.Keys) == 0
	return key, !unknown, err
}

func (p *provider) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, nil)
	if err != nil {
		return fmt.Errorf("fetch keys: %w", err)
	}
	response, err := p.client.Do(request)
	if err != nil {
		return fmt.Errorf("fetch keys: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("fetch keys: status %d", response.StatusCode)
	}
	var published jwkset.JWKSMarshal
	if err := json.NewDecoder(io.LimitReader(response.Body, maxJWKS)).Decode(&published); err != nil {
		return fmt.Errorf("read keys: %w", err)
	}
	return p.store(ctx, published)
}

// store replaces all keys, so that a withdrawn one is good no longer. A set without a key for us is taken as a fault of
// the provider's and changes nothing.
func (p *provider) store(ctx context.Context, published jwkset.JWKSMarshal) error {
	var keys []jwkset.JWK
	for _, m := range published.Keys {
		if !forSignatures(m) {
			continue
		}
		key, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
		if err != nil {
			p.log.Warn("a key of the identity provider cannot be read", "err", err)
			continue
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return errors.New("read keys: none for RS256, ES256 or EdDSA")
	}
	if err := p.storage.KeyReplaceAll(ctx, keys); err != nil {
		return fmt.Errorf("keep keys: %w", err)
	}
	return nil
}

// forSignatures keeps the keys whose type fixes one algorithm of ours, and that are not meant for something else.
func forSignatures(m jwkset.JWKMarshal) bool {
	if m.USE != "" && m.USE != jwkset.UseSig {
		return false
	}
	var fixed jwkset.ALG
	switch {
	case m.KTY == jwkset.KtyRSA:
		fixed = jwkset.AlgRS256
	case m.KTY == jwkset.KtyEC && m.CRV == jwkset.CrvP256:
		fixed = jwkset.AlgES256
	case m.KTY == jwkset.KtyOKP && m.CRV == jwkset.CrvEd25519:
		fixed = jwkset.AlgEdDSA
	default:
		return false
	}
	return m.ALG == "" || m.ALG == fixed
}
