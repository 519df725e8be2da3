package main

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"roombell/internal/eventlog/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func stress(t *testing.T, o options) report {
	t.Helper()
	o.Writers, o.Tails = 12, 4
	r, err := run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The minute that the tail has to stand; -short gives it less.
func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	o := options{Time: time.Minute}
	if testing.Short() {
		o.Time = 8 * time.Second
	}
	r := stress(t, o)
	if !r.print(t.Output()) {
		t.Fail()
	}
}

// Without a step of the algorithm events are lost, and it shows.
func TestControls(t *testing.T) {
	for _, omit := range []fault.Step{fault.Hi(), fault.Snapshot(), fault.Ring()} {
		t.Run("without "+omit.String(), func(t *testing.T) {
			t.Parallel()
			r := stress(t, options{Time: 6 * time.Second, Omit: omit})
			r.print(t.Output())
			if lost, dup, _ := r.sums(); lost+dup == 0 {
				t.Error("nobody noticed")
			}
		})
	}
}

func TestReportOfTooLittleProvesNothing(t *testing.T) {
	r := report{o: options{Time: time.Minute}, count: &tally{}, events: 19_999, tails: []verdict{{name: "a"}}}
	r.count.rollbacks.Store(500)
	r.count.killedTails.Store(50)
	r.count.crashes.Store(2)
	var out strings.Builder
	if r.print(&out) || !strings.Contains(out.String(), "proved nothing: 19999 events") {
		t.Error(out.String())
	}
	r.events++
	if !r.print(&out) {
		t.Error(out.String())
	}
	r.tails[0].dup = 1
	if r.print(&out) {
		t.Error("a repeated event passes")
	}
}
