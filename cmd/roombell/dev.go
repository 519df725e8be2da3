package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"roombell/db"
	"roombell/internal/auth"
	"roombell/internal/inbox"
	"roombell/internal/postgres"
)

type devCmd struct {
	Settings settings `embed:""`
	Traffic  float64  `env:"ROOMBELL_TRAFFIC" placeholder:"N" help:"Write N demo messages a second."`
}

// Run sets everything up and serves until it is interrupted. What it made is found again by the next start.
func (c *devCmd) Run(ctx context.Context, p *program) error {
	s, err := c.Settings.over(p.settings)
	if err != nil {
		return err
	}
	if !(c.Traffic >= 0 && c.Traffic <= 10_000) {
		return badUsage("--traffic (ROOMBELL_TRAFFIC) must be between 0 and 10000")
	}
	dir, err := s.dataDir()
	if err != nil {
		return err
	}
	kept, err := keepSecrets(dir)
	if err != nil {
		return err
	}
	kept.fill(s)
	log := newLogger(s, p.stderr)
	private, err := startPrivate(ctx, s, dir, log)
	if err != nil {
		return err
	}
	d := &dev{program: p, settings: s, log: log, password: kept.DemoPassword, private: private}
	err = d.run(ctx, c.Traffic)
	if private != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		err = errors.Join(err, private.Stop(ctx))
	}
	return err
}

// startPrivate starts the private database, and puts its address into the settings, unless they have one.
func startPrivate(ctx context.Context, s *settings, dir string, log *slog.Logger) (*postgres.Server, error) {
	if s.DatabaseURL != "" {
		return nil, nil
	}
	server, err := postgres.Start(ctx, postgres.Options{Dir: filepath.Join(dir, "postgres"), Bin: postgresBinaries(), Logger: log})
	if errors.Is(err, postgres.ErrInUse) {
		return nil, fmt.Errorf("%w: another roombell dev is running there; --data-dir chooses another folder", err)
	}
	if err != nil {
		return nil, err
	}
	s.DatabaseURL = secret(server.URL(postgres.Name))
	return server, nil
}

// dev is one run of the command, with a database that is there.
type dev struct {
	program  *program
	settings *settings
	log      *slog.Logger
	password string
	private  *postgres.Server // nil: the database is the caller's
}

func (d *dev) run(ctx context.Context, traffic float64) error {
	demo, err := d.prepare(ctx)
	if err != nil {
		return err
	}
	public, err := d.listen("ROOMBELL_ADDR", d.settings.Addr, defaultDevAddr)
	if err != nil {
		return err
	}
	admin, err := d.listen("ROOMBELL_ADMIN_ADDR", d.settings.AdminAddr, defaultAdminAddr)
	if err != nil {
		return errors.Join(err, public.Close())
	}
	v, err := newService(ctx, d.settings, d.log)
	if err != nil {
		return errors.Join(err, public.Close(), admin.Close())
	}
	parts := []part{{"welcome", func(ctx context.Context) error { return d.welcome(ctx, v, public.Addr(), demo) }}}
	if traffic > 0 {
		parts = append(parts, part{"demo messages", func(ctx context.Context) error { return inbox.Traffic(ctx, v.pool, traffic, d.log) }})
	}
	if d.private != nil {
		parts = append(parts, part{"private database", d.watchPrivate})
	}
	return v.run(ctx, public, admin, parts...)
}

// demoData is what the welcome shows of it.
type demoData struct {
	users []inbox.DemoUser // one of each organization
	chat  int64            // of the first one's organization; 0: none is left
}

// prepare migrates and fills the database. One with organizations of somebody else's is refused before anything is
// written to it.
func (d *dev) prepare(ctx context.Context) (demoData, error) {
	var demo demoData
	pool, err := db.Open(ctx, string(d.settings.DatabaseURL))
	if err != nil {
		return demo, err
	}
	defer pool.Close()
	origin, err := inbox.DemoOrigin(ctx, pool)
	if err != nil && !db.IsMissing(err) {
		return demo, err
	}
	// What somebody adds to dev's own database is his to add.
	if err == nil && (origin == inbox.OriginForeign || origin == inbox.OriginGrown && d.private == nil) {
		return demo, fmt.Errorf("%w: dev adds demo data and leaves it alone; roombell serve --migrate serves it", inbox.ErrForeign)
	}
	if err := migrate(ctx, d.settings, d.log); err != nil {
		return demo, err
	}
	users, err := inbox.Demo(ctx, pool, d.password, auth.HashPassword)
	if err != nil {
		return demo, err
	}
	seen := map[int64]bool{}
	for _, u := range users {
		if !seen[u.OrganizationID] {
			seen[u.OrganizationID] = true
			demo.users = append(demo.users, u)
		}
	}
	if len(demo.users) == 0 {
		return demo, errors.New("all demo users are gone: delete the demo organizations, and dev makes new ones")
	}
	if err := d.repairPasswords(ctx, db.New(pool), demo.users); err != nil {
		return demo, err
	}
	err = pool.QueryRow(ctx, `SELECT id FROM chats WHERE organization_id = $1 AND NOT restricted ORDER BY id LIMIT 1`, demo.users[0].OrganizationID).Scan(&demo.chat)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return demo, fmt.Errorf("read demo chats: %w", err)
	}
	return demo, nil
}

