package realtime

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"slices"

	"github.com/gorilla/websocket"
)

// slim wraps the Engine.IO handler. It lets go of what net/http keeps for a request once the connection became a
// WebSocket: the library holds request and response for as long as the socket lives, and with them two 4 KiB buffers and
// the server's goroutine state (9 KB a connection), and three copies of the header. Of the header the library gets what it
// and the house read. Requests of long-polling pass untouched.
func slim(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !websocket.IsWebSocketUpgrade(r) {
			next.ServeHTTP(w, r)
			return
		}
		// The library watches the request's context in a goroutine: it has to end here, not with the socket.
		ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
		defer cancel()
		r = r.WithContext(ctx)
		r.Header = slimHeader(r.Header)
		next.ServeHTTP(&slimWriter{w}, r)
	})
}

// keptHeaders are those of an upgrade request that somebody reads after us.
func keptHeaders() []string {
	return []string{
		"Connection", "Upgrade", "Sec-Websocket-Version", "Sec-Websocket-Key", "Sec-Websocket-Protocol",
		"Origin", "Authorization", "X-Forwarded-For", "User-Agent",
	}
}

func slimHeader(h http.Header) http.Header {
	kept := make(http.Header, 6)
	for _, name := range keptHeaders() {
		if values := h[name]; len(values) > 0 {
			kept[name] = slices.Clone(values) // net/http puts the values of all headers into one array
		}
	}
	return kept
}

// slimWriter forgets the response when its connection is taken over.
type slimWriter struct{ http.ResponseWriter }

func (s *slimWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	h, ok := s.ResponseWriter.(http.Hijacker)
	if !ok {
		return nil, nil, errors.New("realtime: the response cannot be hijacked")
	}
	conn, rw, err := h.Hijack()
	if err != nil {
		return nil, nil, err
	}
	s.ResponseWriter = goneWriter{}
	return conn, rw, nil
}

// goneWriter is the response of a request whose connection was taken over.
type goneWriter struct{}

func (goneWriter) Header() http.Header       { return http.Header{} }
func (goneWriter) Write([]byte) (int, error) { return 0, http.ErrHijacked }
func (goneWriter) WriteHeader(int)           {}
