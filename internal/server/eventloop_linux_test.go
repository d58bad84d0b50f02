package server

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// inLoops is how many connections the event loops have.
func (s *service) inLoops() (n int) {
	for _, l := range s.data.loops {
		l.mu.Lock()
		n += len(l.conns)
		l.mu.Unlock()
	}
	return n
}

// settledConn is a connection that an event loop has.
func (s *service) settledConn() (net.Conn, *bufio.Reader) {
	s.t.Helper()
	before := s.inLoops()
	c := s.dial()
	eventually(s.t, "an event loop has the connection", func() bool { return s.inLoops() == before+1 })
	return c, bufio.NewReader(c)
}

func (s *service) send(c io.Writer, what string) {
	s.t.Helper()
	if _, err := io.WriteString(c, what); err != nil {
		s.t.Fatal(err)
	}
}

// exchanged is what was answered, without what may differ.
func exchanged(t testing.TB, r *bufio.Reader, method string, most int) (list []string) {
	t.Helper()
	for len(list) < most {
		a, err := readAnswer(r, method)
		if err != nil {
			return list
		}
		a.header.Del("Date")
		var b strings.Builder
		if err := a.header.Write(&b); err != nil {
			t.Fatal(err)
		}
		b.Write(unequal.ReplaceAll(a.body, []byte(`"age_ms":0`)))
		if a.status == 100 {
			continue // of use to those only who wait for it
		}
		list = append(list, string(rune('0'+a.status/100))+b.String())
		if a.closed {
			return append(list, "closed")
		}
	}
	return list
}

// Nobody must be able to tell by an answer which of the two has a connection, nor by
// whether the connection goes on after it.
func TestTheEventLoopAnswersOtherwise(t *testing.T) {
	t.Parallel()
	s := start(t)
	for name, tt := range quickCases {
		t.Run(name, func(t *testing.T) {
			method, _, _ := strings.Cut(strings.TrimSpace(tt.request), " ")
			eventually(t, "nobody else is connected", func() bool { return s.data.open() == 0 && s.inLoops() == 0 })
			asked := max(1, strings.Count(tt.request, "GET "))
			looped, loopedReader := s.settledConn()
			s.send(looped, tt.request)
			byLoop := exchanged(t, loopedReader, method, asked)

			// One byte first makes a goroutine take it.
			other := s.dial()
			s.send(other, tt.request[:1])
			s.send(other, tt.request[1:])
			byOther := exchanged(t, bufio.NewReader(other), method, asked)
			if len(byLoop) == 0 || strings.Join(byLoop, "\n--\n") != strings.Join(byOther, "\n--\n") {
				t.Errorf("by the loop\n%s\nby a goroutine\n%s", byLoop, byOther)
			}
			_ = other.Close()
			defer looped.Close()
			if byLoop[len(byLoop)-1] == "closed" {
				return
			}
			s.send(looped, getActive)
			if after := exchanged(t, loopedReader, "GET", 1); len(after) != 1 || after[0][0] != '2' {
				t.Errorf("asked again: %s", after)
			}
		})
	}
	eventually(t, "no connection is left", func() bool { return s.data.open() == 0 && s.inLoops() == 0 })
}

// A connection goes from hand to hand with every byte it has sent and is owed, and always
// finds its way back.
func TestAConnectionChangesHandsAndLosesNothing(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.keys.remote["pk_live_1"] = true // never in memory
	c, r := s.settledConn()
	get := getOf("/v1/keys/pk_live_1", "Cache-Control: max-age=60")
	descriptors := openDescriptors(t)
	for i := range 300 {
		var sent string
		switch i % 6 {
		case 0, 1: // read, and back
			sent = get
		case 2: // two pieces
			s.send(c, postVerify[:50])
			sent = postVerify[50:]
		case 3: // pipelined
			sent = getOf("/v1/keys/nobody") + get + getOf("/v1/status")
		case 4:
			sent = getOf("/v1/keys/nobody") // from memory
		case 5: // a secret, in a request that has to be read twice
			sent = postOf("/v1/verify", `{"secret":"sk_secret","owner_id":"m_1"}`)
		}
		s.send(c, sent)
		want := max(1, strings.Count(sent, "HTTP/1.1\r\n"))
		if got := exchanged(t, r, "GET", want); len(got) != want {
			t.Fatalf("request %d: %d answers: %s", i, len(got), got)
		}
	}
	for range settled + 1 {
		s.send(c, getOf("/v1/keys/nobody"))
		if got := exchanged(t, r, "GET", 1); len(got) != 1 || got[0][0] != '4' {
			t.Fatalf("%s", got)
		}
	}
	eventually(t, "the loop has it again", func() bool { return s.inLoops() == 1 })
	eventually(t, "no descriptor is left open", func() bool { return openDescriptors(t) <= descriptors+8 }) // other tests open some
}

