package recipes

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// nonsense is what the fake sidecar answers, by the key id that it is asked for. None
// of it is a verdict on that key.
var nonsense = []struct {
	keyID  string
	status int
	body   string
}{
	{"other", 200, `{"valid":true,"code":"active","key_id":"another"}`},
	{"prefix", 200, `{"valid":true,"code":"active","key_id":"prefix2"}`},
	{"nameless", 200, `{"valid":true,"code":"active"}`},
	{"text", 200, `{"valid":"true","code":"active","key_id":"text"}`},
	{"silent", 200, `{"code":"active","key_id":"silent"}`},
	{"contradicts", 200, `{"valid":false,"code":"revoked","key_id":"contradicts"}`},
	{"contradicts403", 403, `{"valid":true,"code":"active","key_id":"contradicts403"}`},
	{"contradicts404", 404, `{"valid":true,"code":"active","key_id":"contradicts404"}`},
	{"created", 201, `{"valid":true,"code":"active","key_id":"created"}`},
	{"unavailable", 503, `{"valid":false,"code":"unavailable","key_id":"unavailable"}`},
	{"broken", 500, `{"valid":true,"code":"active","key_id":"broken"}`},
	{"routeless", 404, `{"type":"about:blank","title":"Not Found","status":404,"code":"no_such_route"}`},
	{"page", 200, `<html>It works!</html>`},
	{"array", 200, `[{"valid":true}]`},
	{"null", 200, `null`},
	{"empty", 200, ``},
	{"redirected", 302, ``},
	{"truncated", 200, ``},
	{"reset", 0, ``},
	{"hangs", 0, ``},
	{"drips", 0, ``}, // more slowly than anybody should wait
}

// startFake serves nonsense until the process ends.
func startFake(dir string) (place, error) {
	socket := filepath.Join(dir, "fake.sock")
	onSocket, err := net.Listen("unix", socket)
	if err != nil {
		return place{}, err
	}
	onLoopback, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return place{}, err
	}
	for _, l := range []net.Listener{onSocket, onLoopback} {
		s := &http.Server{Handler: http.HandlerFunc(answerNonsense), ReadHeaderTimeout: time.Minute}
		go func() { _ = s.Serve(l) }()
	}
	return place{socket, onLoopback.Addr().String()}, nil
}

func answerNonsense(w http.ResponseWriter, r *http.Request) {
	id := strings.TrimPrefix(r.URL.Path, "/v1/keys/")
	yes := fmt.Sprintf(`{"valid":true,"code":"active","key_id":%q}`, id)
	switch id {
	case "honest":
		_, _ = io.WriteString(w, yes)
		return
	case "/elsewhere":
		_, _ = io.WriteString(w, `{"valid":true,"code":"active","key_id":"redirected"}`)
		return
	case "redirected":
		w.Header().Set("Location", "/elsewhere")
	case "truncated", "reset", "hangs", "drips":
		misbehave(w, id, yes)
		return
	}
	for _, n := range nonsense {
		if n.keyID == id {
			w.Header().Set("Content-Length", fmt.Sprint(len(n.body)))
			w.WriteHeader(n.status)
			_, _ = io.WriteString(w, n.body)
		}
	}
}

// misbehave breaks HTTP.
func misbehave(w http.ResponseWriter, id, yes string) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer c.Close()
	head := "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
	switch id {
	case "truncated": // and whole, if one does not look
		_, _ = fmt.Fprintf(c, head+"%s", len(yes)+10, yes)
	case "hangs":
		gone(c, time.Minute)
	case "drips":
		_, _ = fmt.Fprintf(c, head, len(yes))
		for i := range len(yes) {
			if _, err := c.Write([]byte{yes[i]}); err != nil || gone(c, 100*time.Millisecond) {
				return
			}
		}
	}
}

// gone waits until the client is gone, or for a while.
func gone(c net.Conn, wait time.Duration) bool {
	_ = c.SetReadDeadline(time.Now().Add(wait))
	_, err := c.Read(make([]byte, 1))
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}
