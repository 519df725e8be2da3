package bench

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"roombell/internal/client"
)

// RoamSeat is one client that goes away and comes back.
type RoamSeat struct {
	Seat
	Member int // the number of its user in the organization
}

// roamer is such a client. It keeps the cursor of whatever it hears, as the contract's three lines do, and the numbers of
// the rows in the order in which they came.
type roamer struct {
	seat RoamSeat
	conn *client.Conn

	mu     sync.Mutex // frames come while figures are made
	cursor []byte
	phase  int
	heard  []int32
	back   comeback
}

// comeback is how one return went.
type comeback struct {
	connected, complete time.Duration // from the beginning of the storm; complete is 0 while it is not
	resumed             bool
	reset               string // the reason, where it was told one
	tries               int
	why                 error // of the last try that failed
}

// How the frames begin that a roamer must tell apart, and the fields that it reads.
var (
	frameSyncComplete = []byte(`42["sync:complete"`)
	frameSyncReset    = []byte(`42["sync:reset"`)
	fieldCursor       = []byte(`"cursor":"`)
	fieldReason       = []byte(`"reason":"`)
	fieldResumed      = []byte(`"resumed":true`)
)

// field returns what stands behind the last key of that name, up to the next quotation mark; nil when there is none. The
// server's own fields are behind those of the payload.
func field(frame, key []byte) []byte {
	i := bytes.LastIndex(frame, key)
	if i < 0 {
		return nil
	}
	value, _, _ := bytes.Cut(frame[i+len(key):], []byte{'"'})
	return value
}

// note takes what a frame says and reports whether nothing that was missed will follow it.
func (r *roamer) note(frame []byte) (caughtUp bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if cursor := field(frame, fieldCursor); cursor != nil {
		r.cursor = append(r.cursor[:0], cursor...)
	}
	switch {
	case bytes.HasPrefix(frame, frameConnected):
		r.back.resumed = bytes.Contains(frame, fieldResumed)
	case bytes.HasPrefix(frame, frameSyncReset):
		r.back.reset = string(field(frame, fieldReason))
		return true
	case bytes.HasPrefix(frame, frameSyncComplete):
		return true
	default:
		if p, ok := parseProbe(frame); ok && p.phase == r.phase && p.seq < maxSeq {
			r.heard = append(r.heard, int32(p.seq))
		}
	}
	return false
}

// until reads frames until one of them, which note was called with, satisfies.
func (r *roamer) until(frames *atomic.Int64, satisfies func(frame []byte, caughtUp bool) bool) error {
	for {
		frame, err := r.conn.NextFrame()
		if err != nil {
			return err
		}
		frames.Add(1)
		if satisfies(frame, r.note(frame)) {
			return nil
		}
	}
}

// roamConnectTimeout is above what a client waits by default: in a storm of ten thousand the last is late.
const roamConnectTimeout = time.Minute

// dial connects, with the cursor when there is one.
func (r *roamer) dial(ctx context.Context) (err error) {
	r.conn, err = client.Dial(ctx, client.Options{
		URL: r.seat.URL, Token: r.seat.Token, Cursor: string(r.cursor), ConnectTimeout: roamConnectTimeout, ReadBuffer: readBuffer,
	})
	return err
}

// crowd is many roamers. Its methods are for one goroutine at a time.
type crowd struct {
	roamers []*roamer
	readers sync.WaitGroup
	frames  atomic.Int64
}

// arrive connects all for the first time, and returns when each has a cursor.
func (c *crowd) arrive(ctx context.Context, seats []RoamSeat) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(dialers)
	for _, seat := range seats {
		r := &roamer{seat: seat}
		c.roamers = append(c.roamers, r)
		g.Go(func() error {
			if err := r.dial(ctx); err != nil {
				return err
			}
			err := r.until(&c.frames, func(frame []byte, _ bool) bool { return bytes.HasPrefix(frame, frameConnected) })
			if err != nil {
				return fmt.Errorf("wait for connected: %w", err)
			}
			c.listen(r)
			return nil
		})
	}
	return g.Wait()
}

// listen reads on until the connection ends, which is what the connections of roamers do.
func (c *crowd) listen(r *roamer) {
	c.readers.Go(func() {
		_ = r.until(&c.frames, func([]byte, bool) bool { return false })
	})
}

// leave cuts all connections that are still there, and waits for their readers.
func (c *crowd) leave() {
	for _, r := range c.roamers {
		if r.conn != nil {
			r.conn.Close()
		}
	}
	c.readers.Wait()
}

// comeBack has all come back at once, each with its cursor, and returns when each is caught up, or when limit has passed.
// Of the rows only those of the phase will count.
func (c *crowd) comeBack(ctx context.Context, phase int, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	start := time.Now()
	var all sync.WaitGroup
	for _, r := range c.roamers {
		r.phase, r.heard, r.back = phase, r.heard[:0], comeback{}
		all.Go(func() {
			if c.insist(ctx, r, start) {
				c.listen(r)
			}
		})
	}
	all.Wait()
}

