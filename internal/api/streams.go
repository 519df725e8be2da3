package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

const (
	heartbeat = 15 * time.Second // of a stream on which nothing else goes out
	slowest   = 30 * time.Second // for a client to take what was written
	warning   = time.Minute      // from auth:expiring to the token's end
	leeway    = 30 * time.Second // as auth gives it to a token that has ended
)

type streamInput struct {
	LastEventID string   `header:"Last-Event-ID" doc:"The id of the last event that was heard, on this or another stream: a cursor. It wins over the parameter" maxLength:"2048"`
	Cursor      string   `query:"cursor" doc:"The same, for a first connection" maxLength:"2048"`
	Type        []string `query:"type" doc:"Names of events, separated by commas; empty: all" maxItems:"50"`
	ChatID      int64    `query:"chatId" minimum:"0" doc:"Only events of this chat; 0: all"`
}

func (a *API) streamRoutes() {
	r := route{method: http.MethodGet, path: "/events/stream", tag: "events", summary: "What happens, as server-sent events",
		description: "For curl, scripts and back ends. `event` is the name, `data` the payload as on a socket, `id` the cursor. First comes connected; " +
			"with a cursor then what was missed since and sync:complete; then what happens. sync:reset says that something cannot be made " +
			"good by events, sync:cursor keeps the position of a quiet stream young. A comment comes every 15 seconds on which nothing else does. " +
			"The stream ends with the token, with the user's access, when the client does not read, and when the server stops.",
		codes: []string{"not_found", "too_many_streams"}}
	handle(a, r, a.stream)
	op := a.huma.OpenAPI().Paths[Prefix+r.path].Get
	op.Responses["200"] = &huma.Response{Description: "Events, until the connection ends",
		Content: map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString}}}}
}

// stream begins one; what is wrong is told before its first byte, but for the cursor.
func (a *API) stream(ctx context.Context, in *streamInput) (*huma.StreamResponse, error) {
	l, err := a.listener(ctx, in.Type, in.ChatID)
	if err != nil {
		return nil, err
	}
	id := bearerToken(ctx)
	l.Check = func(ctx context.Context) (bool, error) {
		v, err := a.today(ctx, id)
		return v.IsAdmin(), err
	}
	cursor := in.LastEventID
	if cursor == "" {
		cursor = in.Cursor
	}
	s, err := a.o.Log.Open(ctx, l, cursor)
	if err != nil {
		return nil, logProblem(err)
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		_, w := humago.Unwrap(ctx)
		out := newSSE(w)
		defer func() { s.Close(out.slow) }()
		out.begin()
		out.tell(ctx.Context(), s, id.ExpiresAt)
	}}, nil
}

// sse writes server-sent events (HTML Living Standard §9.2.5).
type sse struct {
	w      http.ResponseWriter
	c      *http.ResponseController
	buffer bytes.Buffer
	failed bool
	slow   bool // the client did not take it in time
}

func newSSE(w http.ResponseWriter) *sse { return &sse{w: w, c: http.NewResponseController(w)} }

func (s *sse) begin() {
	// The server's deadline for reading a request would end the stream.
	_ = s.c.SetReadDeadline(time.Time{})
	h := s.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx hands it on at once
	s.w.WriteHeader(http.StatusOK)
	// After a stop not everybody comes back in one moment.
	s.buffer.WriteString("retry: " + strconv.Itoa(500+rand.IntN(2000)) + "\n\n")
	s.flush()
}

// tell writes what comes until somebody ends it: the client, or the stream, or the end of the token.
func (s *sse) tell(ctx context.Context, from Stream, expires time.Time) {
	ends := time.Now().Add(time.Until(expires)) // by the monotonic clock: a step of the wall clock ends no streams
	if time.Until(ends) < 0 {
		ends = ends.Add(leeway)
	}
	for begun, warned := false, false; !s.failed; {
		left := time.Until(ends)
		patience := min(heartbeat, left)
		switch {
		case left <= 0:
			return
		case left > warning:
			patience = min(heartbeat, left-warning)
		case begun && !warned: // connected is the first word, as on a socket
			s.warn(expires)
			warned = true
		}
		lines, err := from.Next(ctx, patience)
		switch {
		case errors.Is(err, ErrStopping):
			s.comment("the server stops")
			return
		case err != nil:
			s.comment("ended")
			return
		case len(lines) == 0:
			s.comment("")
		}
		for _, l := range lines {
			s.line(l)
		}
		s.flush()
		begun = begun || len(lines) > 0
	}
}

func (s *sse) warn(expires time.Time) {
	data, _ := json.Marshal(map[string]string{"expiresAt": expires.UTC().Format(time.RFC3339)})
	s.line(Line{Name: "auth:expiring", Data: data})
	s.flush()
}

func (s *sse) comment(text string) {
	s.buffer.WriteString(":" + text + "\n\n")
	s.flush()
}

// oneLine is for names, which are users' words, and for JSON, where a line break can only be white space.
var oneLine = strings.NewReplacer("\r", " ", "\n", " ")

func (s *sse) line(l Line) {
	if l.Cursor != "" {
		s.buffer.WriteString("id: " + oneLine.Replace(l.Cursor) + "\n")
	}
	s.buffer.WriteString("event: " + oneLine.Replace(l.Name) + "\ndata: ")
	if bytes.ContainsAny(l.Data, "\r\n") {
		s.buffer.WriteString(oneLine.Replace(string(l.Data)))
	} else {
		s.buffer.Write(l.Data)
	}
	s.buffer.WriteString("\n\n")
}

// flush sends what was written. A client that does not take it in time is given up.
func (s *sse) flush() {
	if s.failed || s.buffer.Len() == 0 {
		return
	}
	_ = s.c.SetWriteDeadline(time.Now().Add(slowest))
	_, err := s.w.Write(s.buffer.Bytes())
	if err == nil {
		err = s.c.Flush()
	}
	s.failed, s.slow = err != nil, errors.Is(err, os.ErrDeadlineExceeded)
	s.buffer.Reset()
}
