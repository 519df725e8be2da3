package realtime

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// origins are the foreign ones that browsers may come from. Requests without an Origin come from no browser's page, or
// from our own.
type origins struct {
	any     bool
	allowed map[string]bool
}

func parseOrigins(texts []string) (origins, error) {
	o := origins{allowed: map[string]bool{}}
	for _, text := range texts {
		if text == "*" {
			o.any = true
			continue
		}
		origin, ok := parseOrigin(text)
		if !ok {
			return origins{}, fmt.Errorf("origin %q is not of the form https://host:port", text)
		}
		o.allowed[origin.text()] = true
	}
	return o, nil
}

// origin is the triple of RFC 6454 §4, without the scheme's own port.
type origin struct{ scheme, host string }

func (o origin) text() string { return o.scheme + "://" + o.host }

func parseOrigin(text string) (origin, bool) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		(u.Path != "" && u.Path != "/") {
		return origin{}, false
	}
	scheme := strings.ToLower(u.Scheme)
	return origin{scheme: scheme, host: plainHost(scheme, u.Host)}, true
}

// plainHost is host in lower case, without the port that the scheme implies.
func plainHost(scheme, host string) string {
	host = strings.ToLower(host)
	switch scheme {
	case "http", "ws":
		return strings.TrimSuffix(host, ":80")
	case "https", "wss":
		return strings.TrimSuffix(host, ":443")
	}
	return host
}

// allow tells whether a page of the request's origin may speak with us, and whether it is a foreign one.
func (o origins) allow(r *http.Request) (allowed, foreign bool) {
	text := r.Header.Get("Origin")
	if text == "" {
		return true, false
	}
	from, ok := parseOrigin(text)
	// Behind a proxy that ends TLS we cannot know our own scheme; with TLS we do.
	if ok && from.host == plainHost(from.scheme, r.Host) && (r.TLS == nil || from.scheme == "https") {
		return true, false
	}
	return o.any || ok && o.allowed[from.text()], true
}

// crossOrigin lets in what the origins allow, with the headers that browsers ask for, and answers 403 to the rest:
// requests of long-polling and upgrades alike.
func (o origins) crossOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Vary", "Origin")
		allowed, foreign := o.allow(r)
		if !allowed {
			http.Error(w, "origin not allowed", http.StatusForbidden)
			return
		}
		if foreign {
			o.writeHeaders(w, r)
		}
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		// Judged here: what is below has its own, narrower opinion.
		r.Header.Del("Origin")
		next.ServeHTTP(w, r)
	})
}

func (o origins) writeHeaders(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	if o.any {
		h.Set("Access-Control-Allow-Origin", "*")
	} else {
		h.Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
		h.Set("Access-Control-Allow-Credentials", "true") // cookies of a balancer that keeps long-polling on one node
	}
	if r.Method == http.MethodOptions {
		h.Set("Access-Control-Allow-Methods", "GET, POST")
		if wanted := r.Header.Get("Access-Control-Request-Headers"); wanted != "" {
			h.Set("Access-Control-Allow-Headers", wanted)
		}
		h.Set("Access-Control-Max-Age", "600")
	}
}
