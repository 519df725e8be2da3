package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

const (
	backfillOrganizations = 50
	backfillQuiet         = 10 // of them, without single rows: whatever their clients hear is the backfill's
	backfillChats         = 100
	backfillFewChats      = 10
	backfillDoomedChats   = 1000
	backfillRate          = 200 // single rows a second beside it
	backfillPatience      = 2 * time.Minute
)

// backfill: what each kind of bulk write costs beside bare tables, what it does to 200 single rows a second, to the
// server's memory and to the counters of chats, and how many events a client hears of it.
func (l *Lab) backfill(ctx context.Context) (err error) {
	b := &backfillRun{lab: l, bare: &backfillSide{side: &side{name: "bare", database: l.databases.bare}}}
	roombell, err := l.startRoombell(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, roombell.stop()) }()
	b.roombell = &backfillSide{side: roombell}
	for _, s := range []*backfillSide{b.bare, b.roombell} {
		if err := s.furnish(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	if err := l.recycleLog(ctx, 100); err != nil {
		return err
	}
	if _, err := roombell.connect(ctx, b.roombell.organizations, 10); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.leave()) }()
	if err := b.watch(ctx); err != nil {
		return err
	}
	for _, f := range backfills() {
		if err := l.recycleLog(ctx, 0); err != nil {
			return err
		}
		if err := b.measure(ctx, f); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return nil
}

// recycleLog has Postgres keep segments of its write-ahead log ready, as every server has that has run for a while: where each has to be made,
// all commits wait for it, some milliseconds every 16 MB. It makes that many new ones first.
func (l *Lab) recycleLog(ctx context.Context, segments int) error {
	admin, err := pgx.Connect(ctx, l.options.AdminURL("postgres"))
	if err != nil {
		return err
	}
	defer admin.Close(context.WithoutCancel(ctx))
	statements := []string{"ALTER SYSTEM SET min_wal_size = '4GB'", "SELECT pg_reload_conf()"}
	for range segments {
		statements = append(statements, "SELECT pg_logical_emit_message(true, '', '')", "SELECT pg_switch_wal()")
	}
	for _, statement := range append(statements, "CHECKPOINT") {
		if _, err := admin.Exec(ctx, statement); err != nil {
			return fmt.Errorf("recycle the write-ahead log: %w", err)
		}
	}
	return nil
}

// backfillSide is a database with what is to be written to; in each its ids are its own.
type backfillSide struct {
	*side
	organizations []organization
	doomed        organization // is deleted
}

func (s *backfillSide) furnish(ctx context.Context) error {
	return s.database.with(ctx, func(conn *pgx.Conn) (err error) {
		if s.organizations, err = seed(ctx, conn, "backfill", backfillOrganizations, 11, backfillChats); err != nil {
			return err
		}
		doomed, err := seed(ctx, conn, "doomed", 1, 20, backfillDoomedChats)
		if err != nil {
			return err
		}
		s.doomed = doomed[0]
		_, err = conn.Exec(ctx, `WITH off AS MATERIALIZED (SELECT set_config('roombell.notify', 'off', false))
			INSERT INTO messages (organization_id, chat_id, content) SELECT $1, c, repeat('m', 300) FROM off, unnest($2::bigint[]) c, generate_series(1, 100)`,
			s.doomed.id, s.doomed.chats)
		return err
	})
}

// backfill is one kind of bulk write.
type backfill struct {
	name string
	run  func(ctx context.Context, conn *pgx.Conn, s *backfillSide) error
	// heard is what the sums that all clients got should come to, and want what they should.
	heard func(heard) int
	want  int
	// unread is what it adds to the counters of the quiet organizations together; they end at 0 at least.
	unread int
}

func backfills() []backfill {
	const quiet = backfillQuiet * 1.0 / backfillOrganizations
	part := func(rows int) int { return int(float64(rows) * quiet) }
	return []backfill{
		{name: "COPY of 1,000,000 rows to 5,000 chats", run: copyMessages(1_000_000, backfillChats), heard: newRows, want: 1_000_000, unread: part(1_000_000)},
		{name: "COPY of 1,000,000 rows to 500 chats", run: copyMessages(1_000_000, backfillFewChats), heard: newRows, want: 1_000_000, unread: part(1_000_000)},
		{name: "INSERT … SELECT of 100,000 rows to 5,000 chats", run: insertMessages(100_000), heard: newRows, want: 100_000, unread: part(100_000)},
		{name: "UPDATE of 50,000 rows of 5,000 chats (read)", run: readMessages(50_000), heard: readRows, want: 50_000, unread: -part(50_000)},
		{name: "DELETE of an organization with 100,000 messages in 1,000 chats", run: deleteOrganization, heard: rows, want: backfillDoomedChats},
		{name: "TRUNCATE of messages", run: truncateMessages, heard: resets, want: backfillOrganizations, unread: math.MinInt},
	}
}

