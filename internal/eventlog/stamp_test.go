package eventlog

import "testing"

// After a promotion that lost commits the new primary's WAL is behind what a client has seen of the former one. A cursor that was given the new
// timeline with the old LSN looked ahead of every node, and its client, cut off once more, was told unknown_cursor.
func TestCursorsOfANewTimelineAreNotAheadOfIt(t *testing.T) {
	from := Cursor{system: 1, timeline: 1, lsn: 1000, step: step{snapshot: snapshot{xmax: 50}, hi: 1<<sequenceBits | 40}}
	to := Cursor{system: 1, timeline: 2, lsn: 800, step: step{snapshot: snapshot{xmax: 30}, hi: 2<<sequenceBits | 20}}
	w := newWay(from, to, true)
	for name, c := range map[string]Cursor{"at the start": w.stamp(from), "after a late event": w.at(1<<sequenceBits | 3), "after an event": w.at(2<<sequenceBits | 3)} {
		if c.timeline != 2 || c.lsn > to.lsn {
			t.Errorf("%s: timeline %d, LSN %d", name, c.timeline, c.lsn)
		}
	}
	same := to
	same.lsn = 900
	if c := newWay(same, to, true); c.stamp(same).lsn != 900 {
		t.Error("on one timeline the LSN goes back")
	}
}

// The same of the tail, whose cursor goes to clients in sync:reset.
func TestPositionAfterALossIsNotAheadOfTheNewPrimary(t *testing.T) {
	t.Parallel()
	db, w := setUp(t)
	s := openSession(t, db.URL)
	s.begin(t)
	w.exec(`INSERT INTO event_log_timelines (timeline, switch_lsn) VALUES (2, '0/500')`)
	s.t.cursor.lsn = 0x900
	if err := s.promoted(t.Context(), hello{timeline: 2}); err != nil {
		t.Fatal(err)
	}
	s.awaitResets(t, ResetFailover)
	if got := s.t.cursor.lsn; got != 0x500 {
		t.Errorf("LSN %x", got)
	}
}

// Ids that a promotion lost are above all that exists: a position that saw them is not ahead of a node that never did, and stays exact.
func TestCursorsAreWithoutWhatIsLost(t *testing.T) {
	id := func(n int64) int64 { return 1<<sequenceBits | n }
	to := Cursor{system: 1, timeline: 2, lsn: 800, step: step{snapshot: snapshot{xmax: 60}, hi: id(20)}}
	for name, from := range map[string]Cursor{
		"plain":       {system: 1, timeline: 1, step: step{snapshot: snapshot{xmax: 50, xip: []uint64{30, 31}}, hi: id(40)}},
		"in a batch":  {system: 1, timeline: 1, step: step{snapshot: snapshot{xmax: 45, xip: []uint64{30, 31}}, hi: id(40)}, late: []step{{snapshot{xmax: 50, xip: []uint64{30, 31}}, id(10)}}},
		"far in it":   {system: 1, timeline: 1, step: step{snapshot: snapshot{xmax: 45, xip: []uint64{30, 31}}, hi: id(40)}, late: []step{{snapshot{xmax: 50, xip: []uint64{30, 31}}, id(30)}}},
		"just at it":  {system: 1, timeline: 1, step: step{snapshot: snapshot{xmax: 45, xip: []uint64{30, 31}}, hi: id(40)}, late: []step{{snapshot{xmax: 50, xip: []uint64{30, 31}}, id(20)}}},
		"two to drop": {system: 1, timeline: 1, step: step{snapshot: snapshot{xmax: 45, xip: []uint64{30, 31}}, hi: id(40)}, late: []step{{snapshot{xmax: 47, xip: []uint64{30, 31}}, id(30)}, {snapshot{xmax: 50, xip: []uint64{30, 31}}, id(25)}}},
	} {
		w := newWay(from, to, true)
		late := []Event{{ID: id(5), TxID: 30}, {ID: id(20), TxID: 31}} // the second is the highest that exists
		for i, c := range []Cursor{w.stamp(w.from), w.at(late[0].ID), w.at(late[1].ID)} {
			parsed, err := ParseCursor(c.String())
			if err != nil || parsed.hi > to.hi || parsed.String() != c.String() {
				t.Errorf("%s, after %d late events: %+v: %v", name, i, c, err)
			}
			for k, e := range late {
				if seen := parsed.Seen(e.ID, e.TxID); seen != (k < i) {
					t.Errorf("%s, after %d late events: seen(%d) is %v", name, i, e.ID, seen)
				}
			}
		}
	}
}
