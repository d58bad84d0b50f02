package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// BareCommand is the first argument that makes the command serve the bare loop; the
// socket's path, the number of keys and a folder with the answers follow.
const BareCommand = "bare"

// Files of the answers' folder.
const (
	foundFile    = "found"
	notFoundFile = "not-found"
)

// ServeBare answers look-ups on a Unix socket with the least that Go can do: a
// goroutine for each connection that reads, looks for the request's end, finds the
// key in an LRU under one of 64 locks, and writes. It parses no header, checks no
// limit, times nothing and counts nothing. Its answers are of the same bytes as the
// sidecar's. It returns when ctx ends.
func ServeBare(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return errors.New("bare wants a socket, a number of keys and a folder")
	}
	keys, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	hit, err := os.ReadFile(filepath.Join(args[2], foundFile))
	if err != nil {
		return err
	}
	miss, err := os.ReadFile(filepath.Join(args[2], notFoundFile))
	if err != nil {
		return err
	}
	b, err := newBare(keys, hit, miss)
	if err != nil {
		return err
	}
	l, err := net.Listen("unix", args[0])
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	return b.serve(l)
}

// bare is the loop's memory: the bodies of answers by key, in shards as the sidecar
// has them.
type bare struct {
	seed   maphash.Seed
	shards [64]bareShard
	// head is what stands before a body, miss a whole answer.
	head, miss []byte
}

type bareShard struct {
	mu  sync.Mutex
	lru *simplelru.LRU[string, string]
}

// newBare makes answers for keys after the sidecar's answer to key 0.
func newBare(keys int, hit, miss []byte) (*bare, error) {
	head, body, ok := bytes.Cut(hit, headEnd)
	if !ok || !bytes.Contains(body, []byte(keyID(0))) {
		return nil, fmt.Errorf("not an answer to %s: %q", keyID(0), hit)
	}
	b := &bare{seed: maphash.MakeSeed(), head: append(head, headEnd...), miss: miss}
	for i := range b.shards {
		var err error
		if b.shards[i].lru, err = simplelru.NewLRU[string, string](keys, nil); err != nil {
			return nil, err
		}
	}
	for i := range keys {
		id := keyID(i)
		b.shard(id).lru.Add(id, string(bytes.Replace(body, []byte(keyID(0)), []byte(id), 1)))
	}
	return b, nil
}

func (b *bare) shard(id string) *bareShard {
	return &b.shards[maphash.String(b.seed, id)%uint64(len(b.shards))]
}

// serve returns when l is closed.
func (b *bare) serve(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer func() { _ = conn.Close() }()
			b.answer(conn)
		}()
	}
}

func (b *bare) answer(conn net.Conn) {
	in, out := make([]byte, 4096), make([]byte, 0, 4096)
	have := 0
	for {
		n, err := conn.Read(in[have:])
		if err != nil {
			return
		}
		have += n
		if !bytes.HasSuffix(in[:have], headEnd) {
			continue
		}
		_, id, _ := bytes.Cut(in[:have], []byte("/v1/keys/"))
		if end := bytes.IndexByte(id, ' '); end >= 0 {
			id = id[:end]
		}
		out = b.look(out[:0], string(id))
		if _, err := conn.Write(out); err != nil {
			return
		}
		have = 0
	}
}

func (b *bare) look(out []byte, id string) []byte {
	s := b.shard(id)
	s.mu.Lock()
	body, ok := s.lru.Get(id)
	s.mu.Unlock()
	if !ok {
		return append(out, b.miss...)
	}
	return append(append(out, b.head...), body...)
}

// startBare runs the bare loop in a process of its own. self is a program that serves
// BareCommand; hit and miss are the sidecar's answers.
func startBare(ctx context.Context, self string, keys int, hit, miss []byte) (p *Program, socket string, err error) {
	dir, err := os.MkdirTemp("", "ksbare")
	if err != nil {
		return nil, "", err
	}
	err = errors.Join(os.WriteFile(filepath.Join(dir, foundFile), hit, 0o600), os.WriteFile(filepath.Join(dir, notFoundFile), miss, 0o600))
	if err != nil {
		return nil, "", errors.Join(err, os.RemoveAll(dir))
	}
	socket = filepath.Join(dir, "s")
	p, err = StartProgram(ctx, dir, self, []string{BareCommand, socket, strconv.Itoa(keys), dir}, func() error {
		_, err := ask(ctx, "unix", socket, http, httpGet(keyID(0)))
		return err
	})
	return p, socket, err
}
