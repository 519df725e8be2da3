package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"roombell/internal/client"
)

// polling is a connection by HTTP long-polling, as simple as it can be (Engine.IO protocol 4 §http-long-polling).
type polling struct {
	ctx    context.Context // of the connection
	cancel context.CancelFunc
	http   *http.Client
	url    string
	r      *rand.Rand

	packets [][]byte

	mu  sync.Mutex
	cut bool // the next answer is read by halves
}

// separator stands between the packets of an answer (Engine.IO protocol 4 §packet encoding).
const separator = "\x1e"

func dialPolling(ctx context.Context, o client.Options, r *rand.Rand) (*polling, error) {
	c := &polling{http: &http.Client{Transport: &http.Transport{}}, url: o.URL + "/socket.io/?EIO=4&transport=polling", r: r}
	c.ctx, c.cancel = context.WithCancel(ctx)
	patience := time.AfterFunc(o.ConnectTimeout, c.cancel)
	defer patience.Stop()
	if err := c.handshake(o); err != nil {
		_ = c.Close() // err says more
		return nil, err
	}
	return c, nil
}

func (c *polling) handshake(o client.Options) error {
	open, err := c.packet()
	if err != nil {
		return err
	}
	var answer struct{ SID string }
	if open[0] != '0' || json.Unmarshal(open[1:], &answer) != nil || answer.SID == "" {
		return fmt.Errorf("open packet: %w", client.ErrProtocol)
	}
	c.url += "&sid=" + answer.SID
	auth := map[string]string{"token": o.Token}
	if o.Cursor != "" {
		auth["cursor"] = o.Cursor
	}
	body, err := json.Marshal(auth)
	if err != nil {
		return err
	}
	if err := c.post("40" + string(body)); err != nil {
		return err
	}
	packet, err := c.packet()
	switch {
	case err != nil:
		return err
	case packet[0] == '1':
		return io.EOF
	case bytes.HasPrefix(packet, []byte("44")):
		return &client.ConnectError{Message: string(packet[2:])}
	case !bytes.HasPrefix(packet, []byte("40")):
		return fmt.Errorf("packet %.20q in place of the answer: %w", packet, client.ErrProtocol)
	}
	return nil
}

// NextFrame returns the next event's packet, and answers pings.
func (c *polling) NextFrame() ([]byte, error) {
	for {
		packet, err := c.packet()
		if err != nil {
			return nil, err
		}
		switch {
		case packet[0] == '2':
			if err := c.post("3"); err != nil {
				return nil, err
			}
		case packet[0] == '1':
			return nil, io.EOF
		case bytes.HasPrefix(packet, []byte("41")):
			return nil, client.ErrDisconnected
		case bytes.HasPrefix(packet, []byte("42")):
			return packet, nil
		}
	}
}

func (c *polling) packet() ([]byte, error) {
	for len(c.packets) == 0 {
		if err := c.poll(); err != nil {
			return nil, err
		}
	}
	packet := c.packets[0]
	c.packets = c.packets[1:]
	if len(packet) == 0 {
		return nil, fmt.Errorf("empty packet: %w", client.ErrProtocol)
	}
	return packet, nil
}

func (c *polling) poll() error {
	body, err := c.do(http.MethodGet, nil)
	if err != nil {
		return err
	}
	c.mu.Lock()
	cut := c.cut
	c.mu.Unlock()
	if cut && len(body) > 0 {
		// What came of the answer before the line broke: the last packet may be a part of one.
		body = body[:c.r.IntN(len(body))]
		end := max(0, bytes.LastIndex(body, []byte(separator)))
		if body = body[:end]; len(body) == 0 {
			return io.ErrUnexpectedEOF
		}
		defer c.cancel() // and then no more
	}
	c.packets = bytes.Split(body, []byte(separator))
	return nil
}

func (c *polling) post(packet string) error {
	_, err := c.do(http.MethodPost, strings.NewReader(packet))
	return err
}

func (c *polling) do(method string, body io.Reader) ([]byte, error) {
	request, err := http.NewRequestWithContext(c.ctx, method, c.url, body)
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = &client.StatusError{Status: response.StatusCode}
	}
	return answer, err
}

// Emit sends an event.
func (c *polling) Emit(name string, argument any, _ func(json.RawMessage)) error {
	body, err := json.Marshal([]any{name, argument})
	if err != nil {
		return err
	}
	return c.post("42" + string(body))
}

// breakOff has the next answer end in the middle.
func (c *polling) breakOff() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
}

// Close drops the connection without a word.
func (c *polling) Close() error {
	c.cancel()
	c.http.CloseIdleConnections()
	return nil
}
