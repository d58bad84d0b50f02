package server

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// fakeKeys is a Keys in memory, strict about how it is called: a key_id that no
// store would have, or a missing context, fails the test. Its failure modes are
// those of the real keystore: a store-wide reason why nothing can be told, keys
// that only the database has, look-ups that take their time or hang until their
// context ends, stale answers, another key's record, a panic.
type fakeKeys struct {
	tb testing.TB

	mu   sync.Mutex
	keys map[string]keystore.Key
	// now judges not_before and expires_at.
	now time.Time
	// reason, if not empty, makes every look-up unavailable.
	reason keystore.Reason
	// remote keys are not in memory: only-if-cached does not find them.
	remote map[string]bool
	// unavailableKeys cannot be told one by one.
	unavailableKeys map[string]bool
	// hang makes look-ups wait for the end of their context; entered hears of each.
	hang    bool
	entered chan struct{}
	// wait, if not nil, is received from before a look-up of a remote key answers.
	wait chan struct{}
	// stale: answers come from memory after its lease.
	stale bool
	// swap answers with the record of this key instead.
	swap string
	// panics makes Lookup and Status panic.
	panics any
	status keystore.Status
	// auditError is what audits fail with, if not nil; report is what they answer.
	auditError  error
	report      keystore.AuditReport
	auditsEnded int
	// calls are the look-ups so far.
	calls []call
}

type call struct {
	id     string
	bounds keystore.Bounds
}

func newFakeKeys(tb testing.TB) *fakeKeys {
	f := &fakeKeys{
		tb:   tb,
		keys: make(map[string]keystore.Key),
		now:  time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC),
		status: keystore.Status{
			Warmed: true, Fresh: true, Complete: true, CaptureIntact: true,
			AsOf:           keystore.AsOf{History: "9f2c", Seq: 1234, Age: 412 * time.Millisecond},
			LeaseRemaining: 2588 * time.Millisecond, MaxStaleness: 3 * time.Second,
			Entries: 7, Capacity: 100000, StoreKind: "postgres",
		},
		remote: make(map[string]bool), unavailableKeys: make(map[string]bool),
		entered: make(chan struct{}, 1024),
	}
	active := keystore.Key{
		ID: "pk_live_1", OwnerID: "m_1", Algorithm: "ed25519", PublicKey: ed25519Key(tb),
		Scopes: []string{"pay", "refund"}, ExpiresAt: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
		Attributes: `{"env": "live", "tier": 3, "beta": true}`,
	}
	f.put(active)
	f.put(with(active, func(k *keystore.Key) { k.ID = "pk_revoked"; k.Revoked = true }))
	f.put(with(active, func(k *keystore.Key) { k.ID = "pk_expired"; k.ExpiresAt = f.now }))
	f.put(with(active, func(k *keystore.Key) { k.ID = "pk_future"; k.NotBefore = f.now.Add(time.Microsecond) }))
	f.put(with(active, func(k *keystore.Key) { k.ID = "pk_suspended"; k.OwnerSuspended = true }))
	f.put(keystore.Key{ID: "opaque~+=:-._1", OwnerID: "Ünï \"q\"", Algorithm: "opaque"})
	f.put(keystore.Key{ID: keystore.HashSecret(nil, []byte("sk_secret")), OwnerID: "m_1", Algorithm: "opaque"})
	f.put(keystore.Key{ID: keystore.HashSecret([]byte("pepper"), []byte("sk_secret")), OwnerID: "m_2", Algorithm: "opaque"})
	return f
}

// ed25519Key is the public key of RFC 8032, 7.1, test 1, as SPKI.
func ed25519Key(tb testing.TB) []byte {
	raw, err := hex.DecodeString("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
	if err != nil {
		tb.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(ed25519.PublicKey(raw))
	if err != nil {
		tb.Fatal(err)
	}
	return der
}

func with(k keystore.Key, change func(*keystore.Key)) keystore.Key {
	change(&k)
	return k
}

func (f *fakeKeys) put(k keystore.Key) {
	if err := k.Check(); err != nil {
		f.tb.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys[k.ID] = k
}

// set changes a failure mode.
func (f *fakeKeys) set(change func(*fakeKeys)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fakeKeys) lastCall() call {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.calls) == 0 {
		return call{}
	}
	return f.calls[len(f.calls)-1]
}

func (f *fakeKeys) callCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.calls)
}

// Read recalls nothing, so that everything is asked of Lookup.
func (*fakeKeys) Read(keystore.Bounds) keystore.Reading { return keystore.Reading{} }

func (f *fakeKeys) Status() keystore.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.panics != nil {
		panic(f.panics)
	}
	return f.status
}

