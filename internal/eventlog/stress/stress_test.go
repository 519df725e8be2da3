package main

import (
	"context"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"roombell/internal/eventlog/internal/fault"
)

// servers are the programs under test, built once: one that is whole, and one that can leave a step out.
var servers struct {
	whole, broken func() (string, error)
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "roombell-stress-")
	if err != nil {
		panic(err)
	}
	servers.whole = sync.OnceValues(func() (string, error) { return build(context.Background(), dir, false) })
	servers.broken = sync.OnceValues(func() (string, error) { return build(context.Background(), dir, true) })
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

func stress(t *testing.T, o options) report {
	t.Helper()
	o.Writers, o.Tails, o.Bin = 12, 4, os.Getenv("PG_BIN")
	if o.Clients > 0 {
		server := servers.whole
		if o.Omit != fault.None() {
			server = servers.broken
		}
		var err error
		if o.Roombell, err = server(); err != nil {
			t.Fatal(err)
		}
		o.Nodes = 3
	}
	r, err := run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The minute that tail, servers and clients have to stand; -short gives it less.
func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	o := options{Time: time.Minute, Clients: 64, Clean: 1, Lossy: 1}
	if testing.Short() {
		o.Time = 15 * time.Second
	}
	r := stress(t, o)
	if !r.print(t.Output()) {
		t.Fail()
	}
}

// Without a step of the algorithm events are lost or repeated, and it shows.
func TestControls(t *testing.T) {
	t.Parallel()
	for _, omit := range fault.All() {
		t.Run("without "+omit.String(), func(t *testing.T) {
			t.Parallel()
			o := options{Time: 4 * time.Second, Omit: omit}
			lost := true // else it repeats
			switch omit {
			case fault.Fresh(), fault.X():
				// Until it shows, which is soon: it takes a client that breaks off at the right moment.
				o.Clients, o.Time, lost = 64, time.Minute, false
			case fault.Timeline():
				o.Clients, o.Lossy = 64, 1
			}
			r := stress(t, o)
			r.print(t.Output())
			if s := r.sums(); lost && s.lost == 0 || !lost && s.dup == 0 {
				t.Error("nobody noticed")
			}
		})
	}
}

func TestReportOfTooLittleProvesNothing(t *testing.T) {
	r := report{o: options{Time: time.Minute, Clients: 60, Clean: 1}, count: &tally{}, events: 19_999, all: []verdict{{name: "a"}}}
	r.count.rollbacks.Store(500)
	r.count.killedTails.Store(20)
	r.count.killedNodes.Store(30)
	r.count.crashes.Store(2)
	r.count.resumes.Store(200)
	r.count.promotions.Store(1)
	var out strings.Builder
	if r.print(&out) || !strings.Contains(out.String(), "proved nothing: 19999 events") {
		t.Error(out.String())
	}
	r.events++
	if !r.print(&out) {
		t.Error(out.String())
	}
	r.count.resumes.Store(199)
	if r.print(&out) || !strings.Contains(out.String(), "proved nothing: 199 resumes") {
		t.Error("too few resumes prove something")
	}
	r.count.resumes.Store(200)
	for name, v := range map[string]verdict{
		"lost": {lost: 1}, "repeated": {dup: 1}, "out of order": {order: 1}, "not for it": {leak: 1}, "never committed": {phantom: 1},
		"told to refetch without need": {unjust: 1}, "not told of a loss": {silence: 1}, "sent away": {complaints: []string{"refused"}},
	} {
		r.all[0] = v
		if r.print(&out) {
			t.Errorf("%s passes", name)
		}
	}
}

func TestIDSet(t *testing.T) {
	var a, b idset
	want := map[int64]bool{}
	r := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		id := r.Int64N(3)<<43 | r.Int64N(1<<18)
		if a.add(id) == want[id] {
			t.Fatalf("%d is new: %v", id, !want[id])
		}
		want[id] = true
	}
	for id := range want {
		if !a.has(id) || a.has(id+1) != want[id+1] {
			t.Fatalf("%d", id)
		}
		if id%3 == 0 {
			b.add(id)
		}
	}
	if a.n != len(want) || a.keep(&b) != len(want)-b.n || a.n != b.n {
		t.Errorf("%d of %d, %d of them kept", a.n, len(want), b.n)
	}
	for id := range want {
		if a.has(id) != (id%3 == 0) {
			t.Fatalf("%d", id)
		}
	}
}

// What each kind of hearer must hear, and what of it would be a leak whatever the log says.
func TestWhomAnEventIsFor(t *testing.T) {
	w := &world{chats: map[int64]chat{1: {1, 1, false}, 2: {2, 1, true}, 3: {3, 2, false}}}
	ann := &person{id: 1, organization: 1, member: map[int64]bool{2: true}}
	bob := &person{id: 2, organization: 1}
	for name, tc := range map[string]struct {
		e        logged
		ann, bob bool
		leaks    bool // when bob hears it
	}{
		"of the organization":             {logged{organization: 1, chat: 1, heard: true}, true, true, false},
		"of another organization":         {logged{organization: 2, chat: 3, heard: true}, false, false, true},
		"for nobody":                      {logged{organization: 1, chat: 1}, false, false, true},
		"personal":                        {logged{organization: 1, user: 1, heard: true}, true, false, true},
		"restricted":                      {logged{organization: 1, chat: 2, restricted: true, audience: []int64{1}, heard: true}, true, false, true},
		"restricted to nobody":            {logged{organization: 1, chat: 2, restricted: true, heard: true}, false, false, true},
		"restricted, wrongly addressed":   {logged{organization: 1, chat: 2, restricted: true, audience: []int64{1, 2}, heard: true}, true, true, true},
		"restricted, for all":             {logged{organization: 1, chat: 2, heard: true}, true, true, true},
		"of another organization's chat":  {logged{organization: 1, chat: 3, heard: true}, true, true, true},
		"of a chat that was never there ": {logged{organization: 1, chat: 9, heard: true}, true, true, true},
	} {
		if tc.e.isFor(ann) != tc.ann || tc.e.isFor(bob) != tc.bob {
			t.Errorf("%s: for ann %v, for bob %v", name, tc.e.isFor(ann), tc.e.isFor(bob))
		}
		h := newHearing(w, "bob")
		h.event(tc.e.id)
		var v verdict
		w.weigh(&v, &h, bob, tc.e)
		if (v.leak == 1) != tc.leaks || v.lost != 0 {
			t.Errorf("%s: bob hears it: %+v", name, v)
		}
	}
}
