package api

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/yaml"
	swaggerfiles "github.com/swaggo/files/v2"
)

// Document is a specification as JSON.
type Document []byte

// YAML is the same in YAML.
func (d Document) YAML() ([]byte, error) {
	var b bytes.Buffer
	if err := yaml.Convert(&b, bytes.NewReader(d)); err != nil {
		return nil, fmt.Errorf("convert a document to YAML: %w", err)
	}
	return b.Bytes(), nil
}

// OpenAPI is the OpenAPI 3.1 document of all routes, without a database.
func OpenAPI(version string) (Document, error) {
	a, err := New(Options{Version: version})
	if err != nil {
		return nil, err
	}
	return a.document()
}

func (a *API) document() (Document, error) {
	text, err := json.MarshalIndent(a.OpenAPI(), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the OpenAPI document: %w", err)
	}
	return append(text, '\n'), nil
}

//go:embed docs
var ours embed.FS

// docsPolicy lets the page have what we serve and nothing else: no script or style that stands in the page, no foreign host. The
// renderer's icons are data: URLs.
const docsPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// documents serves the specifications, and the page that shows one. huma would serve its own, too, but it makes it at the first request
// without a lock.
func (a *API) documents() error {
	a.describe()
	a.serveDocument("/openapi", "application/openapi", a.document)
	if a.o.AsyncAPI != nil {
		a.serveDocument("/asyncapi", "application/vnd.aai.asyncapi", func() (Document, error) { return a.o.AsyncAPI, nil })
	}
	page, err := fs.Sub(ours, "docs")
	if err != nil {
		return fmt.Errorf("open the documentation page: %w", err)
	}
	a.serveFile("/docs", page, "index.html")
	a.serveFile("/docs/start.js", page, "start.js")
	for _, name := range []string{"swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"} {
		a.serveFile("/docs/"+name, swaggerfiles.FS, name)
	}
	a.mux.Handle("GET /docs/{$}", http.RedirectHandler("/docs", http.StatusMovedPermanently))
	return nil
}

// serveDocument serves a document in both forms, made when it is first asked for.
func (a *API) serveDocument(path, mediaType string, document func() (Document, error)) {
	made := sync.OnceValues(document)
	inYAML := sync.OnceValues(func() ([]byte, error) {
		d, err := made()
		if err != nil {
			return nil, err
		}
		return d.YAML()
	})
	answer := func(mediaType string, text func() ([]byte, error)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			body, err := text()
			if err != nil {
				a.log.Error("document could not be made", "path", path, "err", err)
				_ = sendProblem(w, refuse("internal", "The document could not be made."))
				return
			}
			w.Header().Set("Content-Type", mediaType)
			w.Header().Set("Access-Control-Allow-Origin", "*") // it is public, and tools in browsers read it
			_, _ = w.Write(body)
		}
	}
	a.mux.HandleFunc("GET "+path+".json", answer(mediaType+"+json", func() ([]byte, error) { return made() }))
	a.mux.HandleFunc("GET "+path+".yaml", answer(mediaType+"+yaml", inYAML))
}

func (a *API) serveFile(path string, from fs.FS, name string) {
	a.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", docsPolicy)
		http.ServeFileFS(w, r, from, name)
	})
}

// describe adds to the document what follows from our own rules: who may call a route, and the codes behind each status.
func (a *API) describe() {
	document := a.OpenAPI()
	document.Servers = []*huma.Server{{URL: "/"}}
	for _, item := range document.Paths {
		for _, op := range operations(item) {
			describeOperation(op)
		}
	}
	for _, schema := range document.Components.Schemas.Map() {
		for _, property := range schema.Properties {
			plainly(property)
		}
	}
	if problem := document.Components.Schemas.Map()["Problem"]; problem != nil {
		code := problem.Properties["code"]
		for _, c := range Codes {
			code.Enum = append(code.Enum, c.Code)
		}
	}
}

// operations are those of a path, in no order.
func operations(item *huma.PathItem) []*huma.Operation {
	all := []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete, item.Head, item.Options}
	return slices.DeleteFunc(all, func(op *huma.Operation) bool { return op == nil })
}

func describeOperation(op *huma.Operation) {
	if need, ok := op.Metadata[accessKey].(who); ok {
		op.Description = strings.TrimSpace(op.Description + "\n\n" + need.sentence())
	}
	for _, p := range op.Parameters {
		plainly(p.Schema)
	}
	codes, _ := op.Metadata[codesKey].([]string)
	for status, response := range op.Responses {
		var own []string
		for _, code := range codes {
			if strconv.Itoa(statusOf(code)) == status && !slices.Contains(own, "`"+code+"`") {
				own = append(own, "`"+code+"`")
			}
		}
		if len(own) > 0 {
			response.Description = strings.Join(own, ", ")
		}
	}
}

// plainly takes out of a schema a word of huma's own, which validators refuse. Its messages have been made of it by now.
func plainly(s *huma.Schema) {
	if s == nil || s.PatternDescription == "" {
		return
	}
	s.Description = strings.TrimSpace(s.Description + " (" + s.PatternDescription + ")")
	s.PatternDescription = ""
}

// sentence says who may call a route.
func (w who) sentence() string {
	switch w {
	case anybody:
		return "Needs no token."
	case operator:
		return "For the operator: the bearer of the admin key."
	case keyHolders:
		return "For every user, and for the operator: the bearer of the admin key."
	case admins:
		return "For admins."
	case managers:
		return "For managers and admins."
	}
	return "For every user: employees, managers and admins."
}
