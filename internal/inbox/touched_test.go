package inbox

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestTouchedSinglesGoBeforeBulk(t *testing.T) {
	t.Parallel()
	set, now := newTouched(), time.Now()
	for chat := range int64(10) {
		set.add(100-chat, now, true)
	}
	set.add(7, now, false)
	set.add(95, now, false) // a single write to a chat of the bulk

	singles, bulk := set.due(now, 5)
	if !slices.Equal(singles, []int64{7, 95}) || !slices.Equal(bulk, []int64{91, 92, 93, 94, 96, 97, 98, 99, 100}) {
		t.Errorf("due are %v and %v", singles, bulk)
	}
}

// A script that writes bulk after bulk is not heard as a flood of single writes.
func TestTouchedAgainByABulk(t *testing.T) {
	t.Parallel()
	set, now := newTouched(), time.Now()
	set.add(1, now, true)
	set.start([]int64{1})
	set.finish(1, now.Add(restBulk))
	set.add(1, now.Add(time.Millisecond), true)
	if singles, bulk := set.due(now.Add(restBulk), 10); len(singles) != 0 || !slices.Equal(bulk, []int64{1}) {
		t.Errorf("due are %v and %v", singles, bulk)
	}
}

func TestTouchedOldestFirst(t *testing.T) {
	t.Parallel()
	set, now := newTouched(), time.Now()
	for chat := range int64(5) {
		set.add(chat, now.Add(-time.Duration(chat)*time.Second), false)
	}
	if got, _ := set.due(now, 2); !slices.Equal(got, []int64{3, 4}) {
		t.Errorf("due are %v", got)
	}
}

func TestTouchedRests(t *testing.T) {
	t.Parallel()
	set, now := newTouched(), time.Now()
	set.add(1, now, false)
	set.start([]int64{1})
	set.finish(1, now.Add(restLeast))
	set.add(1, now.Add(time.Millisecond), false)
	if got, _ := set.due(now.Add(restLeast/2), 10); len(got) != 0 {
		t.Errorf("due while resting: %v", got)
	}
	if got, _ := set.due(now.Add(restLeast), 10); !slices.Equal(got, []int64{1}) {
		t.Errorf("due after the rest: %v", got)
	}
}

func TestRestGrowsWithTheChatsThatAreWrittenTo(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		chats int
		want  time.Duration
	}{{1, restLeast}, {400, restLeast}, {1000, 500 * time.Millisecond}, {2000, restMost}} {
		set := newTouched()
		for chat := range test.chats {
			set.add(int64(chat), time.Now(), false)
		}
		if got := set.rest(false); got != test.want {
			t.Errorf("beside %d chats one rests %v, want %v", test.chats, got, test.want)
		}
	}
}

func TestTransactionsAreForgotten(t *testing.T) {
	t.Parallel()
	var own transactions
	for txid := range uint64(3 * len(own.ring)) {
		own.add(txid + 1)
	}
	last := uint64(3 * len(own.ring))
	if !own.has(last) || !own.has(last-uint64(len(own.ring))+1) || own.has(last-uint64(len(own.ring))) || len(own.known) != len(own.ring) {
		t.Errorf("%d are known", len(own.known))
	}
	own.forget(last)
	if own.has(last) {
		t.Error("one that was forgotten is known")
	}
	own.clear()
	if own.add(last); !own.has(last) || own.has(last-1) {
		t.Error("not the one that was added after all were forgotten")
	}
}

func TestTouchedWhileItIsComputed(t *testing.T) {
	t.Parallel()
	set, now := newTouched(), time.Now()
	set.add(1, now, false)
	taken := set.start([]int64{1})
	set.add(1, now.Add(time.Second), false)
	set.retry(1, taken[1], now)
	if set.pending != 1 || !set.chats[1].since.Equal(now) || set.chats[1].tries != 1 {
		t.Errorf("after a retry %+v, %d pending", set.chats[1], set.pending)
	}
}

// Whatever is done to the set, a touch is lost only by clear and expire, and pending counts what is there.
func TestTouchedLosesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		set, now := newTouched(), time.Now()
		want := map[int64]bool{}
		busy := map[int64]touch{}
		chat := rapid.Int64Range(1, 6)
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				id := chat.Draw(t, "chat")
				set.add(id, now, rapid.Bool().Draw(t, "bulk"))
				want[id] = true
			},
			"start": func(t *rapid.T) {
				singles, bulk := set.due(now, rapid.IntRange(1, 6).Draw(t, "n"))
				for id, was := range set.start(append(singles, bulk...)) {
					busy[id] = was
					delete(want, id)
				}
			},
			"finish": func(t *rapid.T) {
				for id := range busy {
					set.finish(id, now.Add(restLeast))
				}
				clear(busy)
			},
			"retry": func(t *rapid.T) {
				for id, was := range busy {
					set.retry(id, was, now.Add(busyRetry))
					want[id] = true
				}
				clear(busy)
			},
			"time": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 400).Draw(t, "ms")) * time.Millisecond)
				set.forget(now)
			},
			"": func(t *rapid.T) {
				list := set.list()
				if len(list) != len(want) || set.pending != len(want) {
					t.Fatalf("listed %v, pending %d, want %v", list, set.pending, want)
				}
				for _, id := range list {
					if !want[id] {
						t.Fatalf("chat %d is listed and was not touched", id)
					}
				}
			},
		})
		now = now.Add(time.Hour)
		for id, was := range busy {
			set.retry(id, was, now)
			want[id] = true
		}
		if singles, bulk := set.due(now, 100); len(singles)+len(bulk) != len(want) {
			t.Fatalf("an hour later %v and %v are due, want %v", singles, bulk, want)
		}
	})
}

func TestTouchedIsBounded(t *testing.T) {
	t.Parallel()
	set, now := newTouched(), time.Now()
	for chat := range int64(touchedLimit) {
		if !set.add(chat, now, true) {
			t.Fatalf("no room for chat %d", chat)
		}
	}
	if set.add(-1, now, false) {
		t.Error("there was room for one more")
	}
	if !set.add(5, now, false) {
		t.Error("there was no room for one that is in")
	}
	set.expire(now.Add(time.Second), now.Add(time.Second))
	if len(set.chats) != 0 || set.pending != 0 {
		t.Errorf("%d chats are left, %d pending", len(set.chats), set.pending)
	}
}

func TestChunkFollowsTheTimeItTakes(t *testing.T) {
	t.Parallel()
	c := newSingles()
	for range 10 {
		c.took(c.size, time.Second)
	}
	if c.size != 1 {
		t.Errorf("slow ones are done %d at a time", c.size)
	}
	for range 10 {
		c.took(c.size, time.Millisecond)
	}
	if c.size != singlesMost {
		t.Errorf("quick ones are done %d at a time", c.size)
	}
	c.took(3, time.Millisecond) // says nothing about more
	if c.size != singlesMost {
		t.Errorf("after a small one %d at a time", c.size)
	}
}
