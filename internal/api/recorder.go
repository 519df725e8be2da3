package api

import (
	"mime"
	"net/http"
	"time"
)

// recorder notes the status of an answer, and cuts whoever does not read it. Streams look after themselves.
type recorder struct {
	http.ResponseWriter
	patience time.Duration // with a client that does not read
	status   int
	stream   bool
	broken   bool   // writing failed: the client is gone
	streams  func() // called when the answer turns out to be a stream
}

// Unwrap is for http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader notes the status.
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
		kind, _, _ := mime.ParseMediaType(w.Header().Get("Content-Type"))
		if w.stream = kind == "text/event-stream"; w.stream && w.streams != nil {
			w.streams()
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write gives the client some time for each piece.
func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if !w.stream {
		_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(w.patience)) // a writer without one has no connection
	}
	n, err := w.ResponseWriter.Write(b)
	w.broken = w.broken || err != nil
	return n, err
}

// Flush is for those who ask for an http.Flusher.
func (w *recorder) Flush() { _ = w.FlushError() }

// FlushError sends what was written.
func (w *recorder) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}
