// Package web_test runs the examples of the manual as they are printed.
package web_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// binary is the program, built once.
var binary string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "roombell-web-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "roombell")
	if out, err := exec.Command("go", "build", "-o", binary, "roombell/cmd/roombell").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// limit is how long anything may take on a busy machine before a test gives up.
const limit = time.Minute

var block = regexp.MustCompile("(?ms)^```\\w+ (\\S+)\n(.*?)^```$")

// example returns what the page prints under a file's name.
func example(t *testing.T, file string) string {
	t.Helper()
	page, err := os.ReadFile("manual/connect.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range block.FindAllStringSubmatch(string(page), -1) {
		if found[1] == file {
			return found[2]
		}
	}
	t.Fatalf("the page has no %s", file)
	return ""
}

// examples is the folder of what the examples need.
func examples(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("testdata/examples")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", ".package-lock.json")); err != nil {
		t.Fatalf("%v: .ci/setup wire installs it", err)
	}
	return dir
}

func put(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// eventually polls until f has no complaint.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(limit)
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatal(err)
		}
	}
}

// shows waits until an example shows just these messages.
func shows(t *testing.T, shown func() []string, want ...string) {
	t.Helper()
	eventually(t, func() error {
		if got := shown(); !slices.Equal(got, want) {
			return fmt.Errorf("shown are %q, want %q", got, want)
		}
		return nil
	})
}

func TestThreeLines(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	p := h.node("three-lines.js")
	p.await("connected: false")
	h.write("live")
	shows(t, p.messages, "live")
	for _, away := range []string{"a", "b"} {
		h.kill()
		h.write(away+"1", away+"2", away+"3")
		h.serve()
		p.await("connected: true")
		p.forget("connected: true")
		p.await("events caught up")
		p.forget("events caught up")
	}
	h.write("after")
	shows(t, p.messages, "live", "a1", "a2", "a3", "b1", "b2", "b3", "after")
}

func TestTokenThatEnds(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		lives []time.Duration // of the first tokens
	}{
		// The second ends soon as well: only a server that was shown it says so.
		{"it is renewed when it will end", []time.Duration{50 * time.Second, 50 * time.Second}},
		{"another is fetched when it has ended", []time.Duration{-time.Minute}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			for _, life := range test.lives {
				h.lives <- life
			}
			want := int64(len(test.lives) + 1)
			p := h.node("three-lines.js", "token.js")
			p.await("connected: false")
			eventually(t, func() error {
				if n := h.tokens.Load(); n != want {
					return fmt.Errorf("%d tokens were fetched, not %d", n, want)
				}
				return nil
			})
			h.write("live")
			shows(t, p.messages, "live")
			// A server that lets it in again has been shown the new token.
			h.kill()
			h.serve()
			p.await("connected: true")
			if n := h.tokens.Load(); n != want {
				t.Errorf("%d tokens were fetched, not %d", n, want)
			}
		})
	}
}

func TestNode(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	dir := t.TempDir()
	cursor := filepath.Join(dir, "cursor.txt")
	watch := func() *process { return h.script(dir, "watch.mjs", example(t, "watch.mjs"), "CURSOR_FILE="+cursor) }
	h.write("early")
	p := watch()
	eventually(t, func() error { _, err := os.Stat(cursor); return err })
	h.write("live")
	shows(t, p.messages, "live")
	h.kill()
	h.write("a1", "a2")
	h.serve()
	shows(t, p.messages, "live", "a1", "a2")
	h.settled(cursor)

	p.kill()
	h.write("b1", "b2")
	p = watch()
	shows(t, p.messages, "b1", "b2")
	p.await("events caught up")
	h.write("live again")
	shows(t, p.messages, "b1", "b2", "live again")
	if h.fetched.Load() != 0 {
		t.Error("it fetched what it could resume")
	}

	h.kill()
	h.write(numbered("c", tooMany)...)
	h.serve("ROOMBELL_RESUME_LIMIT=5")
	p.await("reset: too_many")
	p.await("fetched: c19")
	h.write("last")
	shows(t, p.messages, "b1", "b2", "live again", "last")

	h.exec(`UPDATE users SET active = false WHERE id = $1`, h.user)
	p.await("io server disconnect")
	if code := p.wait(); code != 1 {
		t.Errorf("exit %d", code)
	}
}

// tooMany is more than a node with a small limit gives.
const tooMany = 20

func numbered(word string, n int) []string {
	var words []string
	for i := range n {
		words = append(words, fmt.Sprint(word, i))
	}
	return words
}

func TestPlainJavaScript(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.page("/index.html", example(t, "index.html"))
	h.page("/socket.io.esm.min.js", read(t, filepath.Join(examples(t), "node_modules/socket.io-client/dist/socket.io.esm.min.js")))
	h.browse("/index.html?chat=" + fmt.Sprint(h.chat))
}

func TestReact(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.bundle("react.jsx", "main.jsx", "Chat.jsx")
	h.browse("/app.html?chat=" + fmt.Sprint(h.chat) + "&url=" + h.gate.URL)
}

func TestVue(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.bundle("vue.js", "main.js", "Chat.vue")
	h.browse("/app.html?chat=" + fmt.Sprint(h.chat) + "&url=" + h.gate.URL)
}

// browse opens a page of the site, and holds against it what every frontend has to bear.
func (h *house) browse(path string) {
	t := h.t
	t.Helper()
	h.write("early")
	b := openBrowser(t, h.site.URL+path)
	b.await("live")
	shows(t, b.messages, "early")
	h.write("live")
	h.exec(`INSERT INTO messages (chat_id, content) VALUES ($1, 'of another chat')`, h.other)
	h.write("more")
	shows(t, b.messages, "early", "live", "more")
	fetched := h.fetched.Load()
	h.hasSockets(1)

	h.kill()
	b.await("offline")
	h.write("away 1", "away 2")
	h.serve()
	b.await("events caught up")
	h.write("back")
	shows(t, b.messages, "early", "live", "more", "away 1", "away 2", "back")
	if n := h.fetched.Load(); n != fetched {
		t.Errorf("it fetched %d times what it could resume", n-fetched)
	}

	h.kill()
	h.write(numbered("c", tooMany)...)
	h.serve("ROOMBELL_RESUME_LIMIT=5")
	all := append([]string{"early", "live", "more", "away 1", "away 2", "back"}, numbered("c", tooMany)...)
	shows(t, b.messages, all...)
	if h.fetched.Load() == fetched {
		t.Error("nothing was fetched after sync:reset")
	}
	h.write("last")
	shows(t, b.messages, append(all, "last")...)

	h.exec(`TRUNCATE messages`)
	shows(t, b.messages)
	h.write("anew")
	shows(t, b.messages, "anew")

	h.exec(`UPDATE users SET active = false WHERE id = $1`, h.user)
	b.await("logged out")
	for _, complaint := range b.complaints() {
		t.Error(complaint)
	}
}

func TestPageNamesEveryExample(t *testing.T) {
	t.Parallel()
	var files []string
	for _, found := range block.FindAllStringSubmatch(read(t, "manual/connect.md"), -1) {
		files = append(files, found[1])
	}
	want := "three-lines.js index.html Chat.jsx Chat.vue watch.mjs token.js"
	if got := strings.Join(files, " "); got != want {
		t.Errorf("the page has %s; the tests run %s", got, want)
	}
}
