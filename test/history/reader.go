package history

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"os"
)

// Reader reads a history.
type Reader struct {
	file *os.File
}

// TornError says that a history ends before its end mark or is damaged: what
// was read so far is good, what comes after is not known.
type TornError struct {
	// Offset is where the first block begins that cannot be read, Records how many
	// records come before it.
	Offset, Records int64
	Reason          string
}

func (e *TornError) Error() string {
	return fmt.Sprintf("the history is torn at byte %d, after %d records: %s", e.Offset, e.Records, e.Reason)
}

// Open opens a history for reading.
func Open(path string) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open a history: %w", err)
	}
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(f, head); err != nil || string(head) != magic {
		return nil, errors.Join(fmt.Errorf("%s is no history", path), f.Close())
	}
	return &Reader{file: f}, nil
}

// Close closes the file.
func (r *Reader) Close() error { return r.file.Close() }

// Records iterates over the whole history, from its beginning at each call. A
// *Request is overwritten by the next one; other records may be kept. An error
// ends the iteration: a *TornError if the file is damaged or has no end.
func (r *Reader) Records() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		s := scanner{offset: int64(len(magic)), in: bufio.NewReaderSize(io.NewSectionReader(r.file, int64(len(magic)), 1<<62), 1<<20)}
		if err := s.scan(yield); err != nil {
			yield(nil, err)
		}
	}
}

// scanner is one way through the file.
type scanner struct {
	in      *bufio.Reader
	offset  int64
	records int64
	block   []byte
	dec     decoder
	request Request
}

func (s *scanner) torn(reason string) error {
	return &TornError{Offset: s.offset, Records: s.records, Reason: reason}
}

// scan returns nil also if yield asked to stop.
func (s *scanner) scan(yield func(Record, error) bool) error {
	for {
		if err := s.next(); err != nil {
			return err
		}
		for len(s.dec.data) > 0 {
			rec, err := s.record()
			if err != nil {
				return s.torn(err.Error())
			}
			if last, ok := rec.(*end); ok {
				return s.ended(last)
			}
			s.records++
			if !yield(rec, nil) {
				return nil
			}
		}
		s.offset += blockHeader + int64(len(s.block))
	}
}

// next reads a block.
func (s *scanner) next() error {
	var head [blockHeader]byte
	switch _, err := io.ReadFull(s.in, head[:]); {
	case errors.Is(err, io.EOF):
		return s.torn("there is no end mark")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return s.torn("a block's header is cut off")
	case err != nil:
		return fmt.Errorf("read a history: %w", err)
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n == 0 || n > maxBlock {
		return s.torn(fmt.Sprintf("a block of %d bytes", n))
	}
	if cap(s.block) < int(n) {
		s.block = make([]byte, n)
	}
	s.block = s.block[:n]
	switch _, err := io.ReadFull(s.in, s.block); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return s.torn("a block is cut off")
	case err != nil:
		return fmt.Errorf("read a history: %w", err)
	}
	if crc32.Checksum(s.block, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
		return s.torn("a block's checksum is wrong")
	}
	s.dec.start(s.block)
	return nil
}

// record reads the block's next record.
func (s *scanner) record() (Record, error) {
	var rec Record
	switch k := kind(s.dec.byte()); k {
	case kindRequest:
		return &s.request, s.dec.request(&s.request)
	case kindMeta:
		rec = new(Meta)
	case kindIncarnation:
		rec = new(Incarnation)
	case kindIssue:
		rec = new(Issue)
	case kindRevocation:
		rec = new(Revocation)
	case kindRestore:
		rec = new(Restore)
	case kindReceipt:
		rec = new(Receipt)
	case kindFault:
		rec = new(Fault)
	case kindEnd:
		rec = new(end)
	default:
		return nil, fmt.Errorf("a record of the unknown kind %d", k)
	}
	text := s.dec.bytes()
	if s.dec.bad {
		return nil, errRecord
	}
	return rec, json.Unmarshal(text, rec)
}

func (s *scanner) ended(e *end) error {
	if e.Records != s.records {
		return s.torn(fmt.Sprintf("the end mark says %d records", e.Records))
	}
	if len(s.dec.data) > 0 {
		return s.torn("the end mark is not the last record")
	}
	if _, err := s.in.ReadByte(); !errors.Is(err, io.EOF) {
		return s.torn("something comes after the end mark")
	}
	return nil
}
