package bench

import (
	"context"
	"errors"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"time"
)

// Clients live in a process of their own, so that neither their CPU nor their memory nor their garbage collection is the
// server's or the writers'. The bench talks to it by net/rpc over its standard input and output.

// loadService is the far end: a Fleet behind net/rpc's kind of method.
type loadService struct {
	ctx   context.Context
	fleet *Fleet
	crowd crowd
}

// DialReply says how long the handshakes took, each and together.
type DialReply struct {
	Each Samples
	All  time.Duration
}

// QuietArgs are the arguments of Fleet.Quiet.
type QuietArgs struct{ For, Limit time.Duration }

// Counts are what a fleet counted so far.
type Counts struct{ Frames, Cut int64 }

// None stands for no argument and for no reply.
type None struct{}

func (s *loadService) Dial(seats []Seat, r *DialReply) (err error) {
	start := time.Now()
	r.Each, err = s.fleet.Dial(s.ctx, seats)
	r.All = time.Since(start)
	return err
}

func (s *loadService) Await(e Expect, d *Delivery) (err error) {
	*d, err = s.fleet.Await(s.ctx, e)
	return err
}

func (s *loadService) Quiet(a QuietArgs, _ *None) error {
	return s.fleet.Quiet(s.ctx, a.For, a.Limit)
}

func (s *loadService) Counts(_ None, c *Counts) error {
	*c = Counts{Frames: s.fleet.Frames(), Cut: s.fleet.Cut()}
	return nil
}

func (s *loadService) Release(_ None, _ *None) error {
	s.fleet.Release()
	return nil
}

// ServeLoad is the load process: it runs a fleet for whoever is at the other end of conn, until conn ends.
func ServeLoad(ctx context.Context, conn io.ReadWriteCloser) error {
	fleet := NewFleet()
	defer fleet.Close()
	server := rpc.NewServer()
	service := &loadService{ctx: ctx, fleet: fleet}
	defer service.crowd.leave()
	if err := server.RegisterName("load", service); err != nil {
		return err
	}
	server.ServeConn(conn)
	return nil
}

// load is the near end of a load process.
type load struct {
	process *process
	client  *rpc.Client
}

// startLoad starts a load process by the command.
func startLoad(cmd *exec.Cmd) (*load, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p, err := startProcess("load", cmd)
	if err != nil {
		return nil, err
	}
	return &load{process: p, client: rpc.NewClient(pipes{out, in})}, nil
}

func (l *load) stop() error {
	err := l.client.Close()
	if errors.Is(err, os.ErrClosed) { // it ends with its input, and its output is closed then
		err = nil
	}
	return errors.Join(err, l.process.wait())
}

// call is rpc.Client.Call that gives up with the context.
func (l *load) call(ctx context.Context, method string, args, reply any) error {
	c := l.client.Go("load."+method, args, reply, make(chan *rpc.Call, 1))
	select {
	case <-c.Done:
		return c.Error
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *load) dial(ctx context.Context, seats []Seat) (r DialReply, err error) {
	err = l.call(ctx, "Dial", seats, &r)
	return r, err
}

func (l *load) await(ctx context.Context, e Expect) (d Delivery, err error) {
	err = l.call(ctx, "Await", e, &d)
	return d, err
}

func (l *load) quiet(ctx context.Context, d, limit time.Duration) error {
	return l.call(ctx, "Quiet", QuietArgs{d, limit}, &None{})
}

func (l *load) counts(ctx context.Context) (c Counts, err error) {
	err = l.call(ctx, "Counts", None{}, &c)
	return c, err
}

func (l *load) release(ctx context.Context) error {
	return l.call(ctx, "Release", None{}, &None{})
}

// pipes joins a process's output and input to one stream.
type pipes struct {
	io.ReadCloser
	in io.WriteCloser
}

func (p pipes) Write(b []byte) (int, error) { return p.in.Write(b) }
func (p pipes) Close() error                { return errors.Join(p.in.Close(), p.ReadCloser.Close()) }
