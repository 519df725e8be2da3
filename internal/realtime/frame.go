package realtime

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

// frame is one Engine.IO packet, complete as the WebSocket frame that carries it (RFC 6455 section 5.2: final, not
// masked). Its bytes are shared by every connection that gets the packet and are never written to.
type frame struct {
	ws     []byte
	header int // bytes of ws before the packet
	binary bool
}

// packet is the Engine.IO packet without its frame.
func (f frame) packet() []byte { return f.ws[f.header:] }

// text is the packet as long-polling and clients without binary support take it: bytes become b and base64
// (Engine.IO protocol 4, "Packet encoding").
func (f frame) text() []byte {
	if !f.binary {
		return f.packet()
	}
	b := make([]byte, 0, 1+base64.StdEncoding.EncodedLen(len(f.packet())))
	return base64.StdEncoding.AppendEncode(append(b, 'b'), f.packet())
}

// encodedEvent is a Socket.IO packet made once for everybody who gets it: a text frame, and one binary frame for each
// attachment. Events of the house have none.
type encodedEvent struct {
	frame
	attachments []frame
}

// size is what the event adds to a client's send queue, in bytes.
func (ev *encodedEvent) size() int {
	n := len(ev.ws)
	for _, f := range ev.attachments {
		n += len(f.ws)
	}
	return n
}

// frames is how many WebSocket frames the event takes.
func (ev *encodedEvent) frames() int { return 1 + len(ev.attachments) }

// encodeEvent makes the event `name` of the main namespace with one argument, as Engine.IO message and Socket.IO EVENT
// (42["name",body]). body is the JSON of the argument and goes out as it is; an empty one means no argument.
func encodeEvent(name string, body []byte) *encodedEvent {
	name = escapeName(name)
	n := len(`42[""]`) + len(name)
	if len(body) > 0 {
		n += len(`,`) + len(body)
	}
	b, header := appendHeader(websocket.TextMessage, n)
	b = append(append(append(b, `42["`...), name...), '"')
	if len(body) > 0 {
		b = append(append(b, ','), body...)
	}
	return &encodedEvent{frame: frame{ws: append(b, ']'), header: header}}
}

// burst is a row of events made for one connection: the frames stand one behind the other.
type burst struct {
	bytes  []byte
	frames []frame
	ends   []int
}

// bursts are those that were written: a storm of clients makes millions of events into them.
var bursts = sync.Pool{New: func() any { return &burst{} }}

// newBurst returns an empty one.
func newBurst() *burst { return bursts.Get().(*burst) }

// reuse gives it back, when nobody has its bytes any more.
func (b *burst) reuse() {
	if cap(b.bytes) > 1<<20 {
		return // of huge events
	}
	clear(b.frames)
	b.bytes, b.frames, b.ends = b.bytes[:0], b.frames[:0], b.ends[:0]
	bursts.Put(b)
}

// add appends the event that encodeEvent makes.
func (b *burst) add(name string, body []byte) {
	name = escapeName(name)
	start := len(b.bytes)
	b.bytes = appendFrameHeader(b.bytes, websocket.TextMessage, len(`42["",]`)+len(name)+len(body))
	b.frames = append(b.frames, frame{header: len(b.bytes) - start})
	b.bytes = append(append(append(b.bytes, `42["`...), name...), `",`...)
	b.bytes = append(append(b.bytes, body...), ']')
	b.ends = append(b.ends, len(b.bytes))
}

// seal cuts the frames out of the bytes; nothing is added after it.
func (b *burst) seal() {
	start := 0
	for i, end := range b.ends {
		b.frames[i].ws = b.bytes[start:end:end]
		start = end
	}
}

// escapeName is name as it stands inside a JSON string. Names of the house are it already.
func escapeName(name string) string {
	if strings.IndexFunc(name, needsEscape) < 0 {
		return name
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(name); err != nil { // a string always has a JSON form
		panic("realtime: escape event name: " + err.Error())
	}
	quoted := strings.TrimSuffix(b.String(), "\n")
	return quoted[1 : len(quoted)-1]
}

// needsEscape errs on the side of other scripts: the encoder is right about them, and about bytes that are no UTF-8.
func needsEscape(c rune) bool { return c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' }

// textFrame frames a text message.
func textFrame(payload []byte) []byte { return newFrame(websocket.TextMessage, payload).ws }

func newFrame(opcode int, payload []byte) frame {
	b, header := appendHeader(opcode, len(payload))
	return frame{ws: append(b, payload...), header: header, binary: opcode == websocket.BinaryMessage}
}

// appendHeader returns the header of a frame with room for its n bytes, and the header's length.
func appendHeader(opcode, n int) ([]byte, int) {
	header := 2
	switch {
	case n > 0xffff:
		header = 10
	case n >= 126:
		header = 4
	}
	return appendFrameHeader(make([]byte, 0, header+n), opcode, n), header
}

func appendFrameHeader(b []byte, opcode, n int) []byte {
	first := byte(0x80 | opcode)
	switch {
	case n < 126:
		return append(b, first, byte(n))
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(b, first, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, first, 127), uint64(n))
	}
}
