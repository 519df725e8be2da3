package eventlog

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestSeen(t *testing.T) {
	c := Cursor{step: step{hi: 100, snapshot: snapshot{xmax: 50, xip: []uint64{40, 45}}}}
	late := c
	late.late = []step{{hi: 60, snapshot: snapshot{xmax: 55, xip: []uint64{45}}}}
	for _, tc := range []struct {
		name string
		c    Cursor
		id   int64
		txid uint64
		want bool
	}{
		{"ended before the snapshot", c, 90, 39, true},
		{"the highest id itself", c, 100, 49, true},
		{"ended, but the id is new: a transaction id given out again after a crash", c, 101, 39, false},
		{"drawn early, running at the snapshot", c, 90, 40, false},
		{"drawn early, began after the snapshot", c, 90, 50, false},
		{"late and delivered", late, 60, 40, true},
		{"late and not delivered yet", late, 61, 40, false},
		{"still running in the later snapshot", late, 60, 45, false},
		{"nothing was seen", Cursor{}, 1, 1, false},
	} {
		if got := tc.c.Seen(tc.id, tc.txid); got != tc.want {
			t.Errorf("%s: got %v", tc.name, got)
		}
	}
}

func drawSnapshot(t *rapid.T) snapshot {
	s := snapshot{xmax: rapid.Uint64Range(1, 1<<40).Draw(t, "xmax")}
	below := uint64(0)
	for range rapid.IntRange(0, 60).Draw(t, "running") {
		var x uint64
		if rapid.IntRange(0, 9).Draw(t, "old") == 0 {
			x = below + rapid.Uint64Range(1, 1<<20).Draw(t, "far")
		} else {
			x = below + rapid.Uint64Range(1, 30).Draw(t, "near")
		}
		if len(s.xip) == 0 && rapid.Bool().Draw(t, "recent") && s.xmax > 4000 {
			x += s.xmax - 4000
		}
		if x >= s.xmax {
			break
		}
		s.xip = append(s.xip, x)
		below = x
	}
	return s
}

func drawCursor(t *rapid.T) Cursor {
	c := Cursor{
		system:   rapid.Uint32Range(0, 1<<24-1).Draw(t, "system"),
		timeline: rapid.Uint32Range(1, maxEra).Draw(t, "timeline"),
		lsn:      rapid.Uint64().Draw(t, "lsn"),
	}
	c.snapshot = drawSnapshot(t)
	c.hi = rapid.Int64Range(0, math.MaxInt64).Draw(t, "hi")
	above := c.step
	for range rapid.IntRange(0, 3).Draw(t, "late") {
		if above.hi == 0 {
			break
		}
		above = step{snapshot: drawSnapshot(t), hi: rapid.Int64Range(0, above.hi-1).Draw(t, "late id")}
		c.late = append(c.late, above)
	}
	return c
}

func TestCursorRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCursor(t)
		text := c.String()
		got, err := ParseCursor(text)
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		if !equalCursors(got, c) {
			t.Fatalf("wrote %+v, read %+v", c, got)
		}
		if got.String() != text {
			t.Fatalf("%q became %q", text, got.String())
		}
	})
}

func equalCursors(a, b Cursor) bool {
	same := a.system == b.system && a.timeline == b.timeline && a.lsn == b.lsn && equalSteps(a.step, b.step) && len(a.late) == len(b.late)
	for i := 0; same && i < len(a.late); i++ {
		same = equalSteps(a.late[i], b.late[i])
	}
	return same
}

func equalSteps(a, b step) bool {
	if a.hi != b.hi || a.xmax != b.xmax || len(a.xip) != len(b.xip) {
		return false
	}
	for i := range a.xip {
		if a.xip[i] != b.xip[i] {
			return false
		}
	}
	return true
}

