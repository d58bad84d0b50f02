package history

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"
)

// copyOf is a record that the reader will not overwrite.
func copyOf(r Record) Record {
	if q, ok := r.(*Request); ok {
		c := *q
		return &c
	}
	return r
}

func readAll(t *testing.T, path string) ([]Record, error) {
	t.Helper()
	r, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var all []Record
	for rec, err := range r.Records() {
		if err != nil {
			return all, err
		}
		all = append(all, copyOf(rec))
	}
	return all, nil
}

// random is a request as drivers make them: a few thousand keys, few answers,
// times close to each other.
func random(rng *rand.Rand, now *int64) *Request {
	*now += rng.Int64N(200_000)
	q := &Request{
		Process: rng.IntN(8), KeyID: fmt.Sprintf("pk_live_%05d", rng.IntN(1000)), SentAt: *now, DoneAt: *now + 20_000 + rng.Int64N(500_000),
		Status: 200, Code: "active", Valid: true, History: "9f2c01ab", Seq: *now / 25_000_000, AgeMS: rng.Int64N(1000), Source: "cache",
	}
	switch rng.IntN(20) {
	case 0:
		*q = Request{Process: q.Process, KeyID: q.KeyID, SentAt: q.SentAt, DoneAt: q.DoneAt, Failed: true, Code: "timeout"}
	case 1:
		q.Status, q.Code, q.Valid, q.Source = 410, "revoked", false, "database"
	case 2:
		q.KeyID, q.Status, q.Code, q.Valid = fmt.Sprintf("made-up-%d", rng.Uint64()), 404, "unknown_key", false
	}
	return q
}

func everyKind() []Record {
	return []Record{
		&Meta{Seed: 1 << 63, MaxStaleness: 3 * time.Second, FenceInterval: time.Second, Version: "v", Command: "c", Started: time.Unix(1, 2).UTC(), Began: 3},
		&Incarnation{Name: "a", Process: 1, Began: 5, Ended: 6, Bound: time.Minute},
		&Issue{KeyID: "k", AckedAt: 7},
		&Revocation{KeyID: "k", Way: "delete", SentAt: 8, AckedAt: 9, Seq: 10},
		&Restore{KeyID: "k", SentAt: 11, AckedAt: 12},
		&Receipt{KeyID: "k", Seq: 10, AskedAt: 13, CompleteAt: 14, Acknowledged: 15, Expired: 16},
		&Fault{Kind: "broker killed", Process: []int{1, 2}, BeganAt: 17, EndedAt: 18, Parameters: "p"},
		&Request{Process: 3, KeyID: "é\x00", SentAt: -5, DoneAt: -9, Status: 503, Code: "c", AgeMS: -1, Seq: 1 << 62},
	}
}

func TestRecordsComeBackChanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h")
	w, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	rng, now := rand.New(rand.NewPCG(1, 2)), int64(1e15)
	want := everyKind()
	for range 50_000 { // several blocks
		want = append(want, random(rng, &now))
	}
	for _, r := range append(want, everyKind()...) {
		w.Add(r)
	}
	want = append(want, everyKind()...)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := readAll(t, path)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) || w.Records() != int64(len(want)) {
		t.Fatalf("%d records of %d", len(got), len(want))
	}
	for i := range want {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Fatalf("record %d: %+v, written %+v", i, got[i], want[i])
		}
	}
	info, _ := os.Stat(path)
	per := float64(info.Size()) / float64(len(want))
	t.Logf("%.1f bytes a record", per)
	if per > 30 {
		t.Errorf("%.1f bytes a record", per)
	}
}