func openDescriptors(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// One key that is read from the database, and a signature that is verified, keep nobody waiting
// but who asked.
func TestOneQuestionHoldsUpAllOthers(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.keys.remote["pk_live_1"] = true
	s.keys.wait = make(chan struct{})
	conns := make([]net.Conn, 4*len(s.data.loops)) // some for each loop
	for i := range conns {
		conns[i], _ = s.settledConn()
	}
	for _, c := range conns {
		s.send(c, getActive)
	}
	for range conns {
		<-s.keys.entered
	}
	other, r := s.settledConn()
	for range 20 {
		s.send(other, getOf("/v1/keys/opaque~+=:-._1"))
		if got := exchanged(t, r, "GET", 1); len(got) != 1 || got[0][0] != '2' {
			t.Fatalf("%s", got)
		}
	}
	close(s.keys.wait)
	for i, c := range conns {
		if got := exchanged(t, bufio.NewReader(c), "GET", 1); len(got) != 1 || got[0][0] != '2' {
			t.Errorf("connection %d: %s", i, got)
		}
	}
	eventually(t, "all are back in the loops", func() bool { return s.inLoops() == len(conns)+1 })
}

// A client that asks and does not read fills its socket, and then a goroutine waits for it: the
// loop goes on, no answer is lost to one that reads after all, and one that never does is cut.
func TestAClientThatDoesNotReadHoldsUpTheLoop(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *DataOptions) { o.WriteTimeout = time.Minute })
	late, lateReader := s.settledConn()
	asked := s.fill(late)
	other, r := s.settledConn()
	s.send(other, getActive)
	if got := exchanged(t, r, "GET", 1); len(got) != 1 || got[0][0] != '2' {
		t.Fatalf("%s", got)
	}
	for i := range asked {
		if got := exchanged(t, lateReader, "GET", 1); len(got) != 1 || got[0][0] != '2' {
			t.Fatalf("answer %d of %d: %s", i, asked, got)
		}
	}

	cut := start(t, func(o *DataOptions) { o.WriteTimeout = 80 * time.Millisecond })
	never, _ := cut.settledConn()
	cut.fill(never)
	eventually(t, "it is cut", func() bool {
		return cut.metric("keysidecar_http_connections_aborted_total", "reason", "slow_reader") == 1 && cut.data.open() == 0
	})
}

// fill sends requests one by one, and reads no answer, until a goroutine has to wait for
// the client. It returns how many were sent.
func (s *service) fill(c net.Conn) (asked int) {
	s.t.Helper()
	before := s.inLoops()
	for ; s.inLoops() == before; asked++ {
		answered := s.metric("keysidecar_http_requests_total", "route", "key")
		s.send(c, getActive)
		eventually(s.t, "it is answered", func() bool { return s.metric("keysidecar_http_requests_total", "route", "key") == answered+1 })
	}
	return asked
}

// What a client presented as its secret is not left in the loop's memory.
func TestASecretStaysInTheLoopsMemory(t *testing.T) {
	t.Parallel()
	for _, remote := range []bool{false, true} {
		s := start(t)
		c, r := s.settledConn()
		s.keys.remote[keystore.HashSecret(nil, []byte("sk_secret"))] = remote
		s.send(c, postOf("/v1/verify", `{"secret":"sk_secret"}`))
		if got := exchanged(t, r, "POST", 1); len(got) != 1 {
			t.Fatal("not answered")
		}
		if err := s.stop(); err != nil {
			t.Error(err)
		}
		for _, l := range s.data.loops {
			if bytes.Contains(l.in, []byte("sk_secret")) || bytes.Contains(l.copy[:cap(l.copy)], []byte("sk_secret")) {
				t.Errorf("remote %v: a secret was left", remote)
			}
		}
	}
}

// Connections in the loops are closed by a stop like others, and what they ask while it
// goes on is answered, as the last.
func TestStoppingForgetsTheEventLoops(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *DataOptions) { o.drain = 300 * time.Millisecond })
	idlers := make([]*bufio.Reader, 20)
	for i := range idlers {
		_, idlers[i] = s.settledConn()
	}
	asking, r := s.settledConn()
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	eventually(t, "it stops", s.data.stopping.Load)
	s.send(asking, getActive)
	if got := exchanged(t, r, "GET", 2); len(got) != 2 || got[0][0] != '2' || got[1] != "closed" {
		t.Errorf("%s", got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	for i, r := range idlers {
		if _, err := r.ReadByte(); err == nil {
			t.Errorf("connection %d was sent something", i)
		}
	}
	if n := s.data.open() + s.inLoops(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

// A loop that fails ends the daemon, which begins again, rather than leave clients without
// an answer.
func TestAFailedLoopLeavesItsClientsAlone(t *testing.T) {
	t.Parallel()
	s := start(t)
	c, r := s.settledConn()
	s.send(c, getActive)
	if got := exchanged(t, r, "GET", 1); len(got) != 1 {
		t.Fatal("not answered")
	}
	for _, l := range s.data.loops {
		// What it waits for is no epoll instance from now on; the bell makes it look.
		if err := unix.Dup3(l.bell, l.fd, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Write(l.bell, []byte{1, 0, 0, 0, 0, 0, 0, 1}); err != nil {
			t.Fatal(err)
		}
	}
	<-s.data.life.Done()
	if err := s.stop(); err == nil || !strings.Contains(err.Error(), "wait for connections") {
		t.Errorf("Run: %v", err)
	}
	s.stop = func() error { return nil }
}

// A client that is alone on the socket keeps its goroutine, and shares the loop with others as soon
// as there are any.
func TestALoneClientIsWokenByTheLoop(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *DataOptions) { o.enough = 2 })
	lone := s.dial()
	r := bufio.NewReader(lone)
	ask := func() {
		t.Helper()
		for range settled {
			s.send(lone, getActive)
			if got := exchanged(t, r, "GET", 1); len(got) != 1 || got[0][0] != '2' {
				t.Fatalf("%s", got)
			}
		}
	}
	ask()
	if n := s.inLoops(); n != 0 {
		t.Fatalf("%d connections are in the loops", n)
	}
	s.settledConn()
	ask()
	eventually(t, "both are in the loops", func() bool { return s.inLoops() == 2 })
}
