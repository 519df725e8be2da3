package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/jackc/pgx/v5/pgxpool"

	"roombell/internal/auth"
	"roombell/internal/postgres"
)

// settings is every setting, in the order in which the README lists them; the tags are its table. A field with `env` is
// a flag as well; one with `secret` comes from the environment or from a file named by NAME_FILE, and has no flag. What
// is marked `later` belongs to a part that this version does not have: setting it is refused, not ignored.
type settings struct {
	DatabaseURL       secret `kong:"-" secret:"DATABASE_URL" shown:"none (dev starts its own)" help:"PostgreSQL 15 or newer; several hosts allowed (host1,host2 with target_session_attrs=read-write)"`
	ListenDatabaseURL secret `kong:"-" secret:"ROOMBELL_LISTEN_DATABASE_URL" shown:"= DATABASE_URL" help:"a direct connection, for LISTEN and migrations, when the main one goes through a transaction-pooling proxy; the main one then prepares no statements"`

	Addr      string `env:"ROOMBELL_ADDR" placeholder:"HOST:PORT" shown:":3000, dev 127.0.0.1:3000" help:"address of the HTTP API, Socket.IO and the health paths"`
	AdminAddr string `env:"ROOMBELL_ADMIN_ADDR" placeholder:"HOST:PORT" shown:"127.0.0.1:3001" help:"address of /metrics, /debug/pprof and the health paths"`
	TLSCert   string `name:"tls-cert" env:"ROOMBELL_TLS_CERT" placeholder:"FILE" help:"certificate chain (PEM): serve HTTPS and WSS directly; read again when the file changes"`
	TLSKey    string `name:"tls-key" env:"ROOMBELL_TLS_KEY" placeholder:"FILE" help:"its private key (PEM)"`

	JWTSecret            secret `kong:"-" secret:"ROOMBELL_JWT_SECRET" shown:"none (dev makes one)" help:"HS256 secret, 32 bytes or more"`
	JWTSecretPrevious    secret `kong:"-" secret:"ROOMBELL_JWT_SECRET_PREVIOUS" help:"the former secret, still accepted"`
	JWKSURL              string `name:"jwks-url" env:"ROOMBELL_JWKS_URL" placeholder:"URL" help:"accept RS256, ES256 and EdDSA tokens of an identity provider that publishes its keys here (https), in place of or beside the secret; needs issuer and audience"`
	JWTIssuer            string `name:"jwt-issuer" env:"ROOMBELL_JWT_ISSUER" placeholder:"ISSUER" help:"the issuer that the identity provider's tokens must name"`
	JWTAudience          string `name:"jwt-audience" env:"ROOMBELL_JWT_AUDIENCE" placeholder:"AUDIENCE" help:"the audience that they must name"`
	JWTUserClaim         string `name:"jwt-user-claim" env:"ROOMBELL_JWT_USER_CLAIM" placeholder:"CLAIM" shown:"userId, else sub" help:"the claim that holds the user's id"`
	JWTOrganizationClaim string `name:"jwt-organization-claim" env:"ROOMBELL_JWT_ORGANIZATION_CLAIM" placeholder:"CLAIM" shown:"organizationId" help:"the claim that holds the organization's id"`

	TokenTTL    time.Duration `name:"token-ttl" env:"ROOMBELL_TOKEN_TTL" default:"12h" help:"life of tokens issued by login; 1h to 24h"`
	CORSOrigins []string      `name:"cors-origins" env:"ROOMBELL_CORS_ORIGINS" placeholder:"ORIGIN" shown:"none (same origin)" help:"comma-separated origins that browsers may come from; * only when written out"`
	_           struct{}      `kong:"-" later:"ROOMBELL_REDIS_URL" help:"Socket.IO Redis adapter between nodes"`
	RateEvents  float64       `env:"ROOMBELL_RATE_EVENTS" default:"20" help:"client events per second and socket"`
	RateBurst   int           `env:"ROOMBELL_RATE_BURST" default:"40" help:"and how many at once"`
	Retention   time.Duration `env:"ROOMBELL_RETENTION" default:"72h" help:"how long the event log is kept; 1h to 720h; written to the database by migrate, one that differs there is reported"`
	ResumeLimit int           `env:"ROOMBELL_RESUME_LIMIT" default:"20000" help:"missed events that a client is given before it is told too_many"`
	SendQueue   size          `env:"ROOMBELL_SEND_QUEUE" default:"1MiB" help:"bytes that may already wait for a slow client when one more event comes; then it is disconnected"`

	TrustedProxies       []network     `env:"ROOMBELL_TRUSTED_PROXIES" placeholder:"NETWORK" help:"comma-separated networks whose X-Forwarded-For is believed"`
	MaxSocketsPerUser    int           `env:"ROOMBELL_MAX_SOCKETS_PER_USER" default:"100" help:"open sockets of one user; 0: no limit"`
	MaxSocketsPerAddress int           `env:"ROOMBELL_MAX_SOCKETS_PER_ADDRESS" default:"0" help:"open sockets of one address; 0: no limit"`
	Drain                time.Duration `env:"ROOMBELL_DRAIN" default:"5s" help:"time over which sockets are let go at a stop; up to 20s"`

	DataDir   string     `env:"ROOMBELL_DATA_DIR" placeholder:"DIR" shown:"per user" help:"where dev keeps its database and secrets"`
	LogLevel  slog.Level `env:"ROOMBELL_LOG_LEVEL" default:"info" help:"debug, info, warn or error"`
	LogFormat string     `env:"ROOMBELL_LOG_FORMAT" placeholder:"text|json" shown:"text on a terminal, else json" help:"form of the log, which goes to standard error"`

	AdminKey          secret   `kong:"-" secret:"ROOMBELL_ADMIN_KEY" shown:"none (dev makes one)" help:"the key for creating organizations by HTTP"`
	SecretKey         secret   `kong:"-" secret:"ROOMBELL_SECRET_KEY" shown:"none (dev makes one)" help:"32 bytes, base64: encrypts channel credentials at rest"`
	SecretKeyPrevious secret   `kong:"-" secret:"ROOMBELL_SECRET_KEY_PREVIOUS" help:"the former key, still accepted for reading"`
	PublicURL         string   `name:"public-url" env:"ROOMBELL_PUBLIC_URL" placeholder:"URL" help:"the address that the outside sees"`
	_                 struct{} `kong:"-" later:"ROOMBELL_TELEGRAM_API_URL" help:"a self-hosted Bot API server"`
	_                 struct{} `kong:"-" later:"ROOMBELL_WABA_API_URL" help:"another address of the WhatsApp Business API"`
	_                 struct{} `kong:"-" later:"ROOMBELL_WABA_APP_SECRET" help:"webhook signature"`
	_                 struct{} `kong:"-" later:"ROOMBELL_WABA_VERIFY_TOKEN" help:"webhook verification"`
	_                 struct{} `kong:"-" later:"ROOMBELL_WABA_API_VERSION" help:"version of the WhatsApp Business API"`
	MediaDir          string   `env:"ROOMBELL_MEDIA_DIR" placeholder:"DIR" shown:"a folder in the data directory" help:"received and uploaded media"`
	MaxMedia          size     `env:"ROOMBELL_MAX_MEDIA" default:"100MiB" help:"the largest medium"`
}

