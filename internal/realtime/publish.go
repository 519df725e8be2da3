package realtime

import (
	"bytes"
	"strconv"
	"time"

	"github.com/zishang520/socket.io/servers/socket/v3"

	"roombell/internal/eventlog"
)

// Publish hands the events of a batch to their rooms, in order. It does not block; the tail calls it.
func (s *Server) Publish(b *eventlog.Batch) {
	for i := range b.Events {
		s.publish(b, i)
	}
}

// Reset tells every client that events alone cannot tell it what it missed. Changes of rights may be among what was
// missed here, so all are asked for again.
func (s *Server) Reset(reason string, at eventlog.Cursor) {
	defer s.rescue("reset")
	s.doubtEverybody()
	s.adapter.deliverAll(encodeEvent("sync:reset", body(resetEvent{Reason: reason, Cursor: at.String()})))
}

func (s *Server) publish(b *eventlog.Batch, i int) {
	defer s.rescue("publish")
	e := &b.Events[i]
	s.metrics.events[e.Kind].Inc()
	s.changeRights(e)
	if e.Kind == eventlog.KindTruncate {
		s.adapter.deliverAll(encodeEvent("sync:reset", body(resetEvent{Reason: "truncate", Cursor: b.Cursor(i)})))
		return
	}
	rooms := Rooms(*e)
	if rooms == nil {
		if e.Kind == eventlog.KindEvent && e.Audience == nil {
			s.drop(e, "unaddressed")
		}
		return
	}
	// Most events of a busy database concern nobody who is connected here: they cost no more than this.
	targets := s.adapter.collect(rooms, nil)
	if len(targets) == 0 {
		return
	}
	if e.Name == "" || socket.SOCKET_RESERVED_EVENTS.Has(e.Name) {
		s.drop(e, "name")
		return
	}
	event := wireBody(e, b, i)
	if event == nil {
		s.drop(e, "payload")
		return
	}
	heard := s.adapter.sendEvery(targets, false, encodeEvent(e.Name, event))
	s.metrics.deliveries.Add(float64(heard))
	s.metrics.delay.Observe(time.Since(e.RecordedAt).Seconds())
}

func (s *Server) drop(e *eventlog.Event, fault string) {
	s.metrics.dropped.WithLabelValues(fault).Inc()
	s.log.Error("event of the log dropped", "fault", fault, "event", e.ID, "org", e.OrganizationID)
}

// wireBody is the payload as the trigger wrote it, with the server's own fields behind its last: of two fields of one
// name a reader of JSON takes the last. It is nil when the payload is no object.
func wireBody(e *eventlog.Event, b *eventlog.Batch, i int) []byte {
	payload := bytes.TrimSpace(e.Payload)
	if len(payload) < 2 || payload[0] != '{' || payload[len(payload)-1] != '}' {
		return nil
	}
	payload = payload[:len(payload)-1]
	wire := make([]byte, 0, len(payload)+192)
	wire = append(wire, payload...)
	if len(bytes.TrimSpace(payload[1:])) > 0 {
		wire = append(wire, ',')
	}
	wire = append(wire, `"eventId":`...)
	wire = strconv.AppendInt(wire, e.ID, 10)
	wire = append(wire, `,"cursor":"`...)
	wire = b.AppendCursor(wire, i)
	wire = append(wire, `","`...)
	wire = append(wire, recordedField(e)...)
	wire = append(wire, `":"`...)
	wire = e.RecordedAt.UTC().AppendFormat(wire, timestampLayout)
	return append(wire, `"}`...)
}

// recordedField is where the time of the record goes: a message has a timestamp of its own.
func recordedField(e *eventlog.Event) string {
	if e.Kind == eventlog.KindEvent && e.Name == "message:new" {
		return "recordedAt"
	}
	return "timestamp"
}
