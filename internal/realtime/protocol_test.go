package realtime

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zishang520/socket.io/servers/engine/v3"
	"github.com/zishang520/socket.io/servers/engine/v3/config"
	"github.com/zishang520/socket.io/servers/socket/v3"
)

const (
	protocolPingInterval = 300 * time.Millisecond
	protocolPingTimeout  = 200 * time.Millisecond
	protocolMaxPayload   = 1e6
)

func TestEngineIOProtocol(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(newEngineEcho())
	defer server.Close()
	runProtocolSuite(t, "engine.io.js", server.URL+"/engine.io/", 25)
}

func TestSocketIOProtocol(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(newProtocolServer())
	defer server.Close()
	runProtocolSuite(t, "socket.io.js", server.URL+"/socket.io/", 32)
}

// newEngineEcho is an Engine.IO server on our transports that answers each message with itself.
func newEngineEcho() http.Handler {
	o := config.DefaultServerOptions()
	o.SetTransports(newTransports(transportOptions{SendQueue: 1 << 20, PingTimeout: protocolPingTimeout}))
	o.SetPingInterval(protocolPingInterval)
	o.SetPingTimeout(protocolPingTimeout)
	o.SetMaxHttpBufferSize(protocolMaxPayload)
	e := engine.NewServer(o)
	_ = e.On("connection", func(args ...any) {
		conn := args[0].(engine.Socket)
		_ = conn.On("data", func(args ...any) { conn.Send(args[0].(io.Reader), nil, nil) })
	})
	openOnConnection(e)
	return slim(e)
}

// newProtocolServer is a Socket.IO server on our transports and adapter that does what the public suite expects.
func newProtocolServer() http.Handler {
	o := socket.DefaultServerOptions()
	o.SetTransports(newTransports(transportOptions{SendQueue: 1 << 20, PingTimeout: protocolPingTimeout}))
	o.SetAdapter(&adapterBuilder{sendQueue: 1 << 20})
	o.SetPingInterval(protocolPingInterval)
	o.SetPingTimeout(protocolPingTimeout)
	o.SetMaxHttpBufferSize(protocolMaxPayload)
	server := socket.NewServer(nil, o)
	greet := func(s *socket.Socket) {
		auth := s.Handshake().Auth
		if auth == nil {
			auth = map[string]any{}
		}
		_ = s.Emit("auth", auth)
	}
	_ = server.On("connection", func(args ...any) {
		s := args[0].(*socket.Socket)
		greet(s)
		_ = s.On("message", func(args ...any) { _ = s.Emit("message-back", args...) })
		_ = s.On("message-with-ack", func(args ...any) {
			last := len(args) - 1
			args[last].(socket.Ack)(args[:last], nil)
		})
	})
	_ = server.Of("/custom", nil).On("connection", func(args ...any) { greet(args[0].(*socket.Socket)) })
	return mount(server, o)
}

// runProtocolSuite runs a script of testdata/protocol against the server at url, and wants all its cases to pass.
func runProtocolSuite(t *testing.T, script, url string, cases int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "node", "--test-reporter=tap", "--test-force-exit", script)
	cmd.Dir = protocolDir(t)
	cmd.Env = append(os.Environ(), "SERVER="+url)
	tap, err := cmd.CombinedOutput()
	if want := fmt.Sprintf("\n# pass %d\n", cases); err != nil || !strings.Contains(string(tap), want) {
		t.Fatalf("%s: %v: not all of the %d cases pass\n%s", script, err, cases, tap)
	}
}

var installProtocol sync.Once

// protocolDir is the folder of the scripts, with their packages installed.
func protocolDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("testdata", "protocol"))
	if err != nil {
		t.Fatal(err)
	}
	installProtocol.Do(func() {
		if _, err := os.Stat(filepath.Join(dir, "node_modules", "ws", "package.json")); err == nil {
			return
		}
		cmd := exec.CommandContext(t.Context(), "npm", "ci", "--no-audit", "--no-fund")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("npm ci in %s (Node 20 or newer with npm is needed): %v\n%s", dir, err, out)
		}
	})
	return dir
}