func newRows(h heard) int  { return h.new }
func readRows(h heard) int { return h.read }
func rows(h heard) int     { return h.count }
func resets(h heard) int   { return h.events["sync:reset"] }

// copyMessages copies rows to the first chats of each organization, one after the other.
func copyMessages(rows, chats int) func(context.Context, *pgx.Conn, *backfillSide) error {
	return func(ctx context.Context, conn *pgx.Conn, s *backfillSide) error {
		read, write := io.Pipe()
		go func() {
			text := bufio.NewWriterSize(write, 1<<16)
			content, line := "\t"+strings.Repeat("one of many; ", contentSize/13)+"\n", []byte(nil)
			for n := range rows {
				o := s.organizations[n%len(s.organizations)]
				line = append(strconv.AppendInt(line[:0], o.id, 10), '\t')
				line = append(strconv.AppendInt(line, o.chats[n/len(s.organizations)%chats], 10), content...)
				_, _ = text.Write(line) // Flush has its error
			}
			write.CloseWithError(text.Flush())
		}()
		_, err := conn.PgConn().CopyFrom(ctx, read, "COPY messages (organization_id, chat_id, content) FROM STDIN")
		return errors.Join(err, read.Close())
	}
}

func insertMessages(rows int) func(context.Context, *pgx.Conn, *backfillSide) error {
	return func(ctx context.Context, conn *pgx.Conn, s *backfillSide) error {
		_, err := conn.Exec(ctx, `INSERT INTO messages (organization_id, chat_id, content)
			SELECT c.organization_id, c.id, $1 FROM chats c, generate_series(1, $2::int) WHERE c.organization_id = ANY ($3)`,
			strings.Repeat("one of many; ", contentSize/13), rows/len(s.organizations)/backfillChats, s.ids())
		return err
	}
}

func readMessages(rows int) func(context.Context, *pgx.Conn, *backfillSide) error {
	return func(ctx context.Context, conn *pgx.Conn, s *backfillSide) error {
		_, err := conn.Exec(ctx, `UPDATE messages SET is_read_by_operator = true WHERE id IN (
			SELECT m.id FROM chats c CROSS JOIN LATERAL (
				SELECT id FROM messages WHERE chat_id = c.id AND NOT from_me AND NOT is_read_by_operator LIMIT $1) m
			WHERE c.organization_id = ANY ($2))`, rows/len(s.organizations)/backfillChats, s.ids())
		return err
	}
}

func deleteOrganization(ctx context.Context, conn *pgx.Conn, s *backfillSide) error {
	_, err := conn.Exec(ctx, "DELETE FROM organizations WHERE id = $1", s.doomed.id)
	return err
}

func truncateMessages(ctx context.Context, conn *pgx.Conn, _ *backfillSide) error {
	_, err := conn.Exec(ctx, "TRUNCATE messages")
	return err
}

func (s *backfillSide) ids() []int64 {
	var ids []int64
	for _, o := range s.organizations {
		ids = append(ids, o.id)
	}
	return ids
}

type backfillRun struct {
	lab            *Lab
	roombell, bare *backfillSide
	watchers       []*watcher // of each organization
	doomed         *watcher
}

// watch connects one more user of each organization.
func (b *backfillRun) watch(ctx context.Context) error {
	for i, o := range append(b.roombell.organizations, b.roombell.doomed) {
		seat, err := b.roombell.seat(i, o.id, o.users[len(o.users)-1])
		if err != nil {
			return err
		}
		w, err := watch(ctx, seat)
		if err != nil {
			return err
		}
		if i < len(b.roombell.organizations) {
			b.watchers = append(b.watchers, w)
		} else {
			b.doomed = w
		}
	}
	return b.roombell.load.quiet(ctx, 500*time.Millisecond, time.Minute)
}

