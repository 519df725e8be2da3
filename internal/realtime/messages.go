package realtime

import (
	"encoding/binary"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

// firstRead bounds what is set aside for a message before its bytes arrive: a header costs its sender nothing.
const firstRead = 4096

// messages reads what a client sends over a WebSocket (RFC 6455, no extensions): whole messages, and control frames in
// between. An idle connection costs the buffer below; gorilla's reader, which comes with a writer, kept three kilobytes
// more.
type messages struct {
	conn  io.Reader
	limit int // bytes of a message
	mask  [4]byte
	buf   [256]byte // what was read and not used yet is buf[r:w]
	r, w  int

	opcode int    // of the message under way, 0 without one
	data   []byte // its fragments
}

// protocolError is why a connection has to be closed, as the code of a close frame.
type protocolError struct {
	code   int
	reason string
}

func (e *protocolError) Error() string { return fmt.Sprintf("websocket: %s", e.reason) }

func broken(reason string) error {
	return &protocolError{websocket.CloseProtocolError, reason}
}

// next returns a text or binary message, or a control frame, whose data is its own. An error ends the reading: a
// *protocolError, or the connection's.
func (m *messages) next() (opcode int, data []byte, err error) {
	for {
		fin, opcode, n, err := m.header()
		if err != nil {
			return 0, nil, err
		}
		if opcode >= websocket.CloseMessage {
			data, err := m.payload(nil, n)
			return opcode, data, err
		}
		if opcode != 0 {
			m.opcode = opcode
		}
		if m.data, err = m.payload(m.data, n); err != nil {
			return 0, nil, err
		}
		if !fin {
			continue
		}
		opcode, data := m.opcode, m.data
		m.opcode, m.data = 0, nil
		if opcode == websocket.TextMessage && !utf8.Valid(data) {
			return 0, nil, &protocolError{websocket.CloseInvalidFramePayloadData, "text is no UTF-8"}
		}
		return opcode, data, nil
	}
}

// header reads the header of a frame, which has to fit the message under way.
func (m *messages) header() (fin bool, opcode, n int, err error) {
	var h [8]byte
	if err := m.read(h[:2]); err != nil {
		return false, 0, 0, err
	}
	fin, opcode = h[0]&0x80 != 0, int(h[0]&0x0f)
	length := uint64(h[1] & 0x7f)
	if err := m.check(h, fin, opcode); err != nil {
		return false, 0, 0, err
	}
	switch length {
	case 126:
		err = m.read(h[:2])
		length = uint64(binary.BigEndian.Uint16(h[:2]))
	case 127:
		err = m.read(h[:8])
		length = binary.BigEndian.Uint64(h[:8])
	}
	if err != nil {
		return false, 0, 0, err
	}
	if length > uint64(m.limit-len(m.data)) {
		return false, 0, 0, &protocolError{websocket.CloseMessageTooBig, "message too big"}
	}
	return fin, opcode, int(length), m.read(m.mask[:])
}

func (m *messages) check(h [8]byte, fin bool, opcode int) error {
	switch control := opcode >= websocket.CloseMessage; {
	case h[0]&0x70 != 0:
		return broken("reserved bits")
	case h[1]&0x80 == 0:
		return broken("not masked")
	case opcode > websocket.PongMessage, opcode > websocket.BinaryMessage && !control:
		return broken("unknown opcode")
	case control && (!fin || h[1]&0x7f > 125):
		return broken("long control frame")
	case opcode == 0 && m.opcode == 0:
		return broken("continuation of nothing")
	case opcode != 0 && !control && m.opcode != 0:
		return broken("message inside a message")
	}
	return nil
}

// payload appends the n bytes of a frame to data, which grows as they arrive.
func (m *messages) payload(data []byte, n int) ([]byte, error) {
	for at := 0; at < n; {
		size := min(n-at, max(len(data), firstRead))
		from := len(data)
		data = append(data, make([]byte, size)...)
		if err := m.read(data[from:]); err != nil {
			return nil, err
		}
		for i := range data[from:] {
			data[from+i] ^= m.mask[(at+i)&3]
		}
		at += size
	}
	return data, nil
}

// read fills p. The end of the connection inside a frame is io.ErrUnexpectedEOF or io.EOF.
func (m *messages) read(p []byte) error {
	n := copy(p, m.buf[m.r:m.w])
	m.r += n
	p = p[n:]
	if len(p) >= len(m.buf) {
		_, err := io.ReadFull(m.conn, p)
		return err
	}
	for len(p) > 0 {
		n, err := m.conn.Read(m.buf[:])
		m.r, m.w = copy(p, m.buf[:n]), n
		p = p[m.r:]
		if err != nil && len(p) > 0 {
			return err
		}
	}
	return nil
}
