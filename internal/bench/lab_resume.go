package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

const (
	resumeClients       = 10_000
	resumeOrganizations = 200
	resumeMissed        = 100
	resumeReserve       = 500 // open files that are no connection
	resumeWriters       = 8
	resumeBatch         = 10 // rows of one transaction
	resumeLimit         = 3 * time.Minute
)

// resume: ten thousand clients lose their connections at once, a hundred events are committed behind the back of each, and
// all come back as fast as they can, each with its cursor: first to a server that was restarted meanwhile and remembers
// nothing, then to one that only they were cut off from.
func (l *Lab) resume(ctx context.Context) (err error) {
	r, err := l.newResume(ctx)
	if err != nil {
		return err
	}
	log, err := l.openStatementLog(ctx, l.databases.roombell)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.close(context.WithoutCancel(ctx), l, l.databases.roombell)) }()
	r.log = log
	if r.side, err = l.startRoombell(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.side.stop()) }()
	if err := r.arrive(ctx); err != nil {
		return err
	}
	for _, absence := range []absence{{"after a restart", r.restart}, {"after a cut", r.cut}} {
		if err := r.storm(ctx, absence); err != nil {
			return fmt.Errorf("%s: %w", absence.name, err)
		}
	}
	return nil
}

// resumeRun is the experiment on its way.
type resumeRun struct {
	lab           *Lab
	organizations []organization
	members       int // clients of each
	side          *side
	log           *statementLog
}

// absence is why the clients were away. During it missed rows are committed.
type absence struct {
	name string
	away func(ctx context.Context, commit func(context.Context) error) error
}

// newResume makes the organizations: half of the chats of each are restricted, to one half of the users or to the other.
func (l *Lab) newResume(ctx context.Context) (*resumeRun, error) {
	clients, organizations := l.options.Clients, l.options.Organizations
	if clients == 0 {
		clients = resumeClients
	}
	if organizations == 0 {
		organizations = resumeOrganizations
	}
	clients = min(clients, int(l.files)-resumeReserve)
	r := &resumeRun{lab: l, members: max(1, clients/organizations)}
	l.progress("resume: %d organizations of %d users", organizations, r.members)
	return r, l.databases.roombell.with(ctx, func(conn *pgx.Conn) (err error) {
		if r.organizations, err = seed(ctx, conn, "bench resume", organizations, r.members, labChats); err != nil {
			return err
		}
		for _, o := range r.organizations {
			if err := restrict(ctx, conn, o); err != nil {
				return fmt.Errorf("restrict chats: %w", err)
			}
		}
		_, err = conn.Exec(ctx, "ANALYZE")
		return err
	})
}

const teams = 2

// restrictedChats returns those of the organization's chats that only the team may see.
func (o organization) restrictedChats(team int) []int64 {
	n := len(o.chats) / 2 / teams
	from := len(o.chats)/2 + team*n
	return o.chats[from : from+n]
}

// restrict closes half of the chats to all but a team: user n is of team n modulo teams.
func restrict(ctx context.Context, conn *pgx.Conn, o organization) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL roombell.notify = 'off'"); err != nil {
			return err
		}
		for team := range teams {
			var members []int64
			for i := team; i < len(o.users); i += teams {
				members = append(members, o.users[i])
			}
			chats := o.restrictedChats(team)
			if _, err := tx.Exec(ctx, `INSERT INTO chat_members (organization_id, chat_id, user_id)
				SELECT $1, c, u FROM unnest($2::bigint[]) c, unnest($3::bigint[]) u`, o.id, chats, members); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, "UPDATE chats SET restricted = true WHERE id = ANY($1)", chats); err != nil {
				return err
			}
		}
		return nil
	})
}

// missed is what is committed behind the backs of one organization's clients, row by row: who hears it. Every client hears
// resumeMissed of the rows.
type missed []hearers

// hearers says who hears a row: everybody, the members of a team, or one member by his number.
type hearers struct{ team, member int }

const nobodyAlone = -1

var everybody = hearers{team: nobodyAlone, member: nobodyAlone}

// newMissed alternates between open chats and the restricted ones of each team, and ends with a notification for each.
func newMissed(members int) missed {
	var m missed
	for i := range resumeMissed - 1 {
		if i%2 == 0 {
			m = append(m, everybody)
			continue
		}
		for team := range teams {
			m = append(m, hearers{team: team, member: nobodyAlone})
		}
	}
	for member := range members {
		m = append(m, hearers{team: nobodyAlone, member: member})
	}
	return m
}