func (b *backfillRun) leave() error {
	var errs []error
	for _, w := range append(b.watchers, b.doomed) {
		if w != nil {
			errs = append(errs, w.close())
		}
	}
	return errors.Join(errs...)
}

// backfillFigures are what one side gave.
type backfillFigures struct {
	took      time.Duration
	right     time.Duration // from its end to right counters
	committed struct{ calm, during time.Duration }
	calm      Delivery
	during    Delivery
	peak      struct{ calm, during int64 } // of the server's resident memory
	heard     heard                        // all watchers together
	most      int                          // events of one client of a quiet organization
}

func (b *backfillRun) measure(ctx context.Context, f backfill) error {
	var ours, theirs backfillFigures
	for _, t := range []struct {
		side    *backfillSide
		figures *backfillFigures
	}{{b.bare, &theirs}, {b.roombell, &ours}} {
		b.lab.progress("backfill: %s, %s", f.name, t.side.name)
		if err := b.run(ctx, f, t.side, t.figures); err != nil {
			return fmt.Errorf("%s: %w", t.side.name, err)
		}
	}
	b.report(f, ours, theirs)
	return nil
}

func (b *backfillRun) run(ctx context.Context, f backfill, s *backfillSide, figures *backfillFigures) error {
	w, err := openWriters(ctx, s.database.url, 9)
	if err != nil {
		return err
	}
	defer w.close(context.WithoutCancel(ctx))
	beside, bulk := &writers{conns: w.conns[:8]}, w.conns[8]
	before, err := s.unread(ctx, bulk)
	if err != nil {
		return err
	}
	figures.committed.calm, figures.calm, figures.peak.calm, err = b.singles(ctx, s, beside, func() error { return sleep(ctx, b.lab.window) })
	if err != nil {
		return err
	}
	b.take(nil)
	figures.committed.during, figures.during, figures.peak.during, err = b.singles(ctx, s, beside, func() error {
		start := time.Now()
		if err := f.run(ctx, bulk, s); err != nil {
			return err
		}
		figures.took = time.Since(start)
		if s.server == nil {
			return nil
		}
		err := s.awaitUnread(ctx, bulk, before+f.unread)
		figures.right = time.Since(start) - figures.took
		return err
	})
	if err != nil || s.server == nil {
		return err
	}
	if err := s.load.quiet(ctx, time.Second, time.Minute); err != nil {
		return err
	}
	b.take(figures)
	return s.awaitRight(ctx, bulk)
}

// singles writes single rows to all organizations but the quiet ones while f runs. It returns the p99 from due to committed, what clients
// got, and the most memory that the server took.
func (b *backfillRun) singles(ctx context.Context, s *backfillSide, w *writers, f func() error) (committed time.Duration, d Delivery, peak int64, err error) {
	p := b.lab.phase(s.organizations[:backfillOrganizations-backfillQuiet], 0, 0)
	var wrote written
	var beside errgroup.Group
	done := make(chan struct{})
	beside.Go(func() (err error) {
		wrote, err = w.open(ctx, p, backfillRate, backfillRate*int(backfillPatience.Seconds()), done)
		return err
	})
	if s.server != nil {
		beside.Go(func() (err error) {
			peak, err = s.peakRSS(done)
			return err
		})
	}
	err = f()
	close(done)
	if err := errors.Join(err, beside.Wait()); err != nil {
		return 0, d, 0, err
	}
	if s.load != nil {
		d, err = s.load.await(ctx, p.expect(wrote.rows))
	}
	return wrote.committed.Quantile(0.99), d, peak, err
}

// take takes what the watchers heard; without figures it is forgotten.
func (b *backfillRun) take(f *backfillFigures) {
	all := heard{events: map[string]int{}}
	for i, w := range append(b.watchers, b.doomed) {
		h := w.take()
		if f != nil && i >= backfillOrganizations-backfillQuiet {
			f.most = max(f.most, h.total())
		}
		all.count, all.new, all.updated = all.count+h.count, all.new+h.new, all.updated+h.updated
		all.deleted, all.read = all.deleted+h.deleted, all.read+h.read
		for name, n := range h.events {
			all.events[name] += n
		}
	}
	if f != nil {
		f.heard = all
	}
}

