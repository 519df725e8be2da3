package web_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const manualAdminKey = "the admin key of the manual's tests"

// blocks are those of a page, by name, in their order.
func blocks(t *testing.T, page string) (names []string, text map[string]string) {
	t.Helper()
	text = map[string]string{}
	for _, found := range block.FindAllStringSubmatch(read(t, "manual/"+page), -1) {
		names = append(names, found[1])
		text[found[1]] = found[2]
	}
	return names, text
}

// url is where Roombell is.
func (h *house) address() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.at.String()
}

func TestHTTPPage(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.kill()
	h.serve("ROOMBELL_ADMIN_KEY=" + manualAdminKey)
	names, text := blocks(t, "http-api.md")
	said := map[string]string{}
	script := "set -eu\n"
	for _, name := range names {
		switch name {
		case "stream", "problem":
			continue
		}
		// Each is typed into the shell after those before it, and what it prints is kept apart.
		script += "echo '=== " + name + "'\n" + strings.ReplaceAll(text[name], "/chats/1/", fmt.Sprintf("/chats/%d/", h.other+1)) + "echo\n"
	}
	stream := text["stream"]
	out := h.shell(script + "printf '\\n=== token\\n%s\\n' \"$TOKEN\"\n")
	for _, part := range strings.Split(out, "=== ")[1:] {
		name, answer, _ := strings.Cut(part, "\n")
		said[name] = strings.TrimSpace(answer)
	}
	for name, want := range map[string]string{
		"organization": `"name":"Acme"`, "login": `"email":"ann@acme.example"`, "chats": `"nextCursor":`, "send": "202 Accepted", "refused": `"code":"not_found"`,
	} {
		if !strings.Contains(said[name], want) {
			t.Errorf("%s: %s\nwithout %s", name, said[name], want)
		}
	}
	if strings.TrimSpace(said["refused"]) != strings.TrimSpace(text["problem"]) {
		t.Errorf("the page prints %s; it is %s", text["problem"], said["refused"])
	}
	if !strings.Contains(said["send"], `"status":"pending"`) {
		t.Errorf("sent: %s", said["send"])
	}

	cmd := exec.Command("sh", "-c", "exec "+strings.TrimSpace(stream))
	cmd.Env = append(h.shellEnv(), "TOKEN="+said["token"])
	p := start(t, cmd)
	p.await("event: connected")
	h.exec(`INSERT INTO messages (chat_id, content) VALUES ($1, 'heard by curl')`, h.other+1)
	p.await(`"content":"heard by curl"`)
	p.kill()
	if len(names) != 7 {
		t.Errorf("the page has %q; the test knows seven blocks", names)
	}
}

func (h *house) shellEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "ROOMBELL=" + h.address() + "/api/v1", "ROOMBELL_ADMIN_KEY=" + manualAdminKey}
}

func (h *house) shell(script string) string {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", script)
	cmd.Env = h.shellEnv()
	out, err := cmd.CombinedOutput()
	if err != nil {
		h.t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// TestTypeScriptPage makes the types as the page says, from the served documents, compiles the sample and runs it; and what does not fit the
// types does not compile.
func TestTypeScriptPage(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	names, text := blocks(t, "typescript.md")
	if got := strings.Join(names, " "); got != "types events.mjs sample.ts tsconfig.json" {
		t.Fatalf("the page has %s", got)
	}
	dir := t.TempDir()
	modules, err := filepath.Abs("../api/testdata/tools/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(modules, ".package-lock.json")); err != nil {
		t.Fatalf("%v: .ci/setup wire installs it", err)
	}
	if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	for _, name := range names[1:] {
		put(t, filepath.Join(dir, name), text[name])
	}
	put(t, filepath.Join(dir, "package.json"), `{"type": "module"}`)
	in := func(name string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "ROOMBELL_URL=" + h.address(), "EMAIL=ann@manual.example", "PASSWORD=a long password"}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	must := func(name string, args ...string) string {
		t.Helper()
		out, err := in(name, args...)
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
		return out
	}
	must("sh", "-euc", text["types"])
	must("npx", "tsc", "--types", "node")

	h.password("a long password")
	said := must("node", "out/sample.js")
	if !strings.Contains(said, fmt.Sprintf("in chat %d: Hello", h.other)) || !strings.Contains(said, fmt.Sprintf("subscribed to %d", h.other)) {
		t.Errorf("the sample said %s", said)
	}

	for _, wrong := range []struct{ name, from, to string }{
		{"a field that an event has not", "message.content", "message.contents"},
		{"an event that there is not", "'chat:updated', change", "'chat:upgraded', change"},
		{"a route that there is not", "'/api/v1/chats', {", "'/api/v1/chat', {"},
		{"a body with another field", "content: 'Hello'", "contents: 'Hello'"},
		{"an argument of another type", "'subscribe:chat', chat.id", "'subscribe:chat', true"},
	} {
		changed := strings.Replace(text["sample.ts"], wrong.from, wrong.to, 1)
		if changed == text["sample.ts"] {
			t.Fatalf("%s: the sample has no %s", wrong.name, wrong.from)
		}
		put(t, filepath.Join(dir, "sample.ts"), changed)
		if out, err := in("npx", "tsc", "--types", "node", "--noEmit"); err == nil {
			t.Errorf("%s compiles: %s", wrong.name, out)
		}
	}
}

// password gives the user of the house one, as an operator does.
func (h *house) password(password string) {
	h.t.Helper()
	cmd := exec.Command(binary, "admin", "set-password", "--email", "ann@manual.example")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "DATABASE_URL=" + h.db.URL}
	cmd.Stdin = strings.NewReader(password)
	if out, err := cmd.CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
}

// TestDocumentCommands has the commands print what the server serves.
func TestDocumentCommands(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for _, name := range []string{"openapi", "asyncapi"} {
		for suffix, flags := range map[string][]string{"yaml": {name}, "json": {name, "--json"}} {
			cmd := exec.Command(binary, flags...)
			cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
			printed, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			served := h.shell("curl -sf " + h.address() + "/" + name + "." + suffix)
			if string(printed) != served || served == "" {
				t.Errorf("%s --%s prints another document than is served", name, suffix)
			}
			if suffix == "json" && !json.Valid(printed) {
				t.Errorf("%s is no JSON", name)
			}
		}
	}
}
