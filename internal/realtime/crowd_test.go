package realtime

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestStormOfArrivals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var lock sync.Mutex // timers tell on goroutines of their own
		var told []string
		began := time.Now()
		a := arrivals{storm: func(begun bool) {
			lock.Lock()
			defer lock.Unlock()
			told = append(told, fmt.Sprint(time.Since(began), " ", begun))
		}}
		for range 3 { // a usual second, and another
			for range stormSize {
				a.count(time.Now())
			}
			<-time.After(2 * time.Second)
		}
		for range 15 { // one that goes on for longer than stormLasts
			for range stormSize + 1 {
				a.count(time.Now())
			}
			<-time.After(1100 * time.Millisecond)
		}
		<-time.After(time.Minute)
		for range stormSize + 1 {
			a.count(time.Now())
		}
		<-time.After(time.Minute)
		lock.Lock()
		defer lock.Unlock()
		want := []string{"6s true", "31.4s false", "1m22.5s true", "1m32.5s false"}
		if !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
	})
}
