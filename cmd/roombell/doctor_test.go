package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"roombell/internal/doctor"
	"roombell/internal/postgres/dbtest"
)

// diagnosis is what `roombell doctor --json` prints.
type diagnosis struct {
	Broken, Warnings, Notes int
	Findings                []struct{ Check, Code, Level, Title, Meaning, Remedy, Command string }
}

func diagnose(t *testing.T, env []string, code int) diagnosis {
	t.Helper()
	r := roombell(t, env, "", "doctor", "--json")
	var d diagnosis
	if err := json.Unmarshal([]byte(r.stdout), &d); err != nil || r.code != code {
		t.Fatalf("exit %d, want %d: %v\n%s%s", r.code, code, err, r.stdout, r.stderr)
	}
	return d
}

func (d diagnosis) codes(level string) []string {
	var codes []string
	for _, f := range d.Findings {
		if f.Level == level {
			codes = append(codes, f.Code)
		}
	}
	return codes
}

// mend runs the commands of all that is broken, as somebody who copies them from the terminal.
func (d diagnosis) mend(t *testing.T, env []string) {
	t.Helper()
	for _, f := range d.Findings {
		if f.Level != "broken" {
			continue
		}
		cmd := exec.Command("sh", "-c", f.Command)
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
		cmd.Env = append(cmd.Env, env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", f.Command, err, out)
		}
	}
}

// An empty database is taken to one that is fine by what the doctor says, and again after somebody broke it.
func TestDoctor(t *testing.T) {
	t.Parallel()
	d := dbtest.Empty(t)
	env := []string{"DATABASE_URL=" + d.URL, "ROOMBELL_JWT_SECRET=" + testSecret}
	first := diagnose(t, env, exitFailed)
	if got := first.codes("broken"); !slices.Equal(got, []string{"not_migrated"}) {
		t.Errorf("an empty database has %v", got)
	}
	first.mend(t, env)
	s := serve(t, env)
	s.awaitReady(http.StatusOK, "")
	people := newPeople(t, d, "ann@a.example")
	exec1(t, d, `INSERT INTO messages (chat_id, content) VALUES ($1, 'hello')`, people.chat)
	eventually(t, func() error {
		// Until the service has stored how far it is. The superuser of the tests has a session, which only he may look into.
		notes := diagnose(t, env, exitDone).codes("note")
		if notes = slices.DeleteFunc(notes, func(code string) bool { return code == "sessions_hidden" }); len(notes) > 0 {
			return fmt.Errorf("notes: %v", notes)
		}
		return nil
	})

	exec1(t, d, `ALTER TABLE messages DISABLE TRIGGER roombell_insert`)
	exec1(t, d, `DROP TRIGGER roombell_update ON chats`)
	exec1(t, d, `ALTER SEQUENCE event_log_seq CACHE 10`)
	broken := diagnose(t, env, exitFailed)
	if got := broken.codes("broken"); !slices.Equal(got, []string{"triggers_missing", "triggers_disabled", "sequence_cached"}) {
		t.Errorf("it has %v", got)
	}
	text := roombell(t, env, "", "doctor")
	if text.code != exitFailed || text.stderr != "roombell: 3 broken\n" || !strings.HasPrefix(text.stdout, "broken   1 trigger is missing: chats.roombell_update [triggers_missing]\n") ||
		!strings.Contains(text.stdout, "\n         $ psql \"$DATABASE_URL\" -c 'ALTER SEQUENCE event_log_seq CACHE 1'\n") || strings.Contains(text.stdout, "\x1b") {
		t.Errorf("exit %d: %s%s", text.code, text.stdout, text.stderr)
	}
	broken.mend(t, env)
	diagnose(t, env, exitDone)
}

