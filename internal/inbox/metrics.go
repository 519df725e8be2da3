package inbox

import "github.com/prometheus/client_golang/prometheus"

// Why a computation has to be done again: labels of roombell_inbox_counter_retries_total.
const (
	retryBusy        = "busy"        // somebody has the chat's row
	retryLocked      = "locked"      // somebody has the table
	retryDeadlock    = "deadlock"    // Postgres chose us to end one
	retryUnavailable = "unavailable" // no database
	retryError       = "error"
)

type metrics struct {
	pending    prometheus.Gauge
	updated    prometheus.Counter
	retries    *prometheus.CounterVec
	lag        prometheus.Histogram
	reconciles prometheus.Counter
}

// newMetrics registers the figures; a nil registerer is fine.
func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		pending: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "roombell_inbox_counter_pending_chats",
			Help: "Chats whose unread_count and last_message_at are to be computed by this node.",
		}),
		updated: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "roombell_inbox_counter_updates_total",
			Help: "Chats whose unread_count or last_message_at was changed.",
		}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "roombell_inbox_counter_retries_total",
			Help: "Computations put off: the row or the table was in use, a deadlock, no database, another error.",
		}, []string{"reason"}),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "roombell_inbox_counter_lag_seconds",
			Help:    "From hearing of a write to counters that have it.",
			Buckets: []float64{.025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}),
		reconciles: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "roombell_inbox_counter_reconciles_total",
			Help: "Times that all chats were compared with their messages.",
		}),
	}
	for _, reason := range []string{retryBusy, retryLocked, retryDeadlock, retryUnavailable, retryError} {
		m.retries.WithLabelValues(reason)
	}
	if r != nil {
		r.MustRegister(m.pending, m.updated, m.retries, m.lag, m.reconciles)
	}
	return m
}
