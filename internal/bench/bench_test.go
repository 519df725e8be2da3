package bench

import (
	"bytes"
	"encoding/json"
	"math"
	"os/exec"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestProbeSurvivesJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := probe{
			phase: rapid.IntRange(0, 1<<30).Draw(t, "phase"),
			seq:   rapid.IntRange(0, 1<<30).Draw(t, "seq"),
			due:   time.Unix(0, rapid.Int64Range(0, 1<<59).Draw(t, "due")),
		}
		size := rapid.IntRange(0, 200_000).Draw(t, "size")
		content := p.content(size)
		if len(content) != max(size, len(p.content(0))) {
			t.Fatalf("asked for %d characters, got %d", size, len(content))
		}
		payload, err := json.Marshal(map[string]any{"id": 7, "content": content, "chatId": 1})
		if err != nil {
			t.Fatal(err)
		}
		got, ok := parseProbe(payload)
		if !ok || got.phase != p.phase || got.seq != p.seq || !got.due.Equal(p.due) {
			t.Fatalf("%+v came back as %+v, %v", p, got, ok)
		}
	})
}

func TestProbeIsNotFoundWhereThereIsNone(t *testing.T) {
	for _, frame := range []string{"", `{"content":"hi"}`, "rbprobe ", "rbprobe 1 2", "rbprobe 1 2 3", "rbprobe 1  3 4 ", "rbprobe -1 2 3 ",
		"rbprobe 1 2 99999999999999999999 "} {
		if p, ok := parseProbe([]byte(frame)); ok {
			t.Errorf("%q gave %+v", frame, p)
		}
	}
}

func TestQuantilesAreDelaysThatWereSeen(t *testing.T) {
	var s Samples
	for i := 100; i > 0; i-- {
		s.Add(time.Duration(i) * time.Millisecond)
	}
	s.Sort()
	for _, c := range []struct {
		share float64
		want  time.Duration
	}{{0, time.Millisecond}, {0.5, 50 * time.Millisecond}, {0.505, 51 * time.Millisecond}, {0.99, 99 * time.Millisecond}, {1, 100 * time.Millisecond}} {
		if got := s.Quantile(c.share); got != c.want {
			t.Errorf("quantile %v is %v, want %v", c.share, got, c.want)
		}
	}
	if got := (Samples)(nil).Max(); got != 0 {
		t.Errorf("the longest of none is %v", got)
	}
}

func TestDelaysAreRoundedUp(t *testing.T) {
	var s Samples
	s.Add(1)
	s.Add(-time.Second)
	s.Add(100 * time.Hour)
	if s[0] != 1 || s[1] != 0 || s[2] != math.MaxUint32 {
		t.Errorf("got %v", s)
	}
}

func TestEveryRowIsExpectedOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := Expect{Rows: rapid.IntRange(0, 500).Draw(t, "rows"), Organizations: rapid.IntRange(1, 60).Draw(t, "organizations")}
		all := tally{}
		for seq := range e.Rows {
			all.note(seq, 0, time.Time{})
		}
		sum := 0
		for o := range e.Organizations {
			if e.of(o) != all.count(e, o) {
				t.Fatalf("organization %d: %d expected, %d there", o, e.of(o), all.count(e, o))
			}
			sum += e.of(o)
		}
		if sum != e.Rows || e.of(e.Organizations) != 0 {
			t.Fatalf("%d of %d rows expected", sum, e.Rows)
		}
	})
}

func TestLossesDoNotHideEachOther(t *testing.T) {
	l := &listener{seat: Seat{Organization: 1}, tallies: map[int]*tally{}, fleet: NewFleet()}
	// Of rows 1, 3, 5 and 7, which are its own, it gets one twice, one not, and one of another organization.
	for _, seq := range []int{1, 3, 3, 4, 7} {
		l.note(probe{phase: 9, seq: seq}, time.Now())
	}
	e := Expect{Phase: 9, Rows: 8, Organizations: 2}
	var d Delivery
	l.collect(e, &d)
	if d.Expected != 4 || d.Received != 3 || d.Lost != 1 || d.Duplicates != 1 || d.Strays != 1 {
		t.Errorf("got %+v", d)
	}
	if l.collect(e, &d); d.Lost != 5 {
		t.Errorf("a phase is counted twice: %+v", d)
	}
}

