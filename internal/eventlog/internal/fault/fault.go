// Package fault names the steps of the tail's algorithm that can be left out, to show that the stress test notices. Only eventlog and
// its stress program can import it, and a Step cannot be made from a setting: production has no way to one.
package fault

// Step is a step that is left out. The zero Step leaves nothing out.
type Step struct{ name string }

// None leaves nothing out.
func None() Step { return Step{} }

// Hi reads by transaction id alone: what a crash takes back and gives out again is taken for seen.
func Hi() Step { return Step{name: "hi"} }

// Snapshot reads by event id alone: what commits late is never looked for.
func Snapshot() Step { return Step{name: "snapshot"} }

// Ring lets the awake ringer keep what it finds to itself, with nobody reading for safety.
func Ring() Step { return Step{name: "ring"} }

// Parse returns the step of a name: "", hi, snapshot or ring.
func Parse(name string) (Step, bool) {
	for _, s := range []Step{None(), Hi(), Snapshot(), Ring()} {
		if s.name == name {
			return s, true
		}
	}
	return Step{}, false
}

// String returns the step's name, empty for none.
func (s Step) String() string { return s.name }
