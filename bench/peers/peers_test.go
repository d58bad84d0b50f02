package peers

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/test/cluster"
)

// TestMain lets the test's own program be the bare loop.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == BareCommand {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := ServeBare(ctx, os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestHistogramsAreOffByLessThanOnePercent(t *testing.T) {
	t.Parallel()
	for ns := uint64(1); ns < 1<<39; ns += ns/7 + 1 {
		got := middle(bucketOf(ns))
		if off := math.Abs(float64(got)-float64(ns)) / float64(ns); off > 0.01 {
			t.Fatalf("%d ns is counted as %v", ns, got)
		}
	}
	if b := bucketOf(math.MaxUint64); b != buckets-1 {
		t.Errorf("the longest time is in bucket %d of %d", b, buckets)
	}
	var a, b histogram
	for i := 1; i <= 100; i++ {
		a.record(time.Duration(i))
	}
	b.record(time.Hour)
	a.add(&b)
	if p50, p99, most := a.quantile(0.5), a.quantile(0.99), a.quantile(1); p50 != 50 || p99 != 99 || most < 15*time.Minute {
		t.Errorf("p50 %v, p99 %v, most %v", p50, p99, most)
	}
	if empty := new(histogram).quantile(0.5); empty != 0 {
		t.Errorf("the median of nothing is %v", empty)
	}
}

func TestAnswersAreReadWholeAndNoFurther(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		wire   wire
		answer string
		says   reply
	}{
		"200":       {http, "HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\n\r\nhello", found},
		"404":       {http, "HTTP/1.1 404 Not Found\r\nContent-Length: 12\r\nX: y\r\n\r\nno such key.", notFound},
		"503":       {http, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", wrong},
		"string":    {resp, "$5\r\nhello\r\n", found},
		"empty":     {resp, "$0\r\n\r\n", found},
		"null":      {resp, "$-1\r\n", notFound},
		"multiline": {resp, "$7\r\na\r\nb\r\nc\r\n", found},
	} {
		t.Run(name, func(t *testing.T) {
			for n := range tt.answer {
				if length, says, err := tt.wire([]byte(tt.answer[:n])); length != 0 || says != partial || err != nil {
					t.Fatalf("%q: %d, %d, %v", tt.answer[:n], length, says, err)
				}
			}
			if length, says, err := tt.wire([]byte(tt.answer + "HTTP")); length != len(tt.answer) || says != tt.says || err != nil {
				t.Errorf("%d of %d bytes, %d, %v", length, len(tt.answer), says, err)
			}
		})
	}
	for name, tt := range map[string]struct {
		wire   wire
		answer string
	}{
		"no length":     {http, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"},
		"not HTTP":      {http, "SSH-2.0-OpenSSH\r\nContent-Length: 0\r\n\r\n"},
		"negative":      {http, "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"},
		"redis refuses": {resp, "-ERR no\r\n"},
		"no number":     {resp, "$x\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := tt.wire([]byte(tt.answer)); err == nil {
				t.Error("no error")
			}
		})
	}
}