func TestRoundingIsAgainstUs(t *testing.T) {
	for _, c := range []struct {
		f    float64
		up   bool
		want string
	}{
		{0.6996, false, "0.699"}, {0.6996, true, "0.700"}, {1.501, true, "1.51"}, {1.5, true, "1.50"}, {249.01, true, "250"},
		{0.07, false, "0.070"}, {12345.6, false, "12345"}, {33.96, true, "34.0"}, {-1.65, true, "-1.65"}, {0, true, "0.000"},
	} {
		if got := number(&c.f, c.up); got != c.want {
			t.Errorf("%v up=%v is printed as %s, want %s", c.f, c.up, got, c.want)
		}
	}
}

func TestVerdicts(t *testing.T) {
	r := &Report{Machine: "here", Go: "go", Postgres: "15"}
	r.add(Figure{Experiment: "a", Name: "just met", Measured: ptr(0.7), Target: atLeast(0.7)})
	r.add(Figure{Experiment: "a", Name: "just missed", Measured: ptr(0.69999), Target: atLeast(0.7)})
	if err := r.Err(); err != nil {
		t.Errorf("a missed target is an error: %v", err)
	}
	r.add(Figure{Experiment: "a", Name: "met but lost", Measured: ptr(1), Target: atMost(2), Losses: Losses{Expected: 5, Lost: 1}})
	var table bytes.Buffer
	if err := r.WriteTable(&table); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string][]string{
		"just met": {"pass"}, "just missed": {"0.699", "MISS"}, "met but lost": {"MISS", "LOST 1 of 5"}} {
		if got := lineWith(table.String(), line); !containsAll(got, want) {
			t.Errorf("%q lacks %v", got, want)
		}
	}
	if err := r.Err(); err == nil || !strings.Contains(err.Error(), "met but lost") {
		t.Errorf("loss gave %v", err)
	}
}

func lineWith(table, what string) string {
	for line := range strings.Lines(table) {
		if strings.Contains(line, what) {
			return line
		}
	}
	return ""
}

func containsAll(s string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

func TestProcessCPUIsItsOwn(t *testing.T) {
	busy, err := startProcess("busy", exec.Command("sh", "-c", "while :; do :; done"))
	if err != nil {
		t.Fatal(err)
	}
	lazy, err := startProcess("lazy", exec.Command("sleep", "60"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the busy process used CPU", func() bool { return cpuOf(t, busy) > 50*time.Millisecond })
	if used := cpuOf(t, lazy); used > 20*time.Millisecond {
		t.Errorf("a sleeping process used %v", used)
	}
	if rss, err := lazy.rss(); err != nil || rss < 1<<16 || rss > 1<<27 {
		t.Errorf("a sleeping process has %d bytes, %v", rss, err)
	}
	for _, p := range []*process{busy, lazy} {
		if err := p.stop(); err == nil || !strings.Contains(err.Error(), "signal") {
			t.Errorf("%s ended with %v", p.name, err)
		}
	}
}

func cpuOf(t *testing.T, p *process) time.Duration {
	t.Helper()
	used, err := p.cpu()
	if err != nil {
		t.Fatal(err)
	}
	return used
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		if err := sleep(t.Context(), poll); err != nil {
			t.Fatal(err)
		}
	}
}

func TestProcessKeepsItsLastWords(t *testing.T) {
	p, err := startProcess("teller", exec.Command("sh", "-c", "seq 1 5000 >&2; echo out of luck >&2; exit 3"))
	if err != nil {
		t.Fatal(err)
	}
	<-p.done
	err = p.stop()
	if err == nil || !strings.HasSuffix(err.Error(), "5000\nout of luck") || len(err.Error()) > 5000 {
		t.Errorf("got %.100v", err)
	}
}
