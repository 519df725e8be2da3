package postgres

import (
	"context"
	"strings"
	"sync"
	"testing"
)

// A copy that is made while somebody writes has everything, follows, and becomes the primary at the shared address; then the former one
// follows it.
func TestFollow(t *testing.T) {
	t.Parallel()
	o := Options{Cache: cache(), Sync: true, Settings: map[string]string{"wal_keep_size": "256MB", "wal_retrieve_retry_interval": "50ms"}}
	a, b := start(t, o), start(t, o)
	shared := SharedURL(Name, a, b)
	execute(t, a.URL(Name), `CREATE TABLE numbers (n bigserial, filler text)`)

	writing, stop := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() {
		for writing.Err() == nil {
			execute(t, a.URL(Name), `INSERT INTO numbers (filler) SELECT repeat('x', 500) FROM generate_series(1, 100)`)
		}
	})
	err := b.Follow(t.Context(), a)
	stop()
	writer.Wait()
	if err != nil {
		t.Fatal(err)
	}

	written := query[int](t, shared, `SELECT count(*) FROM numbers`)
	eventually(t, "it has everything", func() bool { return query[int](t, b.URL(Name), `SELECT count(*) FROM numbers`) == written })
	if !query[bool](t, b.URL(Name), `SELECT pg_is_in_recovery()`) {
		t.Error("it is no standby")
	}
	if err := a.Crash(t.Context()); err != nil {
		t.Fatal(err)
	}
	query[bool](t, b.AdminURL(Name), `SELECT pg_promote()`)
	execute(t, shared, `INSERT INTO numbers (filler) VALUES ('of the new primary')`)

	if err := a.Follow(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the former primary has it", func() bool { return query[int](t, a.URL(Name), `SELECT count(*) FROM numbers`) == written+1 })
}

// A kept server's data are somebody's.
func TestFollowSparesAKeptServer(t *testing.T) {
	t.Parallel()
	kept, other := start(t, Options{Dir: dataDir(t)}), start(t, Options{Cache: cache()})
	if err := kept.Follow(t.Context(), other); err == nil || !strings.Contains(err.Error(), "throw-away") {
		t.Errorf("got %v", err)
	}
	execute(t, kept.URL(Name), `SELECT 1`)
}
