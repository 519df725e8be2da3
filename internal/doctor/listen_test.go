package doctor

import (
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"roombell/internal/postgres/dbtest"
)

// bouncer runs PgBouncer before the database and returns the address through it.
func bouncer(t testing.TB, d *dbtest.DB, mode string, settings ...string) string {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer" // not in everybody's path
	}
	server, err := pgx.ParseConfig(d.URL)
	check0(t, err)
	port := freePort(t)
	dir, err := os.MkdirTemp("", "roombell-pgbouncer-") // one that another user may enter
	check0(t, err)
	t.Cleanup(func() { check0(t, os.RemoveAll(dir)) })
	check0(t, os.Chmod(dir, 0o755))
	lines := append([]string{
		"[databases]",
		fmt.Sprintf("%s = host=%s port=%d dbname=%s user=%s", d.Name, server.Host, server.Port, d.Name, server.User),
		"[pgbouncer]", "auth_type = any", "listen_addr = 127.0.0.1", "listen_port = " + port, "unix_socket_dir =", "pool_mode = " + mode,
	}, settings...)
	config := filepath.Join(dir, "pgbouncer.ini")
	check0(t, os.WriteFile(config, []byte(strings.Join(lines, "\n")+"\n"), 0o644))

	// It ends with its standard input, also when this process is killed.
	cmd := exec.Command("sh", "-c", `"$0" "$1" & read -r _; kill $!; wait $!`, program, config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner(t, server.Host)}
	input, err := cmd.StdinPipe()
	check0(t, err)
	output := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = output, output
	check0(t, cmd.Start())
	t.Cleanup(func() {
		check0(t, input.Close())
		if err := cmd.Wait(); t.Failed() {
			t.Logf("pgbouncer (%v): %s", err, output)
		}
	})
	address := "postgres://" + server.User + "@127.0.0.1:" + port + "/" + d.Name + "?sslmode=disable"
	eventually(t, "pgbouncer answers", func() bool {
		conn, err := pgx.Connect(t.Context(), address+"&default_query_exec_mode=exec")
		if err == nil {
			err = conn.Close(t.Context())
		}
		return err == nil
	})
	return address
}

// owner is whom root runs PgBouncer as, which refuses root: who may enter the server's socket folder.
func owner(t testing.TB, host string) *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	nobody := &syscall.Credential{Uid: 65534, Gid: 65534}
	if !filepath.IsAbs(host) {
		return nobody
	}
	info, err := os.Stat(host)
	check0(t, err)
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return &syscall.Credential{Uid: stat.Uid, Gid: stat.Gid}
	}
	return nobody
}

func freePort(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check0(t, err)
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

func TestPoolingProxy(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string][]string{
		"as it comes":              nil,
		"oldest connections first": {"server_round_robin = 1"},
		"one connection":           {"default_pool_size = 1"},
		"many spare ones":          {"min_pool_size = 10", "server_round_robin = 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := dbtest.New(t)
			proxy := bouncer(t, d, "transaction", settings...)
			expect(t, examine(t, options(proxy)), Broken, "listen_pooled")

			// What it says to do is good: the main address may stay.
			o := options(proxy)
			o.ListenDatabaseURL = d.URL
			if f := find(examine(t, o), "listen_ok"); f.Level != OK || f.Code == "" {
				t.Errorf("with a direct address for LISTEN: %+v", f)
			}
		})
	}
}

// While others use the proxy as well, its connections change hands all the time.
func TestBusyPoolingProxy(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	proxy := bouncer(t, d, "transaction", "default_pool_size = 3")
	for range 6 {
		conn := connect(t, proxy+"&default_query_exec_mode=exec")
		stop, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := conn.Exec(t.Context(), "SELECT pg_sleep(0.01)"); err != nil {
					return
				}
			}
		}()
		t.Cleanup(func() { close(stop); <-ended })
	}
	expect(t, examine(t, options(proxy)), Broken, "listen_pooled")
}

func TestSessionProxy(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	r := examine(t, options(bouncer(t, d, "session")))
	if got := without(above(r, Note), careless); len(got) > 0 || find(r, "listen_ok").Code == "" {
		t.Errorf("found %v in %s", got, describe(r))
	}
}

// The connections that the proxy still has are all taken: nothing false is said.
func TestSessionProxyWithFewConnections(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	r := examine(t, options(bouncer(t, d, "session", "default_pool_size = 3")))
	if f := find(r, "listen_ok"); f.Code == "" {
		t.Errorf("with three connections: %s", describe(r))
	}
}

func TestListenElsewhere(t *testing.T) {
	t.Parallel()
	d, other := dbtest.New(t), dbtest.New(t)
	o := options(d.URL)
	o.ListenDatabaseURL = other.URL
	expect(t, examine(t, o), Broken, "listen_elsewhere")

	address, err := url.Parse(d.URL)
	check0(t, err)
	address.RawQuery = "host=127.0.0.1&port=1&password=hunter2"
	o.ListenDatabaseURL = address.String()
	expect(t, examine(t, o), Broken, "listen_unreachable")
}

func TestNotHeard(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	impatient := func(d *Doctor) { d.limits.hear = 0 }
	expect(t, examine(t, options(d.URL), impatient), Broken, "notify_not_heard")
}

// The NOTIFY is a check's and no event: a tail does not read for it.
func TestTailsPassOverTheCheck(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	tail := node(t, d.URL, "quiet")
	eventually(t, "it sleeps", func() bool { return tail.Status().Armed })
	conn := connect(t, d.URL)
	_, err := conn.Exec(t.Context(), "LISTEN "+channelName)
	check0(t, err)
	examine(t, options(d.URL))
	n, err := conn.WaitForNotification(t.Context())
	if err != nil || !strings.HasPrefix(n.Payload, pingPrefix+"doctor ") {
		t.Errorf("heard %+v, %v", n, err)
	}
	io.WriteString(io.Discard, n.Payload)
}
