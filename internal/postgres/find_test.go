package postgres

import (
	"os"
	"strings"
	"testing"
)

// `make run` would install a PostgreSQL that we do not find, or fail beside one that we do.
func TestSetupLooksInTheSamePlaces(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile("../../.ci/setup")
	if err != nil {
		t.Fatal(err)
	}
	for _, place := range places {
		// The script puts this one together from its cache folder.
		place = strings.TrimPrefix(place, "/var/cache/roombell")
		if !strings.Contains(string(script), place) {
			t.Errorf(".ci/setup knows nothing of %s", place)
		}
	}
}

func TestFindBin(t *testing.T) {
	t.Parallel()
	dir, err := FindBin(os.Getenv("PG_BIN"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := inspect(dir, serverAccount())
	if err != nil || b.major < oldestMajor {
		t.Errorf("found %+v: %v", b, err)
	}
	if _, err := find(dir, b.major, serverAccount()); err != nil {
		t.Errorf("the right version by name: %v", err)
	}
	if _, err := find(dir, b.major+1, serverAccount()); err == nil {
		t.Error("data of a newer version were given to an older server")
	}
	if _, err := find("", 99, serverAccount()); err == nil || !strings.Contains(err.Error(), "99") {
		t.Errorf("data of a version that is not here: %v", err)
	}
}