func (f *fakeKeys) Lookup(ctx context.Context, keyID string, b keystore.Bounds) (keystore.Answer, error) {
	if err := keystore.CheckKeyID(keyID); err != nil {
		f.tb.Errorf("Lookup was asked for what is no key_id: %v", err)
	}
	if ctx == nil {
		f.tb.Error("Lookup was called without a context")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.panics != nil {
		panic(f.panics)
	}
	if b.AtOnce && (f.remote[keyID] || b.NoCache || f.reason != "" || f.unavailableKeys[keyID] || f.hang) {
		return keystore.Answer{}, keystore.ErrNotAtOnce
	}
	b.AtOnce = false
	f.calls = append(f.calls, call{string([]byte(keyID)), b})
	if b.OnlyIfCached && (f.remote[keyID] || b.NoCache || f.reason != "") {
		return keystore.Answer{}, keystore.ErrNotCached
	}
	a := keystore.Answer{AsOf: f.status.AsOf}
	switch {
	case f.reason != "":
		return keystore.Answer{}, &keystore.UnavailableError{Reason: f.reason, Err: errors.New("internal text: password=hunter2")}
	case f.unavailableKeys[keyID]:
		return keystore.Answer{AsOf: f.status.AsOf}, &keystore.UnavailableError{Reason: keystore.ReasonFillFailed}
	case f.hang:
		f.entered <- struct{}{}
		f.mu.Unlock()
		<-ctx.Done()
		f.mu.Lock()
		return keystore.Answer{}, &keystore.UnavailableError{Reason: keystore.ReasonStopping, Err: ctx.Err()}
	case f.remote[keyID] && f.wait != nil:
		wait := f.wait
		f.mu.Unlock()
		f.entered <- struct{}{}
		select {
		case <-wait:
		case <-ctx.Done():
		}
		f.mu.Lock()
		if ctx.Err() != nil {
			return keystore.Answer{}, &keystore.UnavailableError{Reason: keystore.ReasonFillFailed, Err: ctx.Err()}
		}
	}
	if f.remote[keyID] || b.NoCache {
		a.Origin = keystore.FromDatabase
	}
	if f.stale && !b.NoCache && !b.HasMaxAge {
		a.Origin = keystore.FromStale
	}
	k, ok := f.keys[keyID]
	if f.swap != "" {
		k = f.keys[f.swap]
	}
	switch {
	case !ok:
		a.Code = keystore.UnknownKey
		return a, nil
	case k.Revoked:
		a.Code = keystore.Revoked
	case k.OwnerSuspended:
		a.Code = keystore.OwnerSuspended
	case !k.ExpiresAt.IsZero() && !f.now.Before(k.ExpiresAt):
		a.Code = keystore.Expired
	case f.now.Before(k.NotBefore):
		a.Code = keystore.NotYetValid
	default:
		a.Code = keystore.Active
	}
	a.Record = keystore.NewRecord(&k)
	return a, nil
}

// KeySet answers with the owner's keys, under the same failure modes as Lookup; remote
// names the owners that are not in memory.
func (f *fakeKeys) KeySet(ctx context.Context, ownerID string, b keystore.Bounds) (keystore.KeySet, error) {
	if err := keystore.CheckOwnerID(ownerID); err != nil || ctx == nil {
		f.tb.Errorf("KeySet was asked for what is no owner_id, or without a context: %v", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.panics != nil:
		panic(f.panics)
	case b.OnlyIfCached && (f.remote[ownerID] || b.NoCache || f.reason != ""):
		return keystore.KeySet{}, keystore.ErrNotCached
	case f.reason != "":
		return keystore.KeySet{}, &keystore.UnavailableError{Reason: f.reason, Err: errors.New("internal text: password=hunter2")}
	}
	set := keystore.KeySet{AsOf: f.status.AsOf}
	if f.remote[ownerID] || b.NoCache {
		set.Origin = keystore.FromDatabase
	}
	if f.stale && !b.NoCache && !b.HasMaxAge {
		set.Origin = keystore.FromStale
	}
	for _, id := range slices.Sorted(maps.Keys(f.keys)) {
		k := f.keys[id]
		if k.OwnerID != ownerID || k.Revoked || k.OwnerSuspended || k.PublicKey == nil || f.now.Before(k.NotBefore) || !k.ExpiresAt.IsZero() && !f.now.Before(k.ExpiresAt) {
			continue
		}
		if jwk, ok := keystore.JWK(id, k.PublicKey); ok {
			set.Keys = append(set.Keys, keystore.SetKey{ID: id, JWK: jwk})
		} else {
			set.LeftOut++
		}
	}
	if len(set.Keys) > keystore.MaxSetKeys {
		return keystore.KeySet{Origin: set.Origin}, keystore.ErrSetTooLarge
	}
	return set, nil
}

// Audit answers with the report, or fails as it was told; with hang it lasts until
// its context ends.
func (f *fakeKeys) Audit(ctx context.Context) (*keystore.AuditReport, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.panics != nil:
		panic(f.panics)
	case f.auditError != nil:
		return nil, f.auditError
	case f.reason != "":
		return nil, fmt.Errorf("%w: %s", keystore.ErrAuditUnavailable, f.reason)
	case f.hang:
		f.entered <- struct{}{}
		f.mu.Unlock()
		<-ctx.Done()
		f.mu.Lock()
		f.auditsEnded++
		return nil, ctx.Err()
	}
	r := f.report
	return &r, nil
}

// fixedKeys answers every question with one record, at once: for measuring.
type fixedKeys struct {
	answer keystore.Answer
}

func newFixedKeys(tb testing.TB) *fixedKeys {
	k := newFakeKeys(tb).keys["pk_live_1"]
	return &fixedKeys{keystore.Answer{
		Code: keystore.Active, AsOf: keystore.AsOf{History: "9f2c", Seq: 1234, Age: time.Millisecond}, Record: keystore.NewRecord(&k),
	}}
}

func (f *fixedKeys) Lookup(context.Context, string, keystore.Bounds) (keystore.Answer, error) {
	return f.answer, nil
}

func (*fixedKeys) KeySet(context.Context, string, keystore.Bounds) (keystore.KeySet, error) {
	return keystore.KeySet{}, nil
}

func (*fixedKeys) Audit(context.Context) (*keystore.AuditReport, error) {
	return nil, keystore.ErrAuditUnavailable
}

func (*fixedKeys) Read(keystore.Bounds) keystore.Reading { return keystore.Reading{} }

func (*fixedKeys) Status() keystore.Status { return keystore.Status{} }

var _ fmt.Stringer = routeID(0)
