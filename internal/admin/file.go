package admin

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// File changes the key file of a store of kind file. A running sidecar sees the
// change at once.
type File struct{ path string }

// OpenFile returns the store in the key file at path, which must be readable.
func OpenFile(path string) (*File, error) {
	if _, err := keystore.LoadKeyFile(path); err != nil {
		return nil, err
	}
	return &File{path: path}, nil
}

// Close does nothing: a File holds nothing.
func (f *File) Close(context.Context) error { return nil }

// Issue adds k, which must not exist.
func (f *File) Issue(_ context.Context, k keystore.FileKey) error {
	return keystore.EditKeyFile(f.path, func(kf *keystore.KeyFile) error { return add(kf, k) })
}

func add(kf *keystore.KeyFile, k keystore.FileKey) error {
	if _, err := check(&k); err != nil {
		return err
	}
	if find(kf, k.KeyID) != nil {
		return fmt.Errorf("%s: %w", k.KeyID, ErrExists)
	}
	kf.Keys = append(kf.Keys, k)
	return nil
}

func find(kf *keystore.KeyFile, keyID string) *keystore.FileKey {
	for i := range kf.Keys {
		if kf.Keys[i].KeyID == keyID {
			return &kf.Keys[i]
		}
	}
	return nil
}

// Revoke revokes a key; already is true if it was revoked before. The reason, if
// there is one, goes behind the key's note.
func (f *File) Revoke(_ context.Context, keyID, reason string) (already bool, err error) {
	err = keystore.EditKeyFile(f.path, func(kf *keystore.KeyFile) error {
		k := find(kf, keyID)
		if k == nil {
			return fmt.Errorf("%s: %w", keyID, ErrNoKey)
		}
		already = revoke(k, reason)
		return nil
	})
	return already, err
}

func revoke(k *keystore.FileKey, reason string) (already bool) {
	if k.RevokedAt != nil {
		return true
	}
	k.RevokedAt = wallClock()
	if reason != "" {
		k.Note = strings.TrimSpace(k.Note + " (revoked: " + reason + ")")
	}
	return false
}

// wallClock is the time written beside a key for people to read.
func wallClock() *time.Time {
	now := time.Now().UTC().Truncate(time.Millisecond) //nolint:forbidigo // a note for people; that it is set is what counts
	return &now
}

// Get returns one key.
func (f *File) Get(_ context.Context, keyID string) (Entry, error) {
	kf, err := keystore.LoadKeyFile(f.path)
	if err != nil {
		return Entry{}, err
	}
	k := find(kf, keyID)
	if k == nil {
		return Entry{}, fmt.Errorf("%s: %w", keyID, ErrNoKey)
	}
	return *entry(kf, *k), nil
}

// entry is a key of kf with what the file knows of it.
func entry(kf *keystore.KeyFile, k keystore.FileKey) *Entry {
	return &Entry{FileKey: k, OwnerSuspended: suspended(kf, k.OwnerID) != nil, Now: *wallClock()}
}

func suspended(kf *keystore.KeyFile, ownerID string) *time.Time {
	for _, o := range kf.Owners {
		if o.OwnerID == ownerID {
			return o.SuspendedAt
		}
	}
	return nil
}

// List calls yield for each key that filter lets through, by key_id, until yield
// returns false. The error wraps ErrNotKnown if a key file does not say what filter
// asks for.
func (f *File) List(_ context.Context, filter Filter, yield func(*Entry) bool) error {
	if filter.created() || filter.used() {
		return fmt.Errorf("%w: a key file does not say when keys were created or used", ErrNotKnown)
	}
	kf, err := keystore.LoadKeyFile(f.path)
	if err != nil {
		return err
	}
	slices.SortFunc(kf.Keys, func(a, b keystore.FileKey) int { return strings.Compare(a.KeyID, b.KeyID) })
	n := 0
	for _, k := range kf.Keys {
		e := entry(kf, k)
		if !filter.match(e) {
			continue
		}
		if n++; !yield(e) || n == filter.Limit {
			return nil
		}
	}
	return nil
}

