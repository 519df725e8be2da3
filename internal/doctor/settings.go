package doctor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"

	"roombell/internal/auth"
)

// distinct is how many different bytes a secret of random letters has at the least: 32 hexadecimal digits have 14 in the mean.
const distinct = 8

// tokens looks at what verifies them.
func (d *Doctor) tokens(ctx context.Context) ([]Finding, error) {
	o := d.o.Tokens
	o.Logger = slog.New(slog.DiscardHandler)
	if len(o.Secret) == 0 && o.JWKSURL == "" {
		return []Finding{d.noSecret()}, nil
	}
	verifier, err := auth.NewVerifier(o)
	if err != nil {
		return []Finding{{
			Code: "jwt_refused", Level: Broken, Title: "the settings of tokens are refused: " + clean(err),
			Meaning: "The service does not start with them.", Remedy: "Correct ROOMBELL_JWT_SECRET, or ROOMBELL_JWKS_URL with ROOMBELL_JWT_ISSUER and ROOMBELL_JWT_AUDIENCE.",
		}}, nil
	}
	found := judgeSecret(o.Secret, o.PreviousSecret)
	if o.JWKSURL != "" {
		if err := verifier.FetchKeys(ctx); err != nil {
			found = append(found, keysMissing(o, err))
		}
	}
	if len(found) == 0 {
		found = []Finding{{Code: "tokens_ok", Title: tokensTitle(o)}}
	}
	return found, nil
}

// noSecret is no fault of the installation when somebody serves it with other settings than these.
func (d *Doctor) noSecret() Finding {
	f := Finding{
		Code: "jwt_missing", Level: Broken, Title: "neither ROOMBELL_JWT_SECRET nor ROOMBELL_JWKS_URL is set",
		Meaning: "No token can be verified: roombell serve does not start.",
		Remedy:  "Give the service and whoever signs tokens the same secret:", Command: "export ROOMBELL_JWT_SECRET=$(openssl rand -hex 32)",
	}
	if d.listening > 0 {
		f.Code, f.Level, f.Command = "jwt_not_here", Note, ""
		f.Meaning = "A service runs, so it has one: the environment of this command is not the service's, and its settings were not looked at."
		f.Remedy = "Run roombell doctor with the service's environment."
	}
	return f
}

func judgeSecret(secret, previous []byte) []Finding {
	var found []Finding
	if len(secret) > 0 && differentBytes(secret) < distinct {
		found = append(found, Finding{
			Code: "jwt_secret_weak", Level: Warning, Title: "ROOMBELL_JWT_SECRET is made of few different characters",
			Meaning: "Who guesses it makes tokens for anybody.", Remedy: "Take a random one; ROOMBELL_JWT_SECRET_PREVIOUS keeps tokens of the former one good:",
			Command: "export ROOMBELL_JWT_SECRET=$(openssl rand -hex 32)",
		})
	}
	if len(previous) > 0 {
		found = append(found, Finding{
			Code: "jwt_secret_previous", Level: Note, Title: "ROOMBELL_JWT_SECRET_PREVIOUS is set: tokens of the former secret are accepted",
			Remedy: "Take it away when the last of them has ended (ROOMBELL_TOKEN_TTL after the change).",
		})
	}
	return found
}

func differentBytes(b []byte) int {
	sorted := slices.Clone(b)
	slices.Sort(sorted)
	return len(slices.Compact(sorted))
}

func keysMissing(o auth.Options, err error) Finding {
	var asked *url.Error
	if errors.As(err, &asked) { // which shows the whole address
		err = asked.Err
	}
	f := Finding{
		Code: "jwks_unreachable", Level: Broken, Title: "the identity provider's keys cannot be fetched from " + host(o.JWKSURL), Err: err,
		Meaning: "No token can be verified. " + sentence(clean(err)), Remedy: "See that ROOMBELL_JWKS_URL is right and can be reached from the service's machine:",
		Command: "curl -fsS \"$ROOMBELL_JWKS_URL\"",
	}
	if len(o.Secret) > 0 {
		f.Level, f.Meaning = Warning, "Tokens of ROOMBELL_JWT_SECRET are verified, those of the provider are not. "+sentence(clean(err))
	}
	return f
}

// host is an address without what may be in its path or query.
func host(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "ROOMBELL_JWKS_URL"
	}
	return u.Host
}

func tokensTitle(o auth.Options) string {
	var ways []string
	if len(o.Secret) > 0 {
		ways = append(ways, "HS256 with the secret")
	}
	if o.JWKSURL != "" {
		ways = append(ways, fmt.Sprintf("keys of %s (issuer %s, audience %s)", host(o.JWKSURL), o.Issuer, o.Audience))
	}
	return "tokens are verified by " + strings.Join(ways, " or ")
}

// origins looks at which pages may connect.
func (d *Doctor) origins(context.Context) ([]Finding, error) {
	var found []Finding
	var open []string
	for _, origin := range d.o.Origins {
		if origin == "*" {
			found = append(found, Finding{
				Code: "origins_any", Level: Warning, Title: "ROOMBELL_CORS_ORIGINS is *: pages of any site may connect",
				Meaning: "A token is still needed; but a page of anybody's that gets hold of one can use it from the browser of whoever visits it.",
				Remedy:  "Name your pages: ROOMBELL_CORS_ORIGINS=https://inbox.example",
			})
		} else if strings.HasPrefix(origin, "http://") && !loopback(origin) {
			open = append(open, origin)
		}
	}
	if len(open) > 0 {
		found = append(found, Finding{
			Code: "origins_http", Level: Warning, Title: "pages without TLS may connect: " + list(open),
			Meaning: "Whoever is on the way reads such a page and what it loads, tokens included.", Remedy: "Serve these pages by https, and name them so in ROOMBELL_CORS_ORIGINS.",
		})
	}
	switch {
	case len(found) > 0:
	case len(d.o.Origins) == 0:
		found = []Finding{{Code: "origins_ok", Title: "browsers connect from pages of the service's own host only (ROOMBELL_CORS_ORIGINS is not set)"}}
	default:
		found = []Finding{{Code: "origins_ok", Title: "browsers connect from the service's own host and from " + list(d.o.Origins)}}
	}
	return found, nil
}

func loopback(origin string) bool {
	u, err := url.Parse(origin)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// redis says what its absence means. The setting itself is refused by this version, before any check.
func (d *Doctor) redis(context.Context) ([]Finding, error) {
	if d.listening > 1 {
		return []Finding{{
			Code: "redis_absent", Level: Note, Title: fmt.Sprintf("%d nodes share no Redis", d.listening),
			Meaning: "Events of the database reach every client all the same. Typing and presence stay on their node; this version has no Redis adapter.",
		}}, nil
	}
	return []Finding{{Code: "redis_ok", Title: "one node needs no Redis"}}, nil
}