// tailToken is not one of the settings: it is whoever runs tail who has a token.
const tailToken = "ROOMBELL_TOKEN"

const (
	defaultAddr      = ":3000"
	defaultDevAddr   = "127.0.0.1:3000"
	defaultAdminAddr = "127.0.0.1:3001"
)

// loadSettings reads and checks the whole environment, whatever the command: a variable that nobody knows (of the
// command line's model or of the settings), or one with a value out of range, is an error that names it.
func loadSettings(model *kong.Application) (settings, error) {
	var s settings
	dropEmpty()
	known := flagVariables(model.Node)
	if err := s.readSecrets(known); err != nil {
		return s, err
	}
	if err := refuseUnknown(known); err != nil {
		return s, err
	}
	parser, err := newParser(&s)
	if err != nil {
		return s, err
	}
	if _, err := parser.Parse(nil); err != nil {
		return s, err
	}
	return s, s.check()
}

// dropEmpty makes an empty variable an unset one: compose files and charts pass what they have no value for as "".
func dropEmpty() {
	for _, entry := range os.Environ() {
		if name, value, _ := strings.Cut(entry, "="); value == "" && strings.HasPrefix(name, "ROOMBELL_") {
			_ = os.Unsetenv(name)
		}
	}
}

// flagVariables collects the variables of every command's flags.
func flagVariables(node *kong.Node) map[string]bool {
	known := map[string]bool{tailToken: true, tailToken + "_FILE": true}
	var visit func(*kong.Node)
	visit = func(n *kong.Node) {
		for _, flag := range n.Flags {
			for _, name := range flag.Envs {
				known[name] = true
			}
		}
		for _, child := range n.Children {
			visit(child)
		}
	}
	visit(node)
	return known
}