// repairPasswords makes the printed logins true for demo data that were made with another data directory.
func (d *dev) repairPasswords(ctx context.Context, queries *db.Queries, users []inbox.DemoUser) error {
	for _, u := range users {
		row, err := queries.GetUserByEmail(ctx, u.Email)
		if err != nil {
			return fmt.Errorf("read demo user: %w", err)
		}
		if row.PasswordHash != nil && auth.CheckPassword(*row.PasswordHash, d.password) == nil {
			continue
		}
		hash, err := auth.HashPassword(d.password)
		if err != nil {
			return err
		}
		if _, err := queries.SetPassword(ctx, &hash, u.ID); err != nil {
			return fmt.Errorf("set demo password: %w", err)
		}
	}
	return nil
}

// listen takes the address that was asked for, or the default one, or the next free port when nobody asked.
func (d *dev) listen(name, asked, otherwise string) (net.Listener, error) {
	if asked != "" {
		return net.Listen("tcp", asked)
	}
	host, port, _ := net.SplitHostPort(otherwise)
	first, _ := strconv.Atoi(port)
	for n := first; ; n++ {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(n)))
		if err == nil && n != first {
			d.log.Warn("the usual port is taken, the next free one is used", "usual", first, "port", n, "setting", name)
		}
		if err == nil || !errors.Is(err, syscall.EADDRINUSE) || n == first+50 {
			return l, err
		}
	}
}

func (d *dev) watchPrivate(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-d.private.Exited():
		return errors.New("it has ended by itself")
	}
}

// welcome prints what a newcomer needs, once the service is ready.
func (d *dev) welcome(ctx context.Context, v *service, addr net.Addr, demo demoData) error {
	select {
	case <-ctx.Done():
		return nil
	case <-v.health.up:
	}
	text, err := d.text(d.base(addr), demo)
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(d.program.stdout, text)
	return err
}

// base is the address for a client on this machine.
func (d *dev) base(addr net.Addr) string {
	scheme := "http"
	if d.settings.TLSCert != "" {
		scheme = "https"
	}
	host, port, _ := net.SplitHostPort(addr.String())
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

func (d *dev) text(base string, demo demoData) (string, error) {
	issuer, err := auth.NewIssuer([]byte(d.settings.JWTSecret), d.settings.claims(), nil)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\nRoombell is ready at %s\n\n", base)
	var first string
	for i, u := range demo.users {
		token, expires, err := issuer.Issue(auth.Identity{UserID: u.ID, OrganizationID: u.OrganizationID, Email: u.Email, Role: u.Role,
			Generation: u.Generation, LoginAt: time.Now()}, d.settings.TokenTTL)
		if err != nil {
			return "", err
		}
		if i == 0 {
			first = token
		}
		fmt.Fprintf(&b, "  %s (organization %d): user %d, %s\n    login  %s  %s\n    token  %s  (until %s)\n",
			u.Organization, u.OrganizationID, u.ID, u.Role, u.Email, d.password, token, expires.Local().Format("15:04"))
	}
	fmt.Fprintf(&b, "\n  database  %s\n\nWatch, as %s:\n\n  ROOMBELL_TOKEN=%s %s tail%s\n", d.settings.databaseAddress(), demo.users[0].Email,
		shellQuote(first), shellQuote(executable()), urlFlag(base))
	fmt.Fprintf(&b, "\nWrite, in another terminal%s:\n\n  psql %s -c %s\n", psqlNote(), shellQuote(d.settings.databaseAddress()), shellQuote(insertFor(demo)))
	fmt.Fprintf(&b, "\nA client, after npm install socket.io-client (save as client.mjs, run with node):\n\n%s\n", script(base, first, demo))
	b.WriteString("Ctrl-C stops everything; the next start finds its data again.\n\n")
	return b.String(), nil
}

// databaseAddress is shown on purpose, with its password: the database is the developer's own.
func (s *settings) databaseAddress() string { return string(s.DatabaseURL) }

func insertFor(demo demoData) string {
	if demo.chat == 0 {
		return fmt.Sprintf("INSERT INTO chats (organization_id, name) VALUES (%d, 'Hello from psql')", demo.users[0].OrganizationID)
	}
	return fmt.Sprintf("INSERT INTO messages (chat_id, content) VALUES (%d, 'Hello from psql')", demo.chat)
}

// script is five lines of JavaScript.
func script(base, token string, demo demoData) string {
	return fmt.Sprintf(`  import { io } from 'socket.io-client'
  const socket = io('%s', { auth: { token: '%s' } })
  socket.on('connect', () => socket.emit('subscribe:chat', %d, answer => console.log('subscribed', answer)))
  socket.on('connect_error', error => console.error(error.message))
  socket.onAny((event, payload) => console.log(event, payload))
`, base, token, demo.chat)
}

func urlFlag(base string) string {
	if base == "http://"+defaultDevAddr {
		return ""
	}
	return " --url " + shellQuote(base)
}

func psqlNote() string {
	if _, err := exec.LookPath("psql"); err != nil {
		return " (psql is not installed on this machine: any other client of PostgreSQL does as well)"
	}
	return ""
}

func executable() string {
	path, err := os.Executable()
	if err != nil {
		return "roombell"
	}
	return path
}

// shellQuote makes one word of s for a POSIX shell.
func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@=+,", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	if !strings.ContainsAny(s, "\"$`\\!") {
		return `"` + s + `"`
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
