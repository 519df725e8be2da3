package bench

import (
	"math"
	"slices"
	"time"
)

// Samples are delays in microseconds, each rounded up. They are kept singly, not in buckets: a quantile is a delay that
// was seen.
type Samples []uint32

// Add appends d. What lies before its due time (a clock that was set) counts as 0, what exceeds 71 minutes as that.
func (s *Samples) Add(d time.Duration) {
	us := (max(d, 0) + time.Microsecond - 1) / time.Microsecond
	*s = append(*s, uint32(min(us, math.MaxUint32)))
}

// Sort must precede Quantile and Max.
func (s Samples) Sort() { slices.Sort(s) }

// Quantile returns the smallest delay that at least the share q of all is not above; 0 when there are none.
func (s Samples) Quantile(q float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	i := int(math.Ceil(q*float64(len(s)))) - 1
	return time.Duration(s[min(max(i, 0), len(s)-1)]) * time.Microsecond
}

// Max returns the longest delay; 0 when there are none.
func (s Samples) Max() time.Duration { return s.Quantile(1) }

// median returns the middle of the given figures, the mean of the two middle ones when their number is even, and NaN of none.
func median(figures []float64) float64 {
	f := slices.Sorted(slices.Values(figures))
	switch n := len(f); {
	case n == 0:
		return math.NaN()
	case n%2 == 1:
		return f[n/2]
	default:
		return (f[n/2-1] + f[n/2]) / 2
	}
}
