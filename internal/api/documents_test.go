package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"roombell/internal/api"
	"roombell/internal/realtime"
)

//go:generate go test -run ^(TestOpenAPIDocument|TestManualHasEveryCode)$ -update

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares what was made with a file, which -update writes.
func golden(t *testing.T, file string, made []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, made, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(made, kept) {
		t.Errorf("%s is not what the routes say: make generate, and read the diff", file)
	}
}

func openAPI(t *testing.T) api.Document {
	t.Helper()
	document, err := api.OpenAPI("dev")
	if err != nil {
		t.Fatal(err)
	}
	return document
}

func TestOpenAPIDocument(t *testing.T) {
	t.Parallel()
	text, err := openAPI(t).YAML()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, filepath.Join("testdata", "openapi.yaml"), text)
}

// operation is what the tests read of a route.
type operation struct {
	method, path string
	Summary      string
	Description  string
	Security     []map[string][]string
	Parameters   []struct {
		Name     string
		In       string
		Required bool
		Schema   schema
	}
	RequestBody *struct {
		Content map[string]struct{ Schema schema }
	}
	Responses map[string]struct{ Description string }
}

// schema is what the tests read of a JSON Schema.
type schema struct {
	Ref                  string `json:"$ref"`
	Type                 any
	Format               string
	Enum                 []any
	Examples             []any
	Minimum              *float64
	MinLength            int
	Properties           map[string]schema
	Required             []string
	Items                *schema
	AdditionalProperties any
}

type specification struct {
	Paths      map[string]map[string]json.RawMessage
	Components struct{ Schemas map[string]schema }
}

func specified(t *testing.T) (specification, []operation) {
	t.Helper()
	var s specification
	if err := json.Unmarshal(openAPI(t), &s); err != nil {
		t.Fatal(err)
	}
	var all []operation
	for path, methods := range s.Paths {
		for method, text := range methods {
			op := operation{method: strings.ToUpper(method), path: path}
			if err := json.Unmarshal(text, &op); err != nil {
				t.Fatalf("%s %s: %v", method, path, err)
			}
			all = append(all, op)
		}
	}
	slices.SortFunc(all, func(a, b operation) int { return strings.Compare(a.path+a.method, b.path+b.method) })
	return s, all
}

func TestEveryRouteIsDescribed(t *testing.T) {
	t.Parallel()
	s, all := specified(t)
	for _, op := range all {
		name := op.method + " " + op.path
		if op.Summary == "" {
			t.Errorf("%s has no summary", name)
		}
		open := strings.Contains(op.Description, "Needs no token.")
		if !open && !strings.Contains(op.Description, "For ") {
			t.Errorf("%s does not say for whom it is: %s", name, op.Description)
		}
		if (len(op.Security) == 0) != open {
			t.Errorf("%s: security %v, description %q", name, op.Security, op.Description)
		}
		for status, response := range op.Responses {
			if status >= "400" && !strings.HasPrefix(response.Description, "`") {
				t.Errorf("%s names no code for %s: %q", name, status, response.Description)
			}
		}
	}
	for name, schema := range s.Components.Schemas {
		if schema.Type == "object" && schema.AdditionalProperties != false {
			t.Errorf("schema %s is open", name)
		}
	}
}

// tools is the folder of the public validators.
func tools(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("testdata", "tools"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", ".package-lock.json")); err != nil {
		t.Fatalf("%v: .ci/setup wire installs it", err)
	}
	return dir
}

// TestPublicValidators has what tools of others think of the documents. They ask no network.
func TestPublicValidators(t *testing.T) {
	t.Parallel()
	events, err := realtime.AsyncAPI("dev")
	if err != nil {
		t.Fatal(err)
	}
	broken := func(document []byte, from, to string) []byte {
		t.Helper()
		if !bytes.Contains(document, []byte(from)) {
			t.Fatalf("there is no %s to be broken", from)
		}
		return bytes.ReplaceAll(document, []byte(from), []byte(to))
	}
	routes := openAPI(t)
	for _, test := range []struct {
		name, script string
		document     []byte
		valid        bool
	}{
		{"OpenAPI", "openapi.mjs", routes, true},
		{"OpenAPI with an unknown word", "openapi.mjs", broken(routes, `"responses"`, `"answers"`), false},
		{"AsyncAPI", "asyncapi.mjs", events, true},
		{"AsyncAPI that points nowhere", "asyncapi.mjs", broken(events, "#/components/schemas/MessageNew", "#/components/schemas/Nothing"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "document.json")
			if err := os.WriteFile(file, test.document, 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "node", test.script, file)
			cmd.Dir = tools(t)
			said, err := cmd.CombinedOutput()
			if valid := err == nil; valid != test.valid {
				t.Errorf("valid: %v, %v\n%s", valid, err, said)
			}
		})
	}
}

