package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"time"

	"roombell/internal/auth"
)

// side is a server under test with its database and the process of its clients: Roombell, or the floor.
type side struct {
	name     string
	database *labDatabase
	server   *process
	load     *load
	addr     string
	admin    string // where /debug/pprof is
	tokens   Issuer // nil: the floor, which asks for none
}

// Issuer makes tokens for the bench's users; *auth.Issuer is one.
type Issuer interface {
	Issue(auth.Identity, time.Duration) (token string, expires time.Time, err error)
}

var _ Issuer = (*auth.Issuer)(nil)

const tokenTTL = time.Hour

func (l *Lab) startRoombell(ctx context.Context) (*side, error) {
	s := &side{name: "roombell", database: l.databases.roombell, tokens: l.tokens}
	if err := s.addresses(); err != nil {
		return nil, err
	}
	cmd := exec.Command(l.options.Roombell, "serve")
	cmd.Dir = l.options.Dir
	// Nothing of the caller's environment: it must not change what is measured.
	cmd.Env = []string{"DATABASE_URL=" + s.database.url, "ROOMBELL_ADDR=" + s.addr, "ROOMBELL_ADMIN_ADDR=" + s.admin,
		"ROOMBELL_JWT_SECRET=" + labSecret, "ROOMBELL_DATA_DIR=" + l.options.Dir, "ROOMBELL_LOG_LEVEL=warn", "HOME=" + l.options.Dir}
	return l.start(ctx, s, cmd)
}

func (l *Lab) startFloor(ctx context.Context) (*side, error) {
	s := &side{name: "floor", database: l.databases.floor}
	if err := s.addresses(); err != nil {
		return nil, err
	}
	s.admin = s.addr
	cmd := l.options.Self("floor", "--listen", s.addr)
	cmd.Stdin = strings.NewReader(s.database.url + "\n")
	return l.start(ctx, s, cmd)
}

func (l *Lab) start(ctx context.Context, s *side, cmd *exec.Cmd) (_ *side, err error) {
	if s.server, err = startProcess(s.name, cmd); err != nil {
		return nil, err
	}
	if err := s.ready(ctx); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	if s.load, err = startLoad(l.options.Self("load")); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// startBoth starts both sides.
func (l *Lab) startBoth(ctx context.Context) (roombell, floor *side, err error) {
	if roombell, err = l.startRoombell(ctx); err != nil {
		return nil, nil, err
	}
	if floor, err = l.startFloor(ctx); err != nil {
		return nil, nil, errors.Join(err, roombell.stop())
	}
	return roombell, floor, nil
}

// addresses finds two free ports.
func (s *side) addresses() error {
	for _, addr := range []*string{&s.addr, &s.admin} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer l.Close()
		*addr = l.Addr().String()
	}
	return nil
}

const readyTimeout = 60 * time.Second

// ready waits until the server says that it is.
func (s *side) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		err := get(ctx, "http://"+s.addr+"/readyz")
		if err == nil {
			return nil
		}
		select {
		case <-s.server.done:
			return errors.Join(fmt.Errorf("%s ended before it was ready", s.name), s.server.failure())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w\n%s", s.name, err, s.server.logs)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func get(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, body)
	}
	return nil
}

// stop ends the clients, then the server.
func (s *side) stop() error {
	var err error
	if s.load != nil {
		err = s.load.stop()
	}
	return errors.Join(err, s.server.stop())
}

// seats returns a seat for each of the first n users of each organization.
func (s *side) seats(organizations []organization, n int) ([]Seat, error) {
	var seats []Seat
	for i, o := range organizations {
		for _, user := range o.users[:n] {
			seat, err := s.seat(i, o.id, user)
			if err != nil {
				return nil, err
			}
			seats = append(seats, seat)
		}
	}
	return seats, nil
}

func (s *side) seat(number int, organizationID, userID int64) (Seat, error) {
	if s.tokens == nil {
		return Seat{URL: fmt.Sprintf("ws://%s/ws?organization=%d", s.addr, organizationID), Organization: number}, nil
	}
	token, _, err := s.tokens.Issue(auth.Identity{UserID: userID, OrganizationID: organizationID}, tokenTTL)
	if err != nil {
		return Seat{}, err
	}
	return Seat{URL: "http://" + s.addr, Token: token, Organization: number}, nil
}

// connect dials a seat for each of the first n users of each organization, and waits until the noise of arriving is over.
func (s *side) connect(ctx context.Context, organizations []organization, n int) (DialReply, error) {
	seats, err := s.seats(organizations, n)
	if err != nil {
		return DialReply{}, err
	}
	reply, err := s.load.dial(ctx, seats)
	if err != nil {
		return reply, fmt.Errorf("%s: connect %d clients: %w\n%s", s.name, len(seats), err, s.server.logs)
	}
	return reply, s.load.quiet(ctx, 500*time.Millisecond, time.Minute)
}

// settledRSS returns the resident memory that remains after a garbage collection, once it does not change any more: what
// a server that idles for minutes has, by the collection that Go forces every two minutes and the scavenger's work.
func (s *side) settledRSS(ctx context.Context) (int64, error) {
	for range 2 { // what the first one finalizes the second one frees
		if err := get(ctx, "http://"+s.admin+"/debug/pprof/heap?gc=1"); err != nil {
			return 0, fmt.Errorf("%s: force a garbage collection: %w", s.name, err)
		}
	}
	last, err := s.server.rss()
	for still, rounds := 0, 0; err == nil && still < 4 && rounds < 40; rounds++ {
		if err := sleep(ctx, 500*time.Millisecond); err != nil {
			return 0, err
		}
		var now int64
		now, err = s.server.rss()
		still++
		if now < last-last/200 || now > last+last/200 {
			still = 0
		}
		last = now
	}
	return last, err
}