// unread is what the counters of the quiet organizations say together.
func (s *backfillSide) unread(ctx context.Context, conn *pgx.Conn) (n int, err error) {
	err = conn.QueryRow(ctx, "SELECT coalesce(sum(unread_count), 0) FROM chats WHERE organization_id = ANY ($1)",
		s.ids()[backfillOrganizations-backfillQuiet:]).Scan(&n)
	return n, err
}

// awaitUnread waits until the counters of the quiet organizations come to a sum.
func (s *backfillSide) awaitUnread(ctx context.Context, conn *pgx.Conn, want int) error {
	ctx, cancel := context.WithTimeout(ctx, backfillPatience)
	defer cancel()
	for {
		n, err := s.unread(ctx, conn)
		if err != nil {
			return fmt.Errorf("wait for counters: %w", err)
		}
		if n == max(0, want) {
			return nil
		}
		if err := sleep(ctx, poll); err != nil {
			return fmt.Errorf("wait for counters, %d of %d: %w", n, want, err)
		}
	}
}

// awaitRight waits until every chat's counters are what its messages say.
func (s *backfillSide) awaitRight(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, backfillPatience)
	defer cancel()
	for {
		var wrong int
		err := conn.QueryRow(ctx, `SELECT count(*) FROM chats c LEFT JOIN (
				SELECT chat_id, count(*) FILTER (WHERE NOT from_me AND NOT is_read_by_operator) AS unread, max(timestamp) AS latest
				FROM messages GROUP BY chat_id) m ON m.chat_id = c.id
			WHERE c.unread_count <> coalesce(m.unread, 0) OR c.last_message_at IS DISTINCT FROM m.latest`).Scan(&wrong)
		if err != nil {
			return fmt.Errorf("compare counters: %w", err)
		}
		if wrong == 0 {
			return nil
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("counters of %d chats stay wrong: %w", wrong, err)
		}
	}
}

func (b *backfillRun) report(f backfill, ours, theirs backfillFigures) {
	add := func(figure Figure) {
		figure.Experiment, figure.Name = "backfill", f.name+figure.Name
		b.lab.report.add(figure)
	}
	took, bare := ours.took.Seconds(), theirs.took.Seconds()
	add(Figure{
		Unit: "s", Roombell: &took, Bare: &bare, Measured: ptr(took / bare), As: "of bare",
		Note: fmt.Sprintf("counters of chats right %.2f s after it", ours.right.Seconds()),
	})
	calm, during := ours.calm.Delays.Quantile(0.99), ours.during.Delays.Quantile(0.99)
	add(Figure{
		Name: ", p99 of single rows meanwhile", Unit: "ms", Roombell: ptr(ms(during)), Measured: ptr(ms(during) / ms(calm)), As: "of without",
		Target: atMost(3), Losses: lossesOf(ours.calm, ours.during),
		Note: fmt.Sprintf("%.1f ms without; worst %.0f; due to committed %.1f ms, %.1f without; in bare tables %.1f ms, %.1f without",
			ms(calm), ms(ours.during.Delays.Max()), ms(ours.committed.during), ms(ours.committed.calm), ms(theirs.committed.during), ms(theirs.committed.calm)),
	})
	memory := float64(ours.peak.during-ours.peak.calm) / (1 << 20)
	add(Figure{Name: ", server's memory above that without", Unit: "MB", Roombell: &memory, Measured: &memory, As: "MB", Target: atMost(64),
		Note: fmt.Sprintf("%.0f MB without, with single rows and %d clients; recent events of both are kept for clients that come back",
			float64(ours.peak.calm)/(1<<20), 10*backfillOrganizations)})
	told := int64(f.heard(ours.heard))
	add(Figure{Name: ", events that a client got", Roombell: ptr(float64(ours.most)),
		Losses: Losses{Expected: int64(f.want), Lost: max(0, int64(f.want)-told), Duplicates: max(0, told-int64(f.want))},
		Note:   fmt.Sprintf("the sums of all clients come to %d; together they heard %v", told, eventCounts(ours.heard.events))})
}

// eventCounts names the events but those of single rows.
func eventCounts(events map[string]int) string {
	var all []string
	for _, name := range []string{"chats:updated", "messages:read", "sync:reset", "chat:deleted"} {
		if n := events[name]; n > 0 {
			all = append(all, fmt.Sprintf("%d %s", n, name))
		}
	}
	return strings.Join(all, ", ")
}