func (h hearers) include(member int) bool {
	return (h.team == nobodyAlone || h.team == member%teams) && (h.member == nobodyAlone || h.member == member)
}

// heardBy returns the numbers of the rows that a member hears, ascending.
func (m missed) heardBy(member int) []int32 {
	var list []int32
	for seq, h := range m {
		if h.include(member) {
			list = append(list, int32(seq))
		}
	}
	return list
}

// insert queues row seq of the organization.
func (m missed) insert(b *pgx.Batch, o organization, phase, seq int) {
	content := probe{phase, seq, time.Now()}.content(contentSize)
	h := m[seq]
	if h.member != nobodyAlone {
		b.Queue("INSERT INTO notifications (organization_id, user_id, message) VALUES ($1, $2, $3)", o.id, o.users[h.member], content)
		return
	}
	chats := o.chats[:len(o.chats)/2]
	if h.team != nobodyAlone {
		chats = o.restrictedChats(h.team)
	}
	b.Queue(insertMessage, o.id, chats[seq%len(chats)], content)
}

// write commits all, a few rows at a time. Each organization is one connection's, so that its rows have an order.
func (m missed) write(ctx context.Context, w *writers, organizations []organization, phase int) error {
	g, ctx := errgroup.WithContext(ctx)
	for i, conn := range w.conns {
		g.Go(func() error {
			for o := i; o < len(organizations); o += len(w.conns) {
				for from := 0; from < len(m); from += resumeBatch {
					b := &pgx.Batch{}
					for seq := from; seq < min(from+resumeBatch, len(m)); seq++ {
						m.insert(b, organizations[o], phase, seq)
					}
					if err := conn.SendBatch(ctx, b).Close(); err != nil {
						return fmt.Errorf("write behind the clients' backs: %w", err)
					}
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func (r *resumeRun) clients() int { return r.members * len(r.organizations) }

// arrive connects the clients.
func (r *resumeRun) arrive(ctx context.Context) error {
	r.lab.progress("resume: %d clients arrive", r.clients())
	var seats []RoamSeat
	for i, o := range r.organizations {
		for member, user := range o.users {
			seat, err := r.side.seat(i, o.id, user)
			if err != nil {
				return err
			}
			seats = append(seats, RoamSeat{seat, member})
		}
	}
	if err := r.side.load.arrive(ctx, seats); err != nil {
		return fmt.Errorf("connect %d clients: %w\n%s", len(seats), err, r.side.server.logs)
	}
	return nil
}

// restart ends the server as a deploy does, and starts it again when the rows are written.
func (r *resumeRun) restart(ctx context.Context, commit func(context.Context) error) error {
	old := r.side.server.cmd
	if err := r.side.server.stop(); err != nil {
		return err
	}
	if err := errors.Join(r.side.load.leave(ctx), commit(ctx)); err != nil {
		return err
	}
	again := exec.Command(old.Path, old.Args[1:]...)
	again.Dir, again.Env = old.Dir, old.Env
	var err error
	if r.side.server, err = startProcess(r.side.name, again); err != nil {
		return err
	}
	return r.side.ready(ctx)
}

// cut ends the connections alone.
func (r *resumeRun) cut(ctx context.Context, commit func(context.Context) error) error {
	return errors.Join(r.side.load.leave(ctx), commit(ctx))
}

// resumeSettles is how long the server has to do what the missed rows cost without any client: counters of chats.
const resumeSettles = 3 * time.Second

// storm sends the clients away, commits behind their backs and has all come back at once.
func (r *resumeRun) storm(ctx context.Context, a absence) error {
	idle, err := r.side.settledRSS(ctx)
	if err != nil {
		return err
	}
	m, phase := newMissed(r.members), r.lab.phase(r.organizations, 0, 0).number
	r.lab.progress("resume: %d rows %s", len(m)*len(r.organizations), a.name)
	if err := a.away(ctx, func(ctx context.Context) error { return r.commit(ctx, m, phase) }); err != nil {
		return err
	}
	if err := sleep(ctx, resumeSettles); err != nil {
		return err
	}
	r.lab.progress("resume: %d clients come back %s", r.clients(), a.name)
	mark, err := r.log.mark()
	if err != nil {
		return err
	}
	back, peak, err := r.measure(ctx, ReturnArgs{Phase: phase, Members: r.members, Limit: resumeLimit}, a)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, r.side.server.logs)
	}
	asked, err := r.log.since(mark)
	if err != nil {
		return err
	}
	return r.report(a, back, asked, peak-idle, idle)
}

func (r *resumeRun) commit(ctx context.Context, m missed, phase int) error {
	w, err := openWriters(ctx, r.side.database.url, resumeWriters)
	if err != nil {
		return err
	}
	return errors.Join(m.write(ctx, w, r.organizations, phase), w.close(context.WithoutCancel(ctx)))
}

// measure is the storm itself.
func (r *resumeRun) measure(ctx context.Context, args ReturnArgs, a absence) (back Return, peak int64, err error) {
	done, sampled := make(chan struct{}), make(chan error, 1)
	go func() {
		var err error
		peak, err = r.side.peakRSS(done)
		sampled <- err
	}()
	profiled := make(chan error, 1)
	go func() { profiled <- r.profile(ctx, a) }()
	back, err = r.side.load.comeBack(ctx, args)
	close(done)
	return back, peak, errors.Join(err, <-sampled, <-profiled)
}

// resumeProfile is over how long the processor is sampled.
const resumeProfile = 10

// profile keeps profiles of the storm where a folder was given for them.
func (r *resumeRun) profile(ctx context.Context, a absence) error {
	if r.lab.options.Profiles == "" {
		return nil
	}
	name := "resume-" + strings.ReplaceAll(a.name, " ", "-")
	for _, p := range []struct{ name, path string }{{"cpu", fmt.Sprintf("profile?seconds=%d", resumeProfile)}, {"heap", "heap"}, {"allocs", "allocs"}} {
		if err := download(ctx, "http://"+r.side.admin+"/debug/pprof/"+p.path, filepath.Join(r.lab.options.Profiles, name+"."+p.name)); err != nil {
			return fmt.Errorf("%s profile: %w", p.name, err)
		}
	}
	return nil
}

func download(ctx context.Context, url, file string) (err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, resp.Body)
	return errors.Join(err, f.Close())
}

// report adds the rows. What counts as caused by the storm is everything but the counters of chats.
func (r *resumeRun) report(a absence, back Return, asked statements, grown, idle int64) error {
	name := fmt.Sprintf("%d clients of %d organizations %s", r.clients(), len(r.organizations), a.name)
	complete, queries, memory := back.Complete.Max().Seconds(), float64(asked.of(askedLog, askedRights, askedTail, askedOther)), float64(grown)/(1<<20)
	r.lab.report.add(Figure{
		Experiment: "resume", Name: name + ", 100 events each, all caught up", Unit: "s", Roombell: &complete,
		Measured: &complete, As: "s", Target: atMost(30),
		Losses: Losses{Expected: back.Expected, Lost: back.Lost, Duplicates: back.Duplicates, Strays: back.Strays + back.Disordered, Cut: back.Unfinished},
		Note: notes(fmt.Sprintf("connected p50 %.1f s, caught up p50 %.1f s; %d frames", back.Connected.Quantile(0.5).Seconds(),
			back.Complete.Quantile(0.5).Seconds(), back.Frames), back.troubles()),
	})
	r.lab.report.add(Figure{
		Experiment: "resume", Name: name + ", queries", Roombell: &queries, Measured: &queries, Target: atMost(300), Note: asked.String(),
	})
	r.lab.report.add(Figure{
		Experiment: "resume", Name: name + ", memory at the peak above idle", Unit: "MB", Roombell: &memory, Measured: &memory, As: "MB",
		Target: atMost(200), Note: fmt.Sprintf("idle %.0f MB", float64(idle)/(1<<20)),
	})
	return nil
}

// troubles says what was not as it should be.
func (back Return) troubles() string {
	var list []string
	for _, reason := range slices.Sorted(maps.Keys(back.Resets)) {
		list = append(list, fmt.Sprintf("%d reset: %s", back.Resets[reason], reason))
	}
	if back.Unresumed > 0 {
		list = append(list, fmt.Sprintf("%d not resumed", back.Unresumed))
	}
	if back.Disordered > 0 {
		list = append(list, fmt.Sprintf("%d rows out of order", back.Disordered))
	}
	if back.Unfinished > 0 {
		list = append(list, fmt.Sprintf("%d not caught up within %v", back.Unfinished, resumeLimit))
	}
	if back.Again > 0 {
		list = append(list, fmt.Sprintf("%d tries failed, the last: %s", back.Again, back.Why))
	}
	return strings.Join(list, ", ")
}
