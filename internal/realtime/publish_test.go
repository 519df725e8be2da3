package realtime

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/zishang520/socket.io/servers/socket/v3"
	"pgregory.net/rapid"

	"roombell/internal/eventlog"
)

func messageNew(organization int64, payload string, audience ...int64) eventlog.Event {
	return eventlog.Event{Kind: eventlog.KindEvent, Name: "message:new", OrganizationID: organization, Audience: audience, Payload: []byte(payload)}
}

func TestEventsComeInOrderWithTheirPositions(t *testing.T) {
	n := startNode(t, colleagues(), fast)
	w, foreigner := join(t, n, "7/3"), join(t, n, "9/4")
	var events []eventlog.Event
	for i := range 1000 {
		events = append(events, messageNew(3, fmt.Sprintf(`{"id" : %d, "timestamp":"2020-01-01T00:00:00Z"}`, i)))
	}
	b := batchOf(events...)
	n.Publish(b)
	for i := range 1000 {
		event := w.wait("message:new")
		if event["id"] != float64(i) || event["eventId"] != float64(b.Events[i].ID) || event["cursor"] != b.Cursor(i) {
			t.Fatalf("event %d: %v", i, event)
		}
		if event["timestamp"] != "2020-01-01T00:00:00Z" || event["recordedAt"] != timestamp(b.Events[i].RecordedAt) {
			t.Fatalf("event %d: %v", i, event)
		}
	}
	foreigner.silent("message:new")
}

func TestAudienceHearsOnce(t *testing.T) {
	n := startNode(t, colleagues(), fast)
	w, twin, other := join(t, n, "7/3"), join(t, n, "7/3"), join(t, n, "8/3")
	w.ask("subscribe:chat", 5)
	e := messageNew(3, `{"chatId":5}`, 7, 7, 99)
	e.ChatID = 5
	n.Publish(batchOf(e))
	for _, c := range []*wire{w, twin} {
		c.wait("message:new")
		c.silent("message:new")
	}
	other.silent("message:new")
	e.Audience = []int64{}
	n.Publish(batchOf(e))
	w.silent("message:new")
}

func TestCustomEvent(t *testing.T) {
	n := startNode(t, colleagues(), fast)
	w, other := join(t, n, "7/3"), join(t, n, "8/3")
	n.Publish(batchOf(eventlog.Event{Kind: eventlog.KindCustom, Name: `say "hé"`, OrganizationID: 3, UserID: 7,
		Payload: []byte(`{"eventId":"mine","cursor":1,"x":2}`)}))
	event := w.wait(`say "hé"`)
	if event["eventId"] != 1.0 || event["x"] != 2.0 {
		t.Error("the server's own fields must win: ", event)
	}
	if _, ok := event["timestamp"].(string); !ok {
		t.Error(event)
	}
	other.silent(`say "hé"`)
}

func TestFaultyEventsAreDroppedAndCounted(t *testing.T) {
	registry := prometheus.NewRegistry()
	n := startNode(t, colleagues(), fast, func(o *Options) { o.Registerer = registry })
	w := join(t, n, "7/3")
	n.Publish(batchOf(
		eventlog.Event{Kind: eventlog.KindEvent, Name: "message:new", Payload: []byte(`{}`)},
		eventlog.Event{Kind: eventlog.KindEvent, Name: "message:new", OrganizationID: 3, Payload: []byte(`[1]`)},
		eventlog.Event{Kind: eventlog.KindEvent, Name: "message:new", OrganizationID: 3},
		eventlog.Event{Kind: eventlog.KindCustom, Name: "disconnect", OrganizationID: 3, Payload: []byte(`{}`)},
		eventlog.Event{Kind: eventlog.KindCustom, Name: "", OrganizationID: 3, Payload: []byte(`{}`)},
		eventlog.Event{Kind: eventlog.KindTouch, OrganizationID: 3, ChatID: 5},
		eventlog.Event{Kind: 0, Name: "message:new", OrganizationID: 3, Payload: []byte(`{}`)},
		messageNew(3, `{"good":true}`)))
	if event := w.wait("message:new"); event["good"] != true {
		t.Error(event)
	}
	for fault, want := range map[string]float64{"unaddressed": 1, "payload": 2, "name": 2} {
		if got := counted(t, registry, "roombell_realtime_dropped_events_total", fault); got != want {
			t.Errorf("%s: %v dropped", fault, got)
		}
	}
	if got := counted(t, registry, "roombell_realtime_deliveries_total", ""); got != 1 {
		t.Errorf("%v deliveries", got)
	}
}

