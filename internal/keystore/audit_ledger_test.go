package keystore

import (
	"context"
	"slices"

	"github.com/keysidecar/keysidecar/internal/event"
)

var _ Auditor = (*ledger)(nil)

// Audit implements Auditor, and fails the test when it is used against the
// contract: without a deadline, or with a key twice.
func (l *ledger) Audit(ctx context.Context, q AuditQuery) (AuditPage, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		l.t.Error("an audit without a deadline")
	}
	l.auditGate(&l.beforeAudit)()
	page, err := l.audit(ctx, q)
	l.auditGate(&l.afterAudit)()
	return page, err
}

func (l *ledger) auditGate(f *func()) func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if *f == nil {
		return func() {}
	}
	return *f
}

func (l *ledger) audit(ctx context.Context, q AuditQuery) (AuditPage, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.audits++
	l.audited = append(l.audited, q.Keys...)
	if err := l.enter(ctx); err != nil {
		return AuditPage{}, err
	}
	rest, known := l.after(q.At)
	page := AuditPage{Clean: known, Timeline: l.timeline, Keys: make(map[string]AuditedKey)}
	for _, id := range q.Keys {
		if _, twice := page.Keys[id]; twice {
			l.t.Errorf("an audit asks for %q twice", id)
		}
		k, found := l.keys[id]
		var a AuditedKey
		for _, e := range rest {
			if e.KeyID == id || found && e.Kind == event.OwnerChanged && e.OwnerID == k.OwnerID {
				a.Later = true
			}
		}
		if found {
			a.Record, a.OwnerSuspended = NewRecord(&k), l.owners[k.OwnerID]
		}
		page.Keys[id] = a
	}
	for _, e := range rest {
		if e.Kind == event.Reset {
			page.Clean = false
		}
	}
	var ids []string
	for id := range l.keys {
		if id > q.From {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	page.Listed = ids[:min(q.List, len(ids))]
	return page, nil
}

// drift changes a key as if by a hand that no trigger sees.
func (l *ledger) drift(id string, change func(*Key)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k, had := l.keys[id]
	if !had {
		l.t.Errorf("changing %q, which does not exist", id)
	}
	change(&k)
	l.keys[id] = k
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.audits
}
