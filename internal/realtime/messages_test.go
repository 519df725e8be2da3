package realtime

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/gorilla/websocket"
)

// frameOf is a client's frame, masked.
func frameOf(first byte, payload string) []byte {
	f, mask := []byte{first}, [4]byte{1, 2, 3, 4}
	switch n := len(payload); {
	case n < 126:
		f = append(f, 0x80|byte(n))
	case n <= 0xffff:
		f = binary.BigEndian.AppendUint16(append(f, 0x80|126), uint16(n))
	default:
		f = binary.BigEndian.AppendUint64(append(f, 0x80|127), uint64(n))
	}
	f = append(f, mask[:]...)
	for i := range len(payload) {
		f = append(f, payload[i]^mask[i&3])
	}
	return f
}

func TestMessages(t *testing.T) {
	t.Parallel()
	const text, binary, cont, end, ping, pong, closing = 1, 2, 0, 0x80, 0x89, 0x8a, 0x88
	long := strings.Repeat("x", 70_000)
	for _, test := range []struct {
		name   string
		frames [][]byte
		want   []string // opcode and data
		code   int      // of the error, 0 for the end of the connection
	}{
		{"text", [][]byte{frameOf(end|text, "hello")}, []string{"1hello"}, 0},
		{"binary", [][]byte{frameOf(end|binary, "\xff\x00")}, []string{"2\xff\x00"}, 0},
		{"empty", [][]byte{frameOf(end|text, "")}, []string{"1"}, 0},
		{"several at once", [][]byte{frameOf(end|text, "a"), frameOf(end|text, "b")}, []string{"1a", "1b"}, 0},
		{"of two bytes length", [][]byte{frameOf(end|text, long[:300])}, []string{"1" + long[:300]}, 0},
		{"of eight bytes length", [][]byte{frameOf(end|text, long)}, []string{"1" + long}, 0},
		{"fragments", [][]byte{frameOf(text, "a"), frameOf(cont, "b"), frameOf(end|cont, "c")}, []string{"1abc"}, 0},
		{"ping between fragments", [][]byte{frameOf(text, "a"), frameOf(ping, "p"), frameOf(end|cont, "b")}, []string{"9p", "1ab"}, 0},
		{"pong and close", [][]byte{frameOf(pong, ""), frameOf(closing, "\x03\xe8")}, []string{":", "8\x03\xe8"}, 0},
		{"character in two fragments", [][]byte{frameOf(text, "\xd1"), frameOf(end|cont, "\x8f")}, []string{"1я"}, 0},

		{"no UTF-8", [][]byte{frameOf(end|text, "\xff")}, nil, 1007},
		{"reserved bits", [][]byte{frameOf(end|0x40|text, "a")}, nil, 1002},
		{"not masked", [][]byte{{0x81, 1, 'a'}}, nil, 1002},
		{"unknown opcode", [][]byte{frameOf(end|3, "")}, nil, 1002},
		{"unknown control opcode", [][]byte{frameOf(end|11, "")}, nil, 1002},
		{"control frame in fragments", [][]byte{frameOf(9, "a")}, nil, 1002},
		{"long control frame", [][]byte{frameOf(ping, long[:126])}, nil, 1002},
		{"continuation of nothing", [][]byte{frameOf(end|cont, "a")}, nil, 1002},
		{"message inside a message", [][]byte{frameOf(text, "a"), frameOf(end|text, "b")}, nil, 1002},
		{"too big", [][]byte{frameOf(end|text, long+long)}, nil, 1009},
		{"too big in fragments", [][]byte{frameOf(text, long), frameOf(end|cont, long)}, nil, 1009},
		{"length of 2^64-1", [][]byte{{0x81, 0xff, 255, 255, 255, 255, 255, 255, 255, 255}}, nil, 1009},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			stream := bytes.Join(test.frames, nil)
			for name, conn := range map[string]io.Reader{
				"at once": bytes.NewReader(stream), "byte by byte": iotest.OneByteReader(bytes.NewReader(stream)),
			} {
				got, err := readAll(&messages{conn: conn, limit: 100_000})
				if strings.Join(got, "|") != strings.Join(test.want, "|") {
					t.Errorf("%s: got %.200q, want %.200q", name, got, test.want)
				}
				var broken *protocolError
				switch errors.As(err, &broken) {
				case true:
					if broken.code != test.code {
						t.Errorf("%s: %v (%d), want %d", name, err, broken.code, test.code)
					}
				case false:
					if test.code != 0 || !errors.Is(err, io.EOF) {
						t.Errorf("%s: %v", name, err)
					}
				}
			}
		})
	}
}

