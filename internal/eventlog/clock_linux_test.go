package eventlog

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"roombell/internal/postgres"
)

// around is an installation of PostgreSQL whose server is started by the script, which has the real program in $postgres, and the folder,
// which the server's account can read and the script knows as $dir.
func around(t *testing.T, dir, script string) string {
	t.Helper()
	bin, err := postgres.FindBin(os.Getenv("PG_BIN"))
	if err != nil {
		t.Fatal(err)
	}
	head := fmt.Sprintf("#!/bin/sh\ndir='%s'\npostgres='%s/postgres'\n", dir, bin)
	if filepath.Base(filepath.Dir(bin)) == "native" { // npm's bring their libraries along
		head += fmt.Sprintf("export LD_LIBRARY_PATH='%s/../lib'\n", bin)
	}
	for name, body := range map[string]string{"postgres": script, "initdb": "exec '" + bin + "/initdb' \"$@\""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(head+body+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// compile makes a library that replaces functions of the server's.
func compile(t *testing.T, source, library string) {
	t.Helper()
	if out, err := exec.Command("cc", "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl").CombinedOutput(); err != nil {
		t.Fatalf("%v (a C compiler is needed: apt-get install gcc libc6-dev)\n%s", err, out)
	}
}

// clock is that of a server.
type clock struct{ file *os.File }

// set has the server's clock be wrong by that much.
func (c clock) set(t *testing.T, d time.Duration) {
	t.Helper()
	b := binary.NativeEndian.AppendUint64(nil, uint64(d.Microseconds()))
	if _, err := c.file.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
}

func newClockCluster(t *testing.T) (*cluster, clock) {
	t.Helper()
	dir := openDir(t)
	file, err := os.Create(filepath.Join(dir, "offset"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	c := clock{file}
	c.set(t, 0)
	compile(t, "testdata/clock.c", filepath.Join(dir, "clock.so"))
	bin := around(t, dir, `ROOMBELL_CLOCK="$dir/offset" LD_PRELOAD="$dir/clock.so" exec "$postgres" "$@"`)
	return newEmptyCluster(t, func(o *postgres.Options) { o.Bin = bin }).migrated(t), c
}

func TestStepsOfTheServersClock(t *testing.T) {
	t.Parallel()
	c, clock := newClockCluster(t)
	w := newWriter(t, c.url)
	w.keep("3 seconds")
	w.impatient()
	n := startNode(t, c.url, "a")
	n.awaitRinger(t)
	var want []string
	tell := func(prefix string, done func() bool) { want = append(want, w.steadily(prefix, done)...) }
	emptied := func(more float64) func() bool {
		enough := n.metric(t, "slots_emptied_total") + more
		return func() bool { return n.metric(t, "slots_emptied_total") >= enough }
	}
	recorded := func() int { return query[int](t, c.pool, `SELECT count(*) FROM event_log`) }
	// within tells for less than the retention and looks whether all of it is still there.
	within := func(prefix string) {
		t.Helper()
		position := n.attached(t)
		told := w.steadilyFor(prefix, 500*time.Millisecond)
		want = append(want, told...)
		if there, tooOld := since(t, c.pool, position); tooOld || len(there) != len(told) {
			t.Errorf("%s: %d of %d events are left, too old %v", prefix, len(there), len(told), tooOld)
		}
		n.await(t, want...)
	}
	hours := func(h int) { clock.set(t, time.Duration(h)*time.Hour) }
	serverNow := func() time.Time { return query[time.Time](t, c.pool, `SELECT clock_timestamp()`) }

	within("in time")
	hours(5)
	if ahead := time.Until(serverNow()); ahead < 4*time.Hour {
		t.Fatalf("the server's clock is %v ahead: it was not set", ahead)
	}
	before := recorded()
	n.awaitReads(t, 3) // and looks at the slots beside
	if got := recorded(); got != before {
		t.Errorf("a clock that jumped emptied the log: %d events of %d are left, and nothing was written since", got, before)
	}
	within("5 hours ahead")
	tell("5 hours ahead, on", emptied(1))

	hours(0)
	within("set right")
	tell("set right, on", emptied(1))

	hours(-5)
	within("5 hours behind")
	if !testing.Short() {
		tell("5 hours behind, on", emptied(1))
	}

	hours(0)
	within("set right again")
	tell("at last", emptied(1))
	tell("the end", func() bool { return n.metric(t, "slots_overdue") == 0 })
	n.await(t, want...)
	if len(n.resets) > 0 || n.metric(t, "reconnects_total") > 0 {
		t.Errorf("resets %v, %v reconnects", n.resets, n.metric(t, "reconnects_total"))
	}
}