func TestConcurrentWritersMixTheirRecords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h")
	w, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	const writers, each = 8, 20_000
	var wg sync.WaitGroup
	for p := range writers {
		wg.Go(func() {
			for i := range each {
				w.Request(&Request{Process: p, KeyID: fmt.Sprint("key-", i%100), SentAt: int64(i), DoneAt: int64(i + 1), Seq: int64(p)})
			}
		})
	}
	wg.Wait()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := readAll(t, path)
	if err != nil {
		t.Fatal(err)
	}
	var next [writers]int64
	for _, r := range got {
		q := r.(*Request)
		if q.SentAt != next[q.Process] || q.DoneAt != q.SentAt+1 || q.Seq != int64(q.Process) || q.KeyID != fmt.Sprint("key-", q.SentAt%100) {
			t.Fatalf("%+v, the writer's next is %d", q, next[q.Process])
		}
		next[q.Process]++
	}
	if len(got) != writers*each {
		t.Fatalf("%d records", len(got))
	}
}

// A file that lost its end, wherever, or a bit, is recognised, and what comes
// before the damage is still read.
func TestDamageIsSwallowed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "h")
	w, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	rng, now := rand.New(rand.NewPCG(3, 4)), int64(1e15)
	w.Add(everyKind()[0])
	for range 60_000 {
		w.Request(random(rng, &now))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first := len(magic) + blockHeader + int(uint32(whole[len(magic)])|uint32(whole[len(magic)+1])<<8|uint32(whole[len(magic)+2])<<16)
	flip := func(at int) []byte {
		b := append([]byte(nil), whole...)
		b[at] ^= 0x10
		return b
	}
	for name, data := range map[string][]byte{
		"no block":               whole[:len(magic)],
		"half a header":          whole[:len(magic)+5],
		"half a block":           whole[:first-1],
		"whole blocks, no end":   whole[:first],
		"last byte":              whole[:len(whole)-1],
		"a bit":                  flip(len(whole) / 2),
		"a bit of a length":      flip(first + 1),
		"a bit of a checksum":    flip(first + 6),
		"something after it":     append(append([]byte(nil), whole...), 0),
		"the same block again":   append(append([]byte(nil), whole[:first]...), whole[len(magic):]...),
		"a block in between cut": append(append([]byte(nil), whole[:len(magic)]...), whole[first:]...),
	} {
		t.Run(name, func(t *testing.T) {
			broken := filepath.Join(dir, fmt.Sprintf("%x", name))
			if err := os.WriteFile(broken, data, 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := readAll(t, broken)
			var torn *TornError
			if !errors.As(err, &torn) {
				t.Fatalf("%d records, error %v", len(got), err)
			}
			if torn.Records != int64(len(got)) {
				t.Errorf("%v after %d records", torn, len(got))
			}
		})
	}
	if _, err := readAll(t, path); err != nil {
		t.Fatal("the whole file:", err)
	}
}

func TestARunIsMixedWithAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h")
	w, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(path); !errors.Is(err, os.ErrExist) {
		t.Fatalf("created over another: %v", err)
	}
	if err := errors.Join(w.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	w.Add(&Issue{}) // dropped, not written to a closed file
	if all, err := readAll(t, path); err != nil || len(all) != 0 {
		t.Fatal(all, err)
	}
	if err := os.WriteFile(path, []byte("something else altogether"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil {
		t.Fatal("opened something that is no history")
	}
}

func TestDiskErrorIsForgotten(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	w := &Writer{file: f, block: make([]byte, blockHeader)}
	w.known.reset()
	w.Add(&Issue{KeyID: "k"})
	if err := w.Close(); err == nil {
		t.Fatal("a full disk went unnoticed")
	}
}

func FuzzBlock(f *testing.F) {
	var e encoder
	e.reset()
	rng, now := rand.New(rand.NewPCG(5, 6)), int64(1)
	var b []byte
	for range 50 {
		b = e.request(b, random(rng, &now))
	}
	f.Add(b)
	f.Fuzz(func(_ *testing.T, data []byte) {
		var s scanner
		s.dec.start(data)
		for len(s.dec.data) > 0 {
			if _, err := s.record(); err != nil {
				return
			}
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	w, err := Create(filepath.Join(b.TempDir(), "h"))
	if err != nil {
		b.Fatal(err)
	}
	rng, now := rand.New(rand.NewPCG(1, 2)), int64(1e15)
	qs := make([]*Request, 10_000)
	for i := range qs {
		qs[i] = random(rng, &now)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		w.Request(qs[i%len(qs)])
		i++
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
}
