// Command bench is `make bench`: Roombell beside a floor and beside bare tables, on a private Postgres whose commits take
// as long as on a cloud disk. It prints one table, and fails when an event was lost; a missed target is only shown.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"roombell/internal/bench"
	"roombell/internal/postgres"
)

type commands struct {
	Run   run   `cmd:"" default:"withargs" help:"Measure."`
	Floor floor `cmd:"" hidden:"" help:"The server that Roombell is measured against; the database's URL is the first line of standard input."`
	Load  load  `cmd:"" hidden:"" help:"A process of clients, ruled over standard input and output."`
}

func main() {
	var c commands
	k := kong.Parse(&c, kong.Name("bench"), kong.Description("Measures Roombell beside a floor, on a Postgres of its own."),
		kong.Vars{"experiments": strings.Join(bench.Experiments(), ",")})
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	k.BindTo(ctx, (*context.Context)(nil))
	k.FatalIfErrorf(k.Run())
}

type run struct {
	Roombell      string        `help:"The binary under test." required:"" type:"existingfile"`
	Only          []string      `help:"Experiments to run: ${experiments}." enum:"${experiments}" placeholder:"NAME,…"`
	Seconds       float64       `help:"How long one measurement writes." default:"8"`
	Rounds        int           `help:"How often what is compared takes turns." default:"3"`
	JSON          bool          `help:"Print JSON."`
	Flush         time.Duration `help:"How long a flush of the write-ahead log takes." default:"1ms"`
	Clients       int           `help:"How many clients resume lets come back." default:"10000"`
	Organizations int           `help:"Of how many organizations they are." default:"200"`
	Chats         int           `help:"How many chats the organization of api has." default:"100000"`
	Messages      int           `help:"And how many messages." default:"2000000"`
	Profiles      string        `help:"A folder in which to keep profiles of resume." type:"existingdir"`
}

func (r *run) Run(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "roombell-bench")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	server, err := postgres.Start(ctx, postgres.Options{FlushDelay: r.Flush, Settings: settings()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop(context.WithoutCancel(ctx))) }()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	roombell, err := filepath.Abs(r.Roombell)
	if err != nil {
		return err
	}
	report, err := bench.Measure(ctx, bench.LabOptions{
		Roombell: roombell, Dir: dir, URL: server.URL, AdminURL: server.AdminURL, Owner: postgres.Name,
		Self: func(args ...string) *exec.Cmd { return exec.Command(self, args...) },
		Only: r.Only, Seconds: r.Seconds, Rounds: r.Rounds, Progress: os.Stderr,
		Log: filepath.Join(server.Dir(), "server.log"), Clients: r.Clients, Organizations: r.Organizations, Profiles: r.Profiles,
		Chats: r.Chats, Messages: r.Messages,
	})
	if report != nil {
		err = errors.Join(err, r.print(report))
	}
	return err
}

// settings are those of a production server of this size: what is compared must not wait for a checkpoint.
func settings() map[string]string {
	return map[string]string{"max_connections": "300", "shared_buffers": "512MB", "max_wal_size": "8GB"}
}

func (r *run) print(report *bench.Report) error {
	if !r.JSON {
		return report.WriteTable(os.Stdout)
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(report)
}

type floor struct {
	Listen string `required:""`
}

func (f *floor) Run(ctx context.Context) error {
	url, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil {
		return fmt.Errorf("database URL: %w", err)
	}
	l, err := net.Listen("tcp", f.Listen)
	if err != nil {
		return err
	}
	return bench.ServeFloor(ctx, strings.TrimSpace(url), l)
}

type load struct{}

func (*load) Run(ctx context.Context) error {
	return bench.ServeLoad(ctx, struct {
		io.Reader
		io.WriteCloser
	}{os.Stdin, os.Stdout})
}
