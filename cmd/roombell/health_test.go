package main

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"roombell/internal/doctor"
	"roombell/internal/postgres/dbtest"
)

// /readyz says what the doctor says.
func TestReadyzOfDisabledTriggers(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	s := serve(t, []string{"DATABASE_URL=" + d.URL})
	s.awaitReady(http.StatusOK, `"triggers":"ok"`)
	_, body := get(t, s.public+"/readyz")
	for _, name := range []string{"database", "primary", "migrations", "triggers", "queue", "listen"} {
		if !strings.Contains(body, `"`+name+`":"ok"`) {
			t.Errorf("%s is missing in %s", name, body)
		}
	}
	exec1(t, d, `ALTER TABLE messages DISABLE TRIGGER roombell_insert`)
	s.awaitReady(http.StatusServiceUnavailable, "1 trigger is disabled: messages.roombell_insert: roombell doctor says how to mend it")
	s.awaitText(`"msg":"not ready","reason":"1 trigger is disabled`)
	exec1(t, d, `ALTER TABLE messages ENABLE TRIGGER roombell_insert`)
	s.awaitReady(http.StatusOK, "not ENABLE ALWAYS: messages.roombell_insert") // worth a sentence, and no outage
	exec1(t, d, `ALTER TABLE messages ENABLE ALWAYS TRIGGER roombell_insert`)
	s.awaitReady(http.StatusOK, `"triggers":"ok"`)
}

func TestReadyzOfAReadOnlyDatabase(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	exec1(t, d, `ALTER DATABASE `+d.Name+` SET default_transaction_read_only = on`)
	s := serve(t, []string{"DATABASE_URL=" + d.URL})
	s.awaitReady(http.StatusServiceUnavailable, "transactions are read-only")
}

func TestReportOfFindings(t *testing.T) {
	t.Parallel()
	r := report{Status: ok, Checks: map[string]string{}, details: map[string]string{}}
	for _, f := range []doctor.Finding{
		{Check: "a", Title: "fine"},
		{Check: "b", Level: doctor.Note, Title: "so what"},
		{Check: "c", Level: doctor.Warning, Title: "careful"},
		{Check: "d", Level: doctor.Broken, Title: "bad", Command: "roombell migrate up", Err: errors.New("why")},
		{Check: "d", Level: doctor.Broken, Title: "worse", Command: "psql"},
	} {
		if r.add(f); f.Level < doctor.Broken && (r.Status != ok || r.reason != "") {
			t.Errorf("%s makes it %s", f.Title, r.Status)
		}
	}
	for name, want := range map[string]string{"a": ok, "b": ok, "c": "careful", "d": "bad: run roombell migrate up; worse: roombell doctor says how to mend it"} {
		if got := r.Checks[name]; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if r.Status != "unavailable" || r.reason != "bad: run roombell migrate up" || r.details["d"] != "why" {
		t.Errorf("%+v", r)
	}
}
