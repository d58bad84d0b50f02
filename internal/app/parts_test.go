package app

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"go.uber.org/zap"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// One goroutine a process keeps the Date header; the library never ends it.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"))
}

// journal notes what happens in which order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines, " ")
}

func (j *journal) part(name string, err error) part {
	return part{name, func(ctx context.Context) error {
		<-ctx.Done()
		j.add(name)
		return err
	}}
}

func TestPartsStopFromLastToFirstEachBeforeTheNext(t *testing.T) {
	var j journal
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := runParts(ctx, zap.NewNop(), j.part("keystore", nil), j.part("subscriber", nil), j.part("server", nil)); err != nil {
		t.Error(err)
	}
	if have := j.String(); have != "server subscriber keystore" {
		t.Errorf("stopped in the order %s", have)
	}
}

func TestAPartThatFailsStopsTheOthersAndIsTheReason(t *testing.T) {
	bad := errors.New("bad")
	for name, test := range map[string]struct {
		run  func(context.Context) error
		want string
	}{
		"error":  {func(context.Context) error { return bad }, "broken: bad"},
		"return": {func(context.Context) error { return nil }, "broken: ended unexpectedly"},
		"panic":  {func(context.Context) error { panic("oh") }, "broken: panic: oh"},
	} {
		t.Run(name, func(t *testing.T) {
			var j journal
			err := runParts(t.Context(), zap.NewNop(), j.part("first", nil), part{"broken", test.run}, j.part("last", errors.New("a consequence")))
			if err == nil || !strings.HasPrefix(err.Error(), test.want) || strings.Contains(err.Error(), "consequence") {
				t.Errorf("have %v, want %s", err, test.want)
			}
			if have := j.String(); have != "last first" {
				t.Errorf("stopped %q", have)
			}
		})
	}
}

func TestAnErrorWhileStoppingIsReported(t *testing.T) {
	var j journal
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := runParts(ctx, zap.NewNop(), j.part("first", errors.New("cannot close")), j.part("last", nil))
	if err == nil || err.Error() != "first: cannot close" {
		t.Errorf("have %v", err)
	}
}

func TestAPartThatDoesNotStopDoesNotHoldTheProcess(t *testing.T) {
	var j journal
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	release := make(chan struct{})
	stopped := make(chan struct{})
	err := runParts(ctx, zap.NewNop(), part{"first", func(ctx context.Context) error {
		<-ctx.Done()
		close(stopped)
		return nil
	}}, part{"stuck", func(context.Context) error { <-release; return nil }}, j.part("last", nil))
	if err == nil || !strings.Contains(err.Error(), "stuck: did not stop within") {
		t.Errorf("have %v", err)
	}
	<-stopped // the part below it was told all the same
	close(release)
}