// refuseUnknown stops a misspelled variable from being ignored. Kubernetes sets ROOMBELL_PORT* and ROOMBELL_SERVICE_*
// in every pod beside a service named roombell.
func refuseUnknown(known map[string]bool) error {
	var unknown []string
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, "ROOMBELL_") || known[name] ||
			strings.HasPrefix(name, "ROOMBELL_PORT") || strings.HasPrefix(name, "ROOMBELL_SERVICE_") {
			continue
		}
		unknown = append(unknown, name)
	}
	if len(unknown) == 0 {
		return nil
	}
	slices.Sort(unknown)
	return fmt.Errorf("%s: there is no such setting", strings.Join(unknown, ", "))
}

// readSecrets fills the fields that have no flag, and adds their variables to known.
func (s *settings) readSecrets(known map[string]bool) error {
	fields := reflect.ValueOf(s).Elem()
	for i := range fields.NumField() {
		tag := fields.Type().Field(i).Tag
		if name := tag.Get("later"); name != "" {
			if _, set := os.LookupEnv(name); set {
				return fmt.Errorf("%s is not supported by this version", name)
			}
		}
		name := tag.Get("secret")
		if name == "" {
			continue
		}
		known[name], known[name+"_FILE"] = true, true
		value, err := readSecret(name)
		if err != nil {
			return err
		}
		fields.Field(i).SetString(value)
	}
	return nil
}

// readSecret returns the variable's value, or that of the file it names. No error shows the value.
func readSecret(name string) (string, error) {
	value := os.Getenv(name)
	file := os.Getenv(name + "_FILE")
	if file == "" {
		return value, nil
	}
	if value != "" {
		return "", fmt.Errorf("%s and %s_FILE are both set: one of them must go", name, name)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("%s_FILE: %w", name, err)
	}
	// Editors and `echo` end the file with a line break that nobody means.
	value = strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")
	if value == "" {
		return "", fmt.Errorf("%s_FILE: %s is empty", name, file)
	}
	return value, nil
}

// setting is a row of the table that the tags of settings are.
type setting struct {
	variable string
	shown    string // the default, for people
	help     string
	secret   bool // no flag
	later    bool // refused
}

func tableOfSettings() []setting {
	var rows []setting
	t := reflect.TypeFor[settings]()
	for i := range t.NumField() {
		tag := t.Field(i).Tag
		row := setting{variable: tag.Get("env"), shown: tag.Get("shown"), help: tag.Get("help")}
		if row.shown == "" {
			row.shown = tag.Get("default")
		}
		if name := tag.Get("secret"); name != "" {
			row.variable, row.secret = name, true
		}
		if name := tag.Get("later"); name != "" {
			row.variable, row.later = name, true
		}
		rows = append(rows, row)
	}
	return rows
}

func settingOf(variable string) (setting, bool) {
	for _, row := range tableOfSettings() {
		if row.variable == variable {
			return row, true
		}
	}
	return setting{}, false
}

// secretsHelp names the variables without a flag.
func secretsHelp() string {
	var names []string
	for _, row := range tableOfSettings() {
		if row.secret {
			names = append(names, row.variable)
		}
	}
	return strings.Join(names, ", ")
}

