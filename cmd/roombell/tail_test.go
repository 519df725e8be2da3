package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"

	"roombell/internal/postgres/dbtest"
)

// tailLine is what `tail --json` prints.
type tailLine struct {
	Event   string
	Payload struct {
		Content, Cursor, Reason string
		Replayed                int
		Resumed                 bool
	}
}

// tailed returns the lines that are events.
func tailed(p *process) (lines []tailLine) {
	for _, line := range p.output() {
		var l tailLine
		if json.Unmarshal([]byte(line), &l) == nil && l.Event != "" {
			lines = append(lines, l)
		}
	}
	return lines
}

// contents are the messages that a tail has printed, in order.
func contents(lines []tailLine) (texts []string) {
	for _, l := range lines {
		if l.Event == "message:new" {
			texts = append(texts, l.Payload.Content)
		}
	}
	return texts
}

// A tail that runs on while the service is killed, and one that begins later with the cursor of the first, print what was
// written meanwhile, each message once and in order, and then what comes.
func TestTailMissesNothing(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	p := newPeople(t, d, "ann@a.example")
	env := []string{"DATABASE_URL=" + d.URL}
	write := func(from, to int) {
		t.Helper()
		for n := from; n < to; n++ {
			exec1(t, d, `INSERT INTO messages (chat_id, content) VALUES ($1, $2)`, p.chat, fmt.Sprintf("message %d.", n))
		}
	}
	s := serve(t, env)
	s.awaitReady(http.StatusOK, "")
	token := []string{"ROOMBELL_TOKEN=" + p.token(t)}
	stays := start(t, token, "tail", "--url", s.public, "--json")
	stays.awaitText(`"event":"connected"`)
	write(0, 3)
	stays.awaitText("message 2.")
	first := tailed(stays)
	at := slices.IndexFunc(first, func(l tailLine) bool { return l.Payload.Content == "message 0." })

	s.stop(syscall.SIGKILL)
	stays.awaitText("trying again in")
	write(3, 8)
	again := serve(t, append(env, "ROOMBELL_ADDR="+strings.TrimPrefix(s.public, "http://")))
	again.awaitReady(http.StatusOK, "")
	stays.awaitText(`"event":"sync:complete"`)
	later := start(t, token, "tail", "--url", s.public, "--json", "--since", first[at].Payload.Cursor)
	later.awaitText(`"event":"sync:complete"`)
	write(8, 10)

	for tail, from := range map[*process]int{stays: 0, later: 1} {
		tail.awaitText("message 9.")
		var want []string
		for n := from; n < 10; n++ {
			want = append(want, fmt.Sprintf("message %d.", n))
		}
		lines := tailed(tail)
		if got := contents(lines); !slices.Equal(got, want) {
			t.Errorf("printed %q, want %q", got, want)
		}
		complete := slices.IndexFunc(lines, func(l tailLine) bool { return l.Event == "sync:complete" })
		if n := len(contents(lines[:complete])); n != 8-from || lines[complete].Payload.Replayed < 5 {
			t.Errorf("%d messages before %+v", n, lines[complete])
		}
	}
}

// On the terminal the cursors are not shown: the last one is, in the end, in a form to be copied.
func TestTailTellsWhereToGoOn(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	p := newPeople(t, d, "ann@a.example")
	s := serve(t, []string{"DATABASE_URL=" + d.URL})
	s.awaitReady(http.StatusOK, "")
	token := []string{"ROOMBELL_TOKEN=" + p.token(t)}
	before := start(t, token, "tail", "--url", s.public)
	before.awaitText("  connected ")
	if code, _ := before.stop(syscall.SIGINT); code != exitDone {
		t.Errorf("exit %d", code)
	}
	const saying = "to go on from here: "
	line, _ := before.await("the way on", 0, func(line string) bool { return strings.HasPrefix(line, saying) })
	exec1(t, d, `INSERT INTO messages (chat_id, content) VALUES ($1, 'meanwhile')`, p.chat)
	on := start(t, token, append([]string{"tail", "--url", s.public}, strings.Fields(strings.TrimPrefix(line, saying))...)...)
	on.awaitText(`content="meanwhile"`)
	on.await("the end of the replay", 0, func(line string) bool {
		return strings.Contains(line, "  sync:complete ") && strings.Contains(line, " replayed=") && !strings.Contains(line, "cursor")
	})
}

func TestTailSaysWhatAResetMeans(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	p := newPeople(t, d, "ann@a.example")
	s := serve(t, []string{"DATABASE_URL=" + d.URL})
	s.awaitReady(http.StatusOK, "")
	tail := start(t, []string{"ROOMBELL_TOKEN=" + p.token(t)}, "tail", "--url", s.public, "--since", "nonsense")
	tail.awaitText("events may be missing: the service does not know the cursor")
	tail.await("the event", 0, func(line string) bool {
		return strings.Contains(line, "  sync:reset ") && strings.Contains(line, `reason="unknown_cursor"`)
	})
	exec1(t, d, `INSERT INTO messages (chat_id, content) VALUES ($1, 'afterwards')`, p.chat)
	tail.awaitText(`content="afterwards"`)
	exec1(t, d, `TRUNCATE notifications`)
	tail.awaitText("what was shown may be gone: a table was emptied")
}
