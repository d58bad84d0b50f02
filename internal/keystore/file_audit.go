package keystore

import (
	"context"
	"slices"

	"github.com/keysidecar/keysidecar/internal/event"
)

var _ Auditor = (*File)(nil)

// sortedKeys are the keys of one version of a file in order.
type sortedKeys struct {
	of   *fileIndex
	keys []string
}

// Audit implements Auditor.
func (f *File) Audit(ctx context.Context, q AuditQuery) (AuditPage, error) {
	if err := ctx.Err(); err != nil {
		return AuditPage{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.refresh(); err != nil {
		return AuditPage{}, err
	}
	later, known := f.after(q.At, fileEventsKept)
	touched := make(map[string]bool, len(later))
	owners := make(map[string]bool)
	for _, e := range later {
		if e.Kind == event.OwnerChanged {
			owners[e.OwnerID] = true
		} else {
			touched[e.KeyID] = true
		}
	}
	page := AuditPage{Clean: known, Timeline: "file", Keys: make(map[string]AuditedKey, len(q.Keys))}
	for _, id := range q.Keys {
		a := AuditedKey{Later: touched[id]}
		if k := f.index.keys[id]; k != nil {
			a.Record, a.OwnerSuspended = NewRecord(k), k.OwnerSuspended
			a.Later = a.Later || owners[k.OwnerID]
		}
		page.Keys[id] = a
	}
	if q.List > 0 {
		page.Listed = f.list(q.From, q.List)
	}
	return page, nil
}

// list returns the n keys after from. The caller holds mu.
func (f *File) list(from string, n int) []string {
	if f.sorted.of != f.index {
		f.sorted = sortedKeys{f.index, slices.Sorted(slices.Values(f.index.order))}
	}
	at, found := slices.BinarySearch(f.sorted.keys, from)
	if found {
		at++
	}
	return slices.Clone(f.sorted.keys[at:min(at+n, len(f.sorted.keys))])
}
