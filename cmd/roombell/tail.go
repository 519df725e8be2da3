package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"roombell/internal/client"
)

type tailCmd struct {
	Token string  `env:"ROOMBELL_TOKEN" placeholder:"-" help:"The token, by variable or by a file named by ROOMBELL_TOKEN_FILE; as a flag only -, which reads it from standard input."`
	URL   string  `name:"url" env:"ROOMBELL_URL" default:"http://127.0.0.1:3000" help:"Where the service is."`
	Chat  []int64 `env:"ROOMBELL_CHAT" placeholder:"ID" help:"Chats to subscribe to, for typing and who opened them; may be repeated."`
	JSON  bool    `name:"json" env:"ROOMBELL_JSON" help:"One JSON object per line: {event, payload}."`
	Since string  `env:"ROOMBELL_SINCE" placeholder:"CURSOR" help:"Go on after this cursor."`
}

// Run prints events until it is interrupted. A lost connection is waited for; a refusal ends it.
func (c *tailCmd) Run(ctx context.Context, p *program) error {
	token, err := c.token(p)
	if err != nil {
		return err
	}
	heard := listener{cmd: c, out: newPrinter(p.stdout, c.JSON), notes: p.stderr, cursor: c.Since}
	err = client.Follow(ctx, client.Options{URL: c.URL, Token: token, Cursor: c.Since}, client.Follower{
		Connected: func(conn *client.Conn) error {
			fmt.Fprintf(p.stderr, "connected to %s\n", c.URL)
			c.subscribe(conn, p)
			return nil
		},
		Event: heard.event,
		Waiting: func(cause error, delay time.Duration) {
			fmt.Fprintf(p.stderr, "%v; trying again in %v\n", oneLine(cause), delay.Round(100*time.Millisecond))
		},
	})
	heard.leave()
	var refused *client.ConnectError
	switch {
	case errors.As(err, &refused):
		return errors.New(refused.Message)
	case errors.Is(err, client.ErrBadURL):
		return usageError{err}
	}
	return err
}

// listener prints what is heard, and knows where to go on.
type listener struct {
	cmd    *tailCmd
	out    *printer
	notes  io.Writer
	cursor string
}

func (l *listener) event(e client.Event) error {
	if e.Cursor != "" {
		l.cursor = e.Cursor
	}
	switch {
	case e.Name == "sync:reset":
		fmt.Fprintln(l.notes, resetNote(e.Payload))
	case e.Name == "sync:cursor" && !l.cmd.JSON:
		return nil // a position and nothing else; people are told the last one when they leave
	}
	return l.out.event(e)
}

// leave says how to go on later. Whoever reads JSON has the cursors in it.
func (l *listener) leave() {
	if !l.cmd.JSON && l.cursor != "" && strings.Trim(l.cursor, cursorAlphabet) == "" {
		fmt.Fprintf(l.notes, "to go on from here: --since %s\n", l.cursor)
	}
}

// cursorAlphabet is that of base64url (RFC 4648 §5): what else a server may say is not for the terminal.
const cursorAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// resetNote says what a sync:reset means for who watches.
func resetNote(payload json.RawMessage) string {
	var reset struct{ Reason string }
	_ = json.Unmarshal(payload, &reset) // the sentence for an unknown reason fits
	switch reset.Reason {
	case "retention":
		return "events are missing: the log does not reach back to the cursor any more"
	case "unknown_cursor":
		return "events may be missing: the service does not know the cursor"
	case "too_many":
		return "events are missing: more than the service sends again"
	case "failover":
		return "what was shown may not have happened: the database failed over and lost commits"
	case "truncate":
		return "what was shown may be gone: a table was emptied"
	}
	return "events may be missing"
}

func (c *tailCmd) token(p *program) (string, error) {
	if c.Token == "-" {
		token, err := p.readLine("Token: ")
		if err == nil && token == "" {
			err = badUsage("no token on standard input")
		}
		return token, err
	}
	token, err := readSecret(tailToken)
	switch {
	case err != nil:
		return "", usageError{err}
	case c.Token != "" && c.Token != token:
		// Everybody on the machine can read the arguments of a process.
		return "", badUsage("--token takes only - (standard input); set ROOMBELL_TOKEN otherwise")
	case token == "":
		return "", badUsage("no token: set ROOMBELL_TOKEN, or give it on standard input with --token -")
	}
	return token, nil
}

// subscribePace keeps below the service's limit of client events, which is 20 a second unless it is set lower.
const subscribePace = 100 * time.Millisecond

// subscribe asks for the chats one after the other. Each answer asks for the next, on the connection's own goroutine.
func (c *tailCmd) subscribe(conn *client.Conn, p *program) {
	var ask func(chats []int64)
	ask = func(chats []int64) {
		if len(chats) == 0 {
			return
		}
		// An error here is the connection's, and its reader hears of it.
		_ = conn.Emit("subscribe:chat", chats[0], func(answer json.RawMessage) {
			if why := refusal(answer); why != "" {
				fmt.Fprintf(p.stderr, "chat %d: %s\n", chats[0], why)
			}
			time.AfterFunc(subscribePace, func() { ask(chats[1:]) })
		})
	}
	ask(c.Chat)
}

// refusal is the message of an acknowledgement that is not ok.
func refusal(answer json.RawMessage) string {
	var a struct {
		OK    bool
		Error struct{ Code, Message string }
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return "an answer that is no acknowledgement"
	}
	switch {
	case a.OK:
		return ""
	case a.Error.Message != "":
		return a.Error.Message
	default:
		return a.Error.Code
	}
}
