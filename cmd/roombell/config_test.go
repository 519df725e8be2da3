package main

import (
	"flag"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
)

var update = flag.Bool("update", false, "write the files that the tests compare with")

//go:generate go test -run TestReadmeSettings -update .

const (
	tableBegin = "<!-- settings: made from cmd/roombell/config.go by make generate -->\n"
	tableEnd   = "<!-- /settings -->\n"
)

// The README's table of settings is the code's.
func TestReadmeSettings(t *testing.T) {
	const file = "../../README.md"
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(content), tableBegin)
	table, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no place for the table between %q and %q", file, tableBegin, tableEnd)
	}
	want := settingsTable()
	if *update {
		if err := os.WriteFile(file, []byte(before+tableBegin+want+tableEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if table != want {
		t.Fatalf("the table of settings in %s is not the code's: make generate. It should be\n%s", file, want)
	}
}

func settingsTable() string {
	var b strings.Builder
	b.WriteString("| variable | default | meaning |\n|---|---|---|\n")
	for _, row := range tableOfSettings() {
		mark := ""
		switch {
		case row.later:
			mark = "**refused by this version**: "
		case row.secret:
			mark = "(no flag) "
		}
		shown := row.shown
		if shown == "" {
			shown = "none"
		} else if !strings.Contains(shown, " ") {
			shown = "`" + shown + "`"
		}
		b.WriteString("| `" + row.variable + "` | " + shown + " | " + mark + strings.ReplaceAll(row.help, "|", `\|`) + " |\n")
	}
	return b.String()
}

func TestEveryFlagHasAVariable(t *testing.T) {
	t.Parallel()
	var c cli
	parser, err := newParser(&c)
	if err != nil {
		t.Fatal(err)
	}
	var visit func(*kong.Node)
	visit = func(n *kong.Node) {
		for _, flag := range n.Flags {
			if flag.Name == "help" {
				continue
			}
			if len(flag.Envs) != 1 || !strings.HasPrefix(flag.Envs[0], "ROOMBELL_") {
				t.Errorf("%s --%s has the variables %v", n.FullPath(), flag.Name, flag.Envs)
			}
			if !strings.Contains(helpOf(flag.Value), "$ROOMBELL_") {
				t.Errorf("%s --%s: the help does not show its variable", n.FullPath(), flag.Name)
			}
		}
		for _, child := range n.Children {
			visit(child)
		}
	}
	visit(parser.Model.Node)
}

// Every setting of the table has the flag that its variable promises, unless it is a secret or refused.
func TestSettingsHaveTheirFlags(t *testing.T) {
	t.Parallel()
	var s settings
	parser, err := newParser(&s)
	if err != nil {
		t.Fatal(err)
	}
	var flags []string
	for _, f := range parser.Model.Flags {
		if f.Name != "help" {
			flags = append(flags, "ROOMBELL_"+strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_")))
		}
	}
	for _, row := range tableOfSettings() {
		if row.variable == "" || row.help == "" {
			t.Errorf("a setting without a name or a meaning: %+v", row)
		}
		if want := !row.secret && !row.later; slices.Contains(flags, row.variable) != want {
			t.Errorf("%s: a flag of its name is %v, want %v", row.variable, !want, want)
		}
	}
}

func TestFlagsBeatTheEnvironment(t *testing.T) {
	t.Setenv("ROOMBELL_RATE_EVENTS", "7")
	t.Setenv("ROOMBELL_RATE_BURST", "9")
	t.Setenv("ROOMBELL_SEND_QUEUE", "64KiB")
	t.Setenv("ROOMBELL_TRUSTED_PROXIES", "10.1.2.3/8,192.0.2.7,::1")
	t.Setenv("ROOMBELL_CORS_ORIGINS", "https://a.example,https://b.example:8443")
	t.Setenv("ROOMBELL_LOG_LEVEL", "debug")
	t.Setenv("ROOMBELL_JWT_SECRET", testSecret)
	t.Setenv("ROOMBELL_DRAIN", "") // as good as unset
	var c cli
	parser, err := newParser(&c)
	if err != nil {
		t.Fatal(err)
	}
	environment, err := loadSettings(parser.Model)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse([]string{"serve", "--rate-events", "8.5", "--retention=48h"}); err != nil {
		t.Fatal(err)
	}
	s, err := c.Serve.Settings.over(environment)
	if err != nil {
		t.Fatal(err)
	}
	if s.RateEvents != 8.5 || s.RateBurst != 9 || s.SendQueue != 64<<10 || s.Retention != 48*time.Hour || s.Drain != 5*time.Second ||
		s.LogLevel != slog.LevelDebug || string(s.JWTSecret) != testSecret || !s.retentionIsSet() {
		t.Errorf("got %+v", s)
	}
	if want := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("::1/128")}; !slices.Equal(prefixes(s.TrustedProxies), want) {
		t.Errorf("trusted proxies %v", prefixes(s.TrustedProxies))
	}
	if want := []string{"https://a.example", "https://b.example:8443"}; !slices.Equal(s.CORSOrigins, want) {
		t.Errorf("origins %v", s.CORSOrigins)
	}
}

// Each is refused by every command alike, with one line that names the variable, and exit code 2.
func TestBadSettings(t *testing.T) {
	t.Parallel()
	short := filepath.Join(t.TempDir(), "short")
	empty := filepath.Join(t.TempDir(), "empty")
	for file, content := range map[string]string{short: "short\n", empty: "\n"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct{ name, env, names string }{
		{"unknown", "ROOMBELL_RETENTOIN=48h", "ROOMBELL_RETENTOIN"},
		{"unknown file", "ROOMBELL_RETENTION_FILE=/x", "ROOMBELL_RETENTION_FILE"},
		{"retention too short", "ROOMBELL_RETENTION=59m", "ROOMBELL_RETENTION"},
		{"retention too long", "ROOMBELL_RETENTION=721h", "ROOMBELL_RETENTION"},
		{"retention no duration", "ROOMBELL_RETENTION=3 days", "ROOMBELL_RETENTION"},
		{"token life", "ROOMBELL_TOKEN_TTL=25h", "ROOMBELL_TOKEN_TTL"},
		{"rate zero", "ROOMBELL_RATE_EVENTS=0", "ROOMBELL_RATE_EVENTS"},
		{"rate NaN", "ROOMBELL_RATE_EVENTS=NaN", "ROOMBELL_RATE_EVENTS"},
		{"rate infinite", "ROOMBELL_RATE_EVENTS=+Inf", "ROOMBELL_RATE_EVENTS"},
		{"burst no number", "ROOMBELL_RATE_BURST=many", "ROOMBELL_RATE_BURST"},
		{"send queue too small", "ROOMBELL_SEND_QUEUE=1", "ROOMBELL_SEND_QUEUE"},
		{"send queue no size", "ROOMBELL_SEND_QUEUE=1 MiBB", "ROOMBELL_SEND_QUEUE"},
		{"drain beyond the stop", "ROOMBELL_DRAIN=30s", "ROOMBELL_DRAIN"},
		{"drain negative", "ROOMBELL_DRAIN=-1s", "ROOMBELL_DRAIN"},
		{"sockets negative", "ROOMBELL_MAX_SOCKETS_PER_USER=-1", "ROOMBELL_MAX_SOCKETS_PER_USER"},
		{"resume limit", "ROOMBELL_RESUME_LIMIT=0", "ROOMBELL_RESUME_LIMIT"},
		{"address without port", "ROOMBELL_ADDR=localhost", "ROOMBELL_ADDR"},
		{"admin port too high", "ROOMBELL_ADMIN_ADDR=:65536", "ROOMBELL_ADMIN_ADDR"},
		{"proxy no network", "ROOMBELL_TRUSTED_PROXIES=10.0.0.0/33", "ROOMBELL_TRUSTED_PROXIES"},
		{"origin with a path", "ROOMBELL_CORS_ORIGINS=https://a.example/", "ROOMBELL_CORS_ORIGINS"},
		{"origin without a scheme", "ROOMBELL_CORS_ORIGINS=a.example", "ROOMBELL_CORS_ORIGINS"},
		{"log level", "ROOMBELL_LOG_LEVEL=loud", "ROOMBELL_LOG_LEVEL"},
		{"log format", "ROOMBELL_LOG_FORMAT=xml", "ROOMBELL_LOG_FORMAT"},
		{"secret too short", "ROOMBELL_JWT_SECRET=short", "ROOMBELL_JWT_SECRET"},
		{"secret too short in a file", "ROOMBELL_JWT_SECRET_FILE=" + short, "ROOMBELL_JWT_SECRET"},
		{"secret in an empty file", "ROOMBELL_JWT_SECRET_FILE=" + empty, "ROOMBELL_JWT_SECRET_FILE"},
		{"secret in no file", "ROOMBELL_JWT_SECRET_FILE=/does/not/exist", "ROOMBELL_JWT_SECRET_FILE"},
		{"former secret alone", "ROOMBELL_JWT_SECRET_PREVIOUS=" + testSecret, "ROOMBELL_JWT_SECRET_PREVIOUS"},
		{"JWKS by http", "ROOMBELL_JWKS_URL=http://idp.example/keys", "ROOMBELL_JWKS_URL"},
		{"JWKS without issuer", "ROOMBELL_JWKS_URL=https://idp.example/keys", "ROOMBELL_JWKS_URL"},
		{"issuer without JWKS", "ROOMBELL_JWT_ISSUER=x", "ROOMBELL_JWT_ISSUER"},
		{"audience without JWKS", "ROOMBELL_JWT_AUDIENCE=x", "ROOMBELL_JWT_AUDIENCE"},
		{"certificate without key", "ROOMBELL_TLS_CERT=/x", "ROOMBELL_TLS_CERT"},
		{"secret key of 31 bytes", "ROOMBELL_SECRET_KEY=MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMQ==", "ROOMBELL_SECRET_KEY"},
		{"public URL", "ROOMBELL_PUBLIC_URL=example.com", "ROOMBELL_PUBLIC_URL"},
		{"media", "ROOMBELL_MAX_MEDIA=1B", "ROOMBELL_MAX_MEDIA"},
		{"database", "DATABASE_URL=mysql://x", "DATABASE_URL"},
		{"database with a password and a bad port", "DATABASE_URL=postgres://u:hunter2@h:port/d", "DATABASE_URL"},
		{"Redis, not built", "ROOMBELL_REDIS_URL=redis://localhost", "ROOMBELL_REDIS_URL is not supported by this version"},
		{"Telegram, not built", "ROOMBELL_TELEGRAM_API_URL=http://x", "ROOMBELL_TELEGRAM_API_URL is not supported by this version"},
		{"WABA, not built", "ROOMBELL_WABA_APP_SECRET=x", "ROOMBELL_WABA_APP_SECRET is not supported by this version"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := roombell(t, []string{test.env}, "", "version")
			line, rest, _ := strings.Cut(r.stderr, "\n")
			if r.code != exitUsage || !strings.Contains(line, test.names) || rest != "" || r.stdout != "" {
				t.Fatalf("exit %d, standard error %q, output %q", r.code, r.stderr, r.stdout)
			}
			if strings.Contains(r.stderr, "hunter2") || strings.Contains(r.stderr, "short\"") {
				t.Fatalf("the secret is shown: %s", r.stderr)
			}
		})
	}
}

func TestGoodSettings(t *testing.T) {
	t.Parallel()
	env := []string{
		"ROOMBELL_PORT=tcp://10.0.0.1:3000", "ROOMBELL_PORT_3000_TCP=x", "ROOMBELL_SERVICE_HOST=10.0.0.1", // Kubernetes
		"ROOMBELL_TOKEN=x", "ROOMBELL_RETENTION=", "ROOMBELL_CORS_ORIGINS=*", "ROOMBELL_SEND_QUEUE=2MB", "ROOMBELL_MAX_MEDIA=1GiB",
		"ROOMBELL_SECRET_KEY=MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=", "ROOMBELL_PUBLIC_URL=https://example.com", "ROOMBELL_ADMIN_KEY=x",
		"DATABASE_URL=postgres://u@host1,host2/d?target_session_attrs=read-write", "ROOMBELL_ADDR=[::1]:0", "ROOMBELL_MAX_SOCKETS_PER_USER=0",
		"ROOMBELL_JWKS_URL=https://idp.example/keys", "ROOMBELL_JWT_ISSUER=i", "ROOMBELL_JWT_AUDIENCE=a",
	}
	if out := must(t, env, "", "version"); !strings.HasPrefix(out, "roombell ") || !strings.Contains(out, "\ncommit ") || !strings.Contains(out, "\ngo1.") {
		t.Errorf("version says %q", out)
	}
}

func TestBadUsage(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		env  []string
		args []string
	}{
		{"no command", nil, nil},
		{"unknown command", nil, []string{"serves"}},
		{"unknown flag", nil, []string{"serve", "--port", "1"}},
		{"flag of a secret", nil, []string{"serve", "--jwt-secret", testSecret}},
		{"flag of the database", nil, []string{"serve", "--database-url", "postgres://x"}},
		{"flag out of range", []string{"DATABASE_URL=postgres://x"}, []string{"serve", "--drain", "1m"}},
		{"no database", []string{"ROOMBELL_JWT_SECRET=" + testSecret}, []string{"serve"}},
		{"no secret", []string{"DATABASE_URL=postgres://x"}, []string{"serve"}},
		{"certificate that is none", []string{"DATABASE_URL=postgres://x", "ROOMBELL_JWT_SECRET=" + testSecret, "ROOMBELL_ADDR=127.0.0.1:0", "ROOMBELL_ADMIN_ADDR=127.0.0.1:0"},
			[]string{"serve", "--tls-cert", os.DevNull, "--tls-key", os.DevNull}},
		{"migrate without database", nil, []string{"migrate", "up"}},
		{"migrate what", nil, []string{"migrate"}},
		{"token for nobody", nil, []string{"token"}},
		{"token without secret", []string{"DATABASE_URL=postgres://x"}, []string{"token", "--user", "1"}},
		{"token for ever", []string{"DATABASE_URL=postgres://x", "ROOMBELL_JWT_SECRET=" + testSecret}, []string{"token", "--user", "1", "--ttl", "0s"}},
		{"tail without token", nil, []string{"tail"}},
		{"tail with the token for everybody to see", nil, []string{"tail", "--token", "eyJ"}},
		{"tail to nowhere", []string{"ROOMBELL_TOKEN=x"}, []string{"tail", "--url", "localhost:3000"}},
		{"tail with no token on standard input", nil, []string{"tail", "--token", "-"}},
		{"forget nothing", []string{"DATABASE_URL=postgres://x"}, []string{"admin", "forget"}},
		{"forget two things", []string{"DATABASE_URL=postgres://x"}, []string{"admin", "forget", "--chat", "1", "--user", "1"}},
		{"user with a short password", []string{"DATABASE_URL=postgres://x"}, []string{"admin", "create-user", "--organization", "1", "--email", "a@b.example"}},
		{"user without an address", []string{"DATABASE_URL=postgres://x"}, []string{"admin", "create-user", "--organization", "1", "--email", "a"}},
		{"dev with bad traffic", nil, []string{"dev", "--traffic", "-1"}},
		{"bench with one client", []string{"DATABASE_URL=postgres://x"}, []string{"bench", "--clients", "1"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := roombell(t, test.env, "", test.args...)
			if r.code != exitUsage || strings.Count(r.stderr, "\n") != 1 || !strings.HasPrefix(r.stderr, "roombell: ") || r.stdout != "" {
				t.Fatalf("exit %d, standard error %q, output %q", r.code, r.stderr, r.stdout)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--help"}, {"serve", "--help"}, {"migrate", "--help"}, {"admin", "forget", "--help"}, {"tail", "-h"}} {
		if out := must(t, nil, "", args...); !strings.HasPrefix(out, "Usage: roombell ") {
			t.Errorf("%v says %q", args, out)
		}
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]size{"65536": 65536, "64KiB": 64 << 10, "1MiB": 1 << 20, "1mb": 1e6, "1.5 GiB": 3 << 29, "7B": 7} {
		var got size
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%s: got %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "MiB", "1TiB", "-1", "NaN", "1e300", "0x10 MiB", "1 1"} {
		var got size
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read as %d", text, got)
		}
	}
}

func TestSecretsDoNotPrintThemselves(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	s := settings{JWTSecret: "hunter2", DatabaseURL: "hunter2"}
	slog.New(slog.NewTextHandler(&b, nil)).Info("settings", "secret", s.JWTSecret, "database", s.DatabaseURL)
	slog.New(slog.NewTextHandler(&b, nil)).Info("settings", "all", s)
	if strings.Contains(b.String(), "hunter2") {
		t.Fatal(b.String())
	}
}
