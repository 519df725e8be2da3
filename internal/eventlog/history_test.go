package eventlog

import (
	"fmt"
	"slices"
	"testing"
)

func TestSince(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	w.tell("1")
	late := newWriter(t, db.URL)
	late.exec("BEGIN")
	late.tell("late")
	w.tell("2")
	events, to, tooOld, err := Since(t.Context(), db.Pool, Cursor{})
	if got := names(events); err != nil || tooOld || !slices.Equal(got, []string{"1", "2"}) {
		t.Fatalf("%v, too old %v, %v", got, tooOld, err)
	}
	late.exec("COMMIT")
	w.tell("3")
	events, to, tooOld, err = Since(t.Context(), w.Conn, to)
	if got := names(events); err != nil || tooOld || !slices.Equal(got, []string{"late", "3"}) {
		t.Fatalf("%v, too old %v, %v", got, tooOld, err)
	}
	events, _, _, err = Since(t.Context(), db.Pool, to)
	if err != nil || len(events) > 0 {
		t.Fatalf("%v, %v", names(events), err)
	}
}

func TestSinceTheMiddleOfABatch(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	n := startNode(t, db.URL, "a")
	late := newWriter(t, db.URL)
	late.exec("BEGIN")
	late.tell("late 0", "late 1")
	w.tell("first")
	n.await(t, "first")
	late.tell("late 2")
	late.exec("COMMIT")
	all := []string{"first", "late 0", "late 1", "late 2"}
	n.await(t, all...)
	i := 0
	for _, b := range n.batches {
		for k := range b.Events {
			i++
			c, err := ParseCursor(b.Cursor(k))
			if err != nil {
				t.Fatal(err)
			}
			events, _, _, err := Since(t.Context(), db.Pool, c)
			if got := names(events); err != nil || !slices.Equal(got, all[i:]) {
				t.Errorf("after %d events: %v, want %v (%v)", i, got, all[i:], err)
			}
		}
	}
}

func TestReadInPages(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	want := sequence("e", 25)
	w.tell(want...)
	var got []string
	var from Cursor
	for pages := 1; ; pages++ {
		page, err := Read(t.Context(), db.Pool, from, 10)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, names(page.Events)...)
		if from = page.End; !page.More {
			if pages != 3 {
				t.Errorf("%d pages", pages)
			}
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestSinceWhatIsGone(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	w.tell("1")
	_, to, _, err := Since(t.Context(), db.Pool, Cursor{})
	if err != nil {
		t.Fatal(err)
	}
	w.tell("2")
	foreign := to
	foreign.system++
	old := to
	w.exec(`UPDATE event_log_trim SET max_id = (SELECT max(id) FROM event_log), max_txid = '5' WHERE slot = 3`)
	for name, from := range map[string]Cursor{"another cluster's": foreign, "passed by retention": old} {
		events, end, tooOld, err := Since(t.Context(), db.Pool, from)
		if err != nil || !tooOld || len(events) > 0 {
			t.Errorf("%s: %v, too old %v, %v", name, names(events), tooOld, err)
		}
		if _, _, again, err := Since(t.Context(), db.Pool, end); again || err != nil {
			t.Errorf("%s: the position given is too old as well: %v", name, err)
		}
	}
}

func TestSinceLeavesTheConnectionAsItWas(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	if _, _, _, err := Since(t.Context(), w.Conn, Cursor{}); err != nil {
		t.Fatal(err)
	}
	for _, setting := range []string{"enable_seqscan", "jit", "plan_cache_mode"} {
		var now string
		if err := w.QueryRow(t.Context(), fmt.Sprint("SHOW ", setting)).Scan(&now); err != nil {
			t.Fatal(err)
		}
		if want := query[string](t, db.Pool, "SELECT reset_val FROM pg_settings WHERE name = $1", setting); now != want {
			t.Errorf("%s is %s, want %s", setting, now, want)
		}
	}
}
