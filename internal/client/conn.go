package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

const (
	defaultConnectTimeout = 20 * time.Second
	writeTimeout          = 10 * time.Second
	defaultReadBuffer     = 2 << 10
	// Emits are small; a bench holds ten thousand of these.
	writeBuffer = 512
	maxMessage  = 16 << 20
	// A frame buffer that grew above this is not kept.
	keepBuffer = 64 << 10
)

// Engine.IO protocol 4 packet types, and behind a message Socket.IO protocol 5's.
const (
	engineOpen    = '0'
	engineClose   = '1'
	enginePing    = '2'
	enginePong    = '3'
	engineMessage = '4'
	engineNoop    = '6'

	socketConnect      = '0'
	socketDisconnect   = '1'
	socketEvent        = '2'
	socketAck          = '3'
	socketConnectError = '4'
	socketBinaryEvent  = '5'
	socketBinaryAck    = '6'
)

// Conn is one open connection. Next and NextFrame are for one goroutine at a time; Emit, Disconnect and Close may be
// called from any.
type Conn struct {
	ws      *websocket.Conn
	sid     string
	patient time.Duration // the server's ping interval and timeout
	frame   []byte

	writing sync.Mutex

	acks    sync.Mutex
	lastAck uint64
	waiting map[uint64]func(json.RawMessage)
}

// Dial opens a connection and waits for the server's answer to CONNECT. A refusal is a *ConnectError; an HTTP answer in
// place of the WebSocket a *StatusError. Whoever gets the Conn closes it.
func Dial(ctx context.Context, o Options) (*Conn, error) {
	address, err := endpoint(o.URL)
	if err != nil {
		return nil, err
	}
	if o.ConnectTimeout == 0 {
		o.ConnectTimeout = defaultConnectTimeout
	}
	if o.ReadBuffer == 0 {
		o.ReadBuffer = defaultReadBuffer
	}
	ctx, cancel := context.WithTimeout(ctx, o.ConnectTimeout)
	defer cancel()
	dialer := websocket.Dialer{Proxy: http.ProxyFromEnvironment, ReadBufferSize: o.ReadBuffer, WriteBufferSize: writeBuffer}
	ws, response, err := dialer.DialContext(ctx, address, o.Header)
	if errors.Is(err, websocket.ErrBadHandshake) {
		return nil, &StatusError{Status: response.StatusCode}
	}
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	ws.SetReadLimit(maxMessage)
	c := &Conn{ws: ws}
	// The dialer minds the context until the upgrade; the reads after it do not.
	stop := context.AfterFunc(ctx, func() { _ = ws.Close() })
	err = c.handshake(o.Token, o.Cursor)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		_ = ws.Close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	return c, nil
}

// endpoint makes the WebSocket address of what people write: a base URL of any of the four schemes.
func endpoint(base string) (string, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" {
		return "", ErrBadURL
	}
	switch u.Scheme {
	case "http", "ws":
		u.Scheme = "ws"
	case "https", "wss":
		u.Scheme = "wss"
	default:
		return "", ErrBadURL
	}
	if strings.Trim(u.Path, "/") == "" {
		u.Path = "/socket.io/"
	}
	if !strings.HasSuffix(u.Path, "/") {
		u.Path += "/"
	}
	query := u.Query()
	query.Set("EIO", "4")
	query.Set("transport", "websocket")
	u.RawQuery = query.Encode()
	u.Fragment = ""
	return u.String(), nil
}

