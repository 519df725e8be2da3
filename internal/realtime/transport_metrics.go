package realtime

import "github.com/prometheus/client_golang/prometheus"

// transportMetrics counts what goes over the wire. The zero of a nil registerer counts, and is shown to nobody.
type transportMetrics struct {
	connections *prometheus.GaugeVec
	frames      prometheus.Counter
	bytes       prometheus.Counter
	slow        prometheus.Counter
	queued      prometheus.Gauge
}

func newTransportMetrics(r prometheus.Registerer) *transportMetrics {
	m := &transportMetrics{
		connections: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "roombell_realtime_connections",
			Help: "Open Engine.IO connections by transport.",
		}, []string{"transport"}),
		frames: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "roombell_realtime_sent_frames_total",
			Help: "Packets handed to clients' connections.",
		}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "roombell_realtime_sent_bytes_total",
			Help: "Bytes of these packets, WebSocket headers included.",
		}),
		slow: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "roombell_realtime_slow_clients_total",
			Help: "Connections closed because their send queue was full or stuck.",
		}),
	}
	m.queued = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "roombell_realtime_queued_bytes",
		Help: "Bytes that wait here for clients that read slowly, all together.",
	})
	if r != nil {
		r.MustRegister(m.connections, m.frames, m.bytes, m.slow, m.queued)
	}
	return m
}

func (m *transportMetrics) sent(frames, bytes int) {
	m.frames.Add(float64(frames))
	m.bytes.Add(float64(bytes))
}
