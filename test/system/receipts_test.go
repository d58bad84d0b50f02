package system

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/internal/receipt"
)

// receiptOf waits for a complete receipt and for every sidecar's word that the key
// is dead, as it must be for each request sent after the receipt.
func receiptOf(t *testing.T, ctx context.Context, key string, committed time.Time) (receipt.Answer, time.Duration) {
	t.Helper()
	a, _, err := world.sidecars[0].Receipt(ctx, key, 20*time.Second)
	took := time.Since(committed)
	if err != nil || !a.Complete {
		t.Fatalf("%+v, %v", a, err)
	}
	for _, s := range world.sidecars {
		if !s.Running() {
			continue
		}
		v, err := s.Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		if v.Valid {
			t.Errorf("%s answers %+v after the receipt", s.Name, v)
		}
	}
	return a, took
}

func TestReceiptOfAHealthyFleetTakesUntilTheBound(t *testing.T) {
	ctx := healthy(t)
	issue(t, ctx, "m_receipt", "r_0", "r_1", "r_2", "r_sql")
	for i := range 3 {
		key := fmt.Sprintf("r_%d", i)
		a, took := receiptOf(t, ctx, key, revoke(t, ctx, key)())
		if a.Kind != "revoked" || a.KeyID != key || a.Acknowledged.Count != len(world.sidecars) || a.Expired.Count+a.Awaited.Count != 0 || took > maxStaleness {
			t.Errorf("%+v after %v", a, took)
		}
		t.Logf("receipt after %v", took)
	}
	out, err := world.Command(ctx, "keys", "revoke", "r_sql", "--wait")
	if err != nil || !strings.Contains(out, "complete: no sidecar") {
		t.Errorf("%s %v", out, err)
	}
	var complete bool
	if err := world.SQL.QueryRow(ctx, `SELECT complete FROM keysidecar.receipt('r_sql')`).Scan(&complete); err != nil || !complete {
		t.Errorf("in SQL: %v %v", complete, err)
	}
}

// A sidecar that cannot report is waited for until it can no longer answer, and
// not less. One that ends in order is not waited for.
func TestReceiptForgetsASidecarThatMayStillAnswer(t *testing.T) {
	ctx := healthy(t)
	victim := world.sidecars[len(world.sidecars)-1]
	for _, fault := range []struct {
		name      string
		hit, cure func() error
		waits     bool
	}{
		{"paused", victim.Pause, victim.Resume, true},
		{"killed", victim.Kill, victim.Start, true},
		{"stopped in order", func() error { _, err := victim.Stop(); return err }, victim.Start, false},
	} {
		t.Run(fault.name, func(t *testing.T) {
			id := "r_" + strings.ReplaceAll(fault.name, " ", "_")
			issue(t, ctx, "m_receipt", id)
			// Whoever was killed before is in the registry until the relay has pruned it.
			must(t, atLeast(ctx, 0, func() (n float64, err error) {
				err = world.SQL.QueryRow(ctx, `SELECT -count(*) FROM keysidecar.instances WHERE marked_at IS NOT NULL`).Scan(&n)
				return n, err
			}))
			must(t, fault.hit())
			if fault.waits {
				defer func() { must(t, fault.cure()); must(t, ready(ctx)) }()
			}
			committed := revoke(t, ctx, id)()
			a, _, err := world.sidecars[0].Receipt(ctx, id, maxStaleness/2)
			must(t, err)
			if a.Complete == fault.waits {
				t.Fatalf("complete %v after %v", a.Complete, time.Since(committed))
			}
			if !fault.waits {
				must(t, fault.cure())
				must(t, ready(ctx))
				return
			}
			if !slices.Contains(a.Awaited.Names, victim.Name) {
				t.Errorf("awaited: %+v", a)
			}
			a, _, err = world.sidecars[1].Receipt(ctx, id, 20*time.Second)
			took := time.Since(committed)
			must(t, err)
			if !a.Complete || took < maxStaleness || took > maxStaleness+slack || !slices.Contains(a.Expired.Names, victim.Name) {
				t.Errorf("%+v after %v", a, took)
			}
			t.Logf("receipt after %v", took)
		})
	}
}
