package relay

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

func value(t *testing.T, g prometheus.Gauge) float64 {
	t.Helper()
	var m dto.Metric
	if err := g.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetGauge().GetValue()
}

func TestASidecarThatDoesNotReadTheLogIsNotCounted(t *testing.T) {
	s := newSite(t)
	k := newKeeper(t, s)
	if v := value(t, k.metrics.instancesBehind); !math.IsNaN(v) {
		t.Errorf("%v before anybody looked", v)
	}
	s.exec(t, `SELECT keysidecar.register(gen_random_uuid(), 'reads', 3000, 0, 'fail_closed', 'test'), keysidecar.register(gen_random_uuid(), 'does not', 3000, 0, 'fail_closed', 'test')`)
	s.issue(t, 2)
	report := "UPDATE keysidecar.instances SET cursor_seq = (SELECT max(seq) FROM keysidecar.events) WHERE instance = $1"
	s.exec(t, report, "reads")
	behind := func() float64 { k.once(); return value(t, k.metrics.instancesBehind) }
	// The genesis event is as young as the database, so that nobody is behind yet.
	if n := behind(); n != 0 {
		t.Errorf("%v are behind events that are new", n)
	}
	s.exec(t, "UPDATE keysidecar.events SET occurred_at = occurred_at - interval '11 seconds'")
	if n := behind(); n != 1 {
		t.Errorf("%v are behind, not 1", n)
	}
	s.exec(t, report, "does not")
	if n := behind(); n != 0 {
		t.Errorf("%v are behind when all have read", n)
	}
}

func TestAHeldGateIsNotSeen(t *testing.T) {
	s := newSite(t)
	k := newKeeper(t, s)
	k.once()
	held, wait := value(t, k.metrics.gateHeld), value(t, k.metrics.gateWait)
	if held != 0 || wait != 0 {
		t.Fatalf("held for %v s, waited for %v s, with nobody there", held, wait)
	}

	ctx := context.Background()
	tx, err := s.db.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, "LOCK TABLE keysidecar.gate IN EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := s.db.Exec(ctx, "INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ('waits', 'm_1', 'opaque')")
		done <- err
	}()
	k.once()
	k.pass(7 * time.Second)
	for deadline := time.Now().Add(patience); ; {
		k.once()
		held, wait = value(t, k.metrics.gateHeld), value(t, k.metrics.gateWait)
		if held >= 7 && held < 7+patience.Seconds() && wait > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("held for %v s, waited for %v s", held, wait)
		}
		pause(ctx, 10*time.Millisecond)
	}
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	k.once()
	held, wait = value(t, k.metrics.gateHeld), value(t, k.metrics.gateWait)
	if held != 0 || wait != 0 {
		t.Errorf("held for %v s, waited for %v s, after the end", held, wait)
	}
}
