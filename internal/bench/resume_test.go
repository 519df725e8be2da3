package bench

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestEveryMemberMissesAHundredRows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := rapid.IntRange(1, 60).Draw(t, "members")
		m, mine := newMissed(members), map[int32]int{}
		for member := range members {
			heard := m.heardBy(member)
			if len(heard) != resumeMissed || !slices.IsSorted(heard) {
				t.Fatalf("member %d hears %d rows", member, len(heard))
			}
			for _, seq := range heard {
				mine[seq]++
			}
		}
		for seq, h := range m {
			want := members
			switch {
			case h.member != nobodyAlone:
				want = 1
			case h.team != nobodyAlone:
				want = (members + teams - 1 - h.team) / teams
			}
			if mine[int32(seq)] != want {
				t.Fatalf("row %d for %+v is heard by %d of %d", seq, h, mine[int32(seq)], members)
			}
		}
	})
}

func TestRestrictedChatsAreOneTeams(t *testing.T) {
	o := organization{}
	for id := range int64(labChats) {
		o.chats = append(o.chats, id)
	}
	if a, b := o.restrictedChats(0), o.restrictedChats(1); fmt.Sprint(a, b) != "[10 11 12 13 14] [15 16 17 18 19]" {
		t.Errorf("got %v and %v", a, b)
	}
}

func TestReturnsAreComparedRowByRow(t *testing.T) {
	want := []int32{1, 3, 5, 7}
	for _, c := range []struct {
		name                               string
		heard                              []int32
		lost, duplicates, strays, disorder int64
	}{
		{"all", []int32{1, 3, 5, 7}, 0, 0, 0, 0},
		{"nothing", nil, 4, 0, 0, 0},
		{"one lost and another twice", []int32{1, 3, 3, 7}, 1, 1, 0, 0},
		{"one that is not for this client", []int32{1, 2, 3, 5, 7}, 0, 0, 1, 0},
		{"two in the wrong order", []int32{1, 5, 3, 7}, 0, 0, 0, 1},
		{"everything again", []int32{1, 3, 5, 7, 1, 3, 5, 7}, 0, 4, 0, 0},
	} {
		var r Return
		r.compare(c.heard, want)
		if r.Expected != 4 || r.Lost != c.lost || r.Duplicates != c.duplicates || r.Strays != c.strays || r.Disordered != c.disorder {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
}

func TestRoamerKeepsItsPlace(t *testing.T) {
	row := func(phase, seq int, cursor string) string {
		return fmt.Sprintf(`42["message:new",{"id":1,"content":"%s","data":{"cursor":"no"},"eventId":9,"cursor":"%s","recordedAt":"x"}]`,
			probe{phase, seq, time.Unix(0, 1)}.content(0), cursor)
	}
	r := &roamer{phase: 2}
	for i, step := range []struct {
		frame    string
		caughtUp bool
		cursor   string
	}{
		{`42["connected",{"message":"hello","cursor":"a","resumed":true}]`, false, "a"},
		{row(2, 4, "b"), false, "b"},
		{row(1, 5, "c"), false, "c"}, // of an earlier phase
		{`42["presence:changed",{"userId":1}]`, false, "c"},
		{row(2, 5, "d"), false, "d"},
		{`42["sync:complete",{"replayed":3,"cursor":"e"}]`, true, "e"},
		{`42["sync:reset",{"reason":"too_many","cursor":"f"}]`, true, "f"},
	} {
		if caughtUp := r.note([]byte(step.frame)); caughtUp != step.caughtUp || string(r.cursor) != step.cursor {
			t.Errorf("step %d: caught up %v, cursor %s", i, caughtUp, r.cursor)
		}
	}
	if !r.back.resumed || r.back.reset != "too_many" || !slices.Equal(r.heard, []int32{4, 5}) {
		t.Errorf("%+v, heard %v", r.back, r.heard)
	}
}

func TestStatementsAreCountedByWhatTheyAreFor(t *testing.T) {
	long := strings.Repeat("x", 200_000)
	log := strings.Join([]string{
		`2026-11-23 22:00:00 UTC [1] LOG:  database system is ready to accept connections`,
		`7|roombell listen host/1|LOG:  execute <unnamed>: SELECT pg_current_snapshot(), pg_current_wal_flush_lsn()`,
		`7|roombell listen host/1|LOG:  statement: LISTEN roombell`,
		`8|roombell|LOG:  execute stmtcache_1: -- name: GetUser :one`,
		"\tSELECT id FROM users", // the rest of a statement
		`8|roombell|LOG:  statement: begin read only`,
		`8|roombell|LOG:  statement: SET LOCAL enable_seqscan = off; SET LOCAL jit = off`,
		`8|roombell|LOG:  execute stmtcache_2: SELECT system_identifier, roombell.timeline() FROM pg_control_system()`,
		`8|roombell|LOG:  statement: commit`,
		`9|roombell|LOG:  statement: begin`,
		`9|roombell|LOG:  execute stmtcache_3: -- name: LockChats :many`,
		`8|roombell|LOG:  execute stmtcache_4: SELECT pg_current_snapshot(), ` + long,
		`9|roombell|LOG:  statement: commit`,
		`9|roombell|ERROR:  deadlock detected`,
		`9|roombell|DETAIL:  statement: begin`,
		`9|roombell|LOG:  statement: select 1`,
		`9|roombell|LOG:  statement: begin`, // and nothing after it
		``,
	}, "\n")
	got, err := countStatements(strings.NewReader(log))
	if err != nil {
		t.Fatal(err)
	}
	want := statements{askedTail: 2, askedRights: 1, askedLog: 5, askedCounters: 3, askedOther: 2}
	if got.String() != want.String() {
		t.Errorf("got %v, want %v", got, want)
	}
}
