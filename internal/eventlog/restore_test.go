package eventlog

import (
	"bytes"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"roombell/db"
	"roombell/internal/postgres"
	"roombell/internal/postgres/dbtest"
)

// newEmptyCluster is a server with an identifier of its own.
func newEmptyCluster(t *testing.T, change ...func(*postgres.Options)) *cluster {
	t.Helper()
	server := dbtest.Cluster(t, append([]func(*postgres.Options){func(o *postgres.Options) { o.Cache = "" }}, change...)...)
	return &cluster{Server: server, url: server.URL(postgres.Name)}
}

// migrated gives it the tables, an organization and a pool.
func (c *cluster) migrated(t *testing.T) *cluster {
	t.Helper()
	if err := db.Migrate(t.Context(), c.url, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	newWriter(t, c.url).organization()
	return c.pooled(t)
}

func (c *cluster) pooled(t *testing.T) *cluster {
	t.Helper()
	var err error
	if c.pool, err = db.Open(t.Context(), c.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.pool.Close)
	return c
}

// installation is the folder of a PostgreSQL that has the program, which npm's packages leave out: the one under test, else another.
func installation(t *testing.T, program string) string {
	t.Helper()
	var dirs []string
	if bin, err := postgres.FindBin(os.Getenv("PG_BIN")); err == nil {
		dirs = append(dirs, bin)
	}
	others, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.Reverse(others)
	for _, dir := range append(dirs, others...) {
		if _, err := os.Stat(filepath.Join(dir, program)); err == nil {
			return dir
		}
	}
	t.Fatalf("no %s on this machine (apt-get install postgresql)", program)
	return ""
}

// olderThan is the installation to upgrade from: one of an older version where there is one, else the same, which pg_upgrade upgrades as well.
func olderThan(t *testing.T, bin string) string {
	t.Helper()
	others, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	for _, dir := range others {
		if version := filepath.Base(filepath.Dir(dir)); version >= "15" && version < filepath.Base(filepath.Dir(bin)) {
			return dir
		}
	}
	return bin
}

// runs a program of an installation as the account of the server's, in a folder that this may write to.
func (c *cluster) runs(t *testing.T, bin, program string, args ...string) {
	t.Helper()
	dir := openDir(t)
	ownedLike(t, dir, c.dataDir())
	cmd := exec.Command(filepath.Join(bin, program), args...)
	cmd.Dir = dir
	cmd.Env = []string{"LC_ALL=C", "PATH=" + bin + ":/usr/bin:/bin"}
	if os.Geteuid() == 0 {
		owner := ownerOf(t, dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out.Bytes())
	}
}

func (c *cluster) dataDir() string { return filepath.Join(c.Dir(), "data") }

func ownerOf(t *testing.T, path string) *syscall.Stat_t {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t)
}

// ownedLike gives a folder to the owner of another one.
func ownedLike(t *testing.T, folder, other string) {
	t.Helper()
	owner := ownerOf(t, other)
	if err := os.Chown(folder, int(owner.Uid), int(owner.Gid)); err != nil {
		t.Fatal(err)
	}
}

// age makes a server use up transaction ids: one for each row that an exception guards.
func (w *writer) age() {
	w.Helper()
	w.exec(`CREATE TEMP TABLE aging (a integer);
		DO $$ BEGIN FOR i IN 1..20000 LOOP
			BEGIN INSERT INTO aging VALUES (i); EXCEPTION WHEN others THEN NULL; END;
		END LOOP; END $$; DROP TABLE aging`)
}

// openDir is a folder for the server's account to look into.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "roombell-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// adminOf is the superuser's session in a database.
func adminOf(t *testing.T, c *cluster, database string) *writer {
	t.Helper()
	return newWriter(t, c.AdminURL(database))
}

// promote has the server end as a primary and begin again as a standby that is promoted: its timeline rises.
func (c *cluster) promote(t *testing.T) {
	t.Helper()
	if err := c.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.dataDir(), "standby.signal"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	adminOf(t, c, postgres.Name).exec("SELECT pg_promote()")
}

// moved is a log that goes from one cluster to another, and what was heard of it.
type moved struct {
	*bridge
	nodes []*node
	want  []string
	old   Cursor // of a client, before
}

