package api_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"roombell/internal/api"
)

// chat makes a chat as any SQL writer does.
func (h *house) chat(o tenant, set string, args ...any) int64 {
	h.t.Helper()
	id := one[int64](h, "INSERT INTO chats (organization_id, name) VALUES ($1, 'a chat') RETURNING id", o.id)
	if set != "" {
		h.exec(fmt.Sprintf("UPDATE chats SET %s WHERE id = %d", set, id), args...)
	}
	return id
}

// message makes an incoming message.
func (h *house) message(chat int64) int64 {
	h.t.Helper()
	return one[int64](h, "INSERT INTO messages (chat_id, content) VALUES ($1, 'hi') RETURNING id", chat)
}

// recorded is an event as the log has it.
type recorded struct {
	Event    string
	Payload  map[string]any
	Audience []int64
}

// since returns what came into the log after f began, as far as clients hear it.
func (h *house) since(f func()) []recorded {
	h.t.Helper()
	before := one[int64](h, "SELECT coalesce(max(id), 0) FROM event_log")
	f()
	rows, err := h.pool.Query(h.t.Context(), "SELECT event, payload, audience FROM event_log WHERE id > $1 AND kind = 'event' ORDER BY id", before)
	if err != nil {
		h.t.Fatal(err)
	}
	events, err := pgx.CollectRows(rows, pgx.RowToStructByPos[recorded])
	if err != nil {
		h.t.Fatal(err)
	}
	return events
}

func (h *house) path(id int64, rest string) string { return fmt.Sprintf("/chats/%d%s", id, rest) }

func ids(l api.List[api.Chat]) (ids []int64) {
	for _, c := range l.Items {
		ids = append(ids, c.ID)
	}
	return ids
}

type body = map[string]any

func TestChatIsTheOneOfTheEvent(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	var made answer
	events := h.since(func() {
		made = h.request(h.ours.employee, "POST", "/chats", body{"name": "Ann", "tags": []string{"vip"}, "priority": "high",
			"externalId": "49170", "assignedUserId": h.ours.second.id}).want(t, 201, "")
	})
	if len(events) != 1 || events[0].Event != "chat:new" {
		t.Fatalf("%v", events)
	}
	c := decode[api.Chat](t, made)
	for path, got := range map[string]answer{"POST": made, "GET": h.request(h.ours.manager, "GET", h.path(c.ID, ""), nil).want(t, 200, "")} {
		if got := decode[map[string]any](t, got); !sameJSON(got, events[0].Payload) {
			t.Errorf("%s %v, the event %v", path, got, events[0].Payload)
		}
	}
	list := decode[struct{ Items []map[string]any }](t, h.request(h.ours.manager, "GET", "/chats", nil).want(t, 200, ""))
	if len(list.Items) != 1 || !sameJSON(list.Items[0], events[0].Payload) {
		t.Errorf("GET /chats %v, the event %v", list, events[0].Payload)
	}
}

