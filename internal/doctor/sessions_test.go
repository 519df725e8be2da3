package doctor

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"roombell/internal/postgres/dbtest"
)

// of returns the finding about a session: the server has others, of other tests.
func of(t testing.TB, r Report, code string, conn *pgx.Conn) Finding {
	t.Helper()
	pid := fmt.Sprint("pid ", conn.PgConn().PID(), " ")
	for _, f := range r.Findings {
		if f.Code == code && strings.Contains(f.Title, pid) {
			return f
		}
	}
	return Finding{}
}

func TestTransactions(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	fill(t, d.Pool)
	conn := connect(t, d.URL+"&application_name=backup")
	_, err := conn.Exec(t.Context(), "BEGIN; UPDATE chats SET name = 'hunter2' WHERE id = 1")
	check0(t, err)
	if f := find(examine(t, options(d.URL)), "transactions_ok"); f.Code == "" {
		t.Error("one that has just begun is no fault")
	}
	soon := func(d *Doctor) { d.limits.transaction, d.limits.idle = time.Millisecond, time.Hour }
	f := of(t, examine(t, options(d.URL), soon), "transaction_old", conn)
	if f.Level != Warning || !strings.Contains(f.Title, `"backup"`) || strings.Contains(f.Title, "in database") {
		t.Errorf("an old one: %+v", f)
	}
	other := dbtest.New(t)
	if f := of(t, examine(t, options(other.URL), soon), "transaction_old", conn); !strings.Contains(f.Title, "in database "+d.Name) {
		t.Errorf("an old one of another database: %+v", f)
	}
	idle := func(d *Doctor) { d.limits.transaction, d.limits.idle = time.Hour, time.Millisecond }
	f = of(t, examine(t, options(d.URL), idle), "transaction_idle", conn)
	if f.Level != Warning || !strings.Contains(f.Title, "has done nothing for ") {
		t.Errorf("an idle one: %+v", f)
	}
	mend(t, d.URL, f)
	if f := of(t, examine(t, options(d.URL), idle), "transaction_idle", conn); f.Code != "" {
		t.Error("its command does not mend it")
	}
}

// Of another role's sessions an ordinary one sees next to nothing: the doctor says so and does not call them fine.
func TestHiddenSessions(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	conn := connect(t, d.AdminURL)
	_, err := conn.Exec(t.Context(), "BEGIN; SELECT txid_current()")
	check0(t, err)
	soon := func(d *Doctor) { d.limits.transaction, d.limits.idle = time.Millisecond, time.Hour }
	r := examine(t, options(d.URL), soon)
	f := find(r, "sessions_hidden")
	if want := "As superuser: GRANT pg_read_all_stats TO roombell;"; f.Level != Note || f.Remedy != want || of(t, r, "transaction_old", conn).Code != "" {
		t.Errorf("%+v in %s", f, describe(r))
	}
	if f := of(t, examine(t, options(d.AdminURL), soon), "transaction_old", conn); f.Code == "" {
		t.Error("who may see it does not")
	}
}

func TestPreparedTransaction(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	fill(t, d.Pool)
	onConn(t, d.URL, "BEGIN", "SET LOCAL roombell.two_phase = on", "UPDATE chats SET name = 'x' WHERE id = 1", "PREPARE TRANSACTION 'it''s "+d.Name+"'")
	if f := find(examine(t, options(d.URL)), "prepared_ok"); f.Code == "" {
		t.Error("one that was prepared a moment ago is no fault")
	}
	soon := func(d *Doctor) { d.limits.prepared = 0 }
	mend(t, d.URL, expect(t, examine(t, options(d.URL), soon), Warning, "prepared_transaction"))
	if f := find(examine(t, options(d.URL), soon), "prepared_ok"); f.Code == "" {
		t.Error("its command does not mend it")
	}
}

func TestService(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	service(t, d.URL)
	f := find(examine(t, options(d.URL)), "service_ok")
	if !strings.Contains(f.Title, `1 node listens and reads: "test/1"`) || f.Level != OK {
		t.Errorf("%+v", f)
	}
	node(t, d.URL, "test/2")
	r := examine(t, options(d.URL))
	if f := find(r, "service_ok"); !strings.Contains(f.Title, `"test/1", "test/2"`) {
		t.Errorf("%+v", f)
	}
	expect(t, r, Note, "redis_absent")
}

// A process that was stopped keeps its connection: to the database it is there, and does nothing.
func TestSilentListener(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	service(t, d.URL)
	conn := connect(t, strings.Replace(d.URL, "?", "?application_name=roombell%20listen%20frozen/1&", 1))
	_, err := conn.Exec(t.Context(), "LISTEN roombell")
	check0(t, err)
	// Tails read every second.
	soon := func(d *Doctor) { d.limits.silent = 5 * time.Second }
	var r Report
	eventually(t, "it is found", func() bool {
		r = examine(t, options(d.URL), soon)
		return find(r, "listener_silent").Code != ""
	})
	f := expect(t, r, Broken, "listener_silent")
	if !strings.Contains(f.Title, "frozen/1") {
		t.Errorf("%+v", f)
	}
	mend(t, d.URL, f)
	eventually(t, "it is gone", func() bool { return find(examine(t, options(d.URL), soon), "service_ok").Code != "" })
}

func TestNoRinger(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	connect(t, strings.Replace(d.URL, "?", "?application_name=roombell%20listen%20mute/1&", 1))
	expect(t, examine(t, options(d.URL)), Broken, "no_ringer")
}

// The doctor ends when its caller does, whatever it is waiting for.
func TestCanceled(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := newDoctor(t, options(d.URL)).Examine(ctx); find(r, "database_unreachable").Level != Broken {
		t.Error(describe(r))
	}
}
