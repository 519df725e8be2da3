package realtime

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// alarm is a moment at which ring is called. The zero value is one that is not set. It lies inside what it belongs to:
// ten thousand of them cost no timer and no goroutine.
type alarm struct {
	ring  func()
	at    time.Time
	place int // in the heap, from 1; 0: not set
}

// alarms rings every alarm at its time, on the goroutine of run.
type alarms struct {
	rescue func(where string) // deferred around each ring
	mu     sync.Mutex
	heap   alarmHeap
	wake   chan struct{}
}

func newAlarms(rescue func(where string)) *alarms {
	return &alarms{rescue: rescue, wake: make(chan struct{}, 1)}
}

// set makes a ring at the given time, and only then if it was set already. A ring that has begun cannot be taken back:
// whoever is rung looks whether it still applies.
func (as *alarms) set(a *alarm, at time.Time, ring func()) {
	as.mu.Lock()
	a.at, a.ring = at, ring
	if a.place == 0 {
		heap.Push(&as.heap, a)
	} else {
		heap.Fix(&as.heap, a.place-1)
	}
	first := as.heap[0] == a
	as.mu.Unlock()
	if first {
		as.poke()
	}
}

// stop makes a not ring, unless it just does.
func (as *alarms) stop(a *alarm) {
	as.mu.Lock()
	defer as.mu.Unlock()
	if a.place != 0 {
		heap.Remove(&as.heap, a.place-1)
	}
	a.ring = nil
}

func (as *alarms) poke() {
	select {
	case as.wake <- struct{}{}:
	default:
	}
}

// run rings until ctx ends.
func (as *alarms) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		for ring := as.due(time.Now()); ring != nil; ring = as.due(time.Now()) {
			as.call(ring)
		}
		timer.Reset(as.wait())
		select {
		case <-ctx.Done():
			return
		case <-as.wake:
		case <-timer.C:
		}
	}
}

func (as *alarms) call(ring func()) {
	defer as.rescue("alarm")
	ring()
}

// due takes the first alarm whose time has come, nil when there is none.
func (as *alarms) due(now time.Time) func() {
	as.mu.Lock()
	defer as.mu.Unlock()
	if len(as.heap) == 0 || as.heap[0].at.After(now) {
		return nil
	}
	a := heap.Pop(&as.heap).(*alarm)
	ring := a.ring
	a.ring = nil
	return ring
}

func (as *alarms) wait() time.Duration {
	as.mu.Lock()
	defer as.mu.Unlock()
	if len(as.heap) == 0 {
		return time.Hour
	}
	return max(time.Until(as.heap[0].at), 0)
}

type alarmHeap []*alarm

func (h alarmHeap) Len() int           { return len(h) }
func (h alarmHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }

func (h alarmHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i+1, j+1
}

func (h *alarmHeap) Push(x any) {
	a := x.(*alarm)
	*h = append(*h, a)
	a.place = len(*h)
}

func (h *alarmHeap) Pop() any {
	old := *h
	a := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	a.place = 0
	return a
}