// handshake reads OPEN, sends CONNECT and reads the answer (Engine.IO protocol 4 §handshake, Socket.IO protocol 5 §connection).
func (c *Conn) handshake(token, cursor string) error {
	data, err := c.read()
	if err != nil {
		return err
	}
	var open struct {
		SID          string `json:"sid"`
		PingInterval int64  `json:"pingInterval"`
		PingTimeout  int64  `json:"pingTimeout"`
	}
	if len(data) == 0 || data[0] != engineOpen || json.Unmarshal(data[1:], &open) != nil || open.PingInterval <= 0 || open.PingTimeout <= 0 {
		return fmt.Errorf("open packet: %w", ErrProtocol)
	}
	c.patient = time.Duration(open.PingInterval+open.PingTimeout) * time.Millisecond
	c.heard()
	auth := map[string]string{"token": token}
	if cursor != "" {
		auth["cursor"] = cursor
	}
	body, err := json.Marshal(auth)
	if err != nil {
		return fmt.Errorf("connect packet: %w", err)
	}
	if err := c.write(append([]byte{engineMessage, socketConnect}, body...)); err != nil {
		return err
	}
	packet, err := c.packet()
	if err != nil {
		return err
	}
	if packet[0] != socketConnect {
		return fmt.Errorf("packet %q in place of the answer: %w", packet[0], ErrProtocol)
	}
	return c.connected(packet[1:])
}

