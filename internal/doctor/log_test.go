package doctor

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"roombell/internal/postgres/dbtest"
)

func TestLog(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name       string
		statements []string
		code       string
		level      Level
	}{
		{
			name: "settings changed behind the triggers' back", code: "settings_stale", level: Broken,
			statements: []string{`ALTER TABLE roombell_settings DISABLE TRIGGER USER`, `UPDATE roombell_settings SET retention = '48 hours', bulk_rows = 7`,
				`ALTER TABLE roombell_settings ENABLE ALWAYS TRIGGER roombell_bake`},
		},
		{name: "no settings", code: "settings_row_missing", level: Broken, statements: []string{`DELETE FROM roombell_settings`}},
		{name: "no state", code: "settings_row_missing", level: Broken, statements: []string{`DELETE FROM event_log_state`}},
		{name: "ids kept for later", code: "sequence_cached", level: Broken, statements: []string{`ALTER SEQUENCE event_log_seq CACHE 50`}},
		{
			name: "a sequence that was set back", code: "sequence_behind", level: Broken,
			statements: []string{`INSERT INTO organizations (name) VALUES ('one')`, `SELECT broadcast_to_organization(1, 'hello', '{}') FROM generate_series(1, 10)`, `SELECT setval('event_log_seq', 5)`},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := dbtest.New(t)
			onConn(t, d.URL, test.statements...)
			mend(t, d.URL, expect(t, examine(t, options(d.URL)), test.level, test.code))
			if got := without(above(examine(t, options(d.URL)), Note), careless); len(got) > 0 {
				t.Errorf("after its command there is %v", got)
			}
		})
	}
}

func TestLogOfAnotherCluster(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	execute(t, d.Pool, `UPDATE event_log_state SET system_identifier = 1`)
	expect(t, examine(t, options(d.URL)), Note, "log_of_another_cluster")
	service(t, d.URL)
	if f := find(examine(t, options(d.URL)), "settings_ok"); f.Code == "" {
		t.Error("its remedy does not mend it")
	}
}

func TestRetentionDiffers(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	o := options(d.URL)
	o.Retention = 72 * time.Hour
	if got := without(above(examine(t, o), Note), careless); len(got) > 0 {
		t.Errorf("the same retention: %v", got)
	}
	o.Retention = 48 * time.Hour
	if f := expect(t, examine(t, o), Warning, "retention_differs"); f.Command != migrateUp {
		t.Errorf("%+v", f)
	}
}

// insertEvent writes a row of the log as the clock of the writer had been set.
const insertEvent = `INSERT INTO event_log (id, slot, kind, created_at) VALUES (roombell.base() + nextval('event_log_seq'), $1, 'touch', clock_timestamp() + $2::interval)`

func TestRetentionOverdue(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	execute(t, d.Pool, `UPDATE roombell_settings SET retention = '1 minute'`) // the service looks the more often
	execute(t, d.Pool, insertEvent, 3, "-5 days")
	if got := without(above(examine(t, options(d.URL)), Note), careless); len(got) > 0 {
		t.Errorf("nothing was written since, so that nothing is to be emptied: %v", got)
	}
	execute(t, d.Pool, insertEvent, 4, "-4 days")
	execute(t, d.Pool, insertEvent, 5, "0")
	f := expect(t, examine(t, options(d.URL)), Warning, "retention_overdue")
	if !strings.Contains(f.Title, "2 slots") || !strings.Contains(f.Title, "5 days") || f.Command != "" {
		t.Errorf("%+v", f)
	}
	conn := connect(t, d.URL)
	_, err := conn.Exec(t.Context(), "BEGIN; SELECT FROM event_log_3")
	check0(t, err)
	soon := func(d *Doctor) { d.limits.idle = time.Millisecond }
	f = find(examine(t, options(d.URL), soon), "retention_overdue")
	if !strings.Contains(f.Meaning, fmt.Sprintf("pid %d has a lock on slot 3", conn.PgConn().PID())) {
		t.Errorf("%+v", f)
	}
	mend(t, d.URL, f)
	service(t, d.URL) // which is what its remedy says
	eventually(t, "the slots are emptied", func() bool {
		return value[int](t, d.Pool, `SELECT count(*) FROM event_log WHERE slot IN (3, 4)`) == 0
	})
	if f := find(examine(t, options(d.URL)), "retention_ok"); f.Code == "" {
		t.Error("its remedy does not mend it")
	}
}

func TestClock(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	for ahead, want := range map[time.Duration]struct {
		code  string
		level Level
	}{
		0: {"clock_ok", OK}, 20 * time.Second: {"clock_apart", Warning}, -20 * time.Second: {"clock_apart", Warning},
		time.Hour: {"clock_apart", Broken}, -time.Hour: {"clock_apart", Broken},
	} {
		o := options(d.URL)
		o.Now = func() time.Time { return time.Now().Add(ahead) }
		if f := find(examine(t, o), want.code); f.Code == "" || f.Level != want.level {
			t.Errorf("a clock that is %s ahead: %+v", ahead, f)
		}
	}
	for _, test := range []struct {
		ahead, unsure time.Duration
		want          Level
	}{
		{900 * time.Millisecond, 0, OK}, {1100 * time.Millisecond, 0, Warning}, {1100 * time.Millisecond, 200 * time.Millisecond, OK},
		{-31 * time.Second, 0, Broken}, {-31 * time.Second, 2 * time.Second, Warning},
	} {
		if f := judgeClock(test.ahead, test.unsure); f.Level != test.want {
			t.Errorf("%s ± %s: %+v", test.ahead, test.unsure, f)
		}
	}
}

func TestEventsInFuture(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	execute(t, d.Pool, insertEvent, 3, "2 seconds")
	if f := find(examine(t, options(d.URL)), "future_ok"); f.Code == "" {
		t.Error("two seconds are no fault")
	}
	execute(t, d.Pool, insertEvent, 3, "3 hours")
	execute(t, d.Pool, insertEvent, 3, "0")
	f := expect(t, examine(t, options(d.URL)), Warning, "events_in_future")
	if !strings.Contains(f.Title, "1 event is") || !strings.Contains(f.Title, "2 h") {
		t.Errorf("%+v", f)
	}
}
