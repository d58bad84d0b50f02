package keystore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keysidecar/keysidecar/internal/clock"
)

// Limits of key sets.
const (
	// MaxSetKeys is how many keys an owner may have for a set of them: with a public
	// key, not revoked and not expired.
	MaxSetKeys = 1000
	// maxSetBytes bounds the JWKs of one set. It is reached by keys of RSA with more
	// than 8,192 bits, if there are a thousand of them.
	maxSetBytes = 2 << 20
	// setAge is how long a set is used before it is read again, whatever the events
	// say: a view can give keys to an owner that its events do not name.
	setAge = time.Minute
	// setReads may be under way or wait for their turn; one at a time is made, so that
	// fills find a connection.
	setReads = 64
)

// ErrSetTooLarge: the owner has more keys than make a set.
var ErrSetTooLarge = fmt.Errorf("the owner has more than %d keys that are neither revoked nor expired, or more than %d bytes of them", MaxSetKeys, maxSetBytes)

// KeySet is what one owner's keys are now. It must not be changed.
type KeySet struct {
	// Keys may be used now, in the order of their ids.
	Keys []SetKey
	// LeftOut counts keys of the owner which may be used now and are of a kind that
	// JOSE does not know, and rows that cannot be used. Keys without a public key are
	// not counted.
	LeftOut int
	Origin  Origin
	AsOf    AsOf
}

// SetKey is one key of a KeySet.
type SetKey struct {
	ID string
	// JWK is the public key as a JSON object.
	JWK []byte
	// The key's life in microseconds since the epoch, Always and Never if unbounded.
	notBefore, expiresAt int64
}

// ownerKeys is what was read of one owner's keys: those that may be used or will be.
// Immutable.
type ownerKeys struct {
	ownerID string
	asked   clock.Instant
	// keys are in the order of their ids. Those without a JWK are left out of answers.
	keys []SetKey
	// spki are their public keys until finish.
	spki [][]byte
	rows int
	// unusable counts rows that cannot be used.
	unusable int
	// suspended: none of them may be used now.
	suspended bool
	tooLarge  bool
	bytes     int
}

// add takes a row. It reports false if no more need be added.
func (o *ownerKeys) add(row *Row) bool {
	o.suspended = o.suspended || row.OwnerSuspended
	if o.rows++; o.rows > MaxSetKeys {
		o.keys, o.tooLarge, o.bytes = nil, true, 0
		return false
	}
	if row.check() != nil {
		o.unusable++
		return true
	}
	o.keys = append(o.keys, SetKey{ID: string(row.ID), notBefore: row.NotBefore, expiresAt: row.ExpiresAt})
	o.spki = append(o.spki, bytes.Clone(row.PublicKey))
	return o.fits(len(row.ID) + len(row.PublicKey) + setKeyBytes)
}

// fits counts a key of this size, and reports whether there is room for it.
func (o *ownerKeys) fits(size int) bool {
	if o.bytes += size; o.bytes > maxSetBytes {
		o.keys, o.tooLarge, o.bytes = nil, true, 0
		return false
	}
	return true
}

// setKeyBytes is about what a key costs besides its id and its JWK.
const setKeyBytes = 80

// finish makes a set of what add took, once the connection is free for others: it writes
// the JWKs and puts the keys in order. An id that comes twice cannot be told.
func (o *ownerKeys) finish() {
	o.bytes = 0
	for i := range o.keys {
		k := &o.keys[i]
		k.JWK, _ = JWK(k.ID, o.spki[i])
		if !o.fits(len(k.ID) + len(k.JWK) + setKeyBytes) {
			break
		}
	}
	o.spki = nil
	slices.SortFunc(o.keys, func(a, b SetKey) int { return strings.Compare(a.ID, b.ID) })
	kept := o.keys[:0]
	for i := 0; i < len(o.keys); {
		end := i + 1
		for end < len(o.keys) && o.keys[end].ID == o.keys[i].ID {
			end++
		}
		if end == i+1 {
			kept = append(kept, o.keys[i])
		} else {
			o.unusable++
		}
		i = end
	}
	o.keys = kept
}

func (o *ownerKeys) holds(keyID string) bool {
	_, found := slices.BinarySearchFunc(o.keys, keyID, func(k SetKey, id string) int { return strings.Compare(k.ID, id) })
	return found
}

