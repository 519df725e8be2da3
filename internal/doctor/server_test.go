package doctor

import (
	"log/slog"
	"strings"
	"testing"

	"roombell/db"
	"roombell/internal/postgres"
	"roombell/internal/postgres/dbtest"
)

func TestVersion(t *testing.T) {
	t.Parallel()
	for number, want := range map[int]Level{90624: Broken, 140012: Broken, 149999: Broken, 150000: OK, 180001: OK} {
		if f := judgeVersion(number, "PostgreSQL"); f.Level != want {
			t.Errorf("%d is %+v", number, f)
		}
	}
	d := dbtest.New(t)
	if f := find(examine(t, options(d.URL)), "version_ok"); !strings.Contains(f.Title, d.Name) {
		t.Errorf("the version: %+v", f)
	}
}

func TestDurability(t *testing.T) {
	t.Parallel()
	c := dbtest.Cluster(t, func(o *postgres.Options) {
		o.Settings = map[string]string{"fsync": "off", "full_page_writes": "off", "wal_level": "minimal", "max_wal_senders": "0", "synchronous_commit": "off"}
	})
	check0(t, db.Migrate(t.Context(), c.URL(postgres.Name), slog.New(slog.DiscardHandler)))
	r := examine(t, options(c.URL(postgres.Name)))
	for code, level := range map[string]Level{"fsync_off": Warning, "full_page_writes_off": Warning, "synchronous_commit_off": Note, "wal_level_minimal": Note} {
		if f := find(r, code); f.Code == "" || f.Level != level {
			t.Errorf("%s: %+v", code, f)
		}
	}
	if n := r.Broken(); n > 0 {
		t.Errorf("%d broken in %s", n, describe(r))
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	asAdmin(t, d, "ALTER DATABASE "+d.Name+" SET roombell.notify = 'OFF'")
	f := expect(t, examine(t, options(d.URL)), Warning, "notify_off_by_default")
	remedy := f.Remedy[strings.Index(f.Remedy, "ALTER"):]
	if want := "ALTER DATABASE " + d.Name + " RESET roombell.notify;"; remedy != want {
		t.Errorf("the remedy is %q", remedy)
	}
	asAdmin(t, d, remedy, "ALTER ROLE roombell IN DATABASE "+d.Name+" SET roombell.two_phase = on")
	f = expect(t, examine(t, options(d.URL)), Warning, "two_phase_by_default")
	asAdmin(t, d, f.Remedy[strings.Index(f.Remedy, "ALTER"):], "ALTER DATABASE "+d.Name+" SET roombell.notify = 'each'")
	if f := find(examine(t, options(d.URL)), "defaults_ok"); f.Code == "" {
		t.Error("each is the default")
	}
}

func TestRole(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	expect(t, examine(t, options(d.AdminURL)), Warning, "role_superuser")
	if f := find(examine(t, options(d.URL)), "role_ok"); f.Code == "" {
		t.Error("the owner is not found to be one")
	}
	asAdmin(t, d, "ALTER TABLE messages OWNER TO postgres", "ALTER SEQUENCE event_log_seq OWNER TO postgres", "ALTER FUNCTION roombell.slot() OWNER TO postgres",
		"ALTER TYPE roombell.chat_sum OWNER TO postgres", "GRANT SELECT ON messages, event_log_seq TO roombell")
	f := expect(t, examine(t, options(d.URL)), Broken, "role_not_owner")
	asAdmin(t, d, strings.TrimPrefix(f.Remedy, "As superuser: "), "ALTER DATABASE "+d.Name+" OWNER TO postgres")
	f = expect(t, examine(t, options(d.URL)), Warning, "role_not_database_owner")
	asAdmin(t, d, strings.TrimPrefix(f.Remedy, "As superuser: "))
	if f := find(examine(t, options(d.URL)), "role_ok"); f.Code == "" {
		t.Error("after the remedies the role is not the owner")
	}
}

// A role that may do nothing is told so, check by check.
func TestStranger(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	role := "stranger_of_" + d.Name
	asAdmin(t, d, "CREATE ROLE "+role+" LOGIN")
	t.Cleanup(func() { asAdmin(t, d, "DROP ROLE "+role) })
	r := examine(t, options(strings.Replace(d.URL, "roombell@", role+"@", 1)))
	if f := find(r, "not_checked"); f.Level != Broken || f.Check != "migrations" || !strings.Contains(f.Meaning, "permission denied") {
		t.Errorf("the versions: %+v", f)
	}
	asAdmin(t, d, "GRANT SELECT ON roombell_migrations, roombell.trigger_version TO "+role, "GRANT USAGE ON SCHEMA roombell TO "+role)
	r = examine(t, options(strings.Replace(d.URL, "roombell@", role+"@", 1)))
	denied := 0
	for _, f := range r.Findings {
		if f.Code == "not_checked" {
			denied++
			if f.Level != Note || !strings.Contains(f.Meaning, "permission denied") {
				t.Errorf("%+v", f)
			}
		}
	}
	if find(r, "role_not_owner").Level != Broken || denied < 5 {
		t.Errorf("%d not checked in %s", denied, describe(r))
	}
	asAdmin(t, d, "DROP OWNED BY "+role)
}
