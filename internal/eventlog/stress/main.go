// Command stress tries to make the tail lose, repeat or reorder an event.
//
// It starts a Postgres of its own, lets writers work on the real tables under the real triggers (with rollbacks, savepoints, long and
// prepared transactions, synchronous_commit = off), ends their connections and those of several tails, and crashes the server, with
// transaction ids burnt before so that the crash gives them out again. The log itself is the truth. It prints what it went through, and
// LOST, DUP and ORDER; it exits with 1 unless all are 0, and when it went through too little to prove anything.
//
// With --break (or BREAK in the environment) a step of the algorithm is left out, and it must fail: hi, snapshot or ring.
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
	Time    time.Duration `default:"60s" help:"How long the writers work."`
	Seed    uint64        `default:"0" help:"Repeats a run's choices, though not its timing. 0: a new one."`
	Writers int           `default:"12" help:"Connections that write."`
	Tails   int           `default:"4" help:"Tails that listen."`
	Break   string        `env:"BREAK" enum:",hi,snapshot,ring" default:"" help:"The step to leave out: hi, snapshot or ring."`
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
	r, err := run(ctx, options{Time: f.Time, Seed: f.Seed, Writers: f.Writers, Tails: f.Tails, Omit: omit, Out: os.Stdout})
	if err != nil {
		return false, err
	}
	return r.print(os.Stdout), nil
}
