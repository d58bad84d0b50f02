package relay

import (
	"encoding/binary"
	"io"
	"net"
	"testing"

	"github.com/keysidecar/keysidecar/internal/testenv"
)

// strangePID forwards connections to Postgres and, as poolers do, tells the
// client a process id that is not the backend's.
func strangePID(t *testing.T, target string) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer client.Close()
				server, err := net.Dial("tcp", target)
				if err != nil {
					return
				}
				defer server.Close()
				go func() {
					_, _ = io.Copy(server, client)
					server.Close()
				}()
				_ = forwardMessages(client, server)
			}()
		}
	}()
	return l.Addr().String()
}

func forwardMessages(to io.Writer, from io.Reader) error {
	for {
		var head [5]byte
		if _, err := io.ReadFull(from, head[:]); err != nil {
			return err
		}
		message := make([]byte, 1+binary.BigEndian.Uint32(head[1:]))
		copy(message, head[:])
		if _, err := io.ReadFull(from, message[len(head):]); err != nil {
			return err
		}
		if head[0] == 'K' { // BackendKeyData
			binary.BigEndian.PutUint32(message[len(head):], 424242)
		}
		if _, err := to.Write(message); err != nil {
			return err
		}
	}
}

// Behind a pooler in transaction mode nobody would ever give the lock back.
func TestPooledConnectionIsRefusedBeforeTheLockIsTaken(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	pooled := testenv.Via(s.dsn, strangePID(t, pg.Addr()))
	f := start(t, s, func(o *Options) { o.DSN = func() (string, error) { return pooled, nil } })
	eventually(t, "the refusal", func() bool { return f.Status().DatabaseError == "pooled" })
	if n := s.int(t, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"); n != 0 {
		t.Errorf("%d locks", n)
	}
	if f.Status().Leader {
		t.Error("it leads")
	}
}
