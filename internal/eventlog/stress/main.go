// Command stress tries to make the tail, the servers and the resume lose, repeat, reorder or leak an event.
//
// It starts a Postgres of its own with a standby, and lets writers work on the real tables under the real triggers (with rollbacks,
// savepoints, long and prepared transactions, synchronous_commit = off). Tails in this process listen, and three `roombell serve` processes
// with clients of several organizations, by WebSocket and by polling, which do what every client is told to: keep the last cursor of any
// payload, and come back with it. Clients break off at random, also in the middle of a batch and of a replay, and return to another
// server; connections to Postgres and server processes are killed; Postgres is crashed, with transaction ids burnt before so that the crash
// gives them out again; the standby is promoted, once with everything and once without the last commits.
//
// The log itself is the truth. It prints what it went through, and LOST, DUP, ORDER and LEAK; it exits with 1 unless all are 0, and when it
// went through too little to prove anything. A sync:reset that nothing accounts for is a loss.
//
// With --break (or BREAK in the environment) a step of the algorithm is left out, in this process and in the servers (which are then built
// with the tag stress), and it must fail: hi, snapshot, ring, fresh, x or timeline (internal/eventlog/internal/fault).
//
//	stress.go   a run               people.go  who may see what       writer.go  what is written
//	trouble.go  kills, crashes      promote.go the standby            node.go    the servers
//	watch.go    tails               client.go, polling.go  clients    hearing.go, judge.go, report.go  the verdict
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"roombell/internal/eventlog/internal/fault"
)

type flags struct {
	Time     time.Duration `default:"60s" help:"How long the writers work."`
	Seed     uint64        `default:"0" help:"Repeats a run's choices, though not its timing. 0: a new one."`
	Writers  int           `default:"12" help:"Connections that write."`
	Tails    int           `default:"4" help:"Tails that listen in this process."`
	Nodes    int           `default:"3" help:"Server processes."`
	Clients  int           `default:"64" help:"Clients of theirs."`
	Clean    int           `default:"-1" help:"Promotions of a standby that has everything. -1: one, and one more for each ten minutes."`
	Lossy    int           `default:"-1" help:"Promotions of a standby that lacks the last commits. -1: as many."`
	Bin      string        `env:"PG_BIN" help:"Folder of initdb and postgres. Empty: the newest that is found."`
	Roombell string        `type:"existingfile" help:"The server to try. Empty: it is built."`
	Logs     string        `type:"existingdir" help:"Folder for the servers' logs, at debug."`
	Break    string        `env:"BREAK" enum:",hi,snapshot,ring,fresh,x,timeline" default:"" help:"The step to leave out: hi, snapshot, ring, fresh, x or timeline."`
}

func main() {
	var f flags
	kong.Parse(&f, kong.Name("stress"), kong.Description("Tries to make the tail lose, repeat or reorder an event."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ok, err := f.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "stress:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

func (f flags) run(ctx context.Context) (bool, error) {
	omit, _ := fault.Parse(f.Break) // kong has checked it
	// A standby is a copy of everything: not too many of them.
	for _, n := range []*int{&f.Clean, &f.Lossy} {
		if *n < 0 {
			*n = 1 + int(f.Time/(10*time.Minute))
		}
	}
	r, err := run(ctx, options{
		Time: f.Time, Seed: f.Seed, Writers: f.Writers, Tails: f.Tails, Nodes: f.Nodes, Clients: f.Clients, Clean: f.Clean, Lossy: f.Lossy,
		Roombell: f.Roombell, Bin: f.Bin, Logs: f.Logs, Omit: omit, Progress: os.Stderr,
	})
	if err != nil {
		return false, err
	}
	return r.print(os.Stdout), nil
}
