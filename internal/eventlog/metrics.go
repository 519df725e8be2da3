package eventlog

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Why a read was made, as a label.
const (
	causeNotify  = "notify"  // somebody rang
	causeRequest = "request" // a client attaches
	causeSafety  = "safety"  // nothing was heard for a while
	causePoll    = "poll"    // the ringer is awake
	causeResume  = "resume"  // a new connection, or a new ringer
)

// Where an error came from, as a label.
const (
	errorConnect   = "connect"
	errorSession   = "session"
	errorRetention = "retention"
)

type metrics struct {
	events     *prometheus.CounterVec
	batches    prometheus.Counter
	lag        prometheus.Histogram
	reads      *prometheus.CounterVec
	readTime   prometheus.Histogram
	wakes      prometheus.Counter
	arms       prometheus.Counter
	takeOvers  prometheus.Counter
	fenced     prometheus.Counter
	reconnects prometheus.Counter
	connected  prometheus.Gauge
	armed      prometheus.Gauge
	ringer     prometheus.Gauge
	resets     *prometheus.CounterVec
	emptied    prometheus.Counter
	overdue    prometheus.Gauge
	errors     *prometheus.CounterVec

	// The children of events by kind and by contract name: looking them up costs more than counting.
	byKind [len(kinds)]prometheus.Counter
	byName map[string]prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: "roombell_eventlog_" + name, Help: help})
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: "roombell_eventlog_" + name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return f.NewGauge(prometheus.GaugeOpts{Name: "roombell_eventlog_" + name, Help: help})
	}
	histogram := func(name, help string, from float64) prometheus.Histogram {
		return f.NewHistogram(prometheus.HistogramOpts{Name: "roombell_eventlog_" + name, Help: help, Buckets: prometheus.ExponentialBuckets(from, 2, 14)})
	}
	m := &metrics{
		events:     counters("events_total", "Events read from the log, by kind and, for events of the contract, name.", "kind", "event"),
		batches:    counter("batches_total", "Batches of events handed to the publishers."),
		lag:        histogram("lag_seconds", "Time from recording an event in the writer's transaction to handing it to the publishers.", 0.001),
		reads:      counters("reads_total", "Reads of the log, by what caused them.", "cause"),
		readTime:   histogram("read_seconds", "Duration of a read of the log.", 0.0002),
		wakes:      counter("wakes_total", "Notifications that woke the tail."),
		arms:       counter("arms_total", "Times that the ringer went to sleep, so that writers ring."),
		takeOvers:  counter("takeovers_total", "Times that this node became the ringer."),
		fenced:     counter("fenced_total", "Silent ringers of other nodes whose connection was ended."),
		reconnects: counter("reconnects_total", "Connections made after the first."),
		connected:  gauge("connected", "1 while the tail has its connection."),
		armed:      gauge("armed", "1 while this node is the ringer and sleeps."),
		ringer:     gauge("ringer", "1 while this node is the ringer."),
		resets:     counters("resets_total", "Times that all clients were told to refetch, by reason.", "reason"),
		emptied:    counter("slots_emptied_total", "Slots of the log that retention emptied."),
		overdue:    gauge("slots_overdue", "Slots of the log that hold events older than the retention and should be empty by now."),
		errors:     counters("errors_total", "Errors met, by where.", "where"),
		byName:     map[string]prometheus.Counter{},
	}
	for k := range m.byKind {
		m.byKind[k] = m.events.WithLabelValues(Kind(k).String(), "")
	}
	m.byKind[KindCustom] = m.events.WithLabelValues(KindCustom.String(), "custom")
	return m
}

// published counts a batch. Lag is measured by the database's clock, read at now and answered at answered: the node's may differ.
func (m *metrics) published(events []Event, now, answered time.Time) {
	m.batches.Inc()
	now = now.Add(time.Since(answered))
	for i := range events {
		e := &events[i]
		m.lag.Observe(now.Sub(e.RecordedAt).Seconds())
		m.event(e).Inc()
	}
}

func (m *metrics) event(e *Event) prometheus.Counter {
	if e.Kind != KindEvent {
		return m.byKind[min(int(e.Kind), len(m.byKind)-1)]
	}
	if c, ok := m.byName[e.Name]; ok {
		return c
	}
	name, ok := contractName([]byte(e.Name))
	if !ok {
		name = "other"
	}
	c := m.events.WithLabelValues(e.Kind.String(), name)
	if ok {
		m.byName[name] = c
	}
	return c
}

func boolGauge(g prometheus.Gauge, on bool) {
	if on {
		g.Set(1)
	} else {
		g.Set(0)
	}
}

// historyMetrics are the History's.
type historyMetrics struct {
	memory, log prometheus.Counter // answers from either
	fills       prometheus.Counter
	readTime    prometheus.Histogram
}

func newHistoryMetrics(r prometheus.Registerer, m *memory) *historyMetrics {
	f := promauto.With(r)
	answers := f.NewCounterVec(prometheus.CounterOpts{
		Name: "roombell_eventlog_history_answers_total",
		Help: "Questions for what was missed, by where the answer came from: the memory of recent events, or the log.",
	}, []string{"source"})
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "roombell_eventlog_memory_bytes",
		Help: "Bytes of recent events that are kept in memory for clients that come back.",
	}, func() float64 { _, bytes := m.size(); return float64(bytes) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "roombell_eventlog_memory_events",
		Help: "Recent events that are kept in memory for clients that come back.",
	}, func() float64 { events, _ := m.size(); return float64(events) })
	return &historyMetrics{
		memory: answers.WithLabelValues("memory"),
		log:    answers.WithLabelValues("log"),
		fills: f.NewCounter(prometheus.CounterOpts{
			Name: "roombell_eventlog_memory_fills_total",
			Help: "Times that the memory was filled from the log.",
		}),
		readTime: f.NewHistogram(prometheus.HistogramOpts{
			Name: "roombell_eventlog_history_read_seconds", Help: "Duration of a read of the log for what was missed.",
			Buckets: prometheus.ExponentialBuckets(0.0002, 2, 16),
		}),
	}
}
