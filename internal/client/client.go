// Package client is a small Socket.IO 5 client over WebSocket (Engine.IO 4), for `roombell tail` and `roombell bench`.
// It speaks to Roombell's namespace "/" and to nothing else: no polling, no binary, no other namespaces.
//
// A Conn is one connection and starts no goroutine: whoever calls Next (or NextFrame) reads the socket, answers the
// server's pings in passing and runs the acknowledgements. Follow keeps a connection over interruptions, as the
// JavaScript client does, and goes on from the last cursor it saw.
package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

var (
	// ErrDisconnected says that the server sent a disconnect packet: a standard client does not come back after it.
	ErrDisconnected = errors.New("disconnected by the server")
	// ErrPingTimeout says that the server has not been heard for its ping interval and timeout.
	ErrPingTimeout = errors.New("nothing heard from the server in time")
	// ErrBinary says that the server sent a binary packet, which Roombell never does.
	ErrBinary = errors.New("binary packets are not supported")
	// ErrBadURL says that Options.URL is no address: trying again does not help.
	ErrBadURL = errors.New("the URL must look like http://host:port (or https, ws, wss)")
	// ErrProtocol says that what came is neither Engine.IO 4 nor Socket.IO 5.
	ErrProtocol = errors.New("not what the protocol allows")
)

// ConnectError is the server's refusal of a connection (connect_error). A standard client does not come back after it.
type ConnectError struct {
	Message string
	Code    string // data.code: no_token, invalid_token, token_expired, user_disabled; or empty
}

func (e *ConnectError) Error() string { return e.Message }

// StatusError is an HTTP answer in place of the WebSocket.
type StatusError struct{ Status int }

func (e *StatusError) Error() string {
	return fmt.Sprintf("the server answered %d %s", e.Status, http.StatusText(e.Status))
}

// Options of a connection.
type Options struct {
	URL    string // http, https, ws or wss; the path is /socket.io/ unless it has one
	Token  string
	Cursor string      // where to go on; empty: from now on
	Header http.Header // more headers of the upgrade request, or nil

	ConnectTimeout time.Duration // from the dial to the server's answer; 0: 20 s
	ReadBuffer     int           // bytes; 0: 2048
}

// Event is one event of the server's.
type Event struct {
	Name    string
	Payload json.RawMessage // the first argument, or nil
	Cursor  string          // of the payload, or empty
}
