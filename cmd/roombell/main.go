// Command roombell carries committed changes of chats, messages and notifications from PostgreSQL to Socket.IO clients.
//
// config.go reads the environment, nobody else does; serve.go builds the parts and shows the whole program; each other
// file is a command.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

// The exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a mistake of whoever called: bad arguments or settings.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

func badUsage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// cli is the command line. The settings of a command that does not serve come from the environment alone.
type cli struct {
	Dev      devCmd      `cmd:"" help:"Everything on one machine with nothing set up: private Postgres, demo data, service."`
	Serve    serveCmd    `cmd:"" help:"The service, against DATABASE_URL."`
	Migrate  migrateCmd  `cmd:"" help:"Tables and triggers: up, status, down."`
	Admin    adminCmd    `cmd:"" help:"Organizations, users and erasure."`
	Token    tokenCmd    `cmd:"" help:"Print a token for an existing user."`
	Tail     tailCmd     `cmd:"" help:"Print events as they arrive, like a client."`
	Doctor   doctorCmd   `cmd:"" help:"Check an installation, and say how to mend what is wrong."`
	Bench    benchCmd    `cmd:"" help:"Measure this installation end to end."`
	OpenAPI  openapiCmd  `cmd:"" name:"openapi" help:"Print the OpenAPI document of the HTTP API."`
	AsyncAPI asyncapiCmd `cmd:"" name:"asyncapi" help:"Print the AsyncAPI document of the sockets' events."`
	Version  versionCmd  `cmd:"" help:"Print version, commit and Go version."`
}

// program is what every command is given beside its flags.
type program struct {
	settings settings // of the environment, valid
	stdin    io.Reader
	stdout   io.Writer
	stderr   io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks, the second ends the process at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	err := execute(ctx, args)
	var usage usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage):
		fmt.Fprintln(os.Stderr, "roombell:", oneLine(err))
		return exitUsage
	default:
		fmt.Fprintln(os.Stderr, "roombell:", oneLine(err))
		return exitFailed
	}
}

// oneLine joins what libraries spread over several lines.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

func execute(ctx context.Context, args []string) error {
	var c cli
	exited := false
	parser, err := newParser(&c, kong.Exit(func(int) { exited = true }))
	if err != nil {
		return err
	}
	environment, err := loadSettings(parser.Model)
	if err != nil {
		return usageError{err}
	}
	parsed, err := parser.Parse(args)
	if exited { // kong printed the help, and then went on
		return nil
	}
	if err != nil {
		return usageError{err}
	}
	p := &program{settings: environment, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	parsed.BindTo(ctx, (*context.Context)(nil))
	return parsed.Run(p)
}

func newParser(c any, options ...kong.Option) (*kong.Kong, error) {
	return kong.New(c, append([]kong.Option{
		kong.Name("roombell"),
		kong.Description("Committed changes of chats and messages, from PostgreSQL to Socket.IO clients.\n\n" +
			"Every flag has an environment variable, which it beats. Secrets and database addresses have no flag: " +
			secretsHelp() + ", each from the environment or from a file named by the variable with _FILE appended."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 120}),
		kong.ValueFormatter(helpOf),
	}, options...)...)
}

// helpOf adds the defaults that are not kong's: those that depend on the command or on the machine.
func helpOf(value *kong.Value) string {
	help := kong.DefaultHelpValueFormatter(value)
	if len(value.Tag.Envs) > 0 && !value.HasDefault {
		if row, ok := settingOf(value.Tag.Envs[0]); ok && row.shown != "" {
			help += "; default: " + row.shown
		}
	}
	return help
}