// check says which setting is out of range, in one line that names it by variable (the flag is spelled the same).
func (s *settings) check() error {
	checks := []struct {
		name string
		ok   bool
		must string
	}{
		{"ROOMBELL_TOKEN_TTL", between(s.TokenTTL, time.Hour, 24*time.Hour), "must be between 1h and 24h"},
		{"ROOMBELL_RATE_EVENTS", between(s.RateEvents, 0.1, 100_000), "must be between 0.1 and 100000"},
		{"ROOMBELL_RATE_BURST", between(s.RateBurst, 1, 100_000), "must be between 1 and 100000"},
		{"ROOMBELL_RETENTION", between(s.Retention, time.Hour, 720*time.Hour), "must be between 1h and 720h"},
		{"ROOMBELL_RESUME_LIMIT", between(s.ResumeLimit, 1, 1_000_000), "must be between 1 and 1000000"},
		{"ROOMBELL_SEND_QUEUE", between(s.SendQueue, 4<<10, 1<<30), "must be between 4KiB and 1GiB"},
		{"ROOMBELL_MAX_SOCKETS_PER_USER", between(s.MaxSocketsPerUser, 0, 1_000_000), "must be between 0 (no limit) and 1000000"},
		{"ROOMBELL_MAX_SOCKETS_PER_ADDRESS", between(s.MaxSocketsPerAddress, 0, 1_000_000), "must be between 0 (no limit) and 1000000"},
		{"ROOMBELL_DRAIN", between(s.Drain, 0, 20*time.Second), "must be between 0s and 20s"},
		{"ROOMBELL_MAX_MEDIA", between(s.MaxMedia, 1<<10, 4<<30), "must be between 1KiB and 4GiB"},
		{"ROOMBELL_LOG_FORMAT", slices.Contains([]string{"", "text", "json"}, s.LogFormat), "must be text or json"},
		{"ROOMBELL_ADDR", s.Addr == "" || validAddr(s.Addr), "must be HOST:PORT or :PORT"},
		{"ROOMBELL_ADMIN_ADDR", s.AdminAddr == "" || validAddr(s.AdminAddr), "must be HOST:PORT or :PORT"},
		{"ROOMBELL_PUBLIC_URL", s.PublicURL == "" || validURL(s.PublicURL, "http", "https"), "must be an http or https address"},
		{"ROOMBELL_JWT_SECRET", s.JWTSecret == "" || len(s.JWTSecret) >= auth.MinSecret, "must have 32 bytes or more"},
		{"ROOMBELL_JWT_SECRET_PREVIOUS", s.JWTSecretPrevious == "" || len(s.JWTSecretPrevious) >= auth.MinSecret, "must have 32 bytes or more"},
		{"ROOMBELL_JWT_SECRET_PREVIOUS", s.JWTSecretPrevious == "" || s.JWTSecret != "", "needs ROOMBELL_JWT_SECRET"},
		{"ROOMBELL_SECRET_KEY", s.SecretKey == "" || validKey(s.SecretKey), "must be 32 bytes in base64"},
		{"ROOMBELL_SECRET_KEY_PREVIOUS", s.SecretKeyPrevious == "" || validKey(s.SecretKeyPrevious), "must be 32 bytes in base64"},
		{"ROOMBELL_JWKS_URL", s.JWKSURL == "" || validURL(s.JWKSURL, "https"), "must be an https address"},
		{"ROOMBELL_JWKS_URL", s.JWKSURL == "" || s.JWTIssuer != "" && s.JWTAudience != "", "needs ROOMBELL_JWT_ISSUER and ROOMBELL_JWT_AUDIENCE"},
		{"ROOMBELL_JWT_ISSUER", s.JWTIssuer == "" || s.JWKSURL != "", "is for the identity provider's tokens and needs ROOMBELL_JWKS_URL"},
		{"ROOMBELL_JWT_AUDIENCE", s.JWTAudience == "" || s.JWKSURL != "", "is for the identity provider's tokens and needs ROOMBELL_JWKS_URL"},
		{"ROOMBELL_TLS_CERT", s.TLSCert == "" || s.TLSKey != "", "needs ROOMBELL_TLS_KEY"},
		{"ROOMBELL_TLS_KEY", s.TLSKey == "" || s.TLSCert != "", "needs ROOMBELL_TLS_CERT"},
		{"DATABASE_URL", s.DatabaseURL == "" || validDatabase(s.DatabaseURL), "is no address of a PostgreSQL database (postgres://user@host/database)"},
		{"ROOMBELL_LISTEN_DATABASE_URL", s.ListenDatabaseURL == "" || validDatabase(s.ListenDatabaseURL), "is no address of a PostgreSQL database (postgres://user@host/database)"},
	}
	for _, c := range checks {
		if !c.ok {
			return fmt.Errorf("%s %s", c.name, c.must)
		}
	}
	for _, origin := range s.CORSOrigins {
		if origin != "*" && !validOrigin(origin) {
			return fmt.Errorf("ROOMBELL_CORS_ORIGINS: %q must look like https://example.com (scheme, host and port, nothing else)", origin)
		}
	}
	return nil
}

// between is false for NaN.
func between[T int | float64 | size | time.Duration](v, least, most T) bool {
	return v >= least && v <= most
}

func validAddr(addr string) bool {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	n, err := strconv.Atoi(port)
	return err == nil && n >= 0 && n <= 65535
}

func validURL(address string, schemes ...string) bool {
	u, err := url.Parse(address)
	return err == nil && u.Host != "" && slices.Contains(schemes, u.Scheme)
}

