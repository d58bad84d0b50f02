package main

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/keysidecar/keysidecar/test/cluster"
)

// demo is the state that the steps hand on.
type demo struct {
	out   io.Writer
	begun time.Time
	way   string // where the servers run; see servers.go
	dir   string // its own temporary files
	bin   string // the program

	c        *cluster.Cluster
	relays   []*cluster.Relay
	sidecars []*cluster.Sidecar
	rows     []row
}

// row is one line of the table at the end.
type row struct {
	what string
	ms   []float64
}

const (
	merchants = 100
	keys      = 10_000
)

func (d *demo) build(ctx context.Context) (err error) {
	d.bin, err = cluster.Build(ctx, d.dir, false)
	return err
}

func (d *demo) start(ctx context.Context) error {
	servers, err := d.servers(ctx)
	if err != nil {
		return err
	}
	d.c, err = cluster.StartOn(ctx, d.bin, servers)
	return err
}

func (d *demo) startProcesses(ctx context.Context) error {
	for _, name := range []string{"relay-1", "relay-2"} {
		p, err := d.c.Relay(name)
		if err != nil {
			return err
		}
		d.relays = append(d.relays, p)
	}
	for _, name := range []string{"sidecar-1", "sidecar-2", "sidecar-3"} {
		s, err := d.c.Sidecar(name)
		if err != nil {
			return err
		}
		d.sidecars = append(d.sidecars, s)
	}
	return d.ready(ctx, d.sidecars...)
}

