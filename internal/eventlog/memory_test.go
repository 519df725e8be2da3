package eventlog

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A memory that is fed by a tail, trimmed, emptied and filled from the log at any moment says of every position that it reaches back to
// exactly what is missing: positions of this node and of another, in the middle of batches too, over crashes.
func TestMemoryIsExactOrSilent(t *testing.T) {
	t.Parallel()
	answered := 0
	rapid.Check(t, func(t *rapid.T) {
		s := newServer()
		m := newMemory(rapid.IntRange(1, 40).Draw(t, "room") * footprint(make([]Event, 1)))
		nodes := []*Cursor{{system: 7, timeline: 1}, {system: 7, timeline: 1}} // the first feeds the memory
		var positions []Cursor
		tail := func(i int) {
			events, end := s.read(*nodes[i])
			prev := *nodes[i]
			*nodes[i] = end
			if len(events) == 0 {
				return
			}
			b := newBatch(prev, end, slices.Clone(events))
			for j := range events {
				b.Events[j].Kind, b.Events[j].OrganizationID = KindEvent, organizationOf(&events[j])
			}
			if i == 0 {
				m.publish(b)
			}
			for j := range events {
				positions = append(positions, b.at(j))
			}
		}
		steps := map[string]func(*rapid.T){
			"":      func(*rapid.T) {},
			"write": func(t *rapid.T) { s.step(t) },
			"more":  func(t *rapid.T) { s.step(t) },
			"most":  func(t *rapid.T) { s.step(t) },
			"tail":  func(*rapid.T) { tail(0) },
			"other": func(*rapid.T) { tail(1) },
			"clear": func(t *rapid.T) {
				if rapid.IntRange(0, 5).Draw(t, "really") == 0 {
					tail(0)
					m.clear(*nodes[0])
				}
			},
			"fill": func(t *rapid.T) {
				if rapid.IntRange(0, 3).Draw(t, "really") == 0 {
					fillModel(t, s, m)
				}
			},
		}
		for range rapid.IntRange(100, 200).Draw(t, "steps") {
			steps[rapid.SampledFrom([]string{"write", "more", "most", "tail", "other", "clear", "fill"}).Draw(t, "do")](t)
		}
		tail(0) // what Attach does
		for _, from := range positions {
			for organization := range int64(2) {
				got, ok := m.missed(from, *nodes[0], organization+1, anybody)
				if !ok {
					continue
				}
				answered++
				var want []int64
				for _, e := range s.visible {
					if organizationOf(&e) == organization+1 && !from.Seen(e.ID, e.TxID) {
						want = append(want, e.ID)
					}
				}
				slices.Sort(want)
				if ids := idsOf(got); !slices.Equal(ids, want) {
					t.Fatalf("from %+v: %v, want %v; the memory begins at %+v", from, ids, want, m.start)
				}
			}
		}
		if _, bytes := m.size(); bytes > m.limit {
			t.Fatalf("%d bytes where %d are allowed", bytes, m.limit)
		}
	})
	if answered < 20 {
		t.Errorf("only %d questions were answered", answered)
	}
}

func organizationOf(e *Event) int64 { return 1 + e.ID%2 }

func idsOf(events []*Event) []int64 {
	var ids []int64
	for _, e := range events {
		ids = append(ids, e.ID)
	}
	return ids
}

// fillModel does what History.fill does: a floor under the latest events by id and by transaction, and all above it.
func fillModel(t *rapid.T, s *server, m *memory) {
	era := m.currentEra()
	n := rapid.IntRange(0, 10).Draw(t, "events")
	from := Cursor{system: 7, timeline: 1}
	byID, byTx := slices.Clone(s.visible), slices.Clone(s.visible)
	slices.SortFunc(byID, func(a, b Event) int { return cmp.Compare(b.ID, a.ID) })
	slices.SortFunc(byTx, func(a, b Event) int { return cmp.Compare(b.TxID, a.TxID) })
	if n < len(byID) {
		from.hi, from.xmax = byID[n].ID, byTx[n].TxID
	}
	events, to := s.read(from)
	events = slices.Clone(events)
	for i := range events {
		events[i].Kind, events[i].OrganizationID = KindEvent, organizationOf(&events[i])
	}
	m.fill(era, from, to, events, time.Now())
}

// What is older than the retention is not given from memory either: it would depend on the node.
func TestMemoryKeepsToTheRetention(t *testing.T) {
	t.Parallel()
	m := newMemory(1 << 20)
	at := func(id int64) Cursor {
		return Cursor{system: 1, timeline: 1, step: step{hi: id, snapshot: snapshot{xmax: uint64(id + 1)}}}
	}
	m.publish(newBatch(at(1), at(2), []Event{{ID: 2, TxID: 2, Kind: KindEvent, OrganizationID: 1}}))
	m.parts[0].heard = time.Now().Add(-time.Hour)
	m.publish(newBatch(at(2), at(3), []Event{{ID: 3, TxID: 3, Kind: KindEvent, OrganizationID: 1}}))
	if events, ok := m.missed(at(1), at(3), 1, anybody); !ok || len(events) != 2 {
		t.Fatal(idsOf(events), ok)
	}
	m.retain(time.Minute)
	if events, ok := m.missed(at(1), at(3), 1, anybody); ok {
		t.Fatal(idsOf(events))
	}
	if events, ok := m.missed(at(2), at(3), 1, anybody); !ok || len(events) != 1 {
		t.Fatal(idsOf(events), ok)
	}
}

// Rows that were blanked in the log are not given from memory.
func TestMemoryForgets(t *testing.T) {
	t.Parallel()
	m := newMemory(1 << 20)
	at := func(id int64) Cursor {
		return Cursor{system: 1, timeline: 1, step: step{hi: id, snapshot: snapshot{xmax: uint64(id + 1)}}}
	}
	m.publish(newBatch(at(1), at(2), []Event{{ID: 2, TxID: 2, Kind: KindEvent, OrganizationID: 1}}))
	m.publish(newBatch(at(2), at(3), []Event{{ID: 3, TxID: 3, Kind: KindForget}}))
	if events, ok := m.missed(at(1), at(3), 1, anybody); ok {
		t.Fatal(idsOf(events))
	}
}

func anybody(e *Event) bool { return replayed(e) }
