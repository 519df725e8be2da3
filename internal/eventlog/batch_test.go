package eventlog

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// server is a model of what matters of Postgres: transactions that draw ids of events early and become visible in another order, a crash
// that gives transaction ids out again but never ids of events, and snapshots.
type server struct {
	nextTx  uint64
	nextID  int64
	running map[uint64][]Event
	visible []Event
	flushed uint64 // the highest transaction id that a crash cannot take back
	serial  int
}

func newServer() *server { return &server{nextTx: 3, nextID: 1, running: map[uint64][]Event{}} }

func (s *server) snapshot() snapshot {
	snap := snapshot{xmax: s.nextTx}
	for tx := range s.running {
		snap.xip = append(snap.xip, tx)
	}
	slices.Sort(snap.xip)
	return snap
}

// step does one thing that writers do. Each event's Name is unique, so that transaction ids and even ids may be looked at with suspicion.
func (s *server) step(t *rapid.T) {
	switch rapid.SampledFrom([]string{"begin", "begin", "write", "write", "write", "commit", "commit", "rollback", "crash"}).Draw(t, "step") {
	case "begin":
		s.running[s.nextTx] = nil
		s.nextTx++
	case "write":
		if tx, ok := s.pick(t); ok {
			s.serial++
			s.running[tx] = append(s.running[tx], Event{ID: s.nextID, TxID: tx, Name: fmt.Sprint(s.serial)})
			s.nextID++
		}
	case "commit":
		if tx, ok := s.pick(t); ok {
			if len(s.running[tx]) > 0 { // a commit that wrote nothing is not flushed
				s.flushed = max(s.flushed, tx)
			}
			s.visible = append(s.visible, s.running[tx]...)
			delete(s.running, tx)
		}
	case "rollback":
		if tx, ok := s.pick(t); ok {
			delete(s.running, tx)
		}
	case "crash":
		if rapid.IntRange(0, 3).Draw(t, "really") > 0 {
			return
		}
		clear(s.running)
		s.nextTx = s.flushed + 1
		s.nextID += rapid.Int64Range(0, 32).Draw(t, "sequence jumps")
	}
}

func (s *server) pick(t *rapid.T) (uint64, bool) {
	txs := s.snapshot().xip
	if len(txs) == 0 {
		return 0, false
	}
	return rapid.SampledFrom(txs).Draw(t, "transaction"), true
}

// read is the tail read: what c has not seen, and the position after it.
func (s *server) read(c Cursor) ([]Event, Cursor) {
	end := Cursor{system: 7, timeline: 1, lsn: uint64(s.serial), step: step{snapshot: s.snapshot(), hi: c.hi}}
	var events []Event
	for _, e := range s.visible {
		end.hi = max(end.hi, e.ID)
		if !c.Seen(e.ID, e.TxID) {
			events = append(events, e)
		}
	}
	slices.SortFunc(events, func(a, b Event) int { return cmp.Compare(a.ID, b.ID) })
	return events, end
}

// client has heard some events once; its cursor must say which, also when it leaves in the middle of batches that begin with late events.
type client struct {
	cursor Cursor
	heard  map[string]int
}

func (c *client) hear(t *rapid.T, b *Batch, until int) {
	for i := range until {
		c.heard[b.Events[i].Name]++
		text := b.Cursor(i)
		if want := b.at(i).String(); text != want {
			t.Fatalf("event %d of %d: cursor %q, want %q", i, len(b.Events), text, want)
		}
		parsed, err := ParseCursor(text)
		if err != nil {
			t.Fatal(err)
		}
		c.cursor = parsed
	}
}

func (c *client) check(t *rapid.T, s *server) {
	for _, e := range s.visible {
		if n, seen := c.heard[e.Name], c.cursor.Seen(e.ID, e.TxID); n > 1 || seen != (n == 1) {
			t.Fatalf("event %+v was heard %d times, seen is %v for %+v", e, n, seen, c.cursor)
		}
	}
	for tx, events := range s.running {
		for _, e := range events {
			if c.cursor.Seen(e.ID, tx) {
				t.Fatalf("event %+v is not committed, but seen by %+v", e, c.cursor)
			}
		}
	}
}

func TestCursorsOfBatchesSayExactlyWhatWasHeard(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newServer()
		clients := []*client{{heard: map[string]int{}}, {heard: map[string]int{}}, {heard: map[string]int{}}}
		for range rapid.IntRange(1, 40).Draw(t, "rounds") {
			for range rapid.IntRange(0, 25).Draw(t, "steps") {
				s.step(t)
			}
			for i, c := range clients {
				if i > 0 && rapid.Bool().Draw(t, "away") {
					continue
				}
				events, end := s.read(c.cursor)
				if len(events) == 0 {
					c.cursor = end
				} else {
					until := len(events)
					if i > 0 { // leaves in the middle; the first one is a node
						until = rapid.IntRange(0, until).Draw(t, "until")
					}
					c.hear(t, newBatch(c.cursor, end, events), until)
				}
				c.check(t, s)
			}
		}
	})
}

func TestCursorOfABatchMadeByHand(t *testing.T) {
	b := &Batch{Events: []Event{{ID: 5}, {ID: 6}}}
	for i := range b.Events {
		if b.Cursor(i) == "" {
			t.Errorf("no cursor for event %d", i)
		}
	}
}

func TestCursorOfLateEventsDoesNotGrow(t *testing.T) {
	prev := Cursor{system: 1, timeline: 1, step: step{hi: 10_000_000, snapshot: snapshot{xmax: 500_000, xip: []uint64{100}}}}
	end := Cursor{system: 1, timeline: 1, step: step{hi: 10_000_001, snapshot: snapshot{xmax: 500_001}}}
	var events []Event
	for i := range 5000 { // one long transaction among many others
		events = append(events, Event{ID: int64(1 + i*1900), TxID: 100})
	}
	b := newBatch(prev, end, append(events, Event{ID: 10_000_001, TxID: 500_000}))
	if n := len(b.Cursor(4999)); n > 64 {
		t.Errorf("%d characters after 5,000 late events", n)
	}
}

func benchmarkBatch(writers int) *Batch {
	end := Cursor{system: 1, timeline: 1, lsn: 1 << 35, step: step{hi: 1<<sequenceBits | 1<<24, snapshot: snapshot{xmax: 1 << 25}}}
	for i := range writers {
		end.xip = append(end.xip, end.xmax-uint64(3*(writers-i))-uint64(rand.IntN(2)))
	}
	b := newBatch(Cursor{step: step{hi: 1}}, end, nil)
	for i := range 100 {
		b.Events = append(b.Events, Event{ID: 1<<sequenceBits | int64(1<<23+i)})
	}
	return b
}

func BenchmarkAppendCursor(b *testing.B) {
	for _, writers := range []int{0, 12, 200} {
		b.Run(fmt.Sprint(writers, " writers"), func(b *testing.B) {
			batch := benchmarkBatch(writers)
			buf := make([]byte, 0, 512)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				buf = batch.AppendCursor(buf[:0], i%99)
			}
		})
	}
}