// Existing returns those of ids that are keys.
func (f *File) Existing(_ context.Context, ids []string) (map[string]bool, error) {
	kf, err := keystore.LoadKeyFile(f.path)
	if err != nil {
		return nil, err
	}
	known := make(map[string]bool, len(kf.Keys))
	for i := range kf.Keys {
		known[kf.Keys[i].KeyID] = true
	}
	found := make(map[string]bool)
	for _, id := range ids {
		if known[id] {
			found[id] = true
		}
	}
	return found, nil
}

// Rotate replaces a key by another; see Rotation.
func (f *File) Rotate(_ context.Context, r Rotation) error {
	return keystore.EditKeyFile(f.path, func(kf *keystore.KeyFile) error {
		old := find(kf, r.Old)
		if old == nil {
			return fmt.Errorf("%s: %w", r.Old, ErrNoKey)
		}
		if old.RevokedAt == nil && r.Overlap > 0 {
			end := wallClock().Add(r.Overlap)
			if old.ExpiresAt == nil || end.Before(*old.ExpiresAt) {
				old.ExpiresAt = &end
			}
		} else {
			revoke(old, r.Reason)
		}
		return add(kf, r.New)
	})
}

// Import adds keys and returns, in their order, why each was refused, or nil.
func (f *File) Import(_ context.Context, keys []keystore.FileKey) ([]error, error) {
	refused := make([]error, len(keys))
	err := keystore.EditKeyFile(f.path, func(kf *keystore.KeyFile) error {
		known := make(map[string]bool, len(kf.Keys)+len(keys))
		for i := range kf.Keys {
			known[kf.Keys[i].KeyID] = true
		}
		for i := range keys {
			if _, refused[i] = check(&keys[i]); refused[i] != nil {
				continue
			}
			if known[keys[i].KeyID] {
				refused[i] = fmt.Errorf("%s: %w", keys[i].KeyID, ErrExists)
				continue
			}
			known[keys[i].KeyID] = true
			kf.Keys = append(kf.Keys, keys[i])
		}
		return nil
	})
	return refused, err
}

// ImportBatch is how many keys Import should be given at a time: the file is
// written anew each time.
func (f *File) ImportBatch() int { return 1 << 20 }

// Suspend turns off all keys of an owner; already is true if they were off.
func (f *File) Suspend(_ context.Context, ownerID string) (already bool, err error) {
	return f.setSuspended(ownerID, wallClock())
}

// Reactivate turns the keys of an owner on again; already is true if they were on.
func (f *File) Reactivate(_ context.Context, ownerID string) (already bool, err error) {
	return f.setSuspended(ownerID, nil)
}

func (f *File) setSuspended(ownerID string, at *time.Time) (already bool, err error) {
	err = keystore.EditKeyFile(f.path, func(kf *keystore.KeyFile) error {
		if owner(kf, ownerID) == nil {
			return fmt.Errorf("%s: %w", ownerID, ErrNoOwner)
		}
		if already = (suspended(kf, ownerID) == nil) == (at == nil); already {
			return nil
		}
		for i := range kf.Owners {
			if kf.Owners[i].OwnerID == ownerID {
				kf.Owners[i].SuspendedAt = at
				return nil
			}
		}
		kf.Owners = append(kf.Owners, keystore.FileOwner{OwnerID: ownerID, SuspendedAt: at})
		return nil
	})
	return already, err
}

// owner returns what kf says about an owner, nil if it is never named.
func owner(kf *keystore.KeyFile, ownerID string) *Owner {
	found := false
	o := Owner{OwnerID: ownerID, SuspendedAt: suspended(kf, ownerID)}
	for _, fo := range kf.Owners {
		found = found || fo.OwnerID == ownerID
	}
	for i := range kf.Keys {
		if kf.Keys[i].OwnerID != ownerID {
			continue
		}
		found = true
		o.Keys++
		if kf.Keys[i].RevokedAt != nil {
			o.Revoked++
		}
	}
	if !found {
		return nil
	}
	return &o
}

// Owner returns an owner.
func (f *File) Owner(_ context.Context, ownerID string) (Owner, error) {
	kf, err := keystore.LoadKeyFile(f.path)
	if err != nil {
		return Owner{}, err
	}
	o := owner(kf, ownerID)
	if o == nil {
		return Owner{}, fmt.Errorf("%s: %w", ownerID, ErrNoOwner)
	}
	return *o, nil
}
