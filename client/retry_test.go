package client_test

import (
	"context"
	"io"
	"net"
	"testing"

	"github.com/keysidecar/keysidecar/client"
)

// A sidecar that was restarted has closed the connections that a client keeps, which
// is no reason for an error.
func TestClosedKeptConnectionFailsACall(t *testing.T) {
	t.Parallel()
	for way := range askers(nil) {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			s := scripted(t, func(n int, c net.Conn, read func() bool) {
				read()
				_, _ = io.WriteString(c, goodFor(way))
				if n == 0 {
					read() // the second question, which gets no answer
					return
				}
				for read() {
					_, _ = io.WriteString(c, goodFor(way))
				}
			})
			ask := askers(s.client(t, client.Options{}))[way]
			for range 3 {
				if _, err := ask(t.Context(), "pk_live"); err != nil {
					t.Fatal(err)
				}
			}
			if conns, requests := s.counts(); conns != 2 || requests != 4 {
				t.Errorf("%d connections, %d requests", conns, requests)
			}
		})
	}
}

func goodFor(way string) string {
	if way == "VerifyBatch" {
		return httpAnswer(200, jsonType, `{"verdicts":[`+good+`]}`)
	}
	return httpAnswer(200, jsonType, good)
}

// A connection that is new and gives no answer, one that breaks off an answer, and one
// that ends while the caller has given up: none of them is asked again.
func TestQuestionIsAskedAgainWithoutNeed(t *testing.T) {
	t.Parallel()
	for name, second := range map[string]string{
		"half an answer": "HTTP/1.1 200 OK\r\n",
		"half a body":    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 400\r\n\r\n{",
		"busy":           httpAnswer(503, jsonType, `{"valid":false,"code":"unavailable","key_id":"pk_live","as_of":null,"source":null}`),
		"429":            problem(429, "too_many_waits"),
		"408":            problem(408, "request_timeout"),
		"500":            problem(500, "internal"),
	} {
		for way := range askers(nil) {
			t.Run(name+" "+way, func(t *testing.T) {
				t.Parallel()
				s := scripted(t, func(_ int, c net.Conn, read func() bool) {
					read()
					_, _ = io.WriteString(c, goodFor(way))
					if read() {
						_, _ = io.WriteString(c, second)
					}
				})
				ask := askers(s.client(t, client.Options{}))[way]
				if _, err := ask(t.Context(), "pk_live"); err != nil {
					t.Fatal(err)
				}
				k, err := ask(t.Context(), "pk_live")
				mustBe(t, way, k, err, client.ErrUnavailable)
				if conns, requests := s.counts(); conns != 1 || requests != 2 {
					t.Errorf("%d connections, %d requests", conns, requests)
				}
			})
		}
	}
	for way := range askers(nil) {
		t.Run("a new connection "+way, func(t *testing.T) {
			t.Parallel()
			s := scripted(t, func(_ int, _ net.Conn, read func() bool) { read() })
			k, err := askers(s.client(t, client.Options{}))[way](t.Context(), "pk_live")
			mustBe(t, way, k, err, client.ErrUnavailable)
			if conns, requests := s.counts(); conns != 1 || requests != 1 {
				t.Errorf("%d connections, %d requests", conns, requests)
			}
		})
	}
}

// However many kept connections turn out to be closed, and whatever comes after them.
func TestRetriesHaveNoEnd(t *testing.T) {
	t.Parallel()
	const kept = 8
	answered := make(chan struct{})
	s := scripted(t, func(n int, c net.Conn, read func() bool) {
		if !read() || n >= kept {
			return
		}
		if n == kept-1 {
			close(answered) // all are open at once, so that all are kept
		}
		<-answered
		_, _ = io.WriteString(c, httpAnswer(200, jsonType, good))
		read()
	})
	c := s.client(t, client.Options{MaxConnections: kept})
	done := make(chan error, kept)
	for range kept {
		go func() {
			_, err := c.Lookup(context.Background(), "pk_live")
			done <- err
		}()
	}
	for range kept {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	k, err := c.Lookup(t.Context(), "pk_live")
	mustBe(t, "all are closed", k, err, client.ErrUnavailable)
	if conns, requests := s.counts(); conns != kept+1 || requests > 2*kept+1 {
		t.Errorf("%d connections, %d requests", conns, requests)
	}
}
