package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"io"
	"os"
	"path"
	"path/filepath"
	"time"
)

// samples are the files that go into every archive beside the program.
var samples = []string{
	"CHANGELOG.md", "LICENSE", "README.md",
	"configs/relay.yaml", "configs/sidecar.yaml",
}

// archive builds for p and packs what belongs to it.
func (r *release) archive(ctx context.Context, p platform) error {
	program, err := r.build(ctx, p)
	if err != nil {
		return err
	}
	name := "keysidecar_" + r.version + "_" + p.os + "_" + p.arch
	f, err := os.Create(filepath.Join(r.out, name+".tar.gz"))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	a := newArchive(f, name, r.modified)
	if err := a.add("keysidecar", 0o755, program); err != nil {
		return err
	}
	for _, file := range samples {
		if err := a.addFile(file, filepath.Join(r.root, file)); err != nil {
			return err
		}
	}
	for _, file := range r.within {
		if err := a.addFile(filepath.Base(file), file); err != nil {
			return err
		}
	}
	if err := a.close(); err != nil {
		return err
	}
	return f.Close()
}

// archive is a compressed tar file with one folder, in which nothing depends on when,
// where and by whom it was made.
type archive struct {
	tar      *tar.Writer
	gzip     *gzip.Writer
	folder   string
	modified time.Time
}

func newArchive(w io.Writer, folder string, modified time.Time) *archive {
	z := gzip.NewWriter(w) // no name and no time in its header
	return &archive{tar: tar.NewWriter(z), gzip: z, folder: folder, modified: modified}
}

func (a *archive) addFile(name, file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return a.add(name, 0o644, data)
}

func (a *archive) add(name string, mode int64, data []byte) error {
	err := a.tar.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: path.Join(a.folder, name), Mode: mode, Size: int64(len(data)), ModTime: a.modified, Format: tar.FormatUSTAR,
	})
	if err != nil {
		return err
	}
	_, err = a.tar.Write(data)
	return err
}

func (a *archive) close() error {
	if err := a.tar.Close(); err != nil {
		return err
	}
	return a.gzip.Close()
}
