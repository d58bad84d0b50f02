package loss

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/test/cluster"
)

// TestMain lets the test's own program be a subscriber.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == SubscriberCommand {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := Subscribe(ctx, os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// What prints the figures in the documents must not rot between releases, and must
// find the loss that is certain: a queue that goes with its connection. Redis is not
// needed for tests; the command is run with it.
func TestALostMessageIsAMissedRevocationExceptAtASidecar(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	bin, err := cluster.Build(ctx, t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	o := Full()
	o.Bin, o.Progress, o.Ways = bin, io.Discard, []Way{Transient, Durable, Sidecar}
	// All that is revoked after the cut is revoked while it lasts; and by the end of
	// quiet the promise's bound is over.
	o.Revocations, o.Every, o.Away, o.Quiet = 60, 10*time.Millisecond, time.Second, 4*time.Second
	if o.Self, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	r, err := Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Rows) != 2*2*len(o.Ways) {
		t.Fatalf("%d rows: %+v", len(r.Rows), r.Rows)
	}
	for _, row := range r.Rows {
		lossy := row.Way == Transient && row.Disturbed
		if row.Missed > 0 && !lossy {
			t.Errorf("missed: %+v", row)
		}
		if row.Unheard > 0 && !lossy {
			t.Errorf("unheard: %+v", row)
		}
	}
	if cut := r.row(Transient, CutOff, true); cut.Missed == 0 || cut.Missed != cut.Unheard || cut.ForEver < o.Quiet {
		t.Errorf("a queue that goes with its connection: %+v", cut)
	}
	if err := r.Judge(); err != nil {
		t.Error(err)
	}
	if text := r.Markdown(); strings.Count(text, "\n| keysidecar | does not matter | 0 | - |") != 2 {
		t.Error(text)
	}
}

func TestASidecarThatMissesOneIsNotPassedOver(t *testing.T) {
	t.Parallel()
	r := Report{Rows: []Row{{Way: PubSub, Disturbance: CutOff, Disturbed: true, Missed: 7}}}
	if err := r.Judge(); err != nil {
		t.Error(err)
	}
	r.Rows = append(r.Rows, Row{Way: Sidecar, Disturbance: CutOff, Missed: 1})
	if r.Judge() == nil {
		t.Error("no error")
	}
}

// speak accepts one connection, reads what is expected and answers.
func speak(t *testing.T, expect, answer string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		got := make([]byte, len(expect))
		if _, err := io.ReadFull(bufio.NewReader(conn), got); err != nil || string(got) != expect {
			t.Errorf("%q, %v", got, err)
		}
		_, _ = io.WriteString(conn, answer)
	}()
	return l.Addr().String()
}

func TestPubSubIsReadAsRedisWritesIt(t *testing.T) {
	t.Parallel()
	address := speak(t, "*2\r\n$9\r\nSUBSCRIBE\r\n$7\r\nrevoked\r\n",
		"*3\r\n$9\r\nsubscribe\r\n$7\r\nrevoked\r\n:1\r\n*3\r\n$7\r\nmessage\r\n$7\r\nrevoked\r\n$2\r\nk1\r\n*3\r\n$7\r\nmessage\r\n$7\r\nrevoked\r\n$2\r\nk2\r\n")
	subscribed := 0
	var heard []string
	err := hearRedis(t.Context(), address, func() { subscribed++ }, func(id string) { heard = append(heard, id) })
	if err == nil || subscribed != 1 || !slices.Equal(heard, []string{"k1", "k2"}) {
		t.Errorf("subscribed %d times, heard %v, %v", subscribed, heard, err)
	}
	c, err := dialRedis(t.Context(), speak(t, "*3\r\n$7\r\nPUBLISH\r\n$7\r\nrevoked\r\n$2\r\nk1\r\n", ":2\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.publish("k1"); err != nil {
		t.Error(err)
	}
	for _, answer := range []string{"-ERR no\r\n", "\r\n", "$-1\r\n", "*x\r\n"} {
		c, err := dialRedis(t.Context(), speak(t, "", answer))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.read(); err == nil {
			t.Errorf("%q was read as %q", answer, got)
		}
		_ = c.Close()
	}
}
