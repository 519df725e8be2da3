package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"roombell/internal/client"
)

// cursorWriters are the crowds that cursors are measured beside, and the most characters that one may have at p99.
var cursorWriters = []struct {
	writers        int
	ordinary, late float64
}{{32, 64, 600}, {200, 256, 600}}

// cursor: how long cursors get while many transactions are open at once: a cursor names those that were.
func (l *Lab) cursor(ctx context.Context) (err error) {
	s, err := l.startRoombell(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	for _, c := range cursorWriters {
		l.progress("cursor: %d writers", c.writers)
		lengths, err := l.cursorLengths(ctx, s, c.writers)
		if err != nil {
			return fmt.Errorf("%d writers: %w", c.writers, err)
		}
		name := fmt.Sprintf("%d writers, characters of a cursor, p99", c.writers)
		l.reportCursors(name, lengths.ordinary, c.ordinary, lengths.rate)
		l.reportCursors(name+", of late events", lengths.late, c.late, lengths.rate)
	}
	return nil
}

// cursorLengths are lengths in characters, sorted. An event is late when one of a higher id was heard before.
type cursorLengths struct {
	ordinary, late []int
	rate           float64 // transactions a second
}

func (l *Lab) reportCursors(name string, lengths []int, most, rate float64) {
	if len(lengths) == 0 {
		return
	}
	at := func(q float64) int { return lengths[int(q*float64(len(lengths)-1))] }
	p99 := float64(at(0.99))
	l.report.add(Figure{
		Experiment: "cursor", Name: name, Roombell: &p99, Measured: &p99, Target: atMost(most),
		Note: fmt.Sprintf("p50 %d, max %d, of %d; %.0f transactions a second", at(0.5), at(1), len(lengths), rate),
	})
}

// cursorLengths has n connections write into one organization, and a client that hears all of it: of several, each would
// take for the highest id what is the highest of its own.
func (l *Lab) cursorLengths(ctx context.Context, s *side, n int) (sum cursorLengths, err error) {
	w, err := openWriters(ctx, s.database.url, n)
	if err != nil {
		return sum, err
	}
	defer w.close(context.WithoutCancel(ctx))
	c, err := dialCursorClient(ctx, s, l.organizations[0])
	if err != nil {
		return sum, err
	}
	var reader sync.WaitGroup
	reader.Go(c.run)
	transactions, err := writeOpenly(ctx, w, l.organizations[0], l.window)
	err = errors.Join(err, sleep(ctx, time.Second)) // what is on its way
	c.conn.Close()
	reader.Wait()
	sum = cursorLengths{ordinary: c.ordinary, late: c.late, rate: float64(transactions) / l.window.Seconds()}
	slices.Sort(sum.ordinary)
	slices.Sort(sum.late)
	return sum, err
}

// cursorClient notes the lengths of the cursors that it hears.
type cursorClient struct {
	conn           *client.Conn
	highest        int64
	ordinary, late []int
}

var fieldEventID = []byte(`"eventId":`)

func dialCursorClient(ctx context.Context, s *side, o organization) (*cursorClient, error) {
	seat, err := s.seat(0, o.id, o.users[0])
	if err != nil {
		return nil, err
	}
	conn, err := client.Dial(ctx, client.Options{URL: seat.URL, Token: seat.Token})
	return &cursorClient{conn: conn}, err
}

// run reads until the connection ends.
func (c *cursorClient) run() {
	for {
		frame, err := c.conn.NextFrame()
		if err != nil {
			return
		}
		i := bytes.LastIndex(frame, fieldEventID)
		if i < 0 {
			continue
		}
		digits, _, _ := bytes.Cut(frame[i+len(fieldEventID):], []byte{','})
		id, err := strconv.ParseInt(string(digits), 10, 64)
		if err != nil {
			continue
		}
		length := len(field(frame, fieldCursor))
		if id < c.highest {
			c.late = append(c.late, length)
			continue
		}
		c.highest = id
		c.ordinary = append(c.ordinary, length)
	}
}

// writeOpenly has every connection write one transaction after the other for d, and returns how many they were.
func writeOpenly(ctx context.Context, w *writers, o organization, d time.Duration) (transactions int, err error) {
	end := time.Now().Add(d)
	counts := make([]int, len(w.conns))
	g, ctx := errgroup.WithContext(ctx)
	for i, conn := range w.conns {
		g.Go(func() error {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			for time.Now().Before(end) {
				if err := writeOpen(ctx, conn, r, o.id, o.chats[r.IntN(len(o.chats))]); err != nil {
					return err
				}
				counts[i]++
			}
			return nil
		})
	}
	err = g.Wait()
	for _, n := range counts {
		transactions += n
	}
	return transactions, err
}

// writeOpen writes a row or two, in a third of the cases at once, in others within a transaction that stays open for a while.
func writeOpen(ctx context.Context, conn *pgx.Conn, r *rand.Rand, organizationID, chatID int64) error {
	insert := func() error {
		_, err := conn.Exec(ctx, insertMessage, organizationID, chatID, "how long is a cursor?")
		return err
	}
	if r.IntN(3) == 0 {
		return insert()
	}
	return pgx.BeginFunc(ctx, conn, func(pgx.Tx) error {
		if err := errors.Join(insert(), sleep(ctx, linger(r))); err != nil {
			return err
		}
		if r.IntN(2) == 0 {
			return nil
		}
		return insert()
	})
}

// linger is how long a transaction stays open: most not at all, some for milliseconds, one in 200 for about a second.
func linger(r *rand.Rand) time.Duration {
	switch {
	case r.IntN(200) == 0:
		return 300*time.Millisecond + rand.N(1200*time.Millisecond)
	case r.IntN(3) == 0:
		return rand.N(15 * time.Millisecond)
	}
	return 0
}