func TestDoctorWithoutADatabase(t *testing.T) {
	t.Parallel()
	r := roombell(t, nil, "", "doctor")
	if r.code != exitUsage || !strings.Contains(r.stderr, "DATABASE_URL is not set") {
		t.Errorf("exit %d: %s", r.code, r.stderr)
	}
	r = roombell(t, []string{"DATABASE_URL=postgres://x@127.0.0.1:1/x", "ROOMBELL_REDIS_URL=redis://127.0.0.1"}, "", "doctor")
	if r.code != exitUsage || r.stderr != "roombell: ROOMBELL_REDIS_URL is not supported by this version\n" {
		t.Errorf("exit %d: %s", r.code, r.stderr)
	}
	r = roombell(t, []string{"DATABASE_URL=postgres://x:hunter2@127.0.0.1:1/x", "ROOMBELL_JWT_SECRET=" + testSecret}, "", "doctor")
	if r.code != exitFailed || !strings.HasPrefix(r.stdout, "broken   the database cannot be reached [database_unreachable]\n") ||
		strings.Contains(r.stdout+r.stderr, "hunter2") || strings.Contains(r.stdout+r.stderr, testSecret) {
		t.Errorf("exit %d: %s%s", r.code, r.stdout, r.stderr)
	}
	var d diagnosis
	r = roombell(t, []string{"DATABASE_URL=postgres://x:hunter2@127.0.0.1:1/x"}, "", "doctor", "--json")
	if err := json.Unmarshal([]byte(r.stdout), &d); err != nil || r.code != exitFailed || d.Broken != 2 || strings.Contains(r.stdout+r.stderr, "hunter2") {
		t.Errorf("exit %d, %v: %s%s", r.code, err, r.stdout, r.stderr)
	}
}

// What the settings say reaches the checks.
func TestDoctorHearsTheSettings(t *testing.T) {
	t.Parallel()
	d, other := dbtest.New(t), dbtest.New(t)
	got := diagnose(t, []string{
		"DATABASE_URL=" + d.URL, "ROOMBELL_LISTEN_DATABASE_URL=" + other.URL, "ROOMBELL_RETENTION=48h",
		"ROOMBELL_JWT_SECRET=" + strings.Repeat("ab", 20), "ROOMBELL_JWT_SECRET_PREVIOUS=" + testSecret,
		"ROOMBELL_JWKS_URL=https://127.0.0.1:1/keys", "ROOMBELL_JWT_ISSUER=id", "ROOMBELL_JWT_AUDIENCE=inbox", "ROOMBELL_CORS_ORIGINS=*,http://inbox.example",
	}, exitFailed)
	for _, code := range []string{"listen_elsewhere", "retention_differs", "jwt_secret_weak", "jwt_secret_previous", "jwks_unreachable", "origins_any", "origins_http"} {
		if !slices.ContainsFunc(got.Findings, func(f struct{ Check, Code, Level, Title, Meaning, Remedy, Command string }) bool {
			return f.Code == code
		}) {
			t.Errorf("no %s in %+v", code, got.Findings)
		}
	}
}

// dev prints its database's address: the doctor, who is told nothing else, finds nothing to complain of.
func TestDoctorOfDev(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	p := start(t, []string{"ROOMBELL_DATA_DIR=" + filepath.Join(dir, "data"), "ROOMBELL_ADDR=127.0.0.1:0", "ROOMBELL_ADMIN_ADDR=127.0.0.1:0"}, "dev", "--traffic", "5")
	line, _ := p.await("the database", 0, func(line string) bool { return strings.HasPrefix(line, "  database  ") })
	got := diagnose(t, []string{"DATABASE_URL=" + strings.TrimSpace(strings.TrimPrefix(line, "  database  "))}, exitDone)
	if got.Warnings > 0 || slices.Contains(got.codes("note"), "nobody_listens") || !slices.Contains(got.codes("note"), "jwt_not_here") {
		t.Errorf("%+v", got.Findings)
	}
	if code, _ := p.stop(syscall.SIGINT); code != exitDone {
		t.Errorf("exit %d", code)
	}
}

func TestWrap(t *testing.T) {
	t.Parallel()
	word := strings.Repeat("ä", 60)
	for text, want := range map[string][]string{
		"":                         nil,
		"one":                      {"one"},
		word + " " + word:          {word, word},
		word + " b " + word + " c": {word + " b", word + " c"},
	} {
		if got := wrap(text); !slices.Equal(got, want) {
			t.Errorf("%q is %q", text, got)
		}
	}
}

func TestFindingsInColour(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	report := doctor.Report{Findings: []doctor.Finding{{Code: "a_ok", Title: "fine"}, {Code: "b", Level: doctor.Broken, Title: "bad", Meaning: "It hurts.", Command: "mend it"}}}
	if err := (findingPrinter{w: &b, colour: true}).print(report); err != nil {
		t.Fatal(err)
	}
	want := "\x1b[31mbroken   \x1b[0mbad [b]\n         It hurts.\n         $ mend it\n\n\x1b[32mok       \x1b[0mfine\n\n1 broken, 0 warnings, 0 notes, 1 fine\n"
	if b.String() != want {
		t.Errorf("printed %q", b.String())
	}
}
