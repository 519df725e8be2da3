// Package fault names the steps of the algorithm that can be left out, to show that the stress test notices. Only eventlog and its stress
// program can import it. A server leaves one out when it was built with the tag stress: production has no way to one.
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

// Fresh attaches a client at the position where the tail stood, however long ago it read, in place of one that it reads for.
func Fresh() Step { return Step{name: "fresh"} }

// X gives the cursors of late events without the second step that says which of them were delivered.
func X() Step { return Step{name: "x"} }

// Timeline goes on after a promotion as if nothing had happened: nobody asks whether it lost commits. The ids must be without the server's
// timeline too, which is roombell.base()'s part.
func Timeline() Step { return Step{name: "timeline"} }

// All are the steps that can be left out.
func All() []Step { return []Step{Hi(), Snapshot(), Ring(), Fresh(), X(), Timeline()} }

// Parse returns the step of a name: one of All, or none for "".
func Parse(name string) (Step, bool) {
	for _, s := range append(All(), None()) {
		if s.name == name {
			return s, true
		}
	}
	return Step{}, false
}

// String returns the step's name, empty for none.
func (s Step) String() string { return s.name }