// beforeMove has two nodes hear of an old cluster's last events, whose transaction ids are high.
func beforeMove(t *testing.T, c *cluster) *moved {
	t.Helper()
	w := newWriter(t, c.url)
	w.age()
	b := newBridge(t, c.url)
	url := through(t, c.url, b.listener.Addr().String())
	m := &moved{bridge: b, nodes: []*node{startNode(t, url, "a"), startNode(t, url, "b")}}
	m.old = m.nodes[0].attached(t)
	m.tell(t, c, sequence("before ", 50)...)
	return m
}

func (m *moved) tell(t *testing.T, c *cluster, names ...string) {
	t.Helper()
	newWriter(t, c.url).tell(names...)
	m.want = append(m.want, names...)
	m.heard(t)
}

// heard waits until everybody has heard everything, and looks whether the next reads bring more.
func (m *moved) heard(t *testing.T) {
	t.Helper()
	for _, n := range m.nodes {
		n.await(t, m.want...)
		for range 3 {
			n.attached(t)
			n.await(t, m.want...)
		}
	}
}

// afterMove begins where the old cluster's last log stands in the new one, which runs.
func (m *moved) afterMove(t *testing.T, c *cluster) {
	t.Helper()
	highest := int64(0)
	for _, e := range m.nodes[0].events {
		highest = max(highest, e.ID)
	}
	m.lead(t, c.url)
	for _, n := range m.nodes {
		n.awaitResets(t, ResetUnknownCursor)
	}
	if _, tooOld := since(t, c.pool, m.old); !tooOld {
		t.Error("a client's position of the old cluster is believed")
	}
	position := m.nodes[0].attached(t)
	m.tell(t, c, sequence("moved ", 50)...)
	c.crash(t)
	c.pool.Reset() // its connections have died
	m.tell(t, c, sequence("after a crash ", 50)...)
	// The old cluster's transaction ids come once more.
	newWriter(t, c.url).age()
	m.tell(t, c, sequence("and on ", 50)...)

	for _, n := range m.nodes {
		n.awaitResets(t, ResetUnknownCursor) // once
		for _, e := range n.events[50:] {
			if e.ID <= highest {
				t.Fatalf("%s has id %d, the old cluster's went up to %d", e.Name, e.ID, highest)
			}
		}
	}
	if missed, tooOld := since(t, c.pool, position); tooOld || !slices.Equal(missed, m.want[50:]) {
		t.Errorf("a client that was there misses %d events, want %d; too old %v", len(missed), len(m.want)-50, tooOld)
	}
}

func TestDumpAndRestore(t *testing.T) {
	t.Parallel()
	bin := installation(t, "pg_dump")
	from := newEmptyCluster(t, func(o *postgres.Options) { o.Bin = bin }).migrated(t)
	to := newEmptyCluster(t)
	m := beforeMove(t, from)
	file := filepath.Join(from.dataDir(), "dump")
	from.runs(t, bin, "pg_dump", "--format=custom", "--file="+file, from.AdminURL(postgres.Name))
	// Between dump and restore nothing is written, as in every plan of a move.
	if err := from.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	from.runs(t, bin, "pg_restore", "--exit-on-error", "--dbname="+to.AdminURL(postgres.Name), file)
	to.pooled(t)
	if there := query[int](t, to.pool, `SELECT count(*) FROM event_log WHERE txid >= pg_snapshot_xmax(pg_current_snapshot())`); there == 0 {
		t.Fatal("the restored log has no transaction ids above the new cluster's: this proves nothing")
	}
	m.afterMove(t, to)
}

func TestUpgradeOfTheCluster(t *testing.T) {
	t.Parallel()
	bin := installation(t, "pg_upgrade")
	older := olderThan(t, bin)
	from := newEmptyCluster(t, func(o *postgres.Options) {
		o.Bin = older
		o.Settings = map[string]string{"wal_level": "replica", "hot_standby": "on"}
	}).migrated(t)
	to := newEmptyCluster(t, func(o *postgres.Options) { o.Bin = bin })
	from.promote(t) // the upgraded one begins with timeline 1 again: its ids must not
	m := beforeMove(t, from)
	admin := adminOf(t, to, "postgres")
	admin.exec("DROP DATABASE " + postgres.Name) // what pg_upgrade makes itself must not be there
	admin.exec("DROP ROLE " + postgres.Name)
	for _, c := range []*cluster{from, to} {
		if err := c.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	to.runs(t, bin, "pg_upgrade", "--old-bindir="+older, "--new-bindir="+bin, "--old-datadir="+from.dataDir(), "--new-datadir="+to.dataDir(), "--username=postgres")
	if err := to.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("upgraded from %d to %d", from.Version(), to.Version())
	m.afterMove(t, to.pooled(t))
}