// counted returns a counter, the one of a label's value when there is a label.
func counted(t *testing.T, registry *prometheus.Registry, name, value string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == name && (value == "" || m.GetLabel()[0].GetValue() == value) {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

func TestReset(t *testing.T) {
	n := startNode(t, colleagues(), fast)
	w, other := join(t, n, "7/3"), join(t, n, "9/4")
	n.Reset("failover", eventlog.Cursor{})
	for _, c := range []*wire{w, other} {
		if event := c.wait("sync:reset"); event["reason"] != "failover" || event["cursor"] != (eventlog.Cursor{}).String() {
			t.Error(event)
		}
	}
}

func TestCursorIsAnsweredByReset(t *testing.T) {
	n := startNode(t, colleagues(), fast)
	for cursor, back := range map[string]string{`"abc"`: "abc", `5`: "", `{"a":1}`: "", `"` + strings.Repeat("a", 3000) + `"`: ""} {
		w := dial(t, n, "")
		w.send(`40{"token":"7/3","cursor":` + cursor + `}`)
		connected := w.wait("connected")
		reset := w.wait("sync:reset")
		if connected["resumed"] != false || connected["cursor"] != back || reset["reason"] != "unknown_cursor" || reset["cursor"] != (eventlog.Cursor{}).String() {
			t.Error(connected, reset)
		}
	}
	for _, cursor := range []string{`""`, `null`} {
		w := dial(t, n, "")
		w.send(`40{"token":"7/3","cursor":` + cursor + `}`)
		w.wait("connected")
		w.silent("sync:reset")
	}
}

// What is recorded between CONNECT's answer and connected is heard, after connected.
func TestNothingIsLostBetweenConnectAndConnected(t *testing.T) {
	still := &stillTail{attached: make(chan func(eventlog.Cursor, error), 1)}
	n := startNode(t, colleagues(), fast, func(o *Options) { o.Tail = still })
	w := dial(t, n, "7/3")
	attached := <-still.attached
	n.Publish(batchOf(messageNew(3, `{"id":1}`))) // before its place
	attached(eventlog.Cursor{}, nil)
	n.Publish(batchOf(messageNew(3, `{"id":2}`)))
	w.wait("connected")
	if event := w.wait("message:new"); event["id"] != 2.0 {
		t.Error(event)
	}
	w.silent("message:new")
}

func TestRooms(t *testing.T) {
	for _, test := range []struct {
		name  string
		event eventlog.Event
		rooms []socket.Room
	}{
		{"an organization's", eventlog.Event{Kind: eventlog.KindEvent, OrganizationID: 3, ChatID: 5}, []socket.Room{"org_3"}},
		{"a user's own", eventlog.Event{Kind: eventlog.KindCustom, OrganizationID: 3, UserID: 7}, []socket.Room{"user_7"}},
		{"a restricted chat's", eventlog.Event{Kind: eventlog.KindEvent, OrganizationID: 3, Audience: []int64{7, 8}}, []socket.Room{"user_7", "user_8"}},
		{"a restricted chat's that nobody sees", eventlog.Event{Kind: eventlog.KindEvent, OrganizationID: 3, Audience: []int64{}}, nil},
		{"nobody's", eventlog.Event{Kind: eventlog.KindEvent}, nil},
		{"counters", eventlog.Event{Kind: eventlog.KindTouch, OrganizationID: 3}, nil},
		{"rights of a user", eventlog.Event{Kind: eventlog.KindUser, OrganizationID: 3, UserID: 7}, nil},
		{"rights on chats", eventlog.Event{Kind: eventlog.KindChats, OrganizationID: 3}, nil},
		{"a newer kind", eventlog.Event{OrganizationID: 3}, nil},
		{"truncate", eventlog.Event{Kind: eventlog.KindTruncate}, []socket.Room{everyone}},
	} {
		if rooms := Rooms(test.event); !slices.Equal(rooms, test.rooms) {
			t.Errorf("%s: %v", test.name, rooms)
		}
	}
}

// Whatever the event, it is heard by those it names, or by its organization, and by nobody else.
func TestRoomsKeepOrganizationsApart(t *testing.T) {
	ids := rapid.Int64Range(1, 1<<62)
	rapid.Check(t, func(t *rapid.T) {
		e := eventlog.Event{
			Kind:           eventlog.Kind(rapid.IntRange(0, 7).Draw(t, "kind")),
			OrganizationID: rapid.OneOf(ids, rapid.Just[int64](0)).Draw(t, "organization"),
			UserID:         rapid.OneOf(ids, rapid.Just[int64](0)).Draw(t, "user"),
			ChatID:         rapid.OneOf(ids, rapid.Just[int64](0)).Draw(t, "chat"),
		}
		if rapid.Bool().Draw(t, "restricted") {
			e.Audience = rapid.SliceOfN(ids, 0, 20).Draw(t, "audience")
			if e.Audience == nil {
				e.Audience = []int64{}
			}
		}
		for _, r := range Rooms(e) {
			switch {
			case r == everyone && e.Kind == eventlog.KindTruncate:
			case e.UserID != 0 && r == userRoom(e.UserID):
			case e.UserID == 0 && e.Audience != nil && slices.ContainsFunc(e.Audience, func(id int64) bool { return r == userRoom(id) }):
			case e.UserID == 0 && e.Audience == nil && e.OrganizationID != 0 && r == organizationRoom(e.OrganizationID):
			default:
				t.Fatalf("%+v is heard in %s", e, r)
			}
		}
		if e.Kind == eventlog.KindEvent && e.UserID == 0 && len(Rooms(e)) != len(e.Audience) && e.Audience != nil {
			t.Fatalf("%+v: not all of its audience hears it", e)
		}
	})
}

// Whatever a JSON object a payload is, the wire form is one, with all its fields and the server's own.
func FuzzWireBody(f *testing.F) {
	for _, seed := range []string{`{}`, `{ }`, `{"a":1}`, " {\"a\" : {\"b\":[]}} \n", `{"eventId":5}`, `[]`, `null`, ``, `{`, `}`} {
		f.Add([]byte(seed), "message:new")
	}
	f.Fuzz(func(t *testing.T, payload []byte, name string) {
		e := eventlog.Event{ID: 1 << 52, Kind: eventlog.KindEvent, Name: name, RecordedAt: time.Unix(1e9, 5e3), Payload: payload}
		wire := appendWireBody(nil, &e, &eventlog.Batch{Events: []eventlog.Event{e}}, 0)
		var object map[string]json.RawMessage
		if json.Unmarshal(payload, &object) != nil || object == nil {
			return // the log holds JSON only
		}
		var sent map[string]json.RawMessage
		if err := json.Unmarshal(wire, &sent); err != nil {
			t.Fatalf("%s: %v", wire, err)
		}
		if string(sent["eventId"]) != "4503599627370496" || sent["cursor"] == nil || string(sent[recordedField(&e)]) != `"2001-09-09T01:46:40.000005Z"` {
			t.Fatalf("%s", wire)
		}
		for key, value := range object {
			if own := key == "eventId" || key == "cursor" || key == recordedField(&e); !own && !bytes.Equal(sent[key], value) {
				t.Fatalf("%s: field %s is %s", wire, key, sent[key])
			}
		}
		if strings.Count(string(wire), `"eventId":4503599627370496,"cursor":"`) == 0 {
			t.Fatalf("%s", wire)
		}
	})
}
