package bench

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"strconv"
	"sync"
	"time"
)

// probe is what a row of the bench carries in its content: which phase wrote it, its number in that phase, counted from
// 0, and when it was due. Writers and clients are processes of one machine and read the same clock.
type probe struct {
	phase, seq int
	due        time.Time
}

// probeMark opens the content. Its characters pass through JSON as they are.
const probeMark = "rbprobe "

// content returns the probe as a text of size bytes, or longer where the figures need it. The filling does not compress:
// Postgres stores and sends what it was given.
func (p probe) content(size int) string {
	b := make([]byte, 0, max(size, 64))
	b = append(b, probeMark...)
	b = strconv.AppendInt(b, int64(p.phase), 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(p.seq), 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, p.due.UnixNano(), 10)
	b = append(b, ' ')
	for len(b) < size {
		b = append(b, filling()[:min(size-len(b), fillingSize)]...)
	}
	return string(b)
}

const fillingSize = 64 << 10

var filling = sync.OnceValue(func() string {
	b := make([]byte, fillingSize)
	rand.Read(b) // never fails (crypto/rand since Go 1.24)
	return base64.RawURLEncoding.EncodeToString(b)[:fillingSize]
})

// parseProbe finds the probe in a frame as the client got it; false when there is none.
func parseProbe(frame []byte) (probe, bool) {
	_, rest, found := bytes.Cut(frame, []byte(probeMark))
	if !found {
		return probe{}, false
	}
	phase, rest, ok1 := cutInt(rest)
	seq, rest, ok2 := cutInt(rest)
	due, _, ok3 := cutInt(rest)
	return probe{phase: int(phase), seq: int(seq), due: time.Unix(0, due)}, ok1 && ok2 && ok3
}

// cutInt reads decimal digits up to a space. It rejects what has no digits, another character, or more than 18 digits.
func cutInt(b []byte) (n int64, rest []byte, ok bool) {
	for i, c := range b {
		switch {
		case c == ' ':
			return n, b[i+1:], i > 0
		case c < '0' || c > '9' || i > 18:
			return 0, nil, false
		}
		n = n*10 + int64(c-'0')
	}
	return 0, nil, false
}
