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
		system:   rapid.Uint32().Draw(t, "system"),
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
	c := Cursor{system: 1<<32 - 1, timeline: 1, lsn: 40 << 30, step: step{hi: 1<<sequenceBits | 20_000_000, snapshot: snapshot{xmax: 30_000_000}}}
	for _, tc := range []struct{ writers, longest int }{{0, 36}, {12, 48}, {32, 60}, {200, 190}} {
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

// forged are texts that must be refused; they are the seeds of the fuzz target too.
func forged() map[string]string {
	head := uvarints([]byte{cursorVersion, 0, 0, 0, 0}, 1, 2) // timeline, LSN
	good := encode(uvarints(head, 100, 1, 10, 0, 1, 5, 0))    // xmax, one gap, no bitmap, id 1|5, no late steps
	return map[string]string{
		"empty":                         "",
		"not base64url":                 "????",
		"padded":                        good + "=",
		"too short":                     encode([]byte{cursorVersion, 0, 0}),
		"another version":               encode(uvarints([]byte{9, 0, 0, 0, 0}, 1, 2, 100, 0, 0, 1, 5, 0)),
		"too long":                      strings.Repeat("A", maxCursorText+1),
		"bytes after the end":           encode(uvarints(head, 100, 1, 10, 0, 1, 5, 0, 0)),
		"timeline 0":                    encode(uvarints([]byte{cursorVersion, 0, 0, 0, 0}, 0, 2, 100, 0, 0, 1, 5, 0)),
		"cut within a number":           encode(append(uvarints(head, 100, 0, 0, 1), 0x80)),
		"cut before the id":             encode(uvarints(head, 100, 0, 0)),
		"gap of 0":                      encode(uvarints(head, 100, 2, 10, 0, 0, 1, 5, 0)),
		"gap beyond xmax":               encode(uvarints(head, 100, 1, 101, 0, 1, 5, 0)),
		"gaps run over xmax":            encode(uvarints(head, 100, 2, 10, 90, 0, 1, 5, 0)),
		"a billion gaps":                encode(uvarints(head, 100, 1_000_000_000, 0, 1, 5, 0)),
		"bitmap of a terabyte":          encode(uvarints(head, 1<<60, 0, 1<<43, 1, 5, 0)),
		"bitmap wider than xmax":        encode(uvarints(head, 4, 0, 9, 1, 1, 1, 5, 0)),
		"bitmap width near 2^64":        encode(uvarints(head, 100, 0, math.MaxUint64, 1, 5, 0)),
		"bitmap below the gaps":         encode(uvarints(head, 100, 1, 10, 20, 1, 0, 0, 1, 5, 0)),
		"xmax above what Postgres has":  encode(uvarints(head, 1<<63, 0, 0, 1, 5, 0)),
		"era that makes ids negative":   encode(uvarints(head, 100, 0, 0, maxEra+1, 5, 0)),
		"sequence over 43 bits":         encode(uvarints(head, 100, 0, 0, 1, 1<<sequenceBits, 0)),
		"late step that does not go on": encode(uvarints(head, 100, 0, 0, 1, 5, 1, 100, 0, 0, 1, 5)),
		"a billion late steps":          encode(uvarints(head, 100, 0, 0, 1, 5, 1_000_000_000)),
		"4,097 transactions":            encode(append(uvarints(head, 1<<20, 0, 8*513), []byte(strings.Repeat("\xff", 513)+"\x01\x05\x00")...)),
		"trailing bits in base64":       good[:len(good)-1] + "B",
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
