package realtime_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"roombell/internal/postgres/dbtest"
)

// TestMain fails when goroutines outlive the tests. A session of long-polling that was closed while no poll was there may
// wait some seconds for the next one.
func TestMain(m *testing.M) {
	code := m.Run()
	deadline := time.Now().Add(15 * time.Second)
	err := goleak.Find(dbtest.IgnoreServer())
	for err != nil && time.Now().Before(deadline) {
		err = goleak.Find(dbtest.IgnoreServer())
	}
	if code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
