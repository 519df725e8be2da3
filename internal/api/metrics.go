package api

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// edgeMetrics counts requests by route, never by path. Without a registerer it counts, and is shown to nobody.
type edgeMetrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	inFlight prometheus.Gauge
	overload prometheus.Counter
	panics   prometheus.Counter
}

func newEdgeMetrics(r prometheus.Registerer) *edgeMetrics {
	m := &edgeMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "roombell_api_requests_total",
			Help: "Requests that were answered, by method, route and status; the route of a path that there is not is none, the status of a broken answer 0.",
		}, []string{"method", "route", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "roombell_api_request_seconds",
			Help:    "From a request's header to the end of its answer, by route; without streams.",
			Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30},
		}, []string{"route"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "roombell_api_requests_in_flight",
			Help: "Requests under way, streams among them.",
		}),
		overload: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "roombell_api_overload_total",
			Help: "Requests that were turned away because too many were under way.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "roombell_api_panics_total",
			Help: "Routes that panicked; the log has the stack.",
		}),
	}
	if r != nil {
		r.MustRegister(m.requests, m.seconds, m.inFlight, m.overload, m.panics)
	}
	return m
}

// account counts a request that is over, and logs it: neither its path nor its query, which may hold what is nobody's business.
func (g *gate) account(w *recorder, r *http.Request, v *visit) {
	took, route := time.Since(v.began), routeOf(r)
	g.metrics.requests.WithLabelValues(methodOf(r), route, strconv.Itoa(w.status)).Inc()
	if !w.stream {
		g.metrics.seconds.WithLabelValues(route).Observe(took.Seconds())
	}
	g.log.Debug("request", "request", v.id, "method", methodOf(r), "route", route, "status", w.status, "took", took, "user", v.user)
}

// routeOf is the path of the pattern that the router found.
func routeOf(r *http.Request) string {
	if _, path, ok := strings.Cut(r.Pattern, " "); ok {
		return path
	}
	if r.Pattern != "" {
		return r.Pattern
	}
	return "none"
}

// methodOf is one of finitely many: strangers make up methods.
func methodOf(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return r.Method
	}
	return "other"
}
