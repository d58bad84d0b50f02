package relay

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// A relay in a process of its own, to be killed and paused.
const (
	childDSN = "KEYSIDECAR_RELAY_TEST_DSN"
	childURL = "KEYSIDECAR_RELAY_TEST_URL"
)

// child runs a relay until standard input ends, and says when it leads.
func child(dsn, brokerURL string) int {
	r, err := New(Options{
		DSN: func() (string, error) { return dsn, nil }, URLs: func() ([]string, error) { return []string{brokerURL}, nil }, Exchange: exchange,
		PollInterval: 20 * time.Millisecond, Batch: 500, Retention: time.Hour, Wakeup: WakeupNotify, Logger: zap.NewNop(), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		cancel()
	}()
	go func() {
		for last := false; ctx.Err() == nil; pause(ctx, 5*time.Millisecond) {
			if now := r.Status().Leader; now != last {
				fmt.Printf("leader %v\n", now)
				last = now
			}
		}
	}()
	if err := r.Run(ctx); err != nil {
		return 1
	}
	return 0
}

type process struct {
	*exec.Cmd
	says chan string
}

func startChild(t *testing.T, s *site) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0]), says: make(chan string, 100)}
	p.Env = append(os.Environ(), childDSN+"="+s.dsn, childURL+"="+s.url)
	in, err := p.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.says <- lines.Text()
		}
	}()
	t.Cleanup(func() {
		_ = in.Close()
		_ = p.Process.Kill() // whatever it was told before
		<-read
		_ = p.Wait()
	})
	return p
}

func (p *process) until(t *testing.T, line string) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case said := <-p.says:
			if strings.TrimSpace(said) == line {
				return
			}
		case <-deadline:
			t.Fatalf("the child did not say %q", line)
		}
	}
}
