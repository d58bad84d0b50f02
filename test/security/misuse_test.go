package security

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// maxStaleness is L of the sidecars here: the default.
const maxStaleness = 3 * time.Second

// What the rights of a sidecar's login cannot forbid (docs/threat-model.md) does not
// touch the bound: while somebody with that login does all of it, a key is revoked,
// and no request sent later than the bound is answered "valid".
func TestMisusedLoginBreaksTheBound(t *testing.T) {
	thief := session(t, sidecarLogin)
	var stolen bool
	const leadersLock = 0x6b657973726c6179 // the relays', so that none leads
	if err := thief.QueryRow(t.Context(), "SELECT pg_try_advisory_lock($1)", int64(leadersLock)).Scan(&stolen); err != nil || !stolen {
		t.Fatalf("lock: %v, %v", stolen, err)
	}
	r := relay(t, append(goodPostgres(t, relayLogin), goodBroker(t, relayUser)...)...)
	s := sidecar(t, append(goodPostgres(t, sidecarLogin), goodBroker(t, sidecarUser)...)...)
	ready(t, s)
	issue(t, "pk_misuse")
	until(t, s, "pk_misuse", "active")
	if now, err := status(t.Context(), r.Admin); err != nil || now.Components.Relay.Leader {
		t.Fatalf("a relay leads without the lock: %+v, %v", now, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	var misuse sync.WaitGroup
	done := 0
	misuse.Go(func() {
		for ctx.Err() == nil {
			for _, sql := range []string{
				// Report for everybody that they have read everything, sign them off, invent
				// others, and wake whoever listens.
				`UPDATE keysidecar.instances SET (cursor_seq, cursor_event) = (SELECT seq, event_id FROM keysidecar.events ORDER BY seq DESC LIMIT 1), reported_at = now()`,
				`SELECT keysidecar.sign_off(registration) FROM keysidecar.instances`,
				`SELECT keysidecar.register(gen_random_uuid(), 'forged', 60000, 3600000, 'serve_stale', 'x')`,
				`NOTIFY keysidecar`,
			} {
				if _, err := thief.Exec(ctx, sql); err == nil {
					done++
				} else if ctx.Err() == nil {
					t.Errorf("%s: %v", sql, err)
					return
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	revoked, err := world.Exec(t.Context(), "SELECT keysidecar.revoke_key('pk_misuse')")
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for asked := time.Now(); asked.Before(revoked.Add(maxStaleness + time.Second)); asked = time.Now() {
		v, err := s.Get(t.Context(), "pk_misuse")
		if err != nil {
			t.Fatal(err)
		}
		if late := v.SentAt.Sub(revoked); v.Valid && late > maxStaleness {
			t.Fatalf("valid for a request sent %v after the revocation", late)
		}
		<-tick.C
	}
	cancel()
	misuse.Wait()
	if done < 20 {
		t.Errorf("misused only %d times", done)
	}
	if err := thief.Close(t.Context()); err != nil {
		t.Log(err) // its context may have broken it off
	}
	until(t, s, "pk_misuse", "revoked")
	ready(t, s)
	leading(t, r)
	// Receipts wait for the sidecars that were invented, until the owner of the tables
	// has them forgotten.
	a, _, err := s.Receipt(t.Context(), "pk_misuse", 0)
	if err != nil || a.Complete || !slices.Contains(a.Awaited.Names, "forged") {
		t.Errorf("receipt: %+v, %v", a, err)
	}
	if _, err := world.Exec(t.Context(), "SELECT keysidecar.forget_instance('forged')"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the receipt is complete", func() bool {
		a, _, err = s.Receipt(t.Context(), "pk_misuse", time.Second)
		return err == nil && a.Complete
	}, func() string { return fmt.Sprintf("%+v, %v", a, err) })
}
