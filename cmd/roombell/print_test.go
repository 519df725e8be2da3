package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"roombell/internal/client"
)

func TestPrinter(t *testing.T) {
	t.Parallel()
	event := client.Event{Name: "message:new", Cursor: "c",
		Payload: json.RawMessage(`{"id":7,"chatId":3,"content":"a \u001b[31mred\u202e <b> žluť 🙏","error":null,"data":{"a": [1, "\u0007"]},"eventId":1,"cursor":"c","timestamp":"t"}`)}
	tests := []struct {
		name  string
		event client.Event
		p     printer
		want  string
	}{
		{"plain", event, printer{}, `12:00:00.000  message:new          id=7 chatId=3 content="a \x1b[31mred\u202e <b> žluť 🙏" data={"a":[1,"\\u0007"]}` + "\n"},
		{"json", event, printer{json: true},
			`{"event":"message:new","payload":{"id":7,"chatId":3,"content":"a \u001b[31mred\u202e <b> žluť 🙏","error":null,"data":{"a":[1,"\u0007"]},"eventId":1,"cursor":"c","timestamp":"t"}}` + "\n"},
		{"no payload", client.Event{Name: "x"}, printer{}, "12:00:00.000  x\n"},
		{"no payload as json", client.Event{Name: "x"}, printer{json: true}, `{"event":"x","payload":null}` + "\n"},
		{"payload that is no object", client.Event{Name: "x", Payload: json.RawMessage(`[1]`)}, printer{}, "12:00:00.000  x                    payload=[1]\n"},
		{"name with an escape sequence", client.Event{Name: "x\x1b[2J"}, printer{}, `12:00:00.000  "x\x1b[2J"` + "\n"},
		{"long name", client.Event{Name: "a-very-long-name-of-an-event", Payload: json.RawMessage(`{"a":1}`)}, printer{}, "12:00:00.000  a-very-long-name-of-an-event a=1\n"},
		{"colour", client.Event{Name: "chat:deleted", Payload: json.RawMessage(`{"chatId":3}`)}, printer{colour: true},
			"\x1b[2m12:00:00.000\x1b[0m  \x1b[31mchat:deleted\x1b[0m         \x1b[2mchatId=\x1b[0m3\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var b strings.Builder
			test.p.w = &b
			test.p.now = func() time.Time { return time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC) }
			if err := test.p.event(test.event); err != nil || b.String() != test.want {
				t.Fatalf("%v\n got %q\nwant %q", err, b.String(), test.want)
			}
		})
	}
}

func TestLongTextIsCutOnATerminal(t *testing.T) {
	t.Parallel()
	for _, colour := range []bool{true, false} {
		var b strings.Builder
		p := printer{w: &b, colour: colour, now: time.Now}
		if err := p.event(client.Event{Name: "x", Payload: json.RawMessage(`{"content":"` + strings.Repeat("ž", 5000) + `"}`)}); err != nil {
			t.Fatal(err)
		}
		if whole := strings.Count(b.String(), "ž") == 5000; whole == colour {
			t.Errorf("colour %v: %d characters", colour, strings.Count(b.String(), "ž"))
		}
	}
}

// Nothing that a stranger wrote reaches the terminal as a control character.
func FuzzPrinter(f *testing.F) {
	f.Add("message:new", []byte(`{"content":"\u001b[31m","a":{"b":"\u009b"}}`))
	f.Add("\x1b", []byte(`"\u202e"`))
	f.Add("", []byte(`{`))
	f.Fuzz(func(t *testing.T, name string, payload []byte) {
		var b strings.Builder
		p := printer{w: &b, now: time.Now}
		if err := p.event(client.Event{Name: name, Payload: payload}); err != nil {
			t.Fatal(err)
		}
		for _, r := range strings.TrimSuffix(b.String(), "\n") {
			if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x202e {
				t.Fatalf("%q holds %q", b.String(), r)
			}
		}
	})
}

func TestShellQuote(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"/usr/bin/roombell": "/usr/bin/roombell", "": `""`, "a b": `"a b"`, "INSERT ('x')": `"INSERT ('x')"`,
		"postgres://u@h/d?x=y&z": `"postgres://u@h/d?x=y&z"`, "a$b": "'a$b'", "it's $x": `'it'\''s $x'`,
	} {
		if got := shellQuote(s); got != want {
			t.Errorf("%q: got %s, want %s", s, got, want)
		}
	}
}
