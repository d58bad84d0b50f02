package server

import (
	"context"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

func newSocketData(t testing.TB, path string, change ...func(*DataOptions)) *Data {
	t.Helper()
	opts := DataOptions{Keys: newFakeKeys(t), Registerer: prometheus.NewRegistry(), Socket: Socket{Path: path}}
	for _, c := range change {
		c(&opts)
	}
	d, err := NewData(opts)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// end lets go of what a listening Data has bound.
func end(t testing.TB, d *Data) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Run(ctx); err != nil {
		t.Error(err)
	}
}

func TestTheSocketHasItsModeAndGroupWhateverTheUmask(t *testing.T) {
	old := unix.Umask(0o077) // for the whole process: not parallel
	defer unix.Umask(old)
	gid := os.Getgid()
	for _, tt := range []struct{ set, want fs.FileMode }{{0, 0o660}, {0o666, 0o666}, {0o600, 0o600}, {0o777, 0o777}} {
		path := filepath.Join(shortDir(t), "s.sock")
		d := newSocketData(t, path, func(o *DataOptions) { o.Socket.Mode, o.Socket.GID = tt.set, &gid })
		if err := d.Listen(); err != nil {
			t.Fatal(err)
		}
		if got := d.socket.Addr().String(); got != path {
			t.Errorf("address %s", got)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != tt.want || info.Mode().Type() != fs.ModeSocket {
			t.Errorf("mode %v, want %v", info.Mode(), tt.want)
		}
		end(t, d)
		if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 || entries[0].Name() != "s.sock.lock" {
			t.Errorf("left behind: %v", entries)
		}
	}
}

func TestTheSocketsGroupIsSet(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("changing the group needs root or membership")
	}
	gid := 54321
	path := filepath.Join(shortDir(t), "s.sock")
	d := newSocketData(t, path, func(o *DataOptions) { o.Socket.GID = &gid })
	if err := d.Listen(); err != nil {
		t.Fatal(err)
	}
	defer end(t, d)
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || int(st.Gid) != gid {
		t.Errorf("group %d, %v", st.Gid, err)
	}
}

// A process that died without cleaning up must not keep the next from starting.
func TestAStaleSocketIsReplaced(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "s.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	d := newSocketData(t, path)
	if err := d.Listen(); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	end(t, d)
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket is still there")
	}
}

func TestASecondInstanceOnOneSocketIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "s.sock")
	first := newSocketData(t, path)
	if err := first.Listen(); err != nil {
		t.Fatal(err)
	}
	second := newSocketData(t, path)
	err := second.Listen()
	if err == nil || !strings.Contains(err.Error(), "another keysidecar serves this socket") || !strings.Contains(err.Error(), path) {
		t.Errorf("Listen: %v", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the refused one took the socket away: %v", err)
	}
	end(t, first)
	if err := second.Listen(); err != nil {
		t.Errorf("after the first has gone: %v", err)
	}
	end(t, second)
}

// However the starts of several instances interleave, exactly one has the socket.
func TestOnlyOneOfManyStartsWins(t *testing.T) {
	t.Parallel()
	for range 20 {
		path := filepath.Join(shortDir(t), "s.sock")
		var wg sync.WaitGroup
		var mu sync.Mutex
		var winners []*Data
		for range 8 {
			d := newSocketData(t, path)
			wg.Go(func() {
				if d.Listen() == nil {
					mu.Lock()
					winners = append(winners, d)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if len(winners) != 1 {
			t.Fatalf("%d instances have the socket", len(winners))
		}
		end(t, winners[0])
	}
}

// At its end a process removes its own socket, not one that has taken its place.
func TestAnothersSocketIsNotRemoved(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "s.sock")
	d := newSocketData(t, path)
	if err := d.Listen(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	end(t, d)
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the other's socket is gone: %v", err)
	}
}

func TestWhatCannotBeBoundIsSaidClearly(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	inUse := filepath.Join(dir, "used.sock")
	l, err := net.Listen("unix", inUse)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for path, want := range map[string]string{
		filepath.Join(dir, "missing", "s.sock"):      "does not exist",
		filepath.Join(file, "s.sock"):                "not a directory",
		filepath.Join(dir, strings.Repeat("n", 108)): "at most 107",
		"/" + strings.Repeat("n", 107):               "at most 107",
		file:                                         "not a socket",
		dir:                                          "not a socket",
		inUse:                                        "another process listens",
		filepath.Join("/proc/self", "s.sock"):        "/proc/self/s.sock",
	} {
		d := newSocketData(t, path)
		if err := d.Listen(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
			if err == nil {
				end(t, d)
			}
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file was touched: %q %v", b, err)
	}
	if c, err := net.Dial("unix", inUse); err != nil {
		t.Errorf("the other's socket was taken: %v", err)
	} else {
		_ = c.Close()
	}
	if os.Getuid() != 0 {
		locked := shortDir(t)
		if err := os.Chmod(locked, 0o500); err != nil {
			t.Fatal(err)
		}
		if err := newSocketData(t, filepath.Join(locked, "s.sock")).Listen(); err == nil || !strings.Contains(err.Error(), "cannot create files") {
			t.Errorf("unwritable: %v", err)
		}
	}
}

func TestAPathOfExactlyTheLimitWorks(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	path := filepath.Join(dir, strings.Repeat("n", maxSocketPath-len(dir)-1))
	d := newSocketData(t, path)
	if err := d.Listen(); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	end(t, d)
}

// If the second listener cannot be had, the first is let go of.
func TestAFailedListenLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "s.sock")
	d := newSocketData(t, path, func(o *DataOptions) { o.TCP.Address = "10.1.2.3:0" })
	if err := d.Listen(); err == nil {
		t.Fatal("Listen succeeded")
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket is still there")
	}
	d = newSocketData(t, path)
	if err := d.Listen(); err != nil {
		t.Errorf("the path is still locked: %v", err)
	}
	end(t, d)
}

func TestAllowedUsers(t *testing.T) {
	t.Parallel()
	me := os.Getuid()
	s := start(t, func(o *DataOptions) { o.Socket.AllowedUIDs = []int{me + 1, me} })
	s.mustServe()
	s = start(t, func(o *DataOptions) { o.Socket.AllowedUIDs = []int{me + 1} })
	c := s.dial()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, _ = c.Write([]byte("GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n"))
	if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Error("a user who is not allowed was answered")
	}
	eventually(t, "it is counted", func() bool {
		return s.metric("keysidecar_http_connections_refused_total", "listener", "unix", "reason", "user") == 1
	})
	// Loopback does not know users.
	if a := s.doTCP("GET", "/v1/keys/pk_live_1", ""); a.status != 200 {
		t.Errorf("%d", a.status)
	}
}
