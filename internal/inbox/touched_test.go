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

	if got := set.due(now, 2); !slices.Equal(got, []int64{7, 95}) {
		t.Errorf("due are %v", got)
	}
	if got := set.due(now, 5); len(got) != 5 || !slices.Contains(got, 7) || !slices.Contains(got, 95) || !slices.IsSorted(got) {
		t.Errorf("due are %v", got)
	}
}

func TestTouchedOldestFirst(t *testing.T) {
	t.Parallel()
	set, now := newTouched(), time.Now()
	for chat := range int64(5) {
		set.add(chat, now.Add(-time.Duration(chat)*time.Second), false)
	}
	if got := set.due(now, 2); !slices.Equal(got, []int64{3, 4}) {
		t.Errorf("due are %v", got)
	}
}

func TestTouchedRests(t *testing.T) {
	t.Parallel()
	set, now := newTouched(), time.Now()
	set.add(1, now, false)
	set.start([]int64{1})
	set.finish(1, now.Add(rest))
	set.add(1, now.Add(time.Millisecond), false)
	if got := set.due(now.Add(rest/2), 10); len(got) != 0 {
		t.Errorf("due while resting: %v", got)
	}
	if got := set.due(now.Add(rest), 10); !slices.Equal(got, []int64{1}) {
		t.Errorf("due after the rest: %v", got)
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
				due := set.due(now, rapid.IntRange(1, 6).Draw(t, "n"))
				for id, was := range set.start(due) {
					busy[id] = was
					delete(want, id)
				}
			},
			"finish": func(t *rapid.T) {
				for id := range busy {
					set.finish(id, now.Add(rest))
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
		if due := set.due(now, 100); len(due) != len(want) {
			t.Fatalf("an hour later %v are due, want %v", due, want)
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
	c := newChunk()
	for range 10 {
		c.took(c.size, time.Second)
	}
	if c.size != 1 {
		t.Errorf("slow ones are done %d at a time", c.size)
	}
	for range 10 {
		c.took(c.size, time.Millisecond)
	}
	if c.size != chunkMost {
		t.Errorf("quick ones are done %d at a time", c.size)
	}
	c.took(3, time.Millisecond) // says nothing about more
	if c.size != chunkMost {
		t.Errorf("after a small one %d at a time", c.size)
	}
}