// answer is what o says at now, by the source's clock c.
func (o *ownerKeys) answer(c dbClock, now clock.Instant, origin Origin, at AsOf) (KeySet, error) {
	set := KeySet{Origin: origin, AsOf: at}
	switch {
	case o.suspended:
		return set, nil
	case o.tooLarge:
		return set, ErrSetTooLarge
	}
	set.LeftOut = o.unusable
	for i := range o.keys {
		k := &o.keys[i]
		switch {
		case !c.within(k.notBefore, k.expiresAt, now):
		case k.JWK == nil:
			set.LeftOut++
		default:
			set.Keys = append(set.Keys, *k)
		}
	}
	return set, nil
}

// KeySet returns the public keys of an owner that may be used now; of an owner that
// there is not, none. The error is nil, ErrSetTooLarge, ErrNotCached or an
// *UnavailableError. ownerID is not kept.
//
// Sets obey the same rules as single keys, in the same order: the clock after the
// request arrived, then the lease, then the set, in one memory; and what is read
// enters memory only if nothing was applied, and nothing stands in the log, that could
// have changed it.
func (s *Store) KeySet(ctx context.Context, ownerID string, b Bounds) (KeySet, error) {
	set, err := s.keySet(ctx, ownerID, b, s.clock.Now())
	if err != nil && !errors.Is(err, ErrSetTooLarge) {
		set = KeySet{}
	}
	s.metrics.keySet(&set, err)
	return set, err
}

func (s *Store) keySet(ctx context.Context, ownerID string, b Bounds, arrived clock.Instant) (KeySet, error) {
	deadline := arrived.Add(s.opts.FillTimeout)
	b.NoCache = b.NoCache || b.HasMaxAge && b.MaxAge <= 0 // see lookupSlow
	for {
		m := s.mem.Load()
		now := s.clock.Now()
		since := arrived
		if !b.NoCache {
			since = notBefore(now, b)
		}
		if l := m.lease.Load(); l.covers(now, since) {
			if o := m.sets.get(ownerID); o != nil && now.Sub(o.asked) < s.setAge() {
				return o.answer(l.now, now, FromCache, AsOf{m.history, l.seq, now.Sub(l.asked)})
			}
		} else if m.sets.get(ownerID) != nil {
			if b.OnlyIfCached {
				return KeySet{}, ErrNotCached
			}
			beat := s.pulse.next()
			if m.lease.Load().covers(s.clock.Now(), since) || s.mem.Load() != m {
				continue // it ended between the two looks
			}
			if s.awaitFence(ctx, beat, deadline) {
				continue
			}
			if set, ok, err := s.staleSet(m, ownerID, b); ok {
				return set, err
			}
			return KeySet{}, &UnavailableError{Reason: ReasonLeaseOver, Err: s.lastFenceError()}
		}
		if b.OnlyIfCached {
			return KeySet{}, ErrNotCached
		}
		s.awaitBegin(ctx, deadline)
		f, err := s.joinSet(m, ownerID, since)
		if err != nil {
			return KeySet{}, err
		}
		set, err := s.awaitSet(ctx, f, b)
		if s.mem.Load() != m && s.clock.Now().Before(deadline) {
			continue // the memory it was asked under is gone: begin again in the new one
		}
		return set, err
	}
}

// setAge is how long a set may be used.
func (s *Store) setAge() time.Duration {
	if s.opts.MaxTTL > 0 {
		return min(s.opts.MaxTTL, setAge)
	}
	return setAge
}

// staleSet answers from a memory whose lease is over, as recallStale does.
func (s *Store) staleSet(m *memory, ownerID string, b Bounds) (set KeySet, ok bool, err error) {
	if s.opts.StaleLimit == 0 || b.NoCache || b.HasMaxAge || m.ended.Load() {
		return KeySet{}, false, nil
	}
	now := s.clock.Now()
	l := m.lease.Load()
	if !l.coversStale(now) {
		return KeySet{}, false, nil
	}
	o := m.sets.get(ownerID)
	if o == nil || len(o.keys) == 0 && !o.tooLarge { // absence is no answer then
		return KeySet{}, false, nil
	}
	set, err = o.answer(l.now, now, FromStale, AsOf{m.history, l.seq, now.Sub(l.asked)})
	return set, true, err
}
