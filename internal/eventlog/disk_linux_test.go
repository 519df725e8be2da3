package eventlog

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"roombell/internal/postgres"
)

const diskFull = "53100" // errcodes-appendix

// smallDisk is a server with a folder in which there is little room: a tmpfs, mounted by root, or by an ordinary user in a namespace of the
// server's own; where the kernel allows neither, a library that says so. fill takes what is left of it, free gives it back.
func smallDisk(t *testing.T) (c *cluster, folder string, fill, free func(admin *writer)) {
	t.Helper()
	dir := openDir(t)
	folder = filepath.Join(dir, "tablespace")
	if err := os.Mkdir(folder, 0o777); err != nil {
		t.Fatal(err)
	}
	fill, free = fillWithRows, freeOfRows
	mount := fmt.Sprintf("mount -t tmpfs -o size=4m,mode=0777 tmpfs '%s'", folder)
	switch {
	case syscall.Mount("tmpfs", folder, "tmpfs", 0, "size=4m,mode=0777") == nil:
		t.Cleanup(func() { // when the server has gone
			if err := syscall.Unmount(folder, 0); err != nil {
				t.Error(err)
			}
		})
		c = newEmptyCluster(t)
		ownedLike(t, folder, c.dataDir())
	case exec.Command("unshare", "-Urm", "sh", "-c", mount+" && unshare -U --map-user=1 --map-group=1 true").Run() == nil:
		t.Log("the disk is a tmpfs in a namespace of the server's")
		c = newEmptyCluster(t, func(o *postgres.Options) {
			o.Bin = around(t, dir, fmt.Sprintf(`[ "$1" = --version ] && exec "$postgres" "$@"
export mount="%s" postgres uid=$(id -u) gid=$(id -g)
exec unshare -Urm sh -c 'eval "$mount" && exec unshare -U --map-user="$uid" --map-group="$gid" "$postgres" "$@"' sh "$@"`, mount))
		})
	default:
		t.Log("no tmpfs can be mounted: a library says that the disk is full")
		compile(t, "testdata/full.c", filepath.Join(dir, "full.so"))
		c = newEmptyCluster(t, func(o *postgres.Options) {
			o.Bin = around(t, dir, `ROOMBELL_FULL="$dir/is-full" LD_PRELOAD="$dir/full.so" exec "$postgres" "$@"`)
		})
		full := filepath.Join(dir, "is-full")
		fill = func(*writer) {
			if err := os.WriteFile(full, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		free = func(*writer) {
			if err := os.Remove(full); err != nil {
				t.Fatal(err)
			}
		}
	}
	return c.migrated(t), folder, fill, free
}

// fillWithRows makes a table of somebody else's take all the room.
func fillWithRows(admin *writer) {
	admin.Helper()
	admin.exec(`CREATE TABLE filler (page text) TABLESPACE small`)
	admin.exec(`ALTER TABLE filler ALTER page SET STORAGE PLAIN`) // one page a row
	for err := error(nil); !refused(err, diskFull); {
		if _, err = admin.Exec(admin.T.Context(), `INSERT INTO filler VALUES (repeat('x', 8000))`); err != nil && !refused(err, diskFull) {
			admin.Fatal(err)
		}
	}
}

func freeOfRows(admin *writer) {
	admin.Helper()
	admin.exec(`DROP TABLE filler`)
	admin.exec(`CHECKPOINT`) // removes the file
}

func refused(err error, code string) bool {
	var refusal *pgconn.PgError
	return errors.As(err, &refusal) && refusal.Code == code
}

func TestDiskFullOnTheLogsTablespace(t *testing.T) {
	t.Parallel()
	c, folder, fill, free := smallDisk(t)
	admin, w := adminOf(t, c, postgres.Name), newWriter(t, c.url)
	admin.exec(`CREATE TABLESPACE small LOCATION '` + folder + `'`)
	for i := range 10 {
		admin.exec(fmt.Sprintf(`ALTER TABLE event_log_%d SET TABLESPACE small`, i))
	}
	n := startNode(t, c.url, "a")
	w.exec(`INSERT INTO chats (organization_id, name) VALUES (1, 'c')`)
	want := []string{"chat:new"}

	// What is left of the last page of each slot takes a few events more.
	fill(admin)
	write := func() error {
		_, err := w.Exec(t.Context(), `INSERT INTO messages (chat_id, content) VALUES (1, repeat('x', 4000))`)
		return err
	}
	full := 0
	for i := 0; full < 20; i++ {
		switch err := write(); {
		case err == nil && i < 100:
			want = append(want, "message:new")
		case refused(err, diskFull):
			full++
		default:
			t.Fatalf("write %d into a full log: %v", i, err)
		}
	}
	if stored, events := query[int](t, c.pool, `SELECT count(*) FROM messages`), len(want)-1; stored != events {
		t.Errorf("%d messages are stored, %d are recorded", stored, events)
	}

	// Nothing else breaks: the tail reads, other tables are written.
	n.await(t, want...)
	n.attached(t)
	if err := n.RoundTrip(t.Context()); err != nil {
		t.Error(err)
	}
	w.exec(`UPDATE users SET name = 'x'`)
	w.exec(`INSERT INTO organizations (name) VALUES ('two')`)
	w.exec(`CREATE TABLE theirs (a integer)`)
	w.exec(`INSERT INTO theirs SELECT generate_series(1, 10000)`)
	if s := n.Status(); !s.Connected || n.metric(t, "reconnects_total")+n.metric(t, "errors_total") > 0 {
		t.Errorf("the tail met errors: %+v", s)
	}

	free(admin)
	for range 50 {
		if err := write(); err != nil {
			t.Fatal(err)
		}
		want = append(want, "message:new")
	}
	n.await(t, want...)
	n.attached(t)
	n.await(t, want...)
	ids := map[int64]bool{}
	for _, e := range n.events {
		ids[e.ID] = true
	}
	if len(ids) != len(want) || strings.Join(n.resets, "") != "" {
		t.Errorf("%d different events of %d, resets %v", len(ids), len(want), n.resets)
	}
}
