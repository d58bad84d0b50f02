package keystore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"syscall"

	"go.yaml.in/yaml/v3"
)

// LoadKeyFile reads and checks the key file at path.
func LoadKeyFile(path string) (*KeyFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	}
	kf, err := ParseKeyFile(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrFile, path, err)
	}
	return kf, nil
}

// EditKeyFile changes the key file at path as edit changes its content, whole or
// not at all: the new file is checked, written beside the old one, flushed and
// renamed over it, with the old one's mode and owner. In YAML, what edit does not
// touch keeps its comments and order. A lock file keeps two editors apart.
func EditKeyFile(path string, edit func(*KeyFile) error) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFile, err)
	}
	unlock, err := lockFile(real + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	data, err := os.ReadFile(real)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFile, err)
	}
	if kf, err := parseJWKS(data); kf != nil || err != nil {
		return errors.Join(errJWKS, err)
	}
	before, err := ParseKeyFile(data)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrFile, path, err)
	}
	after, err := ParseKeyFile(data) // a deep copy
	if err != nil {
		return err
	}
	if err := edit(after); err != nil {
		return err
	}
	if _, err := after.index(); err != nil {
		return err
	}
	out, err := rewrite(data, before, after)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if _, err := ParseKeyFile(out); err != nil {
		return fmt.Errorf("what would be written to %s cannot be read back: %w", path, err)
	}
	return replaceFile(real, out)
}

// lockFile holds an advisory lock (flock(2)) until the returned function is called.
func lockFile(path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the key file: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the key file: %w", err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

func replaceFile(path string, data []byte) (err error) {
	old, err := os.Stat(path)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("make a new file beside %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tmp.Close(), ignoreMissing(os.Remove(tmp.Name())))
		}
	}()
	if _, err := tmp.Write(data); err != nil {
		return err
	}
	if err := tmp.Chmod(old.Mode().Perm()); err != nil {
		return err
	}
	if st, ok := old.Sys().(*syscall.Stat_t); ok && (int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid()) {
		if err := tmp.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return fmt.Errorf("keep the file's owner: %w", err)
		}
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// rewrite returns data with the differences between before and after applied.
func rewrite(data []byte, before, after *KeyFile) ([]byte, error) {
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		out, err := json.MarshalIndent(after, "", "  ")
		return append(out, '\n'), err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	if err := editList(doc.Content[0], "owners", before.Owners, after.Owners, func(o FileOwner) string { return o.OwnerID }); err != nil {
		return nil, err
	}
	if err := editList(doc.Content[0], "keys", before.Keys, after.Keys, func(k FileKey) string { return k.KeyID }); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return nil, err
	}
	return out.Bytes(), enc.Close()
}

// editList brings the sequence called name under root from before to after,
// keeping the nodes (and so the comments) of items that did not change.
func editList[T any](root *yaml.Node, name string, before, after []T, id func(T) string) error {
	var seq *yaml.Node
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value == name {
			seq = root.Content[i+1]
		}
	}
	if seq == nil {
		if len(after) == 0 {
			return nil
		}
		seq = &yaml.Node{Kind: yaml.SequenceNode}
		root.Content = append(root.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: name}, seq)
	}
	old := make(map[string]int, len(before))
	for i, item := range before {
		old[id(item)] = i
	}
	nodes := make([]*yaml.Node, 0, len(after))
	for _, item := range after {
		i, had := old[id(item)]
		if had && reflect.DeepEqual(before[i], item) {
			nodes = append(nodes, seq.Content[i])
			continue
		}
		node := &yaml.Node{}
		if err := node.Encode(item); err != nil {
			return err
		}
		if had {
			node.HeadComment, node.LineComment, node.FootComment = seq.Content[i].HeadComment, seq.Content[i].LineComment, seq.Content[i].FootComment
		}
		nodes = append(nodes, node)
	}
	seq.Kind, seq.Tag, seq.Value, seq.Content = yaml.SequenceNode, "!!seq", "", nodes
	if len(nodes) > 0 {
		seq.Style = 0
	}
	return nil
}
