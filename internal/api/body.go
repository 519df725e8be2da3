package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
)

// pacedBody is a request's body that must keep coming. It ends with a timeout when it does not.
type pacedBody struct {
	io.ReadCloser
	connection *http.ResponseController
	deadline   time.Time // before the pace is added
	read       int64
}

// pace puts a deadline on a request's body, and a limit on its size that a route with a larger one lifts. A body that nobody reads has the
// deadline too: net/http throws the rest of it away before it answers.
func (g *gate) pace(w http.ResponseWriter, r *http.Request, v *visit) {
	if v.body = newPacedBody(w, r, v.began.Add(g.BodyTime)); v.body != nil {
		r.Body = http.MaxBytesReader(w, v.body, maxBody)
	}
}

// Hurry has whoever sends a body to next send it at the pace that the API asks for.
func Hurry(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body := newPacedBody(w, r, time.Now().Add(bodyTime)); body != nil {
			r.Body = body
		}
		next.ServeHTTP(w, r)
	})
}

// newPacedBody is nil for a request without a body.
func newPacedBody(w http.ResponseWriter, r *http.Request, deadline time.Time) *pacedBody {
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	b := &pacedBody{ReadCloser: r.Body, connection: http.NewResponseController(w), deadline: deadline}
	b.extend() // nobody may read it
	return b
}

const maxBody = 1 << 20

func (b *pacedBody) extend() {
	more := time.Duration(float64(b.read) / bodyPace * float64(time.Second))
	_ = b.connection.SetReadDeadline(b.deadline.Add(more)) // a writer without one has no connection
}

func (b *pacedBody) Read(p []byte) (int, error) {
	b.extend()
	n, err := b.ReadCloser.Read(p)
	b.read += int64(n)
	if errors.Is(err, io.EOF) {
		// The deadline must not outlive the body: net/http now reads on, to learn that the client has left.
		_ = b.connection.SetReadDeadline(time.Time{})
	}
	return n, err
}

// bodyProblem says why a body could not be read.
func bodyProblem(err error) *Problem {
	var large *http.MaxBytesError
	var slow interface{ Timeout() bool }
	switch {
	case errors.As(err, &large):
		return refuse("too_large", fmt.Sprintf("The body has more than %d bytes.", large.Limit))
	case errors.As(err, &slow) && slow.Timeout():
		return refuse("timeout", "The body did not come in time.").with("Connection", "close")
	}
	return refuse("bad_request", "The body ended too soon.")
}

const (
	maxDepth  = 100
	maxFaults = 20 // that an answer names
)

// checkJSON looks for what the decoder would swallow or change: keys that come twice, halves of characters, numbers that no int64 or float64
// holds, U+0000, which Postgres has no room for, and what comes after the value. It returns nil when there is nothing of that.
func checkJSON(body []byte) *Problem {
	if !utf8.Valid(body) {
		return refuse("bad_request", "The body is not UTF-8.")
	}
	c := &jsonCheck{d: json.NewDecoder(bytes.NewReader(body))}
	c.d.UseNumber()
	err := c.value("body", 0)
	if err == nil {
		if _, more := c.d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something comes after the JSON value")
		}
	}
	switch {
	case err != nil:
		return refuse("bad_request", "The body is no JSON that can be read: "+plainSyntax(err)+".")
	case len(c.faults) > 0:
		return refuse("validation_failed", "Values do not fit.", c.faults...)
	}
	return nil
}

type jsonCheck struct {
	d      *json.Decoder
	faults []Field
}

func (c *jsonCheck) fault(field, message string) {
	if len(c.faults) < maxFaults {
		c.faults = append(c.faults, Field{Field: field, Message: message})
	}
}

// value checks the next value, which is at the given place.
func (c *jsonCheck) value(at string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("it is nested deeper than %d levels", maxDepth)
	}
	token, err := c.d.Token()
	if err != nil {
		return err
	}
	switch t := token.(type) {
	case json.Delim:
		if t == '{' {
			return c.object(at, depth)
		}
		return c.array(at, depth)
	case string:
		if strings.ContainsRune(t, 0) {
			c.fault(at, "must not hold the character U+0000")
		}
	case json.Number:
		if !fits(t.String()) {
			c.fault(at, "is a number out of range")
		}
	}
	return nil
}

func (c *jsonCheck) object(at string, depth int) error {
	seen := map[string]bool{}
	for c.d.More() {
		token, err := c.d.Token()
		if err != nil {
			return err
		}
		key, _ := token.(string)
		if seen[key] {
			return fmt.Errorf("the key %s comes twice in %s", brief(key), at)
		}
		seen[key] = true
		if strings.ContainsRune(key, 0) {
			c.fault(at, "must not have a key with the character U+0000")
		}
		if err := c.value(at+"."+brief(key), depth+1); err != nil {
			return err
		}
	}
	_, err := c.d.Token()
	return err
}

func (c *jsonCheck) array(at string, depth int) error {
	for i := 0; c.d.More(); i++ {
		if err := c.value(at+"["+strconv.Itoa(i)+"]", depth+1); err != nil {
			return err
		}
	}
	_, err := c.d.Token()
	return err
}

// brief keeps a stranger's key from filling the answer.
func brief(key string) string {
	if len(key) <= 64 {
		return strings.ReplaceAll(key, "\x00", "\uFFFD")
	}
	return strings.ToValidUTF8(strings.ReplaceAll(key[:64], "\x00", "\uFFFD"), "") + "…"
}

// fits tells whether an int64 holds a whole number, or a float64 any other.
func fits(number string) bool {
	if !strings.ContainsAny(number, ".eE") {
		_, err := strconv.ParseInt(number, 10, 64)
		return err == nil
	}
	f, err := strconv.ParseFloat(number, 64)
	return err == nil && !math.IsInf(f, 0)
}

// plainSyntax is a decoder's complaint without its name.
func plainSyntax(err error) string {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "it ends too soon"
	}
	return strings.TrimPrefix(err.Error(), "json: ")
}

var jsonFormat = huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: unmarshalJSON}

// unmarshalJSON is json.Unmarshal with words for clients: the decoder's own name types of Go.
func unmarshalJSON(data []byte, into any) error {
	err := json.Unmarshal(data, into)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return fmt.Errorf("%s: a %s does not fit here", strings.TrimPrefix("body."+wrong.Field, "."), wrong.Value)
	}
	return err
}
