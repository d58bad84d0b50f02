package rabbit

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
)

// AMQP 0-9-1, section 2.3.5: a frame is type (1 octet), channel (2), size (4),
// payload, end (1). A content header's payload starts with class (2), weight (2)
// and the size of the body that follows in body frames (8).
const (
	frameMethod      = 1
	frameHeader      = 2
	frameBody        = 3
	frameHead        = 7
	contentHead      = 12
	bodySizeAt       = frameHead + 4
	limitBufferBytes = 16 << 10
)

// heartbeat stands in for a body frame that is left out, so that a long message
// on a slow line does not look like silence.
var heartbeat = []byte{8, 0, 0, 0, 0, 0, 0, 0xCE}

// limited is a connection on which bodies of more than max bytes arrive empty.
type limited struct {
	net.Conn
	in   *bufio.Reader
	max  uint64
	drop map[uint16]uint64 // by channel: how much of a body is still to be left out
	head [frameHead + contentHead]byte
	out  []byte // to be handed out next
	pass int64  // then to be handed out unread
}

func newLimited(conn net.Conn, limit int) *limited {
	return &limited{Conn: conn, in: bufio.NewReaderSize(conn, limitBufferBytes), max: uint64(limit), drop: map[uint16]uint64{}} //nolint:gosec // a positive constant
}

// Read implements io.Reader. It is called by the library's one reader.
func (l *limited) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(l.out) == 0 && l.pass == 0 {
		if err := l.frame(); err != nil {
			return 0, err
		}
	}
	if len(l.out) > 0 {
		n := copy(p, l.out)
		l.out = l.out[n:]
		return n, nil
	}
	n, err := l.in.Read(p[:min(int64(len(p)), l.pass)])
	l.pass -= int64(n)
	return n, err
}

// frame reads the next frame's head and decides what becomes of the frame.
func (l *limited) frame() error {
	if _, err := io.ReadFull(l.in, l.head[:frameHead]); err != nil {
		return err
	}
	channel := binary.BigEndian.Uint16(l.head[1:])
	size := int64(binary.BigEndian.Uint32(l.head[3:]))
	switch {
	case l.head[0] == frameBody && l.drop[channel] > 0:
		if _, err := l.in.Discard(int(size) + 1); err != nil {
			return fmt.Errorf("skip the body of an oversized message: %w", err)
		}
		l.drop[channel] -= min(l.drop[channel], uint64(size)) //nolint:gosec // a length, never negative
		l.out = heartbeat
		return nil
	case l.head[0] == frameHeader && size >= contentHead:
		if _, err := io.ReadFull(l.in, l.head[frameHead:]); err != nil {
			return err
		}
		delete(l.drop, channel)
		if body := binary.BigEndian.Uint64(l.head[bodySizeAt:]); body > l.max {
			l.drop[channel] = body
			clear(l.head[bodySizeAt:])
		}
		l.out, l.pass = l.head[:], size-contentHead+1
		return nil
	case l.head[0] == frameMethod:
		delete(l.drop, channel) // a method ends whatever content came before it
	}
	l.out, l.pass = l.head[:frameHead], size+1
	return nil
}
