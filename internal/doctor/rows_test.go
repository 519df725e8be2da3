package doctor

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"roombell/internal/postgres/dbtest"
)

// load runs statements as a load does that wants neither foreign keys nor triggers.
func load(t testing.TB, d *dbtest.DB, statements ...string) {
	t.Helper()
	tables := []string{"users", "channels", "chats", "chat_members", "messages", "notifications"}
	all := []string{"BEGIN", "SET LOCAL session_replication_role = replica"}
	for _, table := range tables {
		all = append(all, "ALTER TABLE "+table+" DISABLE TRIGGER USER")
	}
	onConn(t, d.AdminURL, append(append(all, statements...), "COMMIT")...)
	// As they were: the state of triggers is another check's.
	states, err := judgeAll(t, d)
	check0(t, err)
	onConn(t, d.AdminURL, states)
}

func judgeAll(t testing.TB, d *dbtest.DB) (string, error) {
	r := examine(t, options(d.URL))
	f := find(r, "triggers_disabled")
	_, statements, _ := strings.Cut(f.Command, "-c '")
	return strings.TrimSuffix(statements, "'"), nil
}

func TestRows(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, statement, code, says string
		level                       Level
		more                        []string
	}{
		{"messages of a chat that is gone", `DELETE FROM chats WHERE id = 1`, "rows_without_parent", "chat_members to chats", Warning, []string{"rows_without_parent"}},
		{"a sender of another organization", `UPDATE messages SET sender_user_id = 2 WHERE id = 1`, "rows_of_another_organization", "messages into another organization (sender_user_id → users)", Broken, nil},
		{"a chat of another organization", `UPDATE messages SET chat_id = 2 WHERE id = 1`, "rows_of_another_organization", "1 row points of messages", Broken, nil},
		{"an assignee of another organization", `UPDATE chats SET assigned_user_id = 2 WHERE id = 1`, "rows_of_another_organization", "assigned_user_id", Broken, nil},
		{"a member of another organization", `UPDATE chat_members SET user_id = 3 WHERE chat_id = 2`, "rows_of_another_organization", "user_id", Broken, nil},
		{"a notification of nobody", `UPDATE notifications SET user_id = 99`, "rows_without_parent", "4 rows point of notifications to users", Warning, nil},
		{"a quote from another organization", `UPDATE messages SET quoted_message_id = 2, quoted_content = 'x' WHERE id = 1`, "rows_of_another_organization", "quoted_message_id", Broken, nil},
		{"a quote of nothing", `UPDATE messages SET quoted_message_id = 99 WHERE id = 1`, "rows_without_parent", "quoted_message_id", Warning, nil},
		{"an organization that is gone", `DELETE FROM organizations WHERE id = 2`, "rows_without_parent", "channels to organizations", Warning, []string{"rows_without_parent", "rows_without_parent"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := dbtest.New(t)
			fill(t, d.Pool)
			load(t, d, test.statement)
			r := examine(t, options(d.URL))
			f := expect(t, r, test.level, append([]string{test.code}, test.more...)...)
			if !strings.Contains(f.Title, test.says) {
				t.Errorf("%+v", f)
			}
			for _, f := range r.Findings {
				if f.Check == "rows" {
					mend(t, d.URL, f)
				}
			}
			execute(t, d.Pool, recompute)
			if got := without(above(examine(t, options(d.URL)), Note), careless); len(got) > 0 {
				t.Errorf("after its command there is %v", got)
			}
		})
	}
}

// pg_restore --data-only --disable-triggers, cut off in the middle.
func TestAllTriggersDisabled(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	asAdmin(t, d, `ALTER TABLE chats DISABLE TRIGGER ALL`)
	r := examine(t, options(d.URL))
	f := expect(t, r, Broken, "triggers_disabled", "foreign_keys_disabled")
	mend(t, d.URL, f)
	asAdmin(t, d, strings.TrimPrefix(find(r, "foreign_keys_disabled").Remedy, "As superuser: "))
	if got := without(above(examine(t, options(d.URL)), Note), careless); len(got) > 0 {
		t.Errorf("after its remedies there is %v", got)
	}
	// And run to its end: it enables what it disabled, for ordinary writers.
	asAdmin(t, d, `ALTER TABLE chats DISABLE TRIGGER ALL`, `ALTER TABLE chats ENABLE TRIGGER ALL`)
	mend(t, d.URL, expect(t, examine(t, options(d.URL)), Warning, "triggers_not_always"))
	if got := without(above(examine(t, options(d.URL)), Note), careless); len(got) > 0 {
		t.Errorf("after its command there is %v", got)
	}
}

// Of a large table a part is looked at, and the doctor says so.
func TestRowsOfALargeTable(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	fill(t, d.Pool)
	execute(t, d.Pool, `INSERT INTO messages (chat_id, organization_id) SELECT 1, 1 FROM generate_series(1, 5000)`)
	execute(t, d.Pool, `ANALYZE messages`)
	small := func(d *Doctor) { d.limits.sample = 2500 }
	if f := find(examine(t, options(d.URL), small), "rows_ok"); !strings.Contains(f.Title, "a sample") {
		t.Errorf("%+v", f)
	}
	if f := find(examine(t, options(d.URL)), "rows_ok"); strings.Contains(f.Title, "a sample") || f.Code == "" {
		t.Errorf("%+v", f)
	}
	load(t, d, `UPDATE messages SET sender_user_id = 2`)
	f := find(examine(t, options(d.URL), small), "rows_of_another_organization")
	if !strings.Contains(f.Title, "rows or more point of messages") {
		t.Errorf("%+v", f)
	}
}

func TestSubscriptions(t *testing.T) {
	t.Parallel()
	d, publisher := dbtest.New(t), dbtest.New(t)
	asAdmin(t, publisher, `CREATE PUBLICATION all_chats FOR TABLE chats`)
	from, err := pgx.ParseConfig(publisher.AdminURL)
	check0(t, err)
	to := sqlQuote("host=" + from.Host + " dbname=" + from.Database + " user=" + from.User)
	name := "from_" + publisher.Name
	t.Cleanup(func() { asAdmin(t, d, "DROP SUBSCRIPTION IF EXISTS "+name) })

	asAdmin(t, d, "CREATE SUBSCRIPTION "+name+" CONNECTION "+to+" PUBLICATION all_chats WITH (connect = false, slot_name = NONE)")
	expect(t, examine(t, options(d.URL)), Note, "subscription_present")
	asAdmin(t, d, "DROP SUBSCRIPTION "+name,
		"CREATE SUBSCRIPTION "+name+" CONNECTION "+to+" PUBLICATION all_chats WITH (create_slot = false, enabled = false, copy_data = false, slot_name = NONE)")
	expect(t, examine(t, options(d.URL)), Warning, "subscription_does_not_ring")
}
