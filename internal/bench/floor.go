package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// The floor is the least that can be done: a row trigger that sends the row as JSON by NOTIFY, and a server that passes
// it on to the WebSockets of the row's organization, with no login, no rooms but organizations, no rights, no log, no
// resume. What Roombell costs is measured against it.

// floorTrigger is what the floor's database has in place of Roombell's triggers.
const floorTrigger = `
CREATE FUNCTION floor_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('floor', row_to_json(NEW)::text);
  RETURN NULL;
END $$;
CREATE TRIGGER floor AFTER INSERT ON messages FOR EACH ROW EXECUTE FUNCTION floor_notify();`

// floorServer holds the sockets of each organization.
type floorServer struct {
	upgrader websocket.Upgrader
	mu       sync.RWMutex
	rooms    map[int64]map[*websocket.Conn]struct{}
}

// ServeFloor is the floor's process: it listens to the database and on the network until ctx ends.
func ServeFloor(ctx context.Context, databaseURL string, l net.Listener) error {
	f := &floorServer{rooms: map[int64]map[*websocket.Conn]struct{}{}}
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return fmt.Errorf("floor: connect: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "LISTEN floor"); err != nil {
		return fmt.Errorf("floor: listen: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/ws", f.connect)
	mux.HandleFunc("/readyz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: floorHandshakeTimeout}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.listen(ctx, conn) })
	g.Go(func() error {
		if err := server.Serve(l); err != http.ErrServerClosed {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		return server.Close()
	})
	return g.Wait()
}

// listen passes notifications on, in order, until ctx ends.
func (f *floorServer) listen(ctx context.Context, conn *pgx.Conn) error {
	for {
		n, err := conn.WaitForNotification(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("floor: wait for notification: %w", err)
		}
		if err := f.broadcast([]byte(n.Payload)); err != nil {
			return err
		}
	}
}

const (
	floorHandshakeTimeout = 30 * time.Second
	floorWriteTimeout     = 10 * time.Second
)

func (f *floorServer) broadcast(row []byte) error {
	var to struct {
		OrganizationID int64 `json:"organization_id"`
	}
	if err := json.Unmarshal(row, &to); err != nil {
		return fmt.Errorf("floor: row: %w", err)
	}
	frame, err := websocket.NewPreparedMessage(websocket.TextMessage, row)
	if err != nil {
		return err
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	for c := range f.rooms[to.OrganizationID] {
		c.SetWriteDeadline(time.Now().Add(floorWriteTimeout))
		if err := c.WritePreparedMessage(frame); err != nil {
			c.Close() // its reader takes it out of the room
		}
	}
	return nil
}

// connect serves GET /ws?organization=ID.
func (f *floorServer) connect(w http.ResponseWriter, r *http.Request) {
	organization, err := strconv.ParseInt(r.URL.Query().Get("organization"), 10, 64)
	if err != nil {
		http.Error(w, "organization", http.StatusBadRequest)
		return
	}
	c, err := f.upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer c.Close()
	f.join(organization, c)
	defer f.leave(organization, c)
	for {
		if _, _, err := c.NextReader(); err != nil {
			return
		}
	}
}

func (f *floorServer) join(organization int64, c *websocket.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rooms[organization] == nil {
		f.rooms[organization] = map[*websocket.Conn]struct{}{}
	}
	f.rooms[organization][c] = struct{}{}
}

func (f *floorServer) leave(organization int64, c *websocket.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.rooms[organization], c)
}
