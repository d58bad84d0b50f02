// Command bom says what the program is made of: the licences of everything that it
// links, and a software bill of materials of one binary. It reads the Go module
// cache and asks no network.
//
//	bom licences -o docs/licences.md -texts bin/third-party-licences.txt
//	bom sbom -version v1.2.3 -o bin/sbom.cdx.json bin/keysidecar
//
// It is a module of its own, so that what it needs stays out of the program's.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

// program is the package whose dependencies are listed.
const program = "github.com/keysidecar/keysidecar/cmd/keysidecar"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bom:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("want licences or sbom")
	}
	flags := flag.NewFlagSet("bom "+args[0], flag.ContinueOnError)
	root := flags.String("root", ".", "folder of the repository")
	out := flags.String("o", "", "file to write; standard output if empty")
	switch args[0] {
	case "licences":
		texts := flags.String("texts", "", "file to write the licences' texts to, which go with a binary")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		return licences(*root, *out, *texts)
	case "sbom":
		version := flags.String("version", "", "the binary's version; by default what the compiler noted")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		if flags.NArg() != 1 {
			return errors.New("sbom: want one binary")
		}
		return write(*out, func(w io.Writer) error { return writeSBOM(w, flags.Arg(0), *version) })
	}
	return fmt.Errorf("%q: want licences or sbom", args[0])
}

// licences lists the modules of the repository and writes what they permit. A
// licence that is not on the list of those allowed is an error, after everything
// was written.
func licences(root, out, texts string) error {
	list, err := listModules(root)
	if err != nil {
		return err
	}
	if err := write(out, func(w io.Writer) error { return writeTable(w, list) }); err != nil {
		return err
	}
	if texts != "" {
		if err := write(texts, func(w io.Writer) error { return writeTexts(w, list) }); err != nil {
			return err
		}
	}
	return refused(list)
}

// write calls to with the file named, or with standard output.
func write(name string, to func(io.Writer) error) (err error) {
	if name == "" {
		return to(os.Stdout)
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(to(f), f.Close())
}