func (c *Conn) connected(body []byte) error {
	var answer struct {
		SID string `json:"sid"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.SID == "" {
		return fmt.Errorf("connect packet: %w", ErrProtocol)
	}
	c.sid = answer.SID
	return nil
}

// ID is the socket's id, as the server calls it.
func (c *Conn) ID() string { return c.sid }

// Next returns the next event. Acknowledgements that arrive meanwhile are given to those who wait for them, on this
// goroutine. Any error ends the connection; io.EOF and the network's errors mean that the transport was closed.
func (c *Conn) Next() (Event, error) {
	packet, err := c.NextFrame()
	if err != nil {
		return Event{}, err
	}
	return ParseEvent(packet)
}

// NextFrame returns the next event's packet as it came, `42["name",{…}]`, undecoded: ParseEvent reads it. The bytes are
// valid until the next call.
func (c *Conn) NextFrame() ([]byte, error) {
	for {
		packet, err := c.packet()
		if err != nil {
			return nil, err
		}
		switch packet[0] {
		case socketEvent:
			return c.frame, nil
		case socketAck:
			if err := c.acknowledged(packet[1:]); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("packet %q: %w", packet[0], ErrProtocol)
		}
	}
}

// packet returns the next Socket.IO packet, behind its Engine.IO type. Pings are answered here.
func (c *Conn) packet() ([]byte, error) {
	for {
		data, err := c.read()
		if err != nil {
			return nil, err
		}
		if len(data) == 0 {
			return nil, fmt.Errorf("empty packet: %w", ErrProtocol)
		}
		switch data[0] {
		case enginePing:
			c.heard()
			if err := c.write([]byte{enginePong}); err != nil {
				return nil, err
			}
		case engineNoop:
		case engineClose:
			return nil, io.EOF
		case engineMessage:
			return socketPacket(data[1:])
		default:
			return nil, fmt.Errorf("engine packet %q: %w", data[0], ErrProtocol)
		}
	}
}

// socketPacket turns the packets that end a connection into errors.
func socketPacket(packet []byte) ([]byte, error) {
	if len(packet) == 0 {
		return nil, fmt.Errorf("empty packet: %w", ErrProtocol)
	}
	switch packet[0] {
	case socketDisconnect:
		return nil, ErrDisconnected
	case socketConnectError:
		return nil, connectError(packet[1:])
	case socketBinaryEvent, socketBinaryAck:
		return nil, ErrBinary
	}
	return packet, nil
}

func connectError(body []byte) error {
	var refusal struct {
		Message string          `json:"message"`
		Data    json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(body, &refusal); err != nil {
		return fmt.Errorf("connect_error: %w", ErrProtocol)
	}
	var data struct {
		Code string `json:"code"`
	}
	_ = json.Unmarshal(refusal.Data, &data) // data is free in form; only ours has a code
	return &ConnectError{Message: refusal.Message, Code: data.Code}
}

// heard moves the end of our patience. The server pings: when none came for its interval and timeout, it is gone
// (Engine.IO protocol 4 §heartbeat).
func (c *Conn) heard() { _ = c.ws.SetReadDeadline(time.Now().Add(c.patient)) }

// read reads one WebSocket message into the connection's buffer.
func (c *Conn) read() ([]byte, error) {
	kind, r, err := c.ws.NextReader()
	if err != nil {
		return nil, readError(err)
	}
	if kind != websocket.TextMessage {
		return nil, ErrBinary
	}
	if cap(c.frame) > keepBuffer {
		c.frame = nil
	}
	buffer := bytes.NewBuffer(c.frame[:0])
	if _, err := buffer.ReadFrom(r); err != nil {
		return nil, readError(err)
	}
	c.frame = buffer.Bytes()
	return c.frame, nil
}

func readError(err error) error {
	var timeout net.Error
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return ErrPingTimeout
	}
	return err
}

func (c *Conn) write(data []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	_ = c.ws.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err := c.ws.WriteMessage(websocket.TextMessage, data); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// Emit sends an event. When ack is not nil, an acknowledgement is asked for, and ack gets its first argument on the
// goroutine that calls Next; it is never called when the connection ends before.
func (c *Conn) Emit(name string, argument any, ack func(json.RawMessage)) error {
	body, err := json.Marshal([]any{name, argument})
	if err != nil {
		return fmt.Errorf("emit %s: %w", name, err)
	}
	packet := []byte{engineMessage, socketEvent}
	if ack != nil {
		packet = strconv.AppendUint(packet, c.await(ack), 10)
	}
	return c.write(append(packet, body...))
}

func (c *Conn) await(ack func(json.RawMessage)) uint64 {
	c.acks.Lock()
	defer c.acks.Unlock()
	if c.waiting == nil {
		c.waiting = make(map[uint64]func(json.RawMessage))
	}
	c.lastAck++
	c.waiting[c.lastAck] = ack
	return c.lastAck
}

func (c *Conn) acknowledged(packet []byte) error {
	start := bytes.IndexByte(packet, '[')
	if start < 0 {
		return fmt.Errorf("acknowledgement: %w", ErrProtocol)
	}
	id, err := strconv.ParseUint(string(packet[:start]), 10, 64)
	var arguments []json.RawMessage
	if err != nil || json.Unmarshal(packet[start:], &arguments) != nil {
		return fmt.Errorf("acknowledgement: %w", ErrProtocol)
	}
	c.acks.Lock()
	ack := c.waiting[id]
	delete(c.waiting, id)
	c.acks.Unlock()
	if ack == nil {
		return nil
	}
	var first json.RawMessage
	if len(arguments) > 0 {
		first = arguments[0]
	}
	ack(first)
	return nil
}

// Disconnect tells the server that the client leaves, and closes. A reader gets an error.
func (c *Conn) Disconnect() error {
	err := c.write([]byte{engineMessage, socketDisconnect})
	return errors.Join(err, c.Close())
}

// Close drops the connection without a word. A reader gets an error.
func (c *Conn) Close() error { return c.ws.Close() }

// ParseEvent reads a packet that NextFrame returned. The event shares no bytes with it.
func ParseEvent(packet []byte) (Event, error) {
	name, payload, err := split(packet)
	if err != nil {
		return Event{}, err
	}
	event := Event{Name: name, Payload: payload}
	if len(payload) > 0 && payload[0] == '{' {
		var position struct {
			Cursor string `json:"cursor"`
		}
		// A cursor of another type is somebody's own field in somebody's own event.
		_ = json.Unmarshal(payload, &position)
		event.Cursor = position.Cursor
	}
	return event, nil
}

// split finds the name and the first argument of 42["name",argument]. An acknowledgement's number may stand before
// the list (the server may ask for one; nobody here answers).
func split(packet []byte) (name string, payload json.RawMessage, err error) {
	body, ok := bytes.CutPrefix(packet, []byte{engineMessage, socketEvent})
	if !ok {
		return "", nil, fmt.Errorf("event: %w", ErrProtocol)
	}
	body = bytes.TrimLeft(body, "0123456789")
	var arguments []json.RawMessage
	if err := json.Unmarshal(body, &arguments); err != nil || len(arguments) == 0 {
		return "", nil, fmt.Errorf("event: %w", ErrProtocol)
	}
	if err := json.Unmarshal(arguments[0], &name); err != nil || arguments[0][0] != '"' {
		return "", nil, fmt.Errorf("event without a name: %w", ErrProtocol)
	}
	if len(arguments) > 1 {
		payload = arguments[1]
	}
	return name, payload, nil
}