func sameJSON(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

// What only SQL can write must be read all the same.
func TestChatThatOnlySQLCanWrite(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	id := h.chat(h.ours, "last_message_at = 'infinity', created_at = '-infinity', tags = '{a,NULL,b}', name = repeat('é', 300000)")
	c := decode[api.Chat](t, h.request(h.ours.employee, "GET", h.path(id, ""), nil).want(t, 200, ""))
	if c.LastMessageAt != nil || c.CreatedAt != nil || !slices.Equal(c.Tags, []string{"a", "b"}) || len(*c.Name) != 600000 {
		t.Errorf("%v %v %v", c.LastMessageAt, c.CreatedAt, c.Tags)
	}
	list := decode[api.List[api.Chat]](t, h.request(h.ours.employee, "GET", "/chats?q=b", nil).want(t, 200, ""))
	if !slices.Equal(ids(list), []int64{id}) {
		t.Errorf("found %v", ids(list))
	}
}

func TestChatEvents(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	who := h.ours.employee
	id := h.chat(h.ours, "")
	for _, test := range []struct {
		method, path string
		body         any
		changes      []string
	}{
		{"PATCH", "", body{"name": "New", "priority": "urgent", "tags": []string{"a"}}, []string{"name", "priority", "tags"}},
		{"PATCH", "", body{"name": nil}, []string{"name"}},
		{"PATCH", "", body{"externalId": "x"}, []string{"externalId"}},
		{"PATCH", "", body{"tags": []string{}}, []string{"tags"}},
		{"PATCH", "", body{"assignedUserId": h.ours.second.id}, []string{"assignedUserId"}},
		{"PATCH", "", body{"assignedUserId": nil, "externalId": nil}, []string{"externalId", "assignedUserId"}},
		{"PATCH", "", body{}, nil},
		{"POST", "/assign", body{"userId": h.ours.manager.id}, []string{"assignedUserId"}},
		{"POST", "/assign", body{"userId": h.ours.manager.id}, nil},
		{"POST", "/unassign", nil, []string{"assignedUserId"}},
		{"POST", "/close", nil, []string{"status"}},
		{"POST", "/close", nil, nil},
	} {
		var got answer
		events := h.since(func() { got = h.request(who, test.method, h.path(id, test.path), test.body).want(t, 200, "") })
		name := fmt.Sprint(test.method, test.path, test.body)
		if test.changes == nil {
			if len(events) != 0 {
				t.Errorf("%s is no change, and rang %v", name, events)
			}
			continue
		}
		if len(events) != 1 || events[0].Event != "chat:updated" || !sameJSON(events[0].Payload["changes"], test.changes) ||
			!sameJSON(events[0].Payload["changedByUserId"], who.id) {
			t.Fatalf("%s rang %v", name, events)
		}
		chat := decode[map[string]any](t, got)
		for _, field := range test.changes {
			if !sameJSON(chat[field], events[0].Payload[field]) {
				t.Errorf("%s: %s is %v in the answer, %v in the event", name, field, chat[field], events[0].Payload[field])
			}
		}
	}
	events := h.since(func() { h.request(who, "DELETE", h.path(id, ""), nil).want(t, 204, "") })
	if len(events) != 1 || events[0].Event != "chat:deleted" || !sameJSON(events[0].Payload, body{"chatId": id}) {
		t.Errorf("DELETE rang %v", events)
	}
	h.request(who, "GET", h.path(id, ""), nil).want(t, 404, "not_found")
}

func TestChatReferences(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	id := h.chat(h.ours, "")
	h.exec("UPDATE users SET active = false WHERE id = $1", h.ours.second.id)
	theirChannel := one[int64](h, "INSERT INTO channels (organization_id, provider) VALUES ($1, 'telegram') RETURNING id", h.theirs.id)
	ourChannel := one[int64](h, "INSERT INTO channels (organization_id, provider) VALUES ($1, 'waba') RETURNING id", h.ours.id)
	for _, test := range []struct {
		method, path string
		body         body
		field        string
	}{
		{"PATCH", h.path(id, ""), body{"assignedUserId": h.theirs.employee.id}, "body.assignedUserId"},
		{"PATCH", h.path(id, ""), body{"assignedUserId": 999999}, "body.assignedUserId"},
		{"PATCH", h.path(id, ""), body{"assignedUserId": h.ours.second.id}, "body.assignedUserId"},
		{"PATCH", h.path(id, ""), body{"status": "done"}, "body.status"},
		{"PATCH", h.path(id, ""), body{"unreadCount": 3}, "body.unreadCount"},
		{"PATCH", h.path(id, ""), body{"externalId": "a\x00b"}, "body.externalId"},
		{"POST", "/chats", body{"name": "\x00"}, "body.name"},
		{"POST", "/chats", body{"tags": []string{"a", "b\x00"}}, "body.tags[1]"},
		{"PATCH", h.path(id, ""), body{"name": 7}, "body.name"},
		{"POST", h.path(id, "/assign"), body{"userId": h.theirs.employee.id}, "body.userId"},
		{"POST", h.path(id, "/assign"), body{}, "body"},
		{"POST", "/chats", body{"channelId": theirChannel}, "body.channelId"},
		{"POST", "/chats", body{"channelId": ourChannel, "channel": "telegram"}, "body.channel"},
		{"POST", "/chats", body{"assignedUserId": h.theirs.admin.id}, "body.assignedUserId"},
		{"PUT", h.path(id, "/members"), body{"userIds": []int64{h.ours.admin.id, h.theirs.admin.id}}, "body.userIds"},
		{"GET", "/chats?status=done", nil, "query.status"},
		{"GET", "/chats?cursor=nonsense!", nil, "query.cursor"},
		{"GET", "/chats?limit=201", nil, "query.limit"},
	} {
		var sent any
		if test.body != nil {
			sent = test.body
		}
		events := h.since(func() {
			p := decode[api.Problem](t, h.request(h.ours.employee, test.method, test.path, sent).want(t, 422, "validation_failed"))
			if len(p.Errors) != 1 || p.Errors[0].Field != test.field {
				t.Errorf("%s %s %v: %v, want %s", test.method, test.path, test.body, p.Errors, test.field)
			}
		})
		if len(events) != 0 {
			t.Errorf("%s %s %v rang %v", test.method, test.path, test.body, events)
		}
	}
	c := decode[api.Chat](t, h.request(h.ours.employee, "POST", "/chats", body{"channelId": ourChannel}).want(t, 201, ""))
	if c.Channel != "whatsapp" {
		t.Errorf("a chat of a WABA account has the channel %s", c.Channel)
	}
}

func TestReadMarks(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	who := h.ours.employee
	id, other := h.chat(h.ours, ""), h.chat(h.ours, "")
	first, second, third := h.message(id), h.message(id), h.message(id)
	own := one[int64](h, "INSERT INTO messages (chat_id, from_me, status) VALUES ($1, true, 'sent') RETURNING id", id)
	foreign := h.message(other)
	read := func(ask any, unread int32, marked ...int64) {
		t.Helper()
		var c api.Chat
		events := h.since(func() { c = decode[api.Chat](t, h.request(who, "POST", h.path(id, "/read"), ask).want(t, 200, "")) })
		if c.UnreadCount != unread {
			t.Errorf("%v: %d unread, want %d", ask, c.UnreadCount, unread)
		}
		if marked == nil {
			if len(events) != 0 {
				t.Errorf("%v rang %v", ask, events)
			}
			return
		}
		if len(events) != 1 || events[0].Event != "messages:read" || !sameJSON(events[0].Payload["messageIds"], marked) ||
			!sameJSON(events[0].Payload["readByUserId"], who.id) || !sameJSON(events[0].Payload["unreadCount"], unread) {
			t.Errorf("%v rang %v, want the marks of %v", ask, events, marked)
		}
	}
	read(body{"messageIds": []int64{second, own, second}}, 2, second)
	read(nil, 0, first, third)
	read(body{}, 0)
	read(body{"unread": true}, 1)
	if marks := one[[]int64](h, "SELECT array_agg(id ORDER BY id) FROM messages WHERE chat_id = $1 AND is_read_by_operator", id); !slices.Equal(marks, []int64{first, second}) {
		t.Errorf("the marks of %v are left", marks)
	}
	read(body{"unread": true, "messageIds": []int64{first}}, 2)
	for _, bad := range []int64{foreign, 999999} {
		p := decode[api.Problem](t, h.request(who, "POST", h.path(id, "/read"), body{"messageIds": []int64{first, bad}}).want(t, 422, "validation_failed"))
		if p.Errors[0].Field != "body.messageIds" {
			t.Errorf("%v", p.Errors)
		}
	}
	if one[bool](h, "SELECT is_read_by_operator FROM messages WHERE id = $1", foreign) {
		t.Error("another chat's message was marked")
	}
	h.request(who, "POST", h.path(h.chat(h.ours, ""), "/read"), body{"unread": true}).want(t, 200, "")
}

// A route that is new belongs here: what may not be seen is not there, to be read or written.
func TestChatsOfOthersAreNotThere(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	foreign := h.chat(h.theirs, "name = 'hidden'")
	restricted := h.chat(h.ours, "restricted = true, name = 'hidden'")
	message := h.message(restricted)
	events := h.since(func() {
		for _, id := range []int64{foreign, restricted, 999999, 0, -1} {
			for _, who := range []someone{h.ours.employee, h.ours.manager} {
				for _, r := range []struct {
					method, rest string
					body         any
				}{
					{"GET", "", nil}, {"PATCH", "", body{"name": "x"}}, {"DELETE", "", nil}, {"POST", "/assign", body{"userId": who.id}},
					{"POST", "/unassign", nil}, {"POST", "/close", nil}, {"POST", "/read", nil}, {"POST", "/read", body{"messageIds": []int64{message}}},
					{"GET", "/members", nil}, {"PUT", "/members", body{"userIds": []int64{who.id}}},
				} {
					h.request(who, r.method, h.path(id, r.rest), r.body).want(t, 404, "not_found")
				}
			}
		}
	})
	if len(events) != 0 {
		t.Errorf("there were events: %v", events)
	}
	for _, query := range []string{"", "?q=hidden", "?status=new", "?unread=true", "?q=" + strconv.FormatInt(restricted, 10)} {
		list := decode[api.List[api.Chat]](t, h.request(h.ours.manager, "GET", "/chats"+query, nil).want(t, 200, ""))
		if len(list.Items) != 0 {
			t.Errorf("GET /chats%s shows %v", query, ids(list))
		}
	}
	list := decode[api.List[api.Chat]](t, h.request(h.ours.admin, "GET", "/chats?q=hidden", nil).want(t, 200, ""))
	if !slices.Equal(ids(list), []int64{restricted}) {
		t.Errorf("the admin sees %v", ids(list))
	}
	for who, sql := range map[someone]string{
		h.ours.employee: "INSERT INTO chat_members (chat_id, user_id) VALUES ($1, $2)",
		h.ours.manager:  "UPDATE chats SET assigned_user_id = $2 WHERE id = $1",
	} {
		h.exec(sql, restricted, who.id)
		h.request(who, "GET", h.path(restricted, ""), nil).want(t, 200, "")
		if list := decode[api.List[api.Chat]](t, h.request(who, "GET", "/chats?q=hid", nil)); !slices.Equal(ids(list), []int64{restricted}) {
			t.Errorf("after %s one sees %v", sql, ids(list))
		}
	}
}

func TestWhoRestrictsAChatMayLoseIt(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	who := h.ours.employee
	id := h.chat(h.ours, "")
	events := h.since(func() {
		c := decode[api.Chat](t, h.request(who, "PATCH", h.path(id, ""), body{"restricted": true}).want(t, 200, ""))
		if !c.Restricted {
			t.Error("it is not restricted")
		}
	})
	lost := slices.IndexFunc(events, func(e recorded) bool { return e.Event == "chat:deleted" })
	if lost < 0 || !slices.Contains(events[lost].Audience, who.id) || events[lost].Payload["reason"] != "access" {
		t.Errorf("%v", events)
	}
	h.request(who, "PATCH", h.path(id, ""), body{"restricted": false}).want(t, 404, "not_found")
	h.request(h.ours.admin, "PATCH", h.path(id, ""), body{"restricted": false}).want(t, 200, "")
	h.request(who, "GET", h.path(id, ""), nil).want(t, 200, "")

	made := decode[api.Chat](t, h.request(who, "POST", "/chats", body{"restricted": true}).want(t, 201, ""))
	h.request(who, "GET", h.path(made.ID, ""), nil).want(t, 200, "")
	h.request(h.ours.second, "GET", h.path(made.ID, ""), nil).want(t, 404, "not_found")
}

func TestMembers(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	id := h.chat(h.ours, "restricted = true")
	put := func(who someone, users ...int64) (events []recorded) {
		t.Helper()
		return h.since(func() {
			got := decode[struct{ UserIDs []int64 }](t, h.request(who, "PUT", h.path(id, "/members"), body{"userIds": append([]int64{}, users...)}).want(t, 200, ""))
			if want := slices.Compact(slices.Sorted(slices.Values(users))); !slices.Equal(got.UserIDs, want) {
				t.Errorf("members are %v, want %v", got.UserIDs, want)
			}
		})
	}
	first, second := h.ours.employee.id, h.ours.second.id
	if events := put(h.ours.admin, first, first); len(events) != 1 || events[0].Event != "chat:new" || !slices.Equal(events[0].Audience, []int64{first}) {
		t.Errorf("%v", events)
	}
	if events := put(h.ours.employee, first, second); len(events) != 1 || events[0].Event != "chat:new" || !slices.Equal(events[0].Audience, []int64{second}) {
		t.Errorf("%v", events)
	}
	if events := put(h.ours.employee, second, first); len(events) != 0 {
		t.Errorf("the same members rang %v", events)
	}
	if events := put(h.ours.second, second); len(events) != 1 || events[0].Event != "chat:deleted" || !slices.Equal(events[0].Audience, []int64{first}) {
		t.Errorf("%v", events)
	}
	h.request(h.ours.employee, "GET", h.path(id, "/members"), nil).want(t, 404, "not_found")
	got := decode[struct{ UserIDs []int64 }](t, h.request(h.ours.second, "GET", h.path(id, "/members"), nil).want(t, 200, ""))
	if !slices.Equal(got.UserIDs, []int64{second}) {
		t.Errorf("%v", got)
	}
	if events := put(h.ours.second); len(events) != 1 || events[0].Event != "chat:deleted" || !slices.Equal(events[0].Audience, []int64{second}) {
		t.Errorf("%v", events)
	}
}

func TestChatFilters(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	plain := h.chat(h.ours, "name = NULL")
	open := h.chat(h.ours, "status = 'open', name = 'Müller & Söhne', external_id = '+49 170-555@s.whatsapp.net'")
	urgent := h.chat(h.ours, "priority = 'urgent', tags = '{VIP,acme-corp}', ticket_number = 987654")
	telegram := h.chat(h.ours, "channel = 'telegram', unread_count = 2, name = 'O''Neil: \"the\" \\ boss'")
	assigned := h.chat(h.ours, "status = 'open', priority = 'urgent', assigned_user_id = $1", h.ours.second.id)
	h.chat(h.theirs, "status = 'open', name = 'Müller'")
	for query, want := range map[string][]int64{
		"":                            {assigned, telegram, urgent, open, plain},
		"status=open":                 {assigned, open},
		"priority=urgent":             {assigned, urgent},
		"status=open&priority=urgent": {assigned},
		"channel=telegram":            {telegram},
		"unread=true":                 {telegram},
		"unread=false":                {assigned, urgent, open, plain},
		"unread=true&status=open":     nil,
		fmt.Sprint("assignedUserId=", h.ours.second.id):   {assigned},
		fmt.Sprint("assignedUserId=", h.theirs.second.id): nil,
		"q=":                               {assigned, telegram, urgent, open, plain},
		"q=müll":                           {open},
		"q=söhne+MÜLLER":                   {open},
		"q=söhne+maier":                    nil,
		"q=49+170":                         {open},
		"q=170-555@s.wh":                   {open},
		"q=vip":                            {urgent},
		"q=acme":                           {urgent},
		"q=acme-co":                        {urgent},
		"q=corp":                           {urgent},
		"q=orp":                            nil,
		"q=#987654":                        {urgent},
		"q=9876":                           {urgent},
		"q=o'neil":                         {telegram},
		`q=\`:                              nil,
		`q=':* | 'z`:                       nil,
		"q=!?":                             nil,
		"q=a+chat":                         {assigned, urgent},
		"q=a&status=open":                  {assigned},
		fmt.Sprintf("q=%d/a", h.theirs.id): nil,
	} {
		values, err := url.ParseQuery(query)
		if query == "q=#987654" || err != nil || query == "q=!?" {
			values = url.Values{"q": {query[2:]}}
		}
		list := decode[api.List[api.Chat]](t, h.request(h.ours.employee, "GET", "/chats?"+values.Encode(), nil).want(t, 200, ""))
		if !slices.Equal(ids(list), want) {
			t.Errorf("%s: %v, want %v", query, ids(list), want)
		}
	}
}

// Whatever a writer puts into the columns that are searched, the row is taken, and found by its first words.
func TestSearchIndexRefusesNoRow(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for _, set := range []string{
		"name = 'findme ' || repeat('x', 3000000)", "name = 'findme ' || repeat(chr(128512), 5000)", "tags = array_fill('findme'::text, '{100,100}')",
		"tags = '[5:6]={findme,b}'", "name = 'findme' || repeat(E'\\x01', 9000)", "name = (SELECT 'findme ' || string_agg(n::text, ' ') FROM generate_series(1, 300000) n)",
		"tags = ARRAY['findme', repeat(chr(128512), 9000)]", "external_id = 'findme ' || repeat(chr(128512), 9000)",
		"name = 'findme', external_id = '', tags = '{NULL,\"\"}'",
	} {
		id := h.chat(h.ours, set)
		list := decode[api.List[api.Chat]](t, h.request(h.ours.employee, "GET", "/chats?limit=1&q=findme", nil).want(t, 200, ""))
		if found := slices.Contains(ids(list), id); !found && set != "tags = array_fill('findme'::text, '{100,100}')" {
			t.Errorf("%s: found %v, not %d", set, ids(list), id)
		}
	}
}

// While somebody pages, chats come, go and change: what stays is seen exactly once.
func TestPagingBesideWriters(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.exec("INSERT INTO chats (organization_id, name) SELECT $1, 'n' || n FROM generate_series(1, 400) n", h.ours.id)
	stays := one[[]int64](h, "SELECT array_agg(id ORDER BY id DESC) FROM chats WHERE id % 4 <> 0")
	done := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			default:
			}
			_, err := h.pool.Exec(t.Context(), "INSERT INTO chats (organization_id, name) VALUES ($1, 'new')", h.ours.id)
			if err == nil {
				_, err = h.pool.Exec(t.Context(), "DELETE FROM chats WHERE id IN (SELECT id FROM chats WHERE id % 4 = 0 ORDER BY random() LIMIT 1)")
			}
			if err == nil {
				_, err = h.pool.Exec(t.Context(), "UPDATE chats SET unread_count = unread_count + 1, status = 'open' WHERE id IN (SELECT id FROM chats ORDER BY random() LIMIT 3)")
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	for _, query := range []string{"limit=7", "limit=23&q=n"} {
		var seen []int64
		for cursor := ""; ; {
			list := decode[api.List[api.Chat]](t, h.request(h.ours.employee, "GET", "/chats?"+query+"&cursor="+cursor, nil).want(t, 200, ""))
			seen = append(seen, ids(list)...)
			if list.NextCursor == nil {
				break
			}
			cursor = *list.NextCursor
		}
		if !slices.IsSortedFunc(seen, func(a, b int64) int { return int(b - a) }) || len(slices.Compact(slices.Clone(seen))) != len(seen) {
			t.Errorf("%s: not in order, or twice: %v", query, seen)
		}
		for _, id := range stays {
			if !slices.Contains(seen, id) {
				t.Errorf("%s: chat %d stayed and was not seen", query, id)
			}
		}
	}
	close(done)
	writer.Wait()
}

// The counters are written more than anything else of a chat: their updates must touch no index.
func TestCountersAreUpdatedInPlace(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.exec("INSERT INTO chats (organization_id, name) SELECT $1, 'n' || n FROM generate_series(1, 20) n", h.ours.id)
	h.exec("VACUUM chats")
	conn, err := h.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	updates := func() (all, hot int64) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), "SELECT pg_stat_force_next_flush()"); err != nil {
			t.Fatal(err)
		}
		if err := conn.QueryRow(t.Context(), "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'chats'").Scan(&all, &hot); err != nil {
			t.Fatal(err)
		}
		return all, hot
	}
	write := func(sql string) {
		t.Helper()
		for range 20 {
			if _, err := conn.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
	}
	all, hot := updates()
	write("UPDATE chats SET unread_count = unread_count + 1, last_message_at = clock_timestamp()")
	if a, h := updates(); a-all != 400 || h-hot < 200 { // where a page is full one goes to the next
		t.Errorf("of %d updates %d were in place", a-all, h-hot)
	}
	all, hot = updates()
	write("UPDATE chats SET status = CASE status WHEN 'new' THEN 'open' ELSE 'new' END")
	if a, h := updates(); a-all != 400 || h-hot != 0 { // the control: this one has an index
		t.Errorf("of %d updates of the status %d were in place", a-all, h-hot)
	}
}
