package realtime

import (
	"github.com/prometheus/client_golang/prometheus"

	"roombell/internal/eventlog"
)

// serverMetrics counts what the server decides. Without a registerer it counts, and is shown to nobody.
type serverMetrics struct {
	sockets      prometheus.Gauge
	handshakes   *prometheus.CounterVec
	clientEvents *prometheus.CounterVec
	events       [eventlog.KindForget + 1]prometheus.Counter // by kind
	deliveries   prometheus.Counter
	delay        prometheus.Histogram
	dropped      *prometheus.CounterVec
	rights       *prometheus.CounterVec
	resumes      *prometheus.CounterVec
	resumeTime   prometheus.Histogram
	replayed     prometheus.Counter
	replays      prometheus.Gauge
	expired      prometheus.Counter
	orphans      prometheus.Counter
	panics       prometheus.Counter
}

func newServerMetrics(r prometheus.Registerer) *serverMetrics {
	m := &serverMetrics{
		sockets: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "roombell_realtime_sockets",
			Help: "Sockets that were let in and are open.",
		}),
		handshakes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "roombell_realtime_handshakes_total",
			Help: "Answers to CONNECT: ok, the code of a refusal, or unavailable and too_many_sockets (transport closed, the client tries again).",
		}, []string{"result"}),
		clientEvents: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "roombell_realtime_client_events_total",
			Help: "Events from clients by result: ok, or the error's code.",
		}, []string{"result"}),
		deliveries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "roombell_realtime_deliveries_total",
			Help: "Events of the log handed to a socket.",
		}),
		delay: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "roombell_realtime_event_delay_seconds",
			Help:    "From an event's record in the database to its last socket; the two clocks may differ.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60},
		}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "roombell_realtime_dropped_events_total",
			Help: "Events of the log that went to nobody for a fault of theirs: unaddressed, name, payload.",
		}, []string{"fault"}),
		rights: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "roombell_realtime_rights_checks_total",
			Help: "Users whose rights were asked for again: kept, lost, disabled, or unavailable (transports closed).",
		}, []string{"result"}),
		resumes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "roombell_realtime_resumes_total",
			Help: "Clients that came back with a cursor: ok (all was replayed), the reason of their sync:reset, or broken (the connection ended before the end of the replay).",
		}, []string{"result"}),
		resumeTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "roombell_realtime_resume_seconds",
			Help:    "From CONNECT with a cursor to sync:complete or sync:reset, slow readers included.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 17),
		}),
		replayed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "roombell_realtime_replayed_events_total",
			Help: "Missed events that were sent to clients that came back.",
		}),
		replays: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "roombell_realtime_replays",
			Help: "Clients that are being told what they missed.",
		}),
		expired: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "roombell_realtime_expired_sockets_total",
			Help: "Sockets closed because their token ended.",
		}),
		orphans: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "roombell_realtime_orphaned_sockets_total",
			Help: "Sockets that outlived their connection until the sweep found them.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "roombell_realtime_panics_total",
			Help: "Panics that were caught: each one is a bug.",
		}),
	}
	events := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "roombell_realtime_events_total",
		Help: "Events of the log by kind, heard by somebody here or not.",
	}, []string{"kind"})
	for kind := range m.events {
		m.events[kind] = events.WithLabelValues(eventlog.Kind(kind).String())
	}
	if r != nil {
		r.MustRegister(m.sockets, m.handshakes, m.clientEvents, events, m.deliveries, m.delay, m.dropped, m.rights, m.resumes, m.resumeTime, m.replayed, m.replays,
			m.expired, m.orphans, m.panics)
	}
	return m
}
