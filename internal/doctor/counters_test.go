package doctor

import (
	"strings"
	"testing"
	"time"

	"roombell/internal/eventlog"
	"roombell/internal/postgres/dbtest"
)

// mute is a node that does not keep the counters: somebody listens, and they stay as they are.
func TestCountersWrong(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	fill(t, d.Pool)
	execute(t, d.Pool, `UPDATE chats SET unread_count = 7 WHERE id = 2`)
	execute(t, d.Pool, `UPDATE chats SET last_message_at = now() - interval '1 day' WHERE id = 3`)
	expect(t, examine(t, options(d.URL)), Note, "counters_wait")
	node(t, d.URL, "mute/1")
	f := expect(t, examine(t, options(d.URL)), Warning, "counters_wrong")
	if !strings.Contains(f.Title, "2 chats of 4 chats compared: chat 2, 3") {
		t.Errorf("%+v", f)
	}
	mend(t, d.URL, f)
	if f := find(examine(t, options(d.URL)), "counters_ok"); !strings.Contains(f.Title, "none of 4 chats") {
		t.Error("its command does not mend it")
	}
}

// A chat that is written to all the time differs whenever somebody looks, and is right all the same.
func TestCountersInMotion(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	fill(t, d.Pool)
	service(t, d.URL)
	conn := connect(t, d.URL)
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			if _, err := conn.Exec(t.Context(), `INSERT INTO messages (chat_id) SELECT g FROM generate_series(1, 4) g`); err != nil {
				ended <- err
				return
			}
		}
	}()
	doctor := newDoctor(t, options(d.URL))
	looked := 0
	for looked < 3 {
		drifted, err := doctor.differing(t.Context(), []int64{1, 2, 3, 4})
		check0(t, err)
		if len(drifted) > 0 {
			looked++
		}
	}
	r := examine(t, options(d.URL), func(d *Doctor) { d.limits = defaultLimits })
	close(stop)
	check0(t, <-ended)
	if f := find(r, "counters_ok"); f.Code == "" {
		t.Error(describe(r))
	}
}

// What there is no time for is said.
func TestCountersInPart(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	fill(t, d.Pool)
	execute(t, d.Pool, `INSERT INTO chats (organization_id) SELECT 1 FROM generate_series(1, 2500)`)
	for range 3 { // from wherever it begins
		if f := find(examine(t, options(d.URL)), "counters_ok"); !strings.Contains(f.Title, "none of 2504 chats compared differs") {
			t.Errorf("all of them: %+v", f)
		}
	}
	hasty := func(d *Doctor) { d.limits.compare = 0 }
	if f := find(examine(t, options(d.URL), hasty), "counters_ok"); !strings.Contains(f.Title, "0 chats compared, a part of all") {
		t.Errorf("%+v", f)
	}
}

func TestProjectorBehind(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	expect(t, examine(t, options(d.URL)), Note, "projector_has_no_position")
	fill(t, d.Pool)
	page, err := eventlog.Read(t.Context(), d.Pool, eventlog.Cursor{}, 1000)
	check0(t, err)
	execute(t, d.Pool, `UPDATE event_log_state SET projected = json_build_object('cursor', $1::text)`, page.End.String())
	execute(t, d.Pool, `INSERT INTO messages (chat_id) SELECT 1 + g % 4 FROM generate_series(1, 1500) g`)
	execute(t, d.Pool, `SELECT broadcast_to_organization(1, 'hello', '{}') FROM generate_series(1, 1500)`)
	if f := find(examine(t, options(d.URL)), "projector_ok"); f.Code == "" {
		t.Error("what was written a moment ago is no fault")
	}
	execute(t, d.Pool, `UPDATE event_log SET created_at = created_at - interval '10 minutes'`)
	f := expect(t, examine(t, options(d.URL)), Note, "projector_waits")
	if !strings.Contains(f.Title, "10 min behind") {
		t.Errorf("%+v", f)
	}
	mute := node(t, d.URL, "mute/1")
	eventually(t, "it rings", func() bool { return mute.Status().Ringer })
	r := examine(t, options(d.URL))
	expect(t, r, Warning, "projector_behind", "counters_wrong")
	execute(t, d.Pool, `UPDATE event_log_state SET projected = '{"cursor": "nonsense"}'`)
	if f := find(examine(t, options(d.URL)), "not_checked"); f.Check != "projector" || f.Level != Warning {
		t.Errorf("%+v", f)
	}
}

func TestProjectorWithEventsBeyondCounting(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	fill(t, d.Pool)
	execute(t, d.Pool, `SELECT broadcast_to_organization(1, 'hello', '{}') FROM generate_series(1, 11000)`)
	doctor := newDoctor(t, options(d.URL))
	n, age, err := doctor.unseen(t.Context(), func(int64, uint64) bool { return false })
	if err != nil || n < behindMost || n >= behindMost+behindPage {
		t.Errorf("%d events, %s, %v", n, age, err)
	}
	if f := doctor.judgeProjector(n, time.Hour); !strings.Contains(f.Title, "10000 or more events") {
		t.Errorf("%+v", f)
	}
}