func TestCursorIsShort(t *testing.T) {
	c := Cursor{system: 1<<24 - 1, timeline: 1, lsn: 40 << 30, step: step{hi: 1<<sequenceBits | 20_000_000, snapshot: snapshot{xmax: 30_000_000}}}
	for _, tc := range []struct{ writers, longest int }{{0, 30}, {12, 44}, {32, 55}, {200, 160}} {
		c.xip = nil
		for i := range tc.writers { // every third transaction id of the last ones is still running, one is old
			c.xip = append(c.xip, c.xmax-uint64(3*(tc.writers-i)))
		}
		if tc.writers > 0 {
			c.xip[0] -= 100_000
		}
		if n := len(c.String()); n > tc.longest {
			t.Errorf("%d writers: %d characters, want at most %d", tc.writers, n, tc.longest)
		}
	}
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func uvarints(b []byte, numbers ...uint64) []byte {
	for _, n := range numbers {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

// lateSteps appends a first step and n late ones.
func lateSteps(b []byte, n int) []byte {
	for i := range n {
		b = uvarints(b, 100, 0, 3, uint64(1000-i))
	}
	return uvarints(b, 100, 0, 2, uint64(1000-n))
}

// forged are texts that must be refused; they are the seeds of the fuzz target too.
func forged() map[string]string {
	head := uvarints([]byte{cursorVersion | 1, 0, 0, 0}, 2)                        // timeline 1, LSN
	one := func(n, k uint64) []byte { return uvarints(head, 100, n<<orderBits|k) } // xmax, running transactions, parameter
	good := encode(append(one(1, 2), 0b101_00000, 2, 5))                           // a distance of 1: 1+4 in three bits; era 1 and no late step, sequence 5
	return map[string]string{
		"empty":                         "",
		"not base64url":                 "????",
		"padded":                        good + "=",
		"too short":                     encode([]byte{cursorVersion | 1, 0, 0}),
		"another version":               encode(uvarints([]byte{1<<timelineBits | 1, 0, 0, 0}, 2, 100, 0, 2, 5)),
		"too long":                      strings.Repeat("A", maxCursorText+1),
		"bytes after the end":           encode(uvarints(head, 100, 0, 2, 5, 0)),
		"timeline 0":                    encode(uvarints([]byte{cursorVersion, 0, 0, 0}, 2, 100, 0, 2, 5)),
		"long timeline 0":               encode(uvarints([]byte{cursorVersion | shortTimeline, 0, 0, 0}, 0, 2, 100, 0, 2, 5)),
		"timeline that ids have not":    encode(uvarints([]byte{cursorVersion | shortTimeline, 0, 0, 0}, maxEra+1, 2, 100, 0, 2, 5)),
		"cut within a number":           encode(append(uvarints(head, 100, 0, 2), 0x80)),
		"cut within a distance":         encode(append(one(8, 7), 0x80, 0x80)),
		"cut before the id":             encode(uvarints(head, 100, 0)),
		"distance beyond xmax":          encode(append(one(1, 7), 0b1110_0100, 2, 5)),
		"long distance beyond xmax":     encode(append(one(1, 0), 0, 0, 0, 1, 0, 0, 0, 0, 2, 5)),
		"distances run over xmax":       encode(append(one(2, 7), 0b1110_0010, 0b1000_0001, 2, 5)),
		"distance of 2^63":              encode(append(append(one(1, 0), make([]byte, 7)...), 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 5)),
		"distance without end":          encode(append(one(1, 0), make([]byte, 20)...)),
		"a billion transactions":        encode(uvarints(head, 100, 1_000_000_000<<orderBits, 2, 5)),
		"more transactions than bits":   encode(uvarints(head, 1<<20, 4000<<orderBits, 2, 5)),
		"xmax above what Postgres has":  encode(uvarints(head, 1<<63, 0, 2, 5)),
		"era that makes ids negative":   encode(uvarints(head, 100, 0, (maxEra+1)<<1, 5)),
		"sequence over 43 bits":         encode(uvarints(head, 100, 0, 2, 1<<sequenceBits)),
		"late step that does not come":  encode(uvarints(head, 100, 0, 3, 5)),
		"late step that does not go on": encode(uvarints(head, 100, 0, 3, 5, 100, 0, 2, 5)),
		"65 late steps":                 encode(lateSteps(head, maxLate+1)),
		"4,097 transactions":            encode(append(uvarints(head, 1<<20, 4097<<orderBits), []byte(strings.Repeat("\xff", 513)+"\x02\x05")...)),
		"4,097 in two steps":            encode(append(append(uvarints(head, 1<<20, 4096<<orderBits), []byte(strings.Repeat("\xff", 512)+"\x03\x05")...), append(uvarints(nil, 100, 1<<orderBits), 0x80, 2, 4)...)),
		"trailing bits in base64":       good[:len(good)-1] + "B",
	}
}

func TestCursorsOfManyLateStepsAreRead(t *testing.T) {
	c, err := ParseCursor(encode(lateSteps(uvarints([]byte{cursorVersion | 1, 0, 0, 0}, 2), maxLate)))
	if err != nil || len(c.late) != maxLate {
		t.Errorf("%d late steps, %v", len(c.late), err)
	}
}

func TestForgedCursorsAreRefused(t *testing.T) {
	for name, text := range forged() {
		if c, err := ParseCursor(text); err == nil {
			t.Errorf("%s: read as %+v", name, c)
		}
	}
}

func FuzzParseCursor(f *testing.F) {
	for _, text := range forged() {
		f.Add(text)
	}
	f.Add(Cursor{timeline: 1, step: step{hi: 1<<sequenceBits | 7, snapshot: snapshot{xmax: 900, xip: []uint64{3, 890, 895}}},
		late: []step{{hi: 1<<sequenceBits | 5, snapshot: snapshot{xmax: 901, xip: []uint64{895}}}}}.String())
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCursor(text)
		if err != nil {
			return
		}
		if c.hi < 0 || c.timeline == 0 || len(c.xip) > maxRunning {
			t.Fatalf("%q gave %+v", text, c)
		}
		again, err := ParseCursor(c.String())
		if err != nil && len(c.String()) <= maxCursorText || err == nil && !equalCursors(c, again) {
			t.Fatalf("%q gave %+v, written and read again %+v (%v)", text, c, again, err)
		}
		c.Seen(c.hi, c.xmin())
	})
}
