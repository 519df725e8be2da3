package bench

import "time"

// tally counts what one client got of one phase. Every row has a number, so that what is missing and what came twice are
// told apart, and do not hide each other in a sum.
type tally struct {
	seen       []uint64
	distinct   int
	duplicates int
	last       time.Time
	delays     Samples
}

// note records the arrival of row seq and reports whether it was the first one.
func (t *tally) note(seq int, delay time.Duration, at time.Time) bool {
	word, bit := seq/64, uint64(1)<<(seq%64)
	for len(t.seen) <= word {
		t.seen = append(t.seen, 0)
	}
	if t.seen[word]&bit != 0 {
		t.duplicates++
		return false
	}
	t.seen[word] |= bit
	t.distinct++
	t.last = at
	t.delays.Add(delay)
	return true
}

// Expect says what a phase wrote: rows numbered 0 to Rows-1, row n into organization n modulo Organizations.
type Expect struct {
	Phase         int
	Rows          int
	Organizations int
	Timeout       time.Duration // how long without a single new arrival until the rest counts as lost
}

// of returns how many of the rows went to that organization.
func (e Expect) of(organization int) int {
	if organization >= e.Organizations || organization >= e.Rows {
		return 0
	}
	return (e.Rows-organization-1)/e.Organizations + 1
}

// count returns how many of the rows seen were written for the organization.
func (t *tally) count(e Expect, organization int) int {
	n := 0
	for seq := organization; seq < e.Rows && organization < e.Organizations; seq += e.Organizations {
		if seq/64 < len(t.seen) && t.seen[seq/64]&(1<<(seq%64)) != 0 {
			n++
		}
	}
	return n
}

// Delivery is what a fleet got of a phase. Arrivals are counted per client: a row that ten clients should hear is
// expected ten times.
type Delivery struct {
	Expected, Received int64
	Lost, Duplicates   int64
	Strays             int64 // rows of another organization
	Cut                int   // clients whose connection has ended, of the whole fleet
	Last               time.Time
	Delays             Samples // from due to in hand; sorted
}

// add merges another delivery, of the same or another phase, into d. Delays stay sorted.
func (d *Delivery) add(o Delivery) {
	d.Expected += o.Expected
	d.Received += o.Received
	d.Lost += o.Lost
	d.Duplicates += o.Duplicates
	d.Strays += o.Strays
	d.Cut = max(d.Cut, o.Cut)
	if o.Last.After(d.Last) {
		d.Last = o.Last
	}
	d.Delays = append(d.Delays, o.Delays...)
	d.Delays.Sort()
}
