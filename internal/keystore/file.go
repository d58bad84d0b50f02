package keystore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/google/uuid"

	"github.com/keysidecar/keysidecar/internal/event"
)

// ErrFile wraps every reason for which a key file cannot be used now.
var ErrFile = errors.New("the key file cannot be used")

const (
	// fileEventsKept is how long a line of events a File remembers.
	fileEventsKept = 10_000
	// unsettled is how recent a file's last change must be for its time stamps to
	// be doubted: a second change within the clock tick of the first, and of the
	// same length, leaves them alike.
	unsettled = 2 * time.Second
)

// File reads keys from a key file (see KeyFile), for a laptop, a CI job or an
// air-gapped box. A change of the file becomes events in a log that exists only
// in this process. A question is answered only by a file that can be read and is
// well-formed at that moment; otherwise it fails, so that a broken or vanished
// file ends the lease like an unreachable database would.
type File struct {
	path string
	load func(path string) (*KeyFile, error) // LoadKeyFile, but for tests

	mu     sync.Mutex
	index  *fileIndex // last good content
	stamp  fileStamp  // of the last good content
	events []event.Event
	first  Cursor // the event before events[0]
	sorted sortedKeys
}

var _ Source = (*File)(nil)

// fileStamp identifies a version of a file without reading it.
type fileStamp struct {
	dev, ino uint64
	size     int64
	mtime    time.Time
	ctime    time.Time
	// settled: at the reading, the file had not changed for a while.
	settled bool
}

// NewFile returns a source over the key file at path, which must be usable now.
func NewFile(path string) (*File, error) {
	f := &File{path: path, load: LoadKeyFile, index: &fileIndex{}, first: Cursor{Seq: 0, ID: uuid.New()}}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.refresh(); err != nil {
		return nil, err
	}
	f.events = nil // what was there at the start is no change
	f.first = f.head()
	return f, nil
}

// Kind implements Source.
func (f *File) Kind() string { return "file" }

func (f *File) head() Cursor {
	if n := len(f.events); n > 0 {
		return Cursor{Seq: f.events[n-1].Seq, ID: f.events[n-1].ID}
	}
	return f.first
}

// readAttempts is how often a file is read that changes while it is: whoever
// replaces it does so once, and is done.
const readAttempts = 3

var errFileChanged = fmt.Errorf("%w: it changed while it was read", ErrFile)

// refresh makes index the file's content as of now. The caller holds mu.
func (f *File) refresh() (err error) {
	for range readAttempts {
		if err = f.reread(); !errors.Is(err, errFileChanged) {
			return err
		}
	}
	return err
}

// reread reads the file once, if it is not the one that was read last.
func (f *File) reread() error {
	now := time.Now() //nolint:forbidigo // compared with the file system's stamps, which are wall time
	stamp, err := f.look(now)
	if err != nil {
		return err
	}
	if stamp == f.stamp && stamp.settled {
		return nil
	}
	kf, loadErr := f.load(f.path)
	again, err := f.look(now)
	if err != nil {
		return err
	}
	if again != stamp {
		return fmt.Errorf("%w: %s", errFileChanged, f.path)
	}
	if loadErr != nil {
		return loadErr
	}
	ix, err := kf.index()
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrFile, f.path, err)
	}
	f.record(f.index, ix, now)
	f.index, f.stamp = ix, stamp
	return nil
}

// look checks who may write the file, and stamps it.
func (f *File) look(now time.Time) (fileStamp, error) {
	info, err := os.Stat(f.path)
	if err != nil {
		return fileStamp{}, fmt.Errorf("%w: %w", ErrFile, err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return fileStamp{}, fmt.Errorf("%w: %s is not a regular file", ErrFile, f.path)
	}
	if perm := info.Mode().Perm(); perm&0o022 != 0 {
		return fileStamp{}, fmt.Errorf("%w: %s has mode %v, so that others may write it; chmod go-w it", ErrFile, f.path, perm)
	}
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fileStamp{}, fmt.Errorf("%w: %s belongs to user %d, who is neither root nor this process's user %d", ErrFile, f.path, st.Uid, os.Geteuid())
	}
	ctime := changeTime(st)
	return fileStamp{
		dev: uint64(st.Dev), ino: st.Ino, size: info.Size(), mtime: info.ModTime(), ctime: ctime, //nolint:unconvert // its type depends on the system
		settled: now.Sub(ctime) > unsettled && now.Sub(info.ModTime()) > unsettled,
	}, nil
}

