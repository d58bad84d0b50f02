package app

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"go.uber.org/zap"
)

// part is one long-lived piece of the process.
type part struct {
	name string
	// run blocks until its context ends, and returns nil then.
	run func(context.Context) error
}

// listener is a part that can be bound before it runs.
type listener interface {
	Listen() error
	Run(ctx context.Context) error
}

// process collects the parts as they are made, in the order in which they start.
type process struct {
	log   *zap.Logger
	parts []part
}

func (p *process) add(name string, run func(context.Context) error) {
	p.parts = append(p.parts, part{name, run})
}

// closing adds a part that only waits, and calls close at its end.
func (p *process) closing(name string, close func()) {
	p.add(name, func(ctx context.Context) error {
		<-ctx.Done()
		close()
		return nil
	})
}

// listen binds l and adds it.
func (p *process) listen(name string, l listener) error {
	if err := l.Listen(); err != nil {
		return err
	}
	p.add(name, l.Run)
	return nil
}

// run runs the parts until ctx ends or one of them does.
func (p *process) run(ctx context.Context) error { return runParts(ctx, p.log, p.parts...) }

// abandon lets go of what was made when a later part could not be: every part
// runs once with a context that has ended, from last to first.
func (p *process) abandon(reason error) error {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for i := len(p.parts) - 1; i >= 0; i-- {
		if err := p.parts[i].runSafely(ended); err != nil {
			p.log.Warn("cannot let go of a part", zap.String("part", p.parts[i].name), zap.Error(err))
		}
	}
	return reason
}

// stopTimeout is how long stopping may take as a whole. A sidecar is killed soon
// after the application has ended, so that it must not need long.
const stopTimeout = 1800 * time.Millisecond

// errEnded is the reason when a part returns that nobody told to.
var errEnded = errors.New("ended unexpectedly")

// runParts starts parts in order, waits until ctx ends or one of them does, and
// stops them in the opposite order. The error is nil if ctx ended and every part
// stopped without one.
func runParts(ctx context.Context, log *zap.Logger, parts ...part) error {
	ended := make(chan *running, len(parts))
	started := make([]*running, 0, len(parts))
	for _, p := range parts {
		started = append(started, p.start(ended))
	}
	var reason error
	select {
	case <-ctx.Done():
		log.Info("stopping", zap.String("cause", context.Cause(ctx).Error()))
	case r := <-ended:
		reason = r.unexpected()
		log.Error("a part has ended, stopping", zap.String("part", r.name), zap.Error(r.err))
	}
	return errors.Join(reason, stopParts(log, started, reason != nil))
}

// running is a part that was started.
type running struct {
	part
	stop context.CancelFunc
	done chan struct{} // closed when err is final
	err  error
}

// start runs p on a context of its own: parts must not hear of the end all at
// once.
func (p part) start(ended chan<- *running) *running {
	ctx, stop := context.WithCancel(context.Background())
	r := &running{part: p, stop: stop, done: make(chan struct{})}
	go func() {
		r.err = p.runSafely(ctx)
		close(r.done)
		ended <- r
	}()
	return r
}

// runSafely turns a panic into an error, so that the other parts are stopped in
// order (the socket removed, the lease ended) and the reason is logged.
func (p part) runSafely(ctx context.Context) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return p.run(ctx)
}

// unexpected is why r ended though nobody told it to.
func (r *running) unexpected() error {
	err := r.err
	if err == nil {
		err = errEnded
	}
	return fmt.Errorf("%s: %w", r.name, err)
}

// stopParts stops parts from last to first, within stopTimeout for all of them.
// Errors of parts that ended because another did are left out where failed says
// that the reason is known.
func stopParts(log *zap.Logger, parts []*running, failed bool) error {
	limit := time.NewTimer(stopTimeout)
	defer limit.Stop()
	var errs []error
	late := false
	for i := len(parts) - 1; i >= 0; i-- {
		r := parts[i]
		r.stop()
		if late {
			continue // told, and not waited for
		}
		select {
		case <-r.done:
			if r.err != nil && !failed {
				errs = append(errs, fmt.Errorf("%s: %w", r.name, r.err))
			}
			log.Debug("stopped", zap.String("part", r.name))
		case <-limit.C:
			late = true
			errs = append(errs, fmt.Errorf("%s: did not stop within %s", r.name, stopTimeout))
		}
	}
	return errors.Join(errs...)
}
