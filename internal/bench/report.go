package bench

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// ErrLost is returned when a client did not get what it should have: a row lost, twice, or of another organization, or
// a client that was cut though it read. Figures of such a run measure nothing.
var ErrLost = errors.New("events were lost, doubled or misdirected")

// Report is the table that the bench prints.
type Report struct {
	Started    time.Time `json:"started"`
	Took       float64   `json:"tookSeconds"`
	Machine    string    `json:"machine"`
	Go         string    `json:"go"`
	Postgres   string    `json:"postgres"`
	Commit     string    `json:"commit,omitempty"`
	CommitTime float64   `json:"commitMs,omitempty"` // one connection alone, mean of single-row inserts without triggers
	Figures    []Figure  `json:"figures"`
}

// Figure is one row of the table. What was not measured is null.
type Figure struct {
	Experiment string   `json:"experiment"`
	Name       string   `json:"name"`
	Unit       string   `json:"unit"` // of Roombell, Floor and Bare
	Roombell   *float64 `json:"roombell,omitempty"`
	Floor      *float64 `json:"floor,omitempty"`
	Bare       *float64 `json:"bare,omitempty"` // the same tables without Roombell's triggers, nobody listening
	// Measured is what the target is about: Roombell's figure, or how it relates to the floor's or the bare tables'.
	Measured *float64 `json:"measured,omitempty"`
	As       string   `json:"as,omitempty"` // what Measured is: a unit, or "of bare", "of floor"
	Target   *Target  `json:"target,omitempty"`
	Pass     *bool    `json:"pass,omitempty"`
	Losses   Losses   `json:"losses,omitzero"`
	Note     string   `json:"note,omitempty"`
}

// Target bounds what was measured from above or from below.
type Target struct {
	AtMost  *float64 `json:"atMost,omitempty"`
	AtLeast *float64 `json:"atLeast,omitempty"`
}

func atMost(f float64) *Target  { return &Target{AtMost: &f} }
func atLeast(f float64) *Target { return &Target{AtLeast: &f} }

func (t *Target) met(f float64) bool {
	return (t.AtMost == nil || f <= *t.AtMost) && (t.AtLeast == nil || f >= *t.AtLeast)
}

func (t *Target) String() string {
	switch {
	case t == nil:
		return ""
	case t.AtMost != nil:
		return "≤ " + strconv.FormatFloat(*t.AtMost, 'g', -1, 64)
	default:
		return "≥ " + strconv.FormatFloat(*t.AtLeast, 'g', -1, 64)
	}
}

// Losses count what clients should have got and did not, or got and should not have, of both servers.
type Losses struct {
	Expected   int64 `json:"expected"`
	Lost       int64 `json:"lost"`
	Duplicates int64 `json:"duplicates"`
	Strays     int64 `json:"strays"`
	Cut        int   `json:"cut"` // clients that read and lost their connection all the same
}

func lossesOf(deliveries ...Delivery) (l Losses) {
	for _, d := range deliveries {
		l.Expected += d.Expected
		l.Lost += d.Lost
		l.Duplicates += d.Duplicates
		l.Strays += d.Strays
		l.Cut += d.Cut
	}
	return l
}

func (l Losses) any() bool { return l.Lost+l.Duplicates+l.Strays+int64(l.Cut) > 0 }

func (l Losses) String() string {
	switch {
	case l.Expected == 0:
		return ""
	case !l.any():
		return fmt.Sprintf("0 of %d", l.Expected)
	default:
		return fmt.Sprintf("LOST %d of %d, DUP %d, STRAY %d, CUT %d", l.Lost, l.Expected, l.Duplicates, l.Strays, l.Cut)
	}
}

// add appends a figure and gives its verdict.
func (r *Report) add(f Figure) {
	if f.Target != nil && f.Measured != nil {
		pass := f.Target.met(*f.Measured) && !f.Losses.any()
		f.Pass = &pass
	}
	r.Figures = append(r.Figures, f)
}

// Err returns ErrLost when a client did not get exactly what it should have. A missed target is no error: figures are
// shown, not tested.
func (r *Report) Err() error {
	for _, f := range r.Figures {
		if f.Losses.any() {
			return fmt.Errorf("%s, %s: %w: %s", f.Experiment, f.Name, ErrLost, f.Losses)
		}
	}
	return nil
}

// WriteTable prints the report for people. Rounding is against us: down where more is better, else up.
func (r *Report) WriteTable(w io.Writer) error {
	fmt.Fprintf(w, "%s · %s · Postgres %s", r.Machine, r.Go, r.Postgres)
	if r.CommitTime > 0 {
		fmt.Fprintf(w, " · a commit alone takes %.2f ms", r.CommitTime)
	}
	if r.Commit != "" {
		fmt.Fprintf(w, " · commit %s", r.Commit)
	}
	fmt.Fprintf(w, " · %s, took %.0f s\n\n", r.Started.Format(time.DateTime), r.Took)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(r.columns(), "\t"))
	for _, f := range r.Figures {
		fmt.Fprintln(t, strings.Join(r.cells(f), "\t"))
	}
	return t.Flush()
}

// comparing reports whether there is anything to compare with: the bench of an installation has no floor and no targets.
func (r *Report) comparing() bool {
	for _, f := range r.Figures {
		if f.Floor != nil || f.Bare != nil || f.Target != nil {
			return true
		}
	}
	return false
}

func (r *Report) columns() []string {
	if !r.comparing() {
		return []string{"WHAT", "", "MEASURED", "LOST", "NOTE"}
	}
	return []string{"WHAT", "", "ROOMBELL", "FLOOR", "BARE", "UNIT", "MEASURED", "TARGET", "", "LOST", "NOTE"}
}

func (r *Report) cells(f Figure) []string {
	up := f.Target == nil || f.Target.AtLeast == nil
	if !r.comparing() {
		return []string{f.Experiment, f.Name, join(number(f.Roombell, up), f.Unit), f.Losses.String(), f.Note}
	}
	verdict := ""
	if f.Pass != nil {
		verdict = map[bool]string{true: "pass", false: "MISS"}[*f.Pass]
	}
	return []string{f.Experiment, f.Name, number(f.Roombell, up), number(f.Floor, !up), number(f.Bare, !up), f.Unit,
		join(number(f.Measured, up), f.As), f.Target.String(), verdict, f.Losses.String(), f.Note}
}

func join(number, unit string) string { return strings.TrimSpace(number + " " + unit) }

// number formats with three digits, or all before the point, rounded up or down.
func number(f *float64, up bool) string {
	if f == nil || math.IsNaN(*f) {
		return ""
	}
	digits := 0
	for v := math.Abs(*f); v < 100 && digits < 3; v *= 10 {
		digits++
	}
	digits = min(digits, 2+btoi(math.Abs(*f) < 1))
	scale := math.Pow10(digits)
	// What a float64 adds in its last places is no reason to round on.
	v := *f * scale
	if r := math.Round(v); math.Abs(v-r) < 1e-6 {
		v = r
	} else if up {
		v = math.Ceil(v)
	} else {
		v = math.Floor(v)
	}
	return strconv.FormatFloat(v/scale, 'f', digits, 64)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func ptr(f float64) *float64 { return &f }

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