// record appends to the log what changed from old to new.
func (f *File) record(old, now *fileIndex, at time.Time) {
	add := func(kind event.Kind, key, owner string) {
		f.events = append(f.events, event.Event{
			Seq: f.head().Seq + 1, Prev: f.head().Seq, ID: uuid.New(), Kind: kind, KeyID: key, OwnerID: owner, OccurredAt: at,
		})
	}
	for id, was := range old.keys {
		is, kept := now.keys[id]
		switch {
		case !kept:
			add(event.Deleted, id, was.OwnerID)
		case is.Revoked && !was.Revoked:
			add(event.Revoked, id, is.OwnerID)
		case NewRecord(is) != NewRecord(was):
			add(event.Changed, id, is.OwnerID)
		}
	}
	for id, is := range now.keys {
		if _, had := old.keys[id]; !had {
			add(event.Issued, id, is.OwnerID)
		}
	}
	for _, owner := range changedOwners(old.suspended, now.suspended) {
		add(event.OwnerChanged, "", owner)
	}
	if excess := len(f.events) - fileEventsKept; excess > 0 {
		f.first = Cursor{Seq: f.events[excess-1].Seq, ID: f.events[excess-1].ID}
		f.events = append([]event.Event(nil), f.events[excess:]...)
	}
}

func changedOwners(old, now map[string]bool) (changed []string) {
	for id, was := range old {
		if now[id] != was {
			changed = append(changed, id)
		}
	}
	for id, is := range now {
		if _, had := old[id]; !had && is {
			changed = append(changed, id)
		}
	}
	return changed
}

// after returns the events after at, at most limit, and whether at is known.
func (f *File) after(at Cursor, limit int) ([]event.Event, bool) {
	if at == f.first {
		return f.events[:min(limit, len(f.events))], true
	}
	for i := range f.events {
		if f.events[i].Seq == at.Seq && f.events[i].ID == at.ID {
			rest := f.events[i+1:]
			return rest[:min(limit, len(rest))], true
		}
	}
	return nil, false
}

// Register implements Source: a file has no fleet, and nobody waits for this one.
func (f *File) Register(context.Context, Incarnation) (int, error) { return 1, nil }

// SignOff implements Source.
func (f *File) SignOff(context.Context, []uuid.UUID) error { return nil }

// Fence implements Source.
func (f *File) Fence(_ context.Context, q FenceQuestion) (Page, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.refresh(); err != nil {
		return Page{}, err
	}
	events, known := f.after(q.At, q.Limit)
	return Page{
		Member: true, Reported: q.Report, Known: known, Timeline: "file", CaptureIntact: true,
		Time:   time.Now(), //nolint:forbidigo // a file's clock is this machine's
		Events: append([]event.Event(nil), events...), Full: len(events) == q.Limit,
	}, nil
}

// Fill implements Source.
func (f *File) Fill(_ context.Context, keyID string, at Cursor, _ Membership, use func(Filled)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.refresh(); err != nil {
		return err
	}
	k := f.index.keys[keyID]
	later, known := f.after(at, fileEventsKept)
	clean := known
	for _, e := range later {
		if e.KeyID == keyID || (e.Kind == event.OwnerChanged && k != nil && e.OwnerID == k.OwnerID) {
			clean = false
		}
	}
	got := Filled{Member: true, Known: known, Clean: clean, Timeline: "file", Time: time.Now()} //nolint:forbidigo // a file's clock is this machine's
	if k != nil {
		got.Row = k.row()
	}
	use(got)
	return nil
}

// FillOwner implements Source.
func (f *File) FillOwner(ctx context.Context, ownerID string, limit int, at Cursor, _ Membership, row func(*Row) bool) (Filled, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.refresh(); err != nil {
		return Filled{}, err
	}
	now := time.Now() //nolint:forbidigo // a file's clock is this machine's
	later, known := f.after(at, fileEventsKept)
	got := Filled{Member: true, Known: known, Clean: known, Timeline: "file", Time: now}
	for _, e := range later {
		if k := f.index.keys[e.KeyID]; e.OwnerID == ownerID || k != nil && k.OwnerID == ownerID {
			got.Clean = false
		}
	}
	for _, id := range f.index.order {
		k := f.index.keys[id]
		if k.OwnerID != ownerID || k.Revoked || k.PublicKey == nil || !k.ExpiresAt.IsZero() && !now.Before(k.ExpiresAt) {
			continue
		}
		if limit--; limit < 0 || !row(k.row()) {
			break
		}
	}
	return got, ctx.Err()
}

// Warm implements Source.
func (f *File) Warm(ctx context.Context, limit int, head func(Head) error, row func(*Row) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.refresh(); err != nil {
		return err
	}
	if err := head(Head{Cursor: f.head(), Timeline: "file", CaptureIntact: true, Keys: int64(len(f.index.order))}); err != nil {
		return err
	}
	for _, id := range f.index.order[:min(limit, len(f.index.order))] {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := row(f.index.keys[id].row()); err != nil {
			return err
		}
	}
	return nil
}

// Watch implements Source. It watches the directory, because an editor replaces
// the file, and Kubernetes a symbolic link beside it. Where the kernel will not
// watch, the fence's own interval still finds every change.
func (f *File) Watch(ctx context.Context, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		<-ctx.Done()
		return nil
	}
	defer func() { _ = w.Close() }()
	if err := w.Add(filepath.Dir(f.path)); err != nil {
		<-ctx.Done()
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-w.Events:
			if !ok {
				return nil
			}
			changed()
		case <-w.Errors: // an overflow: something changed
			changed()
		}
	}
}

// Close implements Source.
func (f *File) Close() {}
