package api

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// origins are the foreign ones that browsers may come from. The rules are those of the Socket.IO handshake (realtime/origins.go); a test
// asks both the same questions.
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
		scheme, host, ok := parseOrigin(text)
		if !ok {
			return origins{}, fmt.Errorf("origin %q is not of the form https://host:port", text)
		}
		o.allowed[scheme+"://"+host] = true
	}
	return o, nil
}

// parseOrigin returns the parts of RFC 6454 §4, the host without the scheme's own port.
func parseOrigin(text string) (scheme, host string, ok bool) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || (u.Path != "" && u.Path != "/") {
		return "", "", false
	}
	scheme = strings.ToLower(u.Scheme)
	return scheme, plainHost(scheme, u.Host), true
}

func plainHost(scheme, host string) string {
	host = strings.ToLower(host)
	switch scheme {
	case "http":
		return strings.TrimSuffix(host, ":80")
	case "https":
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
	scheme, host, ok := parseOrigin(text)
	// Behind a proxy that ends TLS we cannot know our own scheme; with TLS we do.
	if ok && host == plainHost(scheme, r.Host) && (r.TLS == nil || scheme == "https") {
		return true, false
	}
	return o.any || ok && o.allowed[scheme+"://"+host], true
}

// crossOrigin tells whether the request may go on; one that may not, or asks whether it might, is answered.
func (g *gate) crossOrigin(w http.ResponseWriter, r *http.Request) bool {
	h := w.Header()
	h.Add("Vary", "Origin")
	allowed, foreign := g.origins.allow(r)
	if !allowed {
		_ = sendProblem(w, refuse("origin_not_allowed", "Pages of this origin may not come here: ROOMBELL_CORS_ORIGINS names those that may."))
		return false
	}
	if !foreign {
		return true
	}
	// No Allow-Credentials: who one is stands in Authorization, never in a cookie.
	if g.origins.any {
		h.Set("Access-Control-Allow-Origin", "*")
	} else {
		h.Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
	}
	h.Set("Access-Control-Expose-Headers", "X-Request-Id, Retry-After")
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return true
	}
	h.Set("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE")
	h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Request-Id")
	h.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
	return false
}
