package history

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"sync"
)

const (
	magic = "keysidecar history 1\n"
	// blockSize is when a block is written out. A larger one repeats fewer strings, a
	// smaller one loses less to a crash.
	blockSize = 256 << 10
	// maxBlock is what a reader believes.
	maxBlock    = 16 << 20
	blockHeader = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Writer writes a history. Its methods may be called concurrently. The first
// error sticks: what is handed in afterwards is dropped, and Close reports it.
type Writer struct {
	mu      sync.Mutex
	file    *os.File
	block   []byte // starts with room for the header
	known   encoder
	records int64
	err     error
}

// errClosed: a record was handed in after Close.
var errClosed = errors.New("history: closed")

// Create makes the file, which must not exist: a history is about one run.
func Create(path string) (*Writer, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("create a history: %w", err)
	}
	if _, err := f.WriteString(magic); err != nil {
		return nil, errors.Join(fmt.Errorf("create a history: %w", err), f.Close())
	}
	w := &Writer{file: f, block: make([]byte, blockHeader, blockSize+4096)}
	w.known.reset()
	return w, nil
}

// Request adds a request. r may be reused afterwards.
func (w *Writer) Request(r *Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.block = w.known.request(w.block, r)
		w.added()
	}
}

// Add adds any record.
func (w *Writer) Add(r Record) {
	if q, ok := r.(*Request); ok {
		w.Request(q)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.rare(r)
		w.added()
	}
}

func (w *Writer) rare(r Record) {
	text, err := json.Marshal(r)
	if err != nil {
		w.err = fmt.Errorf("history: %w", err)
		return
	}
	w.block = append(w.block, byte(r.kind()))
	w.block = binary.AppendUvarint(w.block, uint64(len(text)))
	w.block = append(w.block, text...)
}

func (w *Writer) added() {
	w.records++
	if len(w.block) >= blockSize {
		w.flush()
	}
}

func (w *Writer) flush() {
	if w.err != nil || len(w.block) == blockHeader {
		return
	}
	payload := w.block[blockHeader:]
	binary.LittleEndian.PutUint32(w.block, uint32(len(payload)))
	binary.LittleEndian.PutUint32(w.block[4:], crc32.Checksum(payload, castagnoli))
	if _, err := w.file.Write(w.block); err != nil {
		w.err = fmt.Errorf("history: %w", err)
	}
	w.block = w.block[:blockHeader]
	w.known.reset()
}

// Records returns how many records were added.
func (w *Writer) Records() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.records
}

// Err returns the first error, or nil.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Close writes what is left and the end mark, and returns the first error there
// was since Create.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if errors.Is(w.err, errClosed) {
		return nil
	}
	if w.err == nil {
		w.rare(&end{Records: w.records})
		w.flush()
	}
	err := errors.Join(w.err, w.file.Close())
	w.err = errClosed
	return err
}
