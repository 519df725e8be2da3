package realtime

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestFrameHeaderGrowsWithThePacket(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ packet, header int }{
		{0, 2}, {125, 2}, {126, 4}, {65535, 4}, {65536, 10}, {1 << 20, 10},
	} {
		packet := bytes.Repeat([]byte("x"), test.packet)
		f := textFrame(packet)
		if len(f) != test.header+test.packet {
			t.Errorf("a packet of %d bytes has a frame of %d, want a header of %d", test.packet, len(f), test.header)
		}
		if got := parseFrame(t, f); !bytes.Equal(got, packet) {
			t.Errorf("a packet of %d bytes comes back as %d", test.packet, len(got))
		}
		if cap(f) != len(f) {
			t.Errorf("a frame of %d bytes was made in room for %d", len(f), cap(f))
		}
	}
}

func TestEncodeEvent(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, event, body, want string }{
		{"event of the house", "message:new", `{"id":1}`, `42["message:new",{"id":1}]`},
		{"body stays as it is", "x", "{ \"a\" :\t1.0e2,\n\"a\":2}", "42[\"x\",{ \"a\" :\t1.0e2,\n\"a\":2}]"},
		{"no body", "x", ``, `42["x"]`},
		{"empty name", "", `{}`, `42["",{}]`},
		{"quote and backslash", `a"b\c`, `{}`, `42["a\"b\\c",{}]`},
		{"control characters", "a\x00\n\x1e", `{}`, `42["a\u0000\n\u001e",{}]`},
		{"other scripts", "событие✓", `{}`, `42["событие✓",{}]`},
		{"no UTF-8", "a\xffb", `{}`, "42[\"a\\ufffdb\",{}]"},
		{"delete is no control character of JSON", "a\x7f", `{}`, "42[\"a\x7f\",{}]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ev := encodeEvent(test.event, []byte(test.body))
			if got := string(ev.packet()); got != test.want {
				t.Errorf("packet is %q, want %q", got, test.want)
			}
			if got := string(parseFrame(t, ev.ws)); got != test.want {
				t.Errorf("frame holds %q, want %q", got, test.want)
			}
			if got := string(ev.text()); got != test.want {
				t.Errorf("long-polling gets %q, want %q", got, test.want)
			}
			if ev.size() != len(ev.ws) || ev.frames() != 1 {
				t.Errorf("size %d in %d frames, want %d in 1", ev.size(), ev.frames(), len(ev.ws))
			}
		})
	}
}

func TestBinaryPacketIsBase64ForLongPolling(t *testing.T) {
	t.Parallel()
	f := newFrame(2, []byte{1, 2, 3, 4})
	if got := string(f.text()); got != "bAQIDBA==" {
		t.Errorf("text is %q", got)
	}
}

// An event of the house costs its bytes and what points to them, whatever its size.
func TestEncodeEventAllocatesTwice(t *testing.T) {
	body := []byte(`{"content":"` + strings.Repeat("x", 100_000) + `"}`)
	if n := testing.AllocsPerRun(100, func() { encodeEvent("message:new", body) }); n > 2 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzEncodeEvent(f *testing.F) {
	f.Add("message:new", `{"id":1}`)
	f.Add("a\"b\\c\x00\x1e\x7f\u2028<>&", "[1,\n2]")
	f.Add("\xff\xc0\xaf", `"\u001e"`)
	f.Add(strings.Repeat("n", 70000), `null`)
	f.Fuzz(func(t *testing.T, name, body string) {
		if !json.Valid([]byte(body)) {
			return // the log holds JSON
		}
		packet := parseFrame(t, encodeEvent(name, []byte(body)).ws)
		rest, ok := bytes.CutPrefix(packet, []byte("42"))
		if !ok {
			t.Fatalf("packet is %q", packet)
		}
		var args []json.RawMessage
		if err := json.Unmarshal(rest, &args); err != nil || len(args) != 2 {
			t.Fatalf("%q has %d arguments: %v", rest, len(args), err)
		}
		var got string
		if err := json.Unmarshal(args[0], &got); err != nil || got != strings.ToValidUTF8(name, "\ufffd") && utf8.ValidString(name) {
			t.Fatalf("name %q comes back as %q: %v", name, got, err)
		}
		if want := strings.Trim(body, " \t\r\n"); string(args[1]) != want {
			t.Fatalf("body %q comes back as %q", want, args[1])
		}
		if utf8.ValidString(body) && !utf8.Valid(packet) {
			t.Fatalf("%q is no UTF-8", packet)
		}
		if bytes.IndexByte(packet, 0x1e) >= 0 {
			t.Fatalf("%q holds the separator of long-polling payloads", packet)
		}
	})
}

func BenchmarkEncodeEvent(b *testing.B) {
	body := []byte(`{"content":"` + strings.Repeat("x", 550) + `"}`)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		encodeEvent("message:new", body)
	}
}

// parseFrame reads the one unmasked text frame that f has to be, by RFC 6455 section 5.2.
func parseFrame(t *testing.T, f []byte) []byte {
	t.Helper()
	if f[0] != 0x81 || f[1]&0x80 != 0 {
		t.Fatalf("frame begins with %x %x: not a final, unmasked text frame", f[0], f[1])
	}
	n, rest := uint64(f[1]), f[2:]
	switch n {
	case 126:
		n, rest = uint64(binary.BigEndian.Uint16(rest)), rest[2:]
	case 127:
		n, rest = binary.BigEndian.Uint64(rest), rest[8:]
	}
	if n != uint64(len(rest)) {
		t.Fatalf("frame says %d bytes and holds %d", n, len(rest))
	}
	return rest
}