func readAll(m *messages) (got []string, err error) {
	for {
		opcode, data, err := m.next()
		if err != nil {
			return got, err
		}
		got = append(got, string(rune('0'+opcode))+string(data))
	}
}

// What gorilla's client writes, in fragments of many sizes, is what is read.
func TestMessagesOfAClient(t *testing.T) {
	t.Parallel()
	conns := make(chan net.Conn, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, err := (&websocket.Upgrader{}).Upgrade(w, r, nil); err == nil {
			conns <- c.NetConn()
		}
	}))
	defer server.Close()
	for _, writeBuffer := range []int{1, 30, 700, 5000} {
		d := websocket.Dialer{WriteBufferSize: writeBuffer}
		client, _, err := d.Dial("ws"+strings.TrimPrefix(server.URL, "http"), nil)
		if err != nil {
			t.Fatal(err)
		}
		m := &messages{conn: <-conns, limit: 1 << 20}
		for n := 0; n < 20_000; n += 1 + n/2 {
			sent := strings.Repeat("я", n)
			var writing sync.WaitGroup
			writing.Go(func() {
				w, err := client.NextWriter(websocket.TextMessage)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.WriteString(w, sent[:n])
				_ = client.WriteControl(websocket.PingMessage, []byte("p"), time.Now().Add(time.Second))
				_, _ = io.WriteString(w, sent[n:])
				_ = w.Close()
			})
			opcode, data, err := m.next()
			for ; opcode == websocket.PingMessage; opcode, data, err = m.next() {
			}
			if err != nil || string(data) != sent {
				t.Fatalf("message of %d bytes comes as %d, error %v", len(sent), len(data), err)
			}
			writing.Wait()
		}
		_ = client.Close()
		if _, _, err := m.next(); err == nil {
			t.Error("there is more after the end")
		}
	}
}

// Whatever comes, reading ends with an error, keeps to the limit, and does not depend on how the bytes arrive.
func FuzzMessages(f *testing.F) {
	f.Add(frameOf(0x81, "hello"))
	f.Add(append(frameOf(0x01, "a"), append(frameOf(0x89, "p"), frameOf(0x80, "b")...)...))
	f.Add(append(frameOf(0x02, strings.Repeat("x", 300)), frameOf(0x80, strings.Repeat("y", 5000))...))
	f.Add(frameOf(0x88, "\x03\xe8bye"))
	f.Add([]byte{0x81, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0})
	f.Add([]byte{0x81, 0xfe, 0xff, 0xff, 1, 2, 3, 4, 5})
	const limit = 10_000
	f.Fuzz(func(t *testing.T, stream []byte) {
		atOnce, err1 := readAll(&messages{conn: bytes.NewReader(stream), limit: limit})
		byByte, err2 := readAll(&messages{conn: iotest.OneByteReader(bytes.NewReader(stream)), limit: limit})
		if !slices.Equal(atOnce, byByte) {
			t.Fatalf("at once %.300q, byte by byte %.300q", atOnce, byByte)
		}
		var p1, p2 *protocolError
		if errors.As(err1, &p1) != errors.As(err2, &p2) || p1 != nil && *p1 != *p2 {
			t.Fatalf("at once %v, byte by byte %v", err1, err2)
		}
		for _, m := range atOnce {
			if len(m) > 1+limit {
				t.Fatalf("a message of %d bytes", len(m))
			}
		}
	})
}
