package realtime

import (
	"bytes"
	"slices"
	"strconv"
	"time"

	"github.com/zishang520/socket.io/servers/socket/v3"

	"roombell/internal/eventlog"
)

const resetTruncate = "truncate"

// Publish hands the events of a batch to their rooms, in order. It does not block; the tail calls it.
func (s *Server) Publish(b *eventlog.Batch) {
	for i := range b.Events {
		s.publish(b, i)
	}
	s.feeds.publish(b)
}

// Reset tells every client that events alone cannot tell it what it missed. Changes of rights may be among what was
// missed here, so all are asked for again.
func (s *Server) Reset(reason string, at eventlog.Cursor) {
	defer s.rescue("reset")
	s.doubtEverybody()
	s.feeds.reset(reason, at)
	s.adapter.publish(s.adapter.everybody(nil), encodeEvent("sync:reset", body(resetEvent{Reason: reason, Cursor: at.String()})))
}

func (s *Server) publish(b *eventlog.Batch, i int) {
	defer s.rescue("publish")
	e := &b.Events[i]
	s.metrics.events[e.Kind].Inc()
	s.changeRights(e)
	if e.Kind == eventlog.KindTruncate {
		s.adapter.publish(s.adapter.everybody(nil), encodeEvent("sync:reset", body(resetEvent{Reason: resetTruncate, Cursor: b.Cursor(i)})))
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
	heardAt := time.Now()
	if len(targets) == 0 {
		s.recent.note(e.ID, heardAt, heardAt, 0)
		return
	}
	event := s.wireEvent(nil, b, i)
	if event == nil {
		return
	}
	heard := s.adapter.publish(targets, encodeEvent(e.Name, event))
	s.metrics.deliveries.Add(float64(heard))
	handed := time.Now()
	s.metrics.delay.Observe(handed.Sub(e.RecordedAt).Seconds())
	s.recent.note(e.ID, heardAt, handed, heard)
}

// wireEvent appends the payload as clients get it, or drops the event and returns nil.
func (s *Server) wireEvent(wire []byte, b *eventlog.Batch, i int) []byte {
	e := &b.Events[i]
	if e.Name == "" || socket.SOCKET_RESERVED_EVENTS.Has(e.Name) {
		s.drop(e, "name")
		return nil
	}
	if wire = appendWireBody(wire, e, b, i); wire == nil {
		s.drop(e, "payload")
	}
	return wire
}

func (s *Server) drop(e *eventlog.Event, fault string) {
	s.metrics.dropped.WithLabelValues(fault).Inc()
	s.log.Error("event of the log dropped", "fault", fault, "event", e.ID, "org", e.OrganizationID)
}

// appendWireBody appends the payload as the trigger wrote it, with the server's own fields behind its last: of two fields of one
// name a reader of JSON takes the last. It is nil when the payload is no object.
func appendWireBody(wire []byte, e *eventlog.Event, b *eventlog.Batch, i int) []byte {
	payload := bytes.TrimSpace(e.Payload)
	if len(payload) < 2 || payload[0] != '{' || payload[len(payload)-1] != '}' {
		return nil
	}
	payload = payload[:len(payload)-1]
	wire = append(slices.Grow(wire, len(payload)+192), payload...)
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