// serve answers every request on a socket with the same bytes.
func serve(t *testing.T, answer string) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				in := make([]byte, 4096)
				for {
					if _, err := conn.Read(in); err != nil {
						return
					}
					if _, err := io.WriteString(conn, answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	return socket
}

func soon() window {
	now := time.Now()
	return window{begin: now.Add(20 * time.Millisecond), end: now.Add(270 * time.Millisecond)}
}

func TestTheClientCountsOnlyWhatIsAnsweredAsExpected(t *testing.T) {
	t.Parallel()
	ok := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	request := func() ([]byte, reply) { return httpGet("a"), found }
	drive := func(network, address string) (*histogram, error) {
		l := load{network: network, address: address, conns: 4, wire: http, next: request}
		return l.drive(t.Context(), soon())
	}
	if h, err := drive("unix", serve(t, ok)); err != nil || h.n == 0 || h.quantile(0.5) <= 0 {
		t.Errorf("%d answers, median %v, %v", h.n, h.quantile(0.5), err)
	}
	for name, answer := range map[string]string{
		"refusal":   "HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno",
		"unknown":   "HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno",
		"two":       ok + ok,
		"something": "hello\r\n\r\n",
	} {
		if _, err := drive("unix", serve(t, answer)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := drive("unix", filepath.Join(t.TempDir(), "nobody")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nobody listens: %v", err)
	}
	if _, err := drive("tcp", "127.0.0.1:1"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody listens: %v", err)
	}
}

// What prints the figures in the documents must not rot between releases. nginx and
// Redis are not needed for tests; the command is run with them.
func TestARunMeasuresEveryContenderInEveryCell(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	bin, err := cluster.Build(ctx, t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	o := Quick()
	o.Bin, o.Progress, o.Without, o.Conns = bin, io.Discard, []string{Nginx, RedisTCP}, []int{1, 4}
	o.Rounds, o.Span, o.Keys = 2, 200*time.Millisecond, 500
	if o.Self, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	r, err := Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, conns := range o.Conns {
		for _, misses := range o.Misses {
			for _, name := range []string{SidecarSocket, SidecarTCP, OneSocket, OneTCP, Bare, SelectSocket, SelectTCP} {
				for i, s := range r.of(name, Cell{conns, misses}) {
					if s.Rate <= 0 || s.P50 <= 0 || s.P99 < s.P50 || s.P999 < s.P99 || s.Round != i {
						t.Errorf("%+v", s)
					}
				}
				if n := len(r.of(name, Cell{conns, misses})); n != 2 {
					t.Errorf("%s, %d connections, %d %% misses: %d turns", name, conns, misses, n)
				}
			}
		}
		if len(r.of(SidecarBatch, Cell{conns, 0})) != 2 || len(r.of(SidecarHalf, Cell{conns, 5})) != 2 {
			t.Errorf("%d connections: batches or misses were left out", conns)
		}
	}
	if text := r.Markdown(); strings.Contains(text, "NaN") || strings.Contains(text, Nginx+" | 1") {
		t.Error(text)
	}
	if r.Judge() == nil {
		t.Error("what was not measured counts as held")
	}
}

// fabricated is a run in which the sidecar is as fast as the bare loop times by.
func fabricated(by float64) *Report {
	r := &Report{Options: Options{Rounds: 3, Conns: []int{1, 16, 64}}, Plot: "x.svg"}
	for _, name := range append([]string{SidecarBatch}, order...) {
		for _, conns := range r.Options.Conns {
			for round := range 3 {
				s := Sample{Contender: name, Cell: Cell{Conns: conns}, Round: round, Rate: 10_000 + 100*float64(round), P50: 50_000, P99: 90_000, P999: 95_000, Server: 10_000}
				switch name {
				case SidecarSocket, SidecarTCP:
					s.Rate *= by
					s.P50 = time.Duration(float64(s.P50) / by)
				case SidecarBatch:
					s.Rate *= by / 5
				case RedisTCP:
					s.Rate *= 0.8
				}
				r.Samples = append(r.Samples, s)
			}
		}
	}
	return r
}

func TestMissedPromisesAreNamedAndKeptOnesAreNot(t *testing.T) {
	t.Parallel()
	if err := fabricated(1).Judge(); err != nil {
		t.Error(err)
	}
	err := fabricated(0.5).Judge()
	for _, want := range []string{"bare loop's: 0.50", "TCP: 0.62", "p50 over the bare loop's: 2.00"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing: %v", want, err)
		}
	}
	text := fabricated(0.5).Markdown()
	if !strings.Contains(text, "at least 0.85 | 0.50 | **no** |") || !strings.Contains(text, "| 5,050 (5,000 to 5,100) |") {
		t.Error(text)
	}
}

// One extreme round must not decide.
func TestRatiosAreTakenWithinARoundAndTheirMedianJudged(t *testing.T) {
	t.Parallel()
	r := &Report{Options: Options{Rounds: 3}}
	cell := Cell{Conns: 16}
	for round, rates := range [][2]float64{{90, 100}, {9, 10}, {1, 1000}} {
		r.Samples = append(r.Samples, Sample{Contender: SidecarSocket, Cell: cell, Round: round, Rate: rates[0]},
			Sample{Contender: Bare, Cell: cell, Round: round, Rate: rates[1]})
	}
	if s := r.ratio(SidecarSocket, Bare, cell, rate, rate); s.median != 0.9 || s.least != 0.001 || s.most != 0.9 {
		t.Errorf("%+v", s)
	}
}

func TestThePlotIsWellFormedAndSaysItsFiguresInWords(t *testing.T) {
	t.Parallel()
	text := fabricated(1).SVG()
	var said struct {
		Title string `xml:"title"`
		Desc  string `xml:"desc"`
	}
	if err := xml.Unmarshal([]byte(text), &said); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said.Title, "16 connections") || !strings.Contains(said.Desc, SidecarSocket+": 10,100") {
		t.Errorf("%+v", said)
	}
	for _, want := range []string{"prefers-color-scheme:dark", Nginx, RedisTCP} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
}

func TestThousands(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"1": "1", "999": "999", "1000": "1,000", "1234567.8": "1,234,567.8", "12": "12"} {
		if got := thousands(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}
