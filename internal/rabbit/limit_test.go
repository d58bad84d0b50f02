package rabbit

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"testing/iotest"
)

type stream struct {
	net.Conn
	io.Reader
}

func (s stream) Read(p []byte) (int, error) { return s.Reader.Read(p) }

func frame(kind byte, channel uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte{kind}, channel)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(append(b, payload...), 0xCE)
}

func contentHeader(channel uint16, size uint64) []byte {
	payload := binary.BigEndian.AppendUint64([]byte{0, 60, 0, 0}, size)
	return frame(frameHeader, channel, append(payload, "properties"...))
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func filtered(t testing.TB, in []byte) []byte {
	out, err := io.ReadAll(newLimited(stream{Reader: bytes.NewReader(in)}, 100))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestOversizedMessagesArriveEmptyAndOthersUntouched(t *testing.T) {
	small, large := bytes.Repeat([]byte("s"), 100), bytes.Repeat([]byte("l"), 60)
	method := frame(frameMethod, 1, []byte("deliver"))
	for name, c := range map[string]struct{ in, want []byte }{
		"small": {
			join(method, contentHeader(1, 100), frame(frameBody, 1, small)),
			join(method, contentHeader(1, 100), frame(frameBody, 1, small)),
		},
		"large in two frames": {
			join(method, contentHeader(1, 120), frame(frameBody, 1, large), frame(frameBody, 1, large), method),
			join(method, contentHeader(1, 0), heartbeat, heartbeat, method),
		},
		"another channel between": {
			join(contentHeader(1, 120), frame(frameBody, 1, large), contentHeader(2, 60), frame(frameBody, 2, large), frame(frameBody, 1, large)),
			join(contentHeader(1, 0), heartbeat, contentHeader(2, 60), frame(frameBody, 2, large), heartbeat),
		},
		"cut short by the channel's end": {
			join(contentHeader(1, 120), frame(frameBody, 1, large), method, contentHeader(1, 60), frame(frameBody, 1, large)),
			join(contentHeader(1, 0), heartbeat, method, contentHeader(1, 60), frame(frameBody, 1, large)),
		},
		"size of all ones": {
			join(contentHeader(1, 1<<64-1), frame(frameBody, 1, large)),
			join(contentHeader(1, 0), heartbeat),
		},
		"heartbeat": {heartbeat, heartbeat},
	} {
		if got := filtered(t, c.in); !bytes.Equal(got, c.want) {
			t.Errorf("%s:\n got %q\nwant %q", name, got, c.want)
		}
		slow := newLimited(stream{Reader: iotest.OneByteReader(bytes.NewReader(c.in))}, 100)
		if got, err := io.ReadAll(iotest.OneByteReader(slow)); err != nil || !bytes.Equal(got, c.want) {
			t.Errorf("%s, byte by byte: %q, %v", name, got, err)
		}
	}
}

func FuzzLimitNeverInventsBytesNorHangs(f *testing.F) {
	f.Add(join(contentHeader(1, 120), frame(frameBody, 1, []byte("x")), heartbeat))
	f.Add([]byte("AMQP\x00\x00\x09\x01"))
	f.Fuzz(func(t *testing.T, in []byte) {
		out, _ := io.ReadAll(newLimited(stream{Reader: bytes.NewReader(in)}, 100))
		if len(out) > len(in)+len(heartbeat) {
			t.Fatalf("%d bytes out of %d", len(out), len(in))
		}
	})
}