func (d *demo) ready(ctx context.Context, sidecars ...*cluster.Sidecar) error {
	for _, s := range sidecars {
		if err := s.Ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// importKeys writes a CSV file and has the program import it, as an operator would.
func (d *demo) importKeys(ctx context.Context) error {
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return err
	}
	text := base64.StdEncoding.EncodeToString(der)
	var csv strings.Builder
	csv.WriteString("key_id,owner_id,algorithm,public_key,scopes\n")
	for i := range keys {
		fmt.Fprintf(&csv, "%s,%s,ed25519,%s,pay\n", keyID(i), owner(i), text)
	}
	file := filepath.Join(d.dir, "keys.csv")
	if err := os.WriteFile(file, []byte(csv.String()), 0o600); err != nil {
		return err
	}
	begun := time.Now()
	out, err := d.c.Command(ctx, "keys", "import", file)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	for _, s := range d.sidecars {
		if _, err := s.Until(ctx, keyID(keys-1), cluster.Code("active")); err != nil {
			return err
		}
	}
	d.note("imported and valid in every sidecar after %.1f s", time.Since(begun).Seconds())
	return nil
}

func keyID(i int) string { return fmt.Sprintf("pk_%05d", i) }
func owner(i int) string { return fmt.Sprintf("merchant_%02d", i%merchants) }

func (d *demo) issue(ctx context.Context) error {
	if out, err := d.c.Command(ctx, "keys", "issue", "--key-id", "pk_new", "--owner", owner(0), "--scopes", "pay"); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	for _, s := range d.sidecars {
		v, err := s.Until(ctx, "pk_new", cluster.Code("active"))
		if err != nil {
			return err
		}
		d.note("%s: %d %s, from %s", s.Name, v.Status, v.Code, v.Source)
	}
	return nil
}

// timed runs a statement and prints for each sidecar the milliseconds from the
// acknowledged commit to the first answer with the code.
func (d *demo) timed(ctx context.Context, what, key, code string, sql string, args ...any) error {
	return d.timedIn(ctx, d.sidecars, what, key, code, sql, args...)
}

func (d *demo) timedIn(ctx context.Context, sidecars []*cluster.Sidecar, what, key, code, sql string, args ...any) error {
	for _, s := range sidecars { // in memory, and the connection open
		if _, err := s.Get(ctx, key); err != nil {
			return err
		}
	}
	seen := make([]time.Time, len(sidecars))
	errs := make(chan error, len(sidecars))
	var watchers sync.WaitGroup
	for i, s := range sidecars {
		watchers.Go(func() {
			v, err := s.Until(ctx, key, cluster.Code(code))
			seen[i] = v.SentAt.Add(v.Took)
			if err != nil {
				errs <- err
			}
		})
	}
	committed, err := d.c.Exec(ctx, sql, args...)
	if err != nil {
		return err
	}
	watchers.Wait()
	select {
	case err := <-errs:
		return err
	default:
	}
	r := row{what: what}
	for i, s := range sidecars {
		ms := max(0, seen[i].Sub(committed).Seconds()*1000)
		r.ms = append(r.ms, ms)
		d.note("%s answers %s %.1f ms after the commit", s.Name, code, ms)
	}
	d.rows = append(d.rows, r)
	return nil
}

const revoke = `UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = $1`

func (d *demo) revokeByUpdate(ctx context.Context) error {
	return d.timed(ctx, "UPDATE ... SET revoked_at", keyID(1), "revoked", revoke, keyID(1))
}

func (d *demo) revokeByDelete(ctx context.Context) error {
	return d.timed(ctx, "DELETE", keyID(2), "unknown_key", `DELETE FROM keysidecar.public_keys WHERE key_id = $1`, keyID(2))
}

func (d *demo) suspend(ctx context.Context) error {
	return d.timed(ctx, "suspend_owner (100 keys)", keyID(103), "owner_suspended", `SELECT keysidecar.suspend_owner($1)`, owner(103))
}

func (d *demo) reactivate(ctx context.Context) error {
	return d.timed(ctx, "reactivate_owner", keyID(103), "active", `SELECT keysidecar.reactivate_owner($1)`, owner(103))
}

func (d *demo) revokeWithoutBroker(ctx context.Context) error {
	if err := d.c.Servers.StopBroker(ctx); err != nil {
		return err
	}
	return d.timed(ctx, "UPDATE, RabbitMQ stopped", keyID(4), "revoked", revoke, keyID(4))
}

func (d *demo) restartSidecar(ctx context.Context) error {
	third := d.sidecars[2]
	took, err := third.Stop()
	if err != nil {
		return err
	}
	d.note("%s ended by itself after %.0f ms", third.Name, took.Seconds()*1000)
	if err := d.timedIn(ctx, d.sidecars[:2], "UPDATE, sidecar-3 stopped too", keyID(5), "revoked", revoke, keyID(5)); err != nil {
		return err
	}
	if err := third.Start(); err != nil {
		return err
	}
	if err := third.Ready(ctx); err != nil {
		return err
	}
	v, err := third.Get(ctx, keyID(5))
	if err != nil {
		return err
	}
	if v.Code != "revoked" {
		return fmt.Errorf("%s came back and answers %q", third.Name, v.Code)
	}
	d.note("%s is back and its first answer is: %s", third.Name, v.Code)
	return nil
}

func (d *demo) revokeAfterBrokerIsBack(ctx context.Context) error {
	if err := d.c.Servers.StartBroker(ctx); err != nil {
		return err
	}
	// Relays and sidecars find the broker by themselves, within their back-off.
	waits := []func() (float64, error){func() (float64, error) {
		var connected float64
		for _, r := range d.relays { // only the leader connects
			n, err := r.Metric(ctx, "keysidecar_relay_connected")
			if err != nil {
				return 0, err
			}
			connected += n
		}
		return connected, nil
	}}
	for _, s := range d.sidecars {
		waits = append(waits, func() (float64, error) { return s.Metric(ctx, "keysidecar_subscriber_connected") })
	}
	begun := time.Now()
	for _, value := range waits {
		if err := untilOne(ctx, value); err != nil {
			return fmt.Errorf("waiting for the broker to be found again: %w", err)
		}
	}
	d.note("found again by all %.1f s after RabbitMQ was up", time.Since(begun).Seconds())
	return d.timed(ctx, "UPDATE, RabbitMQ back", keyID(7), "revoked", revoke, keyID(7))
}

func untilOne(ctx context.Context, value func() (float64, error)) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if n, err := value(); err != nil || n >= 1 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (d *demo) stop(context.Context) error {
	for _, s := range d.sidecars {
		took, err := s.Stop()
		if err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		d.note("%s: exit 0 after %.0f ms", s.Name, took.Seconds()*1000)
	}
	for _, r := range d.relays {
		if _, err := r.Stop(); err != nil {
			return fmt.Errorf("%s: %w", r.Name, err)
		}
	}
	return d.close()
}

// close ends what still runs and removes all that the demo made.
func (d *demo) close() error {
	var err error
	if d.c != nil {
		err = d.c.Close()
		d.c = nil
	}
	return errors.Join(err, os.RemoveAll(d.dir))
}

// table prints what was measured.
func (d *demo) table() {
	fmt.Fprintln(d.out, "\nMilliseconds from the acknowledged commit to the first answer that knows of it:")
	w := tabwriter.NewWriter(d.out, 2, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tsidecar-1\tsidecar-2\tsidecar-3\t")
	for _, r := range d.rows {
		fmt.Fprintf(w, "%s\t", r.what)
		for i := range 3 {
			if i < len(r.ms) {
				fmt.Fprintf(w, "%.1f\t", r.ms[i])
			} else {
				fmt.Fprint(w, "-\t")
			}
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush()
	fmt.Fprintln(d.out, "\nWith RabbitMQ stopped the fence finds the change, at most freshness.fence_interval (1 s) later.")
	fmt.Fprintln(d.out, "Whatever is broken, never later than freshness.max_staleness (3 s): docs/guarantees.md.")
}
