package triggers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"roombell/internal/postgres/dbtest"
)

// world is a database whose whole content is known before and after a transaction, so that what each user should hear of it can be said
// without the triggers.
type world struct {
	conn, superuser *pgx.Conn
	seen            int64
}

type person struct {
	id, organization int64
	role             string
}

type chatRow struct {
	id, organization int64
	assignee         *int64
	restricted       bool
	name, status     string
	members          []int64
}

type messageRow struct {
	id, chat, organization int64
	content, status        string
	fromMe, read           bool
}

type state struct {
	people   map[int64]person
	chats    map[int64]chatRow
	messages map[int64]messageRow
}

// sees is the rule of the contract, said once more.
func (s state) sees(user, chat int64) bool {
	p, known := s.people[user]
	c, there := s.chats[chat]
	return known && there && p.organization == c.organization &&
		(!c.restricted || p.role == "admin" || c.assignee != nil && *c.assignee == user || slices.Contains(c.members, user))
}

// entry is a row of the log with the chats that its payload names.
type entry struct {
	organization, chat, user int64
	audience                 []int64
	kind, event              string
	payload                  struct {
		ID, ChatID, Count int64
		Reason            string
		Truncated         bool
		AtLeast           *bool
		Chats             []figures
		MessageIDs        []int64
	}
}

type figures struct{ ID, New, Updated, Deleted, Read int64 }

// heardBy says who is addressed: what Rooms in internal/realtime makes of the columns.
func (e entry) heardBy(p person) bool {
	if e.kind != "event" {
		return false
	}
	switch {
	case e.audience != nil:
		return slices.Contains(e.audience, p.id)
	case e.user != 0:
		return e.user == p.id
	}
	return e.organization == p.organization
}

func (e entry) names() []int64 {
	var chats []int64
	switch {
	case e.event == "chats:updated":
		for _, c := range e.payload.Chats {
			chats = append(chats, c.ID)
		}
	case e.payload.ChatID != 0:
		chats = append(chats, e.payload.ChatID)
	case strings.HasPrefix(e.event, "chat:"):
		chats = append(chats, e.payload.ID)
	}
	if e.chat != 0 {
		chats = append(chats, e.chat)
	}
	return chats
}

// newWorld has three organizations of four people each, an admin and a manager among them, and eight chats each, half of them restricted to
// different people.
func newWorld(t *testing.T) *world {
	t.Helper()
	d := dbtest.New(t)
	w := &world{conn: connect(t, d.URL), superuser: connect(t, d.AdminURL)}
	err := exec(w.conn, `
		INSERT INTO organizations (name) SELECT 'o' || g FROM generate_series(1, 3) g;
		INSERT INTO users (organization_id, email, role) SELECT 1 + g % 3, 'u' || g, (ARRAY['admin', 'manager', 'employee', 'employee'])[1 + g / 3]
			FROM generate_series(0, 11) g;
		INSERT INTO chats (organization_id, restricted, name) SELECT 1 + g % 3, g / 3 % 2 = 0, 'c' FROM generate_series(0, 23) g;
		INSERT INTO chat_members (chat_id, user_id) SELECT c.id, u.id FROM chats c JOIN users u USING (organization_id) WHERE u.role <> 'admin' AND (c.id + u.id) % 4 = 0;
		UPDATE chats c SET assigned_user_id = (SELECT max(id) FROM users u WHERE u.organization_id = c.organization_id) WHERE c.id % 5 = 0;
		INSERT INTO messages (chat_id, content) SELECT id, 'm' FROM chats, generate_series(1, 4)`)
	if err != nil {
		t.Fatal(err)
	}
	w.log(t)
	return w
}

// state reads everything as it is now.
func (w *world) state(t *testing.T) state {
	t.Helper()
	s := state{people: map[int64]person{}, chats: map[int64]chatRow{}, messages: map[int64]messageRow{}}
	var p person
	each(t, w.superuser, "SELECT id, organization_id, role FROM users", []any{&p.id, &p.organization, &p.role}, func() { s.people[p.id] = p })
	var c chatRow
	each(t, w.superuser, `SELECT id, organization_id, assigned_user_id, restricted, coalesce(name, ''), status,
		ARRAY(SELECT user_id FROM chat_members WHERE chat_id = chats.id) FROM chats`,
		[]any{&c.id, &c.organization, &c.assignee, &c.restricted, &c.name, &c.status, &c.members}, func() { s.chats[c.id] = c; c = chatRow{} })
	var m messageRow
	each(t, w.superuser, "SELECT id, chat_id, organization_id, coalesce(content, ''), status, from_me, is_read_by_operator FROM messages",
		[]any{&m.id, &m.chat, &m.organization, &m.content, &m.status, &m.fromMe, &m.read}, func() { s.messages[m.id] = m })
	return s
}