// The pauses between two tries are a standard client's, but that it waits before the first, too.
const (
	firstRoamPause = time.Second
	mostRoamPause  = 5 * time.Second
)

// insist tries until the roamer is caught up, and reports whether it is.
func (c *crowd) insist(ctx context.Context, r *roamer, start time.Time) bool {
	for pause := firstRoamPause; ctx.Err() == nil; pause = min(2*pause, mostRoamPause) {
		r.back.tries++
		err := c.catchUp(ctx, r, start)
		if err == nil {
			r.back.complete = time.Since(start)
			return true
		}
		r.back.why = err
		_ = sleep(ctx, pause/2+rand.N(pause)) // the loop looks at ctx
	}
	return false
}

func (c *crowd) catchUp(ctx context.Context, r *roamer, start time.Time) error {
	if err := r.dial(ctx); err != nil {
		return err
	}
	r.back.connected = time.Since(start)
	stop := context.AfterFunc(ctx, func() { r.conn.Close() })
	err := r.until(&c.frames, func(_ []byte, caughtUp bool) bool { return caughtUp })
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		r.conn.Close()
	}
	return err
}

// quiet waits until no frame has come for d, or until limit has passed.
func (c *crowd) quiet(ctx context.Context, d, limit time.Duration) {
	start := time.Now()
	for frames, since := c.frames.Load(), start; time.Since(since) < d && time.Since(start) < limit && ctx.Err() == nil; {
		_ = sleep(ctx, poll) // the loop looks at ctx
		if n := c.frames.Load(); n != frames {
			frames, since = n, time.Now()
		}
	}
}

// Return is what a storm of returns came to.
type Return struct {
	Connected, Complete Samples        // from the beginning of the storm; sorted
	Resets              map[string]int // clients, by reason
	Unfinished          int            // clients that were not caught up in time
	Unresumed           int            // clients that were caught up and had not been told that they are resumed
	Again               int            // tries that failed
	Why                 string         // one of them
	Expected, Lost      int64          // rows, of every client
	Duplicates, Strays  int64          // strays: of those that the client may not see
	Disordered          int64          // behind one that was committed later
	Frames              int64          // all that came
}

// figures compares what each has heard with what was missed.
func (c *crowd) figures(m missed) Return {
	sum := Return{Resets: map[string]int{}}
	for _, r := range c.roamers {
		r.mu.Lock()
		sum.add(r.back)
		sum.compare(r.heard, m.heardBy(r.seat.Member))
		r.mu.Unlock()
	}
	sum.Connected.Sort()
	sum.Complete.Sort()
	return sum
}

func (sum *Return) add(b comeback) {
	sum.Again += b.tries - 1
	if b.why != nil {
		sum.Why = b.why.Error()
	}
	switch {
	case b.complete == 0:
		sum.Unfinished++
		return
	case b.reset != "":
		sum.Resets[b.reset]++
	case !b.resumed:
		sum.Unresumed++
	}
	sum.Connected.Add(b.connected)
	sum.Complete.Add(b.complete)
}

// compare counts how heard differs from want, which ascends.
func (sum *Return) compare(heard, want []int32) {
	seen, highest := make(map[int32]bool, len(heard)), int32(-1)
	for _, seq := range heard {
		_, mine := slices.BinarySearch(want, seq)
		switch {
		case !mine:
			sum.Strays++
			continue
		case seen[seq]:
			sum.Duplicates++
			continue
		case seq < highest:
			sum.Disordered++
		}
		seen[seq] = true
		highest = max(highest, seq)
	}
	sum.Expected += int64(len(want))
	sum.Lost += int64(len(want) - len(seen))
}

// ReturnArgs say what was written behind the clients' backs, and how long they may take.
type ReturnArgs struct {
	Phase, Members int
	Limit          time.Duration
}

// A row that comes twice comes late: so long nothing may have come when the rows are counted.
const (
	roamQuiet      = time.Second
	roamQuietLimit = 20 * time.Second
)

func (s *loadService) Arrive(seats []RoamSeat, _ *None) error { return s.crowd.arrive(s.ctx, seats) }

func (s *loadService) Leave(_ None, _ *None) error {
	s.crowd.leave()
	return nil
}

func (s *loadService) Return(a ReturnArgs, r *Return) error {
	before := s.crowd.frames.Load()
	s.crowd.comeBack(s.ctx, a.Phase, a.Limit)
	frames := s.crowd.frames.Load() - before
	s.crowd.quiet(s.ctx, roamQuiet, roamQuietLimit)
	*r = s.crowd.figures(newMissed(a.Members))
	r.Frames = frames
	return s.ctx.Err()
}

func (l *load) arrive(ctx context.Context, seats []RoamSeat) error {
	return l.call(ctx, "Arrive", seats, &None{})
}

func (l *load) leave(ctx context.Context) error { return l.call(ctx, "Leave", None{}, &None{}) }

func (l *load) comeBack(ctx context.Context, a ReturnArgs) (r Return, err error) {
	err = l.call(ctx, "Return", a, &r)
	return r, err
}
