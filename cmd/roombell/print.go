package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"roombell/internal/client"
)

// printer writes events for people, or one JSON object per line.
type printer struct {
	w      io.Writer
	json   bool
	colour bool
	now    func() time.Time
}

func newPrinter(w io.Writer, asJSON bool) *printer {
	return &printer{w: w, json: asJSON, colour: !asJSON && isTerminal(w), now: time.Now}
}

// nameWidth fits the contract's longest names; a longer one moves its line.
const nameWidth = 21

// longest is where a text is cut on a terminal; elsewhere nothing is.
const longest = 100

func (p *printer) event(e client.Event) error {
	if p.json {
		return p.line(e)
	}
	var b strings.Builder
	clock := p.now().Format("15:04:05.000")
	name := e.Name
	if strconv.Quote(name) != `"`+name+`"` {
		name = strconv.Quote(name)
	}
	padding := strings.Repeat(" ", max(1, nameWidth-utf8.RuneCountInString(name)))
	if p.colour {
		fmt.Fprintf(&b, "\x1b[2m%s\x1b[0m  \x1b[%dm%s\x1b[0m%s", clock, colourOf(e.Name), name, padding)
	} else {
		fmt.Fprintf(&b, "%s  %s%s", clock, name, padding)
	}
	for _, f := range fields(e.Payload) {
		if p.colour {
			fmt.Fprintf(&b, "\x1b[2m%s=\x1b[0m%s ", f.name, cut(f.value))
		} else {
			fmt.Fprintf(&b, "%s=%s ", f.name, f.value)
		}
	}
	_, err := fmt.Fprintln(p.w, strings.TrimRight(b.String(), " "))
	return err
}

func (p *printer) line(e client.Event) error {
	payload := e.Payload
	if payload == nil {
		payload = json.RawMessage("null")
	}
	encoder := json.NewEncoder(p.w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(struct {
		Event   string          `json:"event"`
		Payload json.RawMessage `json:"payload"`
	}{e.Name, payload})
}

// colourOf gives each family of events one: green is new, yellow changed, red gone, cyan people, magenta the protocol's.
func colourOf(name string) int {
	family, verb, _ := strings.Cut(name, ":")
	switch {
	case verb == "new" || name == "user:notification":
		return 32
	case verb == "deleted":
		return 31
	case family == "typing" || family == "presence" || verb == "joined" || verb == "left":
		return 36
	case family == "sync" || family == "auth" || name == "connected" || name == "error":
		return 35
	default:
		return 33
	}
}

type field struct{ name, value string }

// fields lists what is worth a person's eye, in the payload's order: no nulls, no positions, no stamps but the message's.
func fields(payload json.RawMessage) []field {
	decoder := json.NewDecoder(bytes.NewReader(payload))
	if start, err := decoder.Token(); err != nil || start != json.Delim('{') {
		if len(payload) == 0 {
			return nil
		}
		return []field{{"payload", printable(payload)}}
	}
	var list []field
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return list
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return list
		}
		name := fmt.Sprint(key)
		if dull(name) || string(value) == "null" {
			continue
		}
		list = append(list, field{strings.Trim(strconv.Quote(name), `"`), printable(value)})
	}
	return list
}

func dull(name string) bool {
	switch name {
	case "cursor", "eventId", "timestamp", "recordedAt", "createdAt", "updatedAt":
		return true
	}
	return false
}

// printable is a value that cannot speak to the terminal: what strangers write may hold escape sequences and characters
// that turn the line around.
func printable(value json.RawMessage) string {
	var text string
	if len(value) > 0 && value[0] == '"' && json.Unmarshal(value, &text) == nil {
		return strconv.Quote(text)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, value); err != nil {
		return strconv.Quote(string(value))
	}
	quoted := strconv.Quote(compact.String())
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

func cut(s string) string {
	if utf8.RuneCountInString(s) <= longest {
		return s
	}
	return string([]rune(s)[:longest]) + "…"
}