func each(t *testing.T, conn *pgx.Conn, sql string, into []any, f func()) {
	t.Helper()
	rows, err := conn.Query(context.Background(), sql)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pgx.ForEachRow(rows, into, func() error { f(); return nil }); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// log returns what was recorded since it was last called.
func (w *world) log(t *testing.T) []entry {
	t.Helper()
	var entries []entry
	var e entry
	var payload []byte
	rows, err := w.superuser.Query(context.Background(), `SELECT id, coalesce(organization_id, 0), coalesce(chat_id, 0), coalesce(user_id, 0), audience, kind,
		coalesce(event, ''), coalesce(payload, '{}') FROM event_log WHERE id > $1 ORDER BY id`, w.seen)
	if err != nil {
		t.Fatal(err)
	}
	_, err = pgx.ForEachRow(rows, []any{&w.seen, &e.organization, &e.chat, &e.user, &e.audience, &e.kind, &e.event, &payload}, func() error {
		err := json.Unmarshal(payload, &e.payload)
		entries = append(entries, e)
		e = entry{}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// between returns the figures that each chat's rows come to, by the rows before and after one statement on messages.
func between(before, after state) map[int64]figures {
	by := map[int64]figures{}
	note := func(chat int64, f func(*figures)) {
		n := by[chat]
		n.ID = chat
		f(&n)
		by[chat] = n
	}
	for id, m := range after.messages {
		was, old := before.messages[id]
		switch changed := was.content != m.content || was.status != m.status || was.fromMe != m.fromMe || was.chat != m.chat || was.read && !m.read; {
		case !old:
			note(m.chat, func(f *figures) { f.New++ })
		case changed:
			note(m.chat, func(f *figures) { f.Updated++ })
		case m.read && !was.read && !m.fromMe:
			note(m.chat, func(f *figures) { f.Read++ })
		}
		if old && was.chat != m.chat {
			note(was.chat, func(*figures) {}) // is named
		}
	}
	for id, m := range before.messages {
		if _, still := after.messages[id]; !still {
			if _, there := after.chats[m.chat]; there {
				note(m.chat, func(f *figures) { f.Deleted++ })
			}
		}
	}
	return by
}

// statements are bulk writes that mix organizations, open and restricted chats. %d is any number.
func bulkStatements() []string {
	return []string{
		"INSERT INTO messages (chat_id, content) SELECT 1 + (g * 7 + %d) %% 24, 'n' FROM generate_series(1, 30) g",
		"INSERT INTO messages (organization_id, chat_id, content) SELECT organization_id, id, 'n' FROM chats, generate_series(1, 3) WHERE (id + %d) %% 3 > 0",
		"INSERT INTO messages (chat_id, from_me) SELECT id, true FROM chats WHERE (id + %d) %% 2 = 0",
		"UPDATE messages SET content = content || 'x' WHERE (id + %d) %% 3 = 0",
		"UPDATE messages SET is_read_by_operator = true WHERE (id + %d) %% 4 = 0",
		"UPDATE messages SET is_read_by_operator = (id + %d) %% 2 = 0, content = CASE WHEN id %% 5 = 0 THEN 'y' ELSE content END",
		"UPDATE messages SET status = 'sent' WHERE from_me AND (id + %d) %% 2 = 0",
		"UPDATE messages m SET chat_id = c.id FROM chats c WHERE c.organization_id = m.organization_id AND (m.id + %d) %% 7 = 0 AND c.id = 1 + (m.chat_id + 2) %% 24",
		"DELETE FROM messages WHERE (id + %d) %% 6 = 0",
		"UPDATE messages SET updated_at = now() + interval '%d hours'",
	}
}

// Whatever a statement mixes: each user hears of all rows of his chats once and of no others, and the figures add up.
func TestSumsTellEachUserHisOwnChats(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	random := rand.New(rand.NewPCG(1, 2))
	heard := 0
	for round := range 120 {
		statement := fmt.Sprintf(bulkStatements()[round%len(bulkStatements())], random.IntN(1000))
		mode := []string{"sum", "summary", "off", "each", "once"}[round/len(bulkStatements())%5]
		before := w.state(t)
		if err := exec(w.conn, settingsOf(mode)+statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
		after, log := w.state(t), w.log(t)
		want := between(before, after)
		for _, p := range before.people {
			h := hearing{mode: mode, who: p, sees: func(chat int64) bool { return after.sees(p.id, chat) }}
			h.listen(log)
			if complaint := h.compare(want); complaint != "" {
				t.Errorf("%s by %s: user %d (%s of %d) %s", mode, statement, p.id, p.role, p.organization, complaint)
			}
			heard += h.events
		}
	}
	if heard < 1000 {
		t.Errorf("%d events were heard in all: nothing is proved", heard)
	}
}

// settingsOf are those that make a statement of a few rows be recorded in a mode.
func settingsOf(mode string) string {
	switch mode {
	case "sum":
		return "SET LOCAL roombell.bulk_rows = 2;"
	case "once":
		return "SET LOCAL roombell.bulk_transaction_rows = 0; SET LOCAL roombell.bulk_rows = 100000;"
	}
	return fmt.Sprintf("SET LOCAL roombell.notify = '%s';", mode)
}

// hearing is what one user heard of one transaction on messages.
type hearing struct {
	mode   string
	who    person
	sees   func(chat int64) bool
	events int
	faults []string
	sums   map[int64]figures // of chats:updated
	named  map[int64]int
	single map[int64]figures // of events for single rows
}

func (h *hearing) listen(log []entry) {
	h.sums, h.named, h.single = map[int64]figures{}, map[int64]int{}, map[int64]figures{}
	for _, e := range log {
		if !e.heardBy(h.who) {
			continue
		}
		h.events++
		for _, chat := range e.names() {
			if !h.sees(chat) {
				h.faults = append(h.faults, fmt.Sprintf("hears of chat %d, which he may not see, by %s", chat, e.event))
			}
		}
		if e.event == "chats:updated" {
			h.sum(e)
		} else {
			h.one(e)
		}
	}
}

func (h *hearing) sum(e entry) {
	count := int64(0)
	for _, c := range e.payload.Chats {
		f := h.sums[c.ID]
		h.sums[c.ID] = figures{c.ID, f.New + c.New, f.Updated + c.Updated, f.Deleted + c.Deleted, f.Read + c.Read}
		h.named[c.ID]++
		count += c.New + c.Updated + c.Deleted + c.Read
	}
	if e.payload.Reason != "bulk" || e.payload.Count != count || e.payload.Truncated || (e.payload.AtLeast != nil) != (h.mode == "once") {
		h.faults = append(h.faults, fmt.Sprintf("hears %+v", e.payload))
	}
}

func (h *hearing) one(e entry) {
	f := h.single[e.payload.ChatID]
	switch e.event {
	case "message:new":
		f.New++
	case "message:deleted":
		f.Deleted++
	case "messages:read":
		f.Read += e.payload.Count
	}
	h.single[e.payload.ChatID] = f
}

// compare says what is wrong, or nothing.
func (h *hearing) compare(all map[int64]figures) string {
	want := maps.Clone(all)
	maps.DeleteFunc(want, func(chat int64, _ figures) bool { return !h.sees(chat) })
	switch h.mode {
	case "off":
		if h.events > 0 {
			h.faults = append(h.faults, fmt.Sprintf("hears %d events", h.events))
		}
	case "once":
		for chat, f := range want {
			if got := h.sums[chat]; h.named[chat] != 1 || got != f {
				h.faults = append(h.faults, fmt.Sprintf("hears %+v of chat %d, %d times, want %+v", got, chat, h.named[chat], f))
			}
		}
	case "each":
		for chat, f := range want {
			if got := h.single[chat]; got.New < f.New || got.Deleted < f.Deleted || got.Read < f.Read || len(h.sums) > 0 {
				h.faults = append(h.faults, fmt.Sprintf("hears %+v of chat %d, want %+v", got, chat, f))
			}
		}
	default:
		h.compareSums(want)
	}
	return strings.Join(h.faults, "; ")
}

// compareSums: read marks alone are one messages:read a chat, unless summary was asked for.
func (h *hearing) compareSums(want map[int64]figures) {
	for chat, f := range want {
		got, read := h.sums[chat], h.single[chat].Read
		f.ID = got.ID
		if got.Read += read; got != f || h.named[chat] > 1 || h.mode == "summary" && read > 0 {
			h.faults = append(h.faults, fmt.Sprintf("hears %+v of chat %d, want %+v", got, chat, f))
		}
	}
	for chat := range h.named {
		if _, ok := want[chat]; !ok {
			h.faults = append(h.faults, fmt.Sprintf("hears of chat %d, where nothing happened", chat))
		}
	}
}

// A statement on chats that gives and takes access: those who keep a chat hear updated, those who lose it deleted, those who gain it new,
// and nobody else hears anything of it.
func TestSumsOfChatsFollowAccess(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	random := rand.New(rand.NewPCG(3, 4))
	statements := []string{
		"UPDATE chats SET status = CASE WHEN status = 'open' THEN 'closed' ELSE 'open' END WHERE (id + %d) %% 3 > 0",
		"UPDATE chats SET restricted = NOT restricted, name = name || 'x' WHERE (id + %d) %% 3 = 0",
		"UPDATE chats c SET assigned_user_id = (SELECT id FROM users u WHERE u.organization_id = c.organization_id ORDER BY (u.id * 31 + c.id + %d) %% 17 LIMIT 1)",
		"UPDATE chats SET restricted = id %% 2 = 0, assigned_user_id = NULL, name = name || (%d)::text",
	}
	told := 0
	for round := range 40 {
		statement := fmt.Sprintf(statements[round%len(statements)], random.IntN(1000))
		before := w.state(t)
		if err := exec(w.conn, "SET LOCAL roombell.bulk_rows = 1;"+statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
		after, log := w.state(t), w.log(t)
		for _, p := range before.people {
			h := hearing{mode: "sum", who: p, sees: func(chat int64) bool { return before.sees(p.id, chat) || after.sees(p.id, chat) }}
			h.listen(log)
			if complaint := h.compare(accessFigures(before, after, p.id)); complaint != "" {
				t.Errorf("%s: user %d (%s of %d) %s", statement, p.id, p.role, p.organization, complaint)
			}
			told += len(h.named)
		}
	}
	if told < 500 {
		t.Errorf("%d chats were told of in all: nothing is proved", told)
	}
}

func accessFigures(before, after state, user int64) map[int64]figures {
	want := map[int64]figures{}
	for id, c := range after.chats {
		was := before.chats[id]
		same := was.restricted == c.restricted && was.name == c.name && was.status == c.status &&
			(was.assignee == c.assignee || was.assignee != nil && c.assignee != nil && *was.assignee == *c.assignee)
		saw, sees := before.sees(user, id), after.sees(user, id)
		switch {
		case same:
		case saw && sees:
			want[id] = figures{ID: id, Updated: 1}
		case saw:
			want[id] = figures{ID: id, Deleted: 1}
		case sees:
			want[id] = figures{ID: id, New: 1}
		}
	}
	return want
}

// Chats, open and restricted, of all organizations deleted by one statement: who saw one hears of it.
func TestSumOfDeletedChats(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.state(t)
	if err := exec(w.conn, "SET LOCAL roombell.bulk_rows = 2; DELETE FROM chats WHERE id % 3 <> 1 OR id < 9"); err != nil {
		t.Fatal(err)
	}
	after, log := w.state(t), w.log(t)
	for _, p := range before.people {
		h := hearing{mode: "sum", who: p, sees: func(chat int64) bool { return before.sees(p.id, chat) }}
		h.listen(log)
		want := map[int64]figures{}
		for id := range before.chats {
			if _, still := after.chats[id]; !still {
				want[id] = figures{ID: id, Deleted: 1}
			}
		}
		if complaint := h.compare(want); complaint != "" {
			t.Errorf("user %d (%s of %d) %s", p.id, p.role, p.organization, complaint)
		}
	}
}

// A script that inserts row by row in one transaction: single events up to the threshold, then each chat once for each audience.
func TestRowByRowIsSummedFromTheThresholdOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const rows = 2300
	err := exec(w.conn, fmt.Sprintf(`DO $$ BEGIN
		FOR i IN 1..%d LOOP INSERT INTO messages (chat_id, content) VALUES (1 + i %% 24, 'm'); END LOOP; END $$`, rows))
	if err != nil {
		t.Fatal(err)
	}
	after, log := w.state(t), w.log(t)
	singles, named := 0, map[int64]int{}
	for _, e := range log {
		switch e.event {
		case "message:new":
			if singles++; len(named) > 0 {
				t.Fatal("a single event after the first sum")
			}
		case "chats:updated":
			if len(e.payload.Chats) != 1 || e.payload.AtLeast == nil || !*e.payload.AtLeast {
				t.Errorf("recorded %+v", e.payload)
			}
			chat := e.payload.Chats[0].ID
			named[chat]++
			for _, p := range after.people {
				if e.heardBy(p) != after.sees(p.id, chat) {
					t.Errorf("chat %d: user %d hears %v, sees %v", chat, p.id, e.heardBy(p), after.sees(p.id, chat))
				}
			}
		}
	}
	if singles != 2000 || len(named) != 24 || len(log) != 2024 {
		t.Errorf("%d single events and %d chats of %d events, want 2000 and 24", singles, len(named), len(log))
	}
}

// Row by row past the threshold each row asks whether its chat was named: not by reading all that were.
func TestNamedChatsAreLookedUpByTheirIndex(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	const fill = `INSERT INTO organizations (name) VALUES ('one'); INSERT INTO chats (organization_id) SELECT 1 FROM generate_series(1, 20)`
	if _, err := d.Pool.Exec(context.Background(), fill); err != nil {
		t.Fatal(err)
	}
	for _, settings := range []string{settingsOf("once"), settingsOf("off")} {
		told := plans(t, d.AdminURL, settings+"INSERT INTO messages (chat_id) VALUES (1); INSERT INTO messages (chat_id) VALUES (2)")
		if strings.Count(told, "((txid = pg_current_xact_id()) AND (named = u.chat_id))") < 20 || strings.Contains(told, "Index Cond: (txid = pg_current_xact_id())\n") {
			t.Errorf("%s chats are looked up by\n%s", settings, told)
		}
	}
}

// The cascade of an organization's end is a bulk write like any other: no event a message, none a chat, and others hear nothing.
func TestDeletedOrganization(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	err := exec(w.conn, `SET LOCAL roombell.notify = 'off'; INSERT INTO chats (organization_id, restricted) SELECT 1, g % 2 = 0 FROM generate_series(1, 400) g;
		INSERT INTO messages (chat_id) SELECT id FROM chats, generate_series(1, 3) WHERE organization_id = 1`)
	if err != nil {
		t.Fatal(err)
	}
	w.log(t)
	if err := exec(w.conn, "DELETE FROM organizations WHERE id = 1"); err != nil {
		t.Fatal(err)
	}
	gone := map[string]int{}
	for _, e := range w.log(t) {
		gone[e.kind+" "+e.event]++
		if e.organization != 1 {
			t.Errorf("recorded for organization %d: %s", e.organization, e.event)
		}
	}
	if gone["user "] != 4 || gone["chats "] != 1 || gone["event chats:updated"] == 0 || gone["event chats:updated"] > 10 || len(gone) != 3 {
		t.Errorf("recorded are %v", gone)
	}
}

// Figures that a writer stores himself have to be looked at by the projector, whatever the form.
func TestCountersOfAWriterAreTouched(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, test := range []struct {
		name, sql string
		touched   bool
	}{
		{"summed", "SET LOCAL roombell.notify = 'summary'; UPDATE chats SET unread_count = 7", true},
		{"in bulk", "SET LOCAL roombell.bulk_rows = 2; UPDATE chats SET last_message_at = now()", true},
		{"silent", "SET LOCAL roombell.notify = 'off'; UPDATE chats SET unread_count = 8", true},
		{"new", "SET LOCAL roombell.notify = 'summary'; INSERT INTO chats (organization_id, unread_count) VALUES (1, 3)", true},
		{"something else", "SET LOCAL roombell.notify = 'summary'; UPDATE chats SET name = 'n'", false},
		{"nothing", "SET LOCAL roombell.notify = 'summary'; INSERT INTO chats (organization_id) VALUES (1)", false},
	} {
		if err := exec(w.conn, test.sql); err != nil {
			t.Fatal(err)
		}
		var missing, others int
		err := w.superuser.QueryRow(context.Background(), `SELECT
			(SELECT count(*) FROM chats c WHERE NOT EXISTS (SELECT FROM event_log l WHERE l.id > $1 AND (c.id = ANY (l.touched) OR l.kind = 'touch' AND l.chat_id = c.id))),
			(SELECT count(*) FROM event_log WHERE id > $1 AND (touched IS NOT NULL OR kind = 'touch'))`, w.seen).Scan(&missing, &others)
		if err != nil {
			t.Fatal(err)
		}
		if all := missing == 0 || test.name == "new" && others == 1; all != test.touched || !test.touched && others > 0 {
			t.Errorf("%s: %d chats are not touched, %d rows touch", test.name, missing, others)
		}
		w.log(t)
	}
}