func TestDocumentsAreServed(t *testing.T) {
	t.Parallel()
	events, err := realtime.AsyncAPI("dev")
	if err != nil {
		t.Fatal(err)
	}
	h := newHouse(t, func(o *api.Options) { o.AsyncAPI = events })
	routes := openAPI(t)
	for path, want := range map[string]struct {
		document  api.Document
		mediaType string
	}{
		"/openapi":  {routes, "application/openapi"},
		"/asyncapi": {events, "application/vnd.aai.asyncapi"},
	} {
		inYAML, err := want.document.YAML()
		if err != nil {
			t.Fatal(err)
		}
		h.serves(path+".json", want.mediaType+"+json", want.document)
		h.serves(path+".yaml", want.mediaType+"+yaml", inYAML)
	}
}

func (h *house) serves(path, mediaType string, want []byte) {
	h.t.Helper()
	a := h.request(someone{}, "GET", "/../.."+path, nil).want(h.t, 200, "")
	if got := a.header.Get("Content-Type"); got != mediaType {
		h.t.Errorf("%s is %s, not %s", path, got, mediaType)
	}
	if !bytes.Equal(a.body, want) {
		h.t.Errorf("%s serves another document than the command prints", path)
	}
}

const (
	codesBegin = "<!-- codes: made from internal/api/errors.go by make generate -->\n"
	codesEnd   = "<!-- /codes -->"
)

func TestManualHasEveryCode(t *testing.T) {
	t.Parallel()
	file := filepath.Join("..", "web", "manual", "http-api.md")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), codesBegin)
	_, after, ended := strings.Cut(rest, codesEnd)
	if !found || !ended {
		t.Fatalf("%s has no place for the codes", file)
	}
	var table strings.Builder
	table.WriteString("| status | code | meaning |\n|---|---|---|\n")
	for _, c := range api.Codes {
		fmt.Fprintf(&table, "| %d | `%s` | %s |\n", c.Status, c.Code, c.Meaning)
	}
	golden(t, file, []byte(before+codesBegin+table.String()+codesEnd+after))
}

func TestCodesAreInOrder(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for i, c := range api.Codes {
		if seen[c.Code] || c.Meaning == "" || i > 0 && c.Status < api.Codes[i-1].Status {
			t.Errorf("%+v is there twice, means nothing, or is out of order", c)
		}
		seen[c.Code] = true
	}
}

// TestDocsPage opens the page in a browser: it shows every route, asks no foreign host, and keeps to its own policy.
func TestDocsPage(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	page, asked, complaints := openPage(t, h.url+"/docs")
	_, all := specified(t)
	var shown int
	err := chromedp.Run(page, chromedp.WaitVisible(".opblock", chromedp.ByQuery),
		chromedp.Evaluate(`document.querySelectorAll(".opblock").length`, &shown))
	if err != nil {
		t.Fatalf("%v; complaints: %q", err, complaints())
	}
	if shown != len(all) {
		t.Errorf("%d routes are shown, not %d", shown, len(all))
	}
	// What a route says is rendered when it is opened.
	err = chromedp.Run(page, chromedp.Click(`//span[contains(@class,"opblock-summary-path")][contains(.,"me")]`, chromedp.BySearch),
		chromedp.WaitVisible(".responses-table", chromedp.ByQuery))
	if err != nil {
		t.Fatalf("%v; complaints: %q", err, complaints())
	}
	for _, address := range asked() {
		u, err := url.Parse(address)
		if err != nil || u.Scheme != "data" && "http://"+u.Host != h.url {
			t.Errorf("the page asked %s", address)
		}
	}
	if len(asked()) < 4 {
		t.Errorf("asked were %q: the page's parts were not counted", asked())
	}
	for _, complaint := range complaints() {
		t.Error(complaint)
	}
}

// openPage opens a page in Chromium. asked are the addresses that it wanted, complaints what went wrong in it, the policy's refusals included.
func openPage(t *testing.T, address string) (page context.Context, asked, complaints func() []string) {
	t.Helper()
	options := []chromedp.ExecAllocatorOption{
		chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck,
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("disable-dev-shm-usage", true), chromedp.WSURLReadTimeout(time.Minute),
	}
	if path := os.Getenv("CHROMIUM"); path != "" {
		options = append(options, chromedp.ExecPath(path))
	}
	allocator, end := chromedp.NewExecAllocator(t.Context(), options...)
	page, closePage := chromedp.NewContext(allocator)
	page, stop := context.WithTimeout(page, 2*time.Minute)
	t.Cleanup(func() {
		stop()
		closePage()
		end()
	})
	var mu sync.Mutex
	var addresses, faults []string
	chromedp.ListenTarget(page, func(event any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := event.(type) {
		case *network.EventRequestWillBeSent:
			addresses = append(addresses, e.Request.URL)
		case *runtime.EventExceptionThrown:
			faults = append(faults, e.ExceptionDetails.Error())
		case *log.EventEntryAdded:
			if e.Entry.Level == log.LevelError {
				faults = append(faults, e.Entry.Text+" "+e.Entry.URL)
			}
		}
	})
	if err := chromedp.Run(page, network.Enable(), log.Enable(), chromedp.Navigate(address)); err != nil {
		t.Fatal("Chromium (.ci/setup chromium installs it): ", err)
	}
	copied := func(list *[]string) func() []string {
		return func() []string {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(*list)
		}
	}
	return page, copied(&addresses), copied(&faults)
}
