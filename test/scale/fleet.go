package scale

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/keysidecar/keysidecar/internal/testenv"
	"github.com/keysidecar/keysidecar/test/cluster"
	"github.com/keysidecar/keysidecar/test/evidence"
	"github.com/keysidecar/keysidecar/test/proc"
)

// Keys is how many keys there are from the beginning, unless told otherwise; the first
// of them are revoked.
const Keys = 5000

// startedAtOnce bounds how many processes start together.
const startedAtOnce = 16

// Fleet is n sidecars, a relay, and their servers.
type Fleet struct {
	*cluster.Cluster
	Sidecars []*cluster.Sidecar
	Relay    *cluster.Relay
	// Size is what it was started with.
	Size Size
	// BrokerBefore is the broker's resident memory before any sidecar, in bytes.
	BrokerBefore int64

	revoked int // keys used up
}

// Size is how large a fleet is, and how it is told.
type Size struct {
	Sidecars int
	// Keys is how many there are from the beginning; Keys (the constant) if 0.
	Keys int
	// Persistent messages are kept on disk by the broker (relay.persistent).
	Persistent bool
}

// Start starts a fleet and waits until every sidecar is ready. bin is the program, as
// cluster.Build made it.
func Start(ctx context.Context, bin string, size Size) (*Fleet, error) {
	if size.Keys == 0 {
		size.Keys = Keys
	}
	n := size.Sidecars
	c, err := cluster.Start(ctx, bin, testenv.WithFsync(), testenv.WithMaxConnections(100+4*n), testenv.WithSetting("shared_buffers", "256MB"))
	if err != nil {
		return nil, err
	}
	f := &Fleet{Cluster: c, Size: size}
	if err := f.start(ctx, n, size.Keys); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return f, nil
}

func (f *Fleet) start(ctx context.Context, n, keys int) (err error) {
	for _, sql := range []string{
		`INSERT INTO keysidecar.owners (owner_id) VALUES ('m_scale')`,
		fmt.Sprintf(`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm, public_key)
			SELECT 'scale_' || i, 'm_scale', 'ed25519', '\x302a300506032b6570032100'::bytea || sha256(i::text::bytea) FROM generate_series(1, %d) i`, keys),
	} {
		if _, err := f.Exec(ctx, sql); err != nil {
			return err
		}
	}
	if f.Relay, err = f.Cluster.Relay("relay", fmt.Sprintf("KEYSIDECAR_RELAY_PERSISTENT=%v", f.Size.Persistent)); err != nil {
		return err
	}
	if f.BrokerBefore, err = f.brokerMemory(); err != nil {
		return err
	}
	for i := range n {
		if i >= startedAtOnce {
			if err := f.Sidecars[i-startedAtOnce].Ready(ctx); err != nil {
				return err
			}
		}
		s, err := f.Sidecar(fmt.Sprintf("sidecar-%03d", i), fmt.Sprintf("KEYSIDECAR_CACHE_CAPACITY=%d", max(100_000, 2*keys)))
		if err != nil {
			return err
		}
		f.Sidecars = append(f.Sidecars, s)
	}
	return f.ready(ctx)
}

// ready waits until every sidecar is fresh and hears the broker, and the relay has
// published what there was.
func (f *Fleet) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		backlog, err := f.Relay.Metric(ctx, "keysidecar_relay_backlog")
		if err != nil {
			return err
		}
		if backlog == 0 {
			break
		}
		if err := cluster.Sleep(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("the relay has %.0f events to publish: %w", backlog, err)
		}
	}
	return f.each(func(s *cluster.Sidecar) error {
		return errors.Join(s.Ready(ctx), s.HearsBroker(ctx))
	})
}

// each calls do for every sidecar, a few at a time.
func (f *Fleet) each(do func(*cluster.Sidecar) error) error {
	errs := make([]error, len(f.Sidecars))
	slots := make(chan struct{}, startedAtOnce)
	var all sync.WaitGroup
	for i, s := range f.Sidecars {
		slots <- struct{}{}
		all.Go(func() {
			errs[i] = do(s)
			<-slots
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// standStill stops every sidecar where it stands, or lets them go on and waits until
// they are fresh.
func (f *Fleet) standStill(ctx context.Context, yes bool) error {
	turn := (*cluster.Sidecar).Resume
	if yes {
		turn = (*cluster.Sidecar).Pause
	}
	for _, s := range f.Sidecars {
		if err := turn(s); err != nil {
			return err
		}
	}
	if yes {
		return nil
	}
	// A pause of a few heartbeats has cost them their connections, which they notice when
	// they run again: until then they only seem to hear the broker.
	if err := cluster.Sleep(ctx, time.Second); err != nil {
		return err
	}
	if err := f.ready(ctx); err != nil {
		return err
	}
	return cluster.Sleep(ctx, time.Second) // fences that were due meanwhile
}

// brokerMemory is the resident memory of the broker's virtual machine, in bytes.
func (f *Fleet) brokerMemory() (int64, error) {
	pid, err := f.brokerPid()
	if err != nil {
		return 0, err
	}
	return proc.Memory(pid, "VmRSS")
}

// brokerTime is the processor time that the broker has used.
func (f *Fleet) brokerTime() (time.Duration, error) {
	pid, err := f.brokerPid()
	if err != nil {
		return 0, err
	}
	return proc.CPU(pid)
}

func (f *Fleet) brokerPid() (int, error) {
	out, err := f.MQ.Eval(`os:getpid().`)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.Trim(strings.TrimSpace(out), `"`))
}

// Machine describes what everything ran on, a line each.
func (f *Fleet) Machine(ctx context.Context) ([]string, error) {
	return evidence.Machine(ctx, f.DSN(), f.MQ.URL())
}
