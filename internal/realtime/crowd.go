package realtime

import (
	"context"
	"slices"
	"sync"
	"time"
)

// crowd hands what comes one by one to serve in groups: the first at once, then together those who came meanwhile. After
// a group it rests a millisecond for each of them, up to crowdRest: ten thousand within seconds are some dozens of
// groups, and who comes alone does not wait.
type crowd[T any] struct {
	serve func(group []T)

	mu      sync.Mutex
	waiting []T
	serving bool
}

const crowdRest = 100 * time.Millisecond

func (c *crowd[T]) join(one T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = append(c.waiting, one)
	if !c.serving {
		c.serving = true
		go c.run()
	}
}

// run ends when nobody waits.
func (c *crowd[T]) run() {
	for {
		group := c.take()
		if group == nil {
			return
		}
		c.serve(group)
		if n := time.Duration(len(group)); n > 1 {
			<-time.After(min(n*time.Millisecond, crowdRest))
		}
	}
}

func (c *crowd[T]) take() []T {
	c.mu.Lock()
	defer c.mu.Unlock()
	group := c.waiting
	c.waiting = nil
	c.serving = group != nil
	return group
}

// lookup asks for things by id, for all who want to know at once.
type lookup[V any] struct {
	ask   func(ctx context.Context, ids []int64) (map[int64]V, error)
	crowd crowd[*inquiry[V]]
}

type inquiry[V any] struct {
	ctx  context.Context
	ids  []int64
	done chan struct{}

	found map[int64]V // shared with others: nobody may write to it
	err   error
}

func newLookup[V any](ask func(ctx context.Context, ids []int64) (map[int64]V, error)) *lookup[V] {
	l := &lookup[V]{ask: ask}
	l.crowd.serve = l.answer
	return l
}

// get returns what was found, of others too, by a question that was asked after this call. ctx has a deadline.
func (l *lookup[V]) get(ctx context.Context, ids ...int64) (map[int64]V, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	i := &inquiry[V]{ctx: ctx, ids: ids, done: make(chan struct{})}
	l.crowd.join(i)
	select {
	case <-i.done:
		return i.found, i.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// answer asks once for the whole group, for as long as the most patient of them waits.
func (l *lookup[V]) answer(group []*inquiry[V]) {
	var ids []int64
	var deadline time.Time
	for _, i := range group {
		ids = append(ids, i.ids...)
		if d, _ := i.ctx.Deadline(); d.After(deadline) {
			deadline = d
		}
	}
	slices.Sort(ids)
	ctx, cancel := context.WithDeadline(context.WithoutCancel(group[0].ctx), deadline)
	defer cancel()
	found, err := l.ask(ctx, slices.Compact(ids))
	for _, i := range group {
		i.found, i.err = found, err
		close(i.done)
	}
}

// arrivals tells a storm by its connections: more than stormSize new ones within a second. It is over when none such was for
// stormLasts.
type arrivals struct {
	storm func(begun bool)

	mu     sync.Mutex
	second time.Time
	n      int
	over   *time.Timer // nil: no storm
}

const stormLasts = 10 * time.Second

func (a *arrivals) count(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Sub(a.second) > time.Second {
		a.second, a.n = now, 0
	}
	if a.n++; a.n <= stormSize {
		return
	}
	if a.over != nil && a.over.Stop() {
		a.over.Reset(stormLasts)
		return
	}
	a.over = time.AfterFunc(stormLasts, func() { a.storm(false) })
	a.storm(true)
}