// validOrigin wants what a browser sends as Origin, to the letter: anything else would never match.
func validOrigin(origin string) bool {
	u, err := url.Parse(origin)
	return err == nil && u.Scheme != "" && u.Host != "" && u.Scheme+"://"+u.Host == origin && strings.ToLower(origin) == origin
}

func validKey(key secret) bool {
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		if raw, err := encoding.DecodeString(string(key)); err == nil && len(raw) == 32 {
			return true
		}
	}
	return false
}

// validDatabase asks the driver. Its own error is not shown: it quotes what may hold a password.
func validDatabase(address secret) bool {
	_, err := pgxpool.ParseConfig(string(address))
	return err == nil
}

// over returns these settings, which flags may have changed, with the secrets of the environment's, if they are valid.
func (s settings) over(environment settings) (*settings, error) {
	from, to := reflect.ValueOf(environment), reflect.ValueOf(&s).Elem()
	for i := range to.NumField() {
		if to.Type().Field(i).Tag.Get("secret") != "" {
			to.Field(i).Set(from.Field(i))
		}
	}
	if err := s.check(); err != nil {
		return nil, usageError{err}
	}
	return &s, nil
}

// listenURL is the address of connections whose session matters: the tail's own, and that of migrations, which hold a lock.
func (s *settings) listenURL() string {
	if s.ListenDatabaseURL != "" {
		return string(s.ListenDatabaseURL)
	}
	return string(s.DatabaseURL)
}

func (s *settings) needDatabase() error {
	if s.DatabaseURL == "" {
		return badUsage("DATABASE_URL is not set: the address of a PostgreSQL database, such as postgres://user@host/database")
	}
	return nil
}

// claims are the names under which tokens carry the ids.
func (s *settings) claims() auth.Claims {
	return auth.Claims{User: s.JWTUserClaim, Organization: s.JWTOrganizationClaim}
}

// dataDir is an absolute folder: a path of the shell's must mean the same to the Postgres that runs in it.
func (s *settings) dataDir() (string, error) {
	if s.DataDir != "" {
		return absolute(s.DataDir)
	}
	return postgres.DataDir(os.Getenv("XDG_DATA_HOME"))
}

// postgresBinaries is the folder of initdb and postgres that dev is to use; empty: it looks for them. The variable is the one that .ci/setup
// and the tests hear.
func postgresBinaries() string { return os.Getenv("PG_BIN") }

// retentionIsSet tells whether somebody chose the retention: migrate must not put the default over what another did.
func (s *settings) retentionIsSet() bool {
	_, set := os.LookupEnv("ROOMBELL_RETENTION")
	return set || s.Retention != defaultRetention
}

const defaultRetention = 72 * time.Hour

// secret is a string that does not print itself.
type secret string

func (secret) String() string       { return "…" }
func (secret) GoString() string     { return "…" }
func (secret) LogValue() slog.Value { return slog.StringValue("…") }

// size is a number of bytes, written 65536, 64KiB, 1MiB, 1MB.
type size int64

var units = []struct {
	suffix string
	bytes  float64
}{
	{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"kb", 1e3}, {"mb", 1e6}, {"gb", 1e9}, {"b", 1}, {"", 1},
}

// UnmarshalText reads a size.
func (s *size) UnmarshalText(text []byte) error {
	lower := strings.ToLower(strings.TrimSpace(string(text)))
	for _, unit := range units {
		digits, ok := strings.CutSuffix(lower, unit.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
		if err != nil || !(n >= 0 && n*unit.bytes < 1<<53) {
			break
		}
		*s = size(n * unit.bytes)
		return nil
	}
	return fmt.Errorf("%q is no size such as 65536, 64KiB or 1MiB", text)
}

// network is an address range, or one address.
type network netip.Prefix

// UnmarshalText reads 10.0.0.0/8, or 10.0.0.1 for that address alone.
func (n *network) UnmarshalText(text []byte) error {
	if prefix, err := netip.ParsePrefix(string(text)); err == nil {
		*n = network(prefix.Masked())
		return nil
	}
	addr, err := netip.ParseAddr(string(text))
	if err != nil {
		return errors.New(strconv.Quote(string(text)) + " is no network such as 10.0.0.0/8")
	}
	*n = network(netip.PrefixFrom(addr, addr.BitLen()))
	return nil
}

func prefixes(networks []network) []netip.Prefix {
	list := make([]netip.Prefix, len(networks))
	for i, n := range networks {
		list[i] = netip.Prefix(n)
	}
	return list
}
