package realtime

import (
	"encoding/json"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zishang520/socket.io/servers/socket/v3"
	"pgregory.net/rapid"
)

// FuzzClientEvent parses what the library makes of any JSON array.
func FuzzClientEvent(f *testing.F) {
	for _, seed := range []string{
		`["subscribe:chat",5]`, `["subscribe:chat","5"]`, `["typing:start",{"chatId":5}]`, `["presence:set",{"status":"away"}]`,
		`["auth:refresh",{"token":"t"}]`, `[]`, `[null]`, `[5,5]`, `["subscribe:chat",1152921504606846976]`,
		`["subscribe:chat",9007199254740993]`, `["subscribe:chat","9223372036854775808"]`, `["x",{"__proto__":{"chatId":1}}]`,
		`["subscribe:chat",-0.0]`, `["subscribe:chat",1e400]`, `["subscribe:chat",{"chatId":[[[[1]]]]}]`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, packet string) {
		var args []any
		if json.Unmarshal([]byte(packet), &args) != nil {
			return
		}
		e := parseClientEvent(append(args, socket.Ack(func([]any, error) {})))
		if len(args) > 0 && e.ack == nil {
			t.Fatal("the acknowledgement is lost")
		}
		if id, ok := parseChatID(e.arg); ok {
			checkChatID(t, e.arg, id)
		}
		if status, ok := parsePresence(e.arg); ok && status != statusOnline && status != statusAway {
			t.Fatal(status)
		}
		_, _ = parseToken(e.arg)
		if len(label(e.name)) > 255 {
			t.Fatal("a long label")
		}
	})
}

// checkChatID tells whether id is exactly what the argument says.
func checkChatID(t *testing.T, arg any, id int64) {
	t.Helper()
	if object, ok := arg.(map[string]any); ok {
		arg = object["chatId"]
	}
	switch v := arg.(type) {
	case float64:
		if id <= 0 || id > 1<<53-1 || float64(id) != v {
			t.Fatalf("%v is %d", v, id)
		}
	case string:
		if id <= 0 || strconv.FormatInt(id, 10) != strings.TrimLeft(v, "0") {
			t.Fatalf("%q is %d", v, id)
		}
	default:
		t.Fatalf("%v is %d", arg, id)
	}
}

func TestChatIDs(t *testing.T) {
	for _, nan := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), math.Copysign(0, -1), 1 << 53, 0.5} {
		if id, ok := parseChatID(nan); ok {
			t.Errorf("%v is %d", nan, id)
		}
	}
	if id, ok := parseChatID(float64(1<<53 - 1)); !ok || id != 1<<53-1 {
		t.Error(id, ok)
	}
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.Int64Range(1, math.MaxInt64).Draw(t, "id")
		if id, ok := parseChatID(strconv.FormatInt(want, 10)); !ok || id != want {
			t.Fatal(id, ok)
		}
	})
}

// FuzzHeaders reads the headers that strangers may write.
func FuzzHeaders(f *testing.F) {
	f.Add("https://app.example.org", "192.0.2.1, 10.0.0.1", "Bearer x", "example.org")
	f.Add("null", ",,,", "bearer", "[::1]:80")
	f.Add("http://[::1%25eth0]", "fe80::1%eth0", "Basic Zm9v", "")
	f.Fuzz(func(t *testing.T, origin, forwarded, authorization, host string) {
		o, err := parseOrigins([]string{"https://app.example.org"})
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodGet, "/socket.io/", nil)
		r.Host = host
		r.Header["Origin"], r.Header["X-Forwarded-For"] = []string{origin}, []string{forwarded}
		if allowed, foreign := o.allow(r); allowed && foreign && !strings.EqualFold(strings.TrimSuffix(strings.TrimSuffix(origin, "/"), ":443"), "https://app.example.org") {
			t.Fatalf("origin %q was let in", origin)
		}
		s := &Server{o: Options{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}}
		s.address(r)
		handshake := &socket.Handshake{Headers: map[string]any{"Authorization": []string{authorization}}}
		if token, _, err := credentials(handshake); err != nil || strings.HasPrefix(token, " ") {
			t.Fatal(token, err)
		}
	})
}

// Alarms ring in the order of their times, each once, at the last time that was set, and not when stopped.
func TestAlarms(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type plan struct {
			Seconds, Again int
			Stop           bool
		}
		plans := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) plan {
			return plan{rapid.IntRange(0, 50).Draw(t, "at"), rapid.IntRange(-1, 50).Draw(t, "again"), rapid.Bool().Draw(t, "stop")}
		}), 0, 30).Draw(t, "plans")
		as := newAlarms(func(string) {})
		began := time.Unix(0, 0)
		list := make([]alarm, len(plans))
		want := map[int]int{}
		rung := map[int]int{}
		now := 0
		for i, p := range plans {
			ring := func() { rung[i] = now }
			as.set(&list[i], began.Add(time.Duration(p.Seconds)*time.Second), ring)
			want[i] = p.Seconds
			if p.Again >= 0 {
				as.set(&list[i], began.Add(time.Duration(p.Again)*time.Second), ring)
				want[i] = p.Again
			}
			if p.Stop {
				as.stop(&list[i])
				delete(want, i)
			}
		}
		for now = range 52 {
			for ring := as.due(began.Add(time.Duration(now) * time.Second)); ring != nil; ring = as.due(began.Add(time.Duration(now) * time.Second)) {
				ring()
			}
		}
		if len(rung) != len(want) || len(as.heap) != 0 {
			t.Fatalf("rung %v, want %v, left %d", rung, want, len(as.heap))
		}
		for i, at := range want {
			if rung[i] != at {
				t.Fatalf("alarm %d rang at %d, not at %d", i, rung[i], at)
			}
		}
	})
}

func TestAlarmsRunInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		panics := 0
		as := newAlarms(func(string) {
			if recover() != nil {
				panics++
			}
		})
		began := time.Now()
		var rung []time.Duration
		var first, second, third alarm
		ring := func() { rung = append(rung, time.Since(began)) }
		as.set(&first, began.Add(time.Hour), ring)
		go as.run(t.Context())
		synctest.Wait()
		as.set(&second, began.Add(time.Second), func() { ring(); panic("a bug") })
		as.set(&third, began.Add(2*time.Second), ring)
		<-time.After(3 * time.Hour)
		if len(rung) != 3 || rung[0] != time.Second || rung[1] != 2*time.Second || rung[2] != time.Hour || panics != 1 {
			t.Error(rung, panics)
		}
	})
}
