package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	bulkRows    = 100_000
	bulkSingles = 200 // a second
	bulkLead    = time.Second
)

// bulk: what 100,000 rows in one statement, over the chats of 50 organizations, do to 200 single rows a second beside it,
// and what the triggers do to that statement.
func (l *Lab) bulk(ctx context.Context) (err error) {
	roombell, floor, err := l.startBoth(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, roombell.stop(), floor.stop()) }()
	b := &bulkRun{lab: l, organizations: l.organizations[:50]}
	for _, s := range []*side{roombell, floor} {
		if _, err := s.connect(ctx, b.organizations, 10); err != nil {
			return err
		}
	}
	bare := &side{name: "bare", database: l.databases.bare}
	var given, omitted, floored bulkFigures
	for round := range l.options.Rounds {
		for _, pair := range []bulkPair{{roombell, true, &given}, {roombell, false, &omitted}} {
			if err := b.pair(ctx, round, bare, pair); err != nil {
				return err
			}
		}
	}
	if err := b.pair(ctx, 0, bare, bulkPair{floor, true, &floored}); err != nil {
		return err
	}
	l.reportBulk(given, omitted, floored)
	return nil
}

type bulkRun struct {
	lab           *Lab
	organizations []organization
}

// bulkFigures are by round.
type bulkFigures struct {
	took, bareTook []float64 // seconds
	worst          []float64 // ms, single rows from due to hand
	bareWorst      float64   // ms, single rows from due to committed, beside the bulk in bare tables
	deliveries     []Delivery
}

// bulkPair is a bulk with triggers, to be compared with one in the bare tables. Those cannot fill in what is left out:
// theirs always gives it.
type bulkPair struct {
	side    *side
	given   bool // organization_id
	figures *bulkFigures
}

func (b *bulkRun) pair(ctx context.Context, round int, bare *side, p bulkPair) error {
	for _, s := range turns(round, bare, p.side) {
		given := "given"
		if s != bare && !p.given {
			given = "left out"
		}
		b.lab.progress("bulk: %s, organization_id %s, round %d", s.name, given, round+1)
		took, singles, err := b.measure(ctx, s, s == bare || p.given)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if s == bare {
			p.figures.bareTook = append(p.figures.bareTook, took.Seconds())
			p.figures.bareWorst = max(p.figures.bareWorst, ms(singles.committed.Max()))
			continue
		}
		p.figures.took = append(p.figures.took, took.Seconds())
		p.figures.worst = append(p.figures.worst, ms(singles.Delays.Max()))
		singles.Delays = nil
		p.figures.deliveries = append(p.figures.deliveries, singles.Delivery)
	}
	return nil
}

// bulkSingle is what happened to the single rows beside a bulk.
type bulkSingle struct {
	Delivery
	committed Samples
}

func (b *bulkRun) measure(ctx context.Context, s *side, given bool) (took time.Duration, singles bulkSingle, err error) {
	w, err := openWriters(ctx, s.database.url, 9)
	if err != nil {
		return 0, singles, err
	}
	defer w.close(context.WithoutCancel(ctx))
	beside, bulk := &writers{conns: w.conns[:8]}, w.conns[8]
	p, done := b.lab.phase(b.organizations, 0, 0), make(chan struct{})
	finished := make(chan error, 1)
	var written written
	go func() {
		var err error
		written, err = beside.open(ctx, p, bulkSingles, math.MaxInt16, done)
		finished <- err
	}()
	bulkErr := sleep(ctx, bulkLead)
	if bulkErr == nil {
		took, bulkErr = b.write(ctx, bulk, given)
		bulkErr = errors.Join(bulkErr, sleep(ctx, bulkLead))
	}
	close(done)
	if err := errors.Join(bulkErr, <-finished); err != nil {
		return took, singles, err
	}
	singles.committed = written.committed
	if s.load == nil {
		return took, singles, nil
	}
	if singles.Delivery, err = s.load.await(ctx, p.expect(written.rows)); err != nil {
		return took, singles, err
	}
	return took, singles, s.load.quiet(ctx, time.Second, time.Minute)
}

// write writes the bulk and returns how long it took.
func (b *bulkRun) write(ctx context.Context, conn *pgx.Conn, given bool) (time.Duration, error) {
	var chats, organizations []int64
	for _, o := range b.organizations {
		for _, chat := range o.chats {
			chats, organizations = append(chats, chat), append(organizations, o.id)
		}
	}
	sql := "INSERT INTO messages (content, chat_id) SELECT $1, ($2::bigint[])[1 + n % $3] FROM generate_series(1, $4::int) n"
	args := []any{strings.Repeat("one of many; ", contentSize/13), chats, len(chats), bulkRows}
	if given {
		sql = `INSERT INTO messages (content, chat_id, organization_id)
			SELECT $1, ($2::bigint[])[1 + n % $3], ($5::bigint[])[1 + n % $3] FROM generate_series(1, $4::int) n`
		args = append(args, organizations)
	}
	start := time.Now()
	if _, err := conn.Exec(ctx, sql, args...); err != nil {
		return 0, fmt.Errorf("bulk: %w", err)
	}
	return time.Since(start), nil
}

func (l *Lab) reportBulk(given, omitted, floored bulkFigures) {
	worst := append(append([]float64{}, given.worst...), omitted.worst...)
	theirs := floored.worst[0]
	l.report.add(Figure{
		Experiment: "bulk", Name: "100,000 rows in one statement beside 200/s, worst single", Unit: "ms",
		Roombell: ptr(maxOf(worst)), Floor: &theirs, Measured: ptr(maxOf(worst)), As: "ms", Target: atMost(250),
		Losses: lossesOf(append(append(given.deliveries, omitted.deliveries...), floored.deliveries...)...),
		Note: notes(spread("worst", worst), fmt.Sprintf("without triggers the worst commit of a single is %.0f ms after it was due",
			max(given.bareWorst, omitted.bareWorst))),
	})
	for _, v := range []struct {
		name   string
		f      bulkFigures
		target float64
	}{{"given", given, 1.5}, {"left out", omitted, 2}} {
		ratio := ratios(v.f.took, v.f.bareTook)
		f := Figure{
			Experiment: "bulk", Name: "the bulk's duration, organization_id " + v.name, Unit: "s",
			Roombell: ptr(median(v.f.took)), Bare: ptr(median(v.f.bareTook)),
			Measured: ptr(median(ratio)), As: "of bare", Target: atMost(v.target), Note: spread("ratio", ratio),
		}
		if v.name == "given" {
			f.Floor = ptr(floored.took[0])
		}
		l.report.add(f)
	}
}

func maxOf(figures []float64) float64 {
	most := math.Inf(-1)
	for _, f := range figures {
		most = max(most, f)
	}
	return most
}
