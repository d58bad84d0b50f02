package config

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs_gen.go from the comments in config.go")

// fieldComments returns, by "Struct.Field", the comments in config.go.
func fieldComments(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	comments := make(map[string]string)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if s, ok := spec.Type.(*ast.StructType); ok {
			for _, field := range s.Fields.List {
				for _, name := range field.Names {
					comments[spec.Name.Name+"."+name.Name] = strings.Join(strings.Fields(field.Doc.Text()), " ")
				}
			}
		}
		return false
	})
	return comments
}

// docOf finds the comment of the field that s describes.
func docOf(s *Setting, comments map[string]string) string {
	t := reflect.TypeFor[Config]()
	for _, i := range s.index[:len(s.index)-1] {
		t = t.Field(i).Type
	}
	return comments[t.Name()+"."+t.Field(s.index[len(s.index)-1]).Name]
}

// The descriptions in docs, flags and tables are the comments of the struct and
// nothing else: a comment changed without go generate would make them differ.
func TestFieldDocsAreTheCommentsOfTheStruct(t *testing.T) {
	comments := fieldComments(t)
	var b bytes.Buffer
	b.WriteString("// Code generated from the comments in config.go by go generate; DO NOT EDIT.\n\npackage config\n\n" +
		"// fieldDocs holds for each key the comment of its field in Config.\nvar fieldDocs = map[string]string{\n")
	for _, s := range Settings() {
		fmt.Fprintf(&b, "\t%q: %q,\n", s.Key, docOf(&s, comments))
	}
	b.WriteString("}\n")
	want, err := format.Source(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("docs_gen.go", want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile("docs_gen.go")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want) {
		t.Error("docs_gen.go is not what config.go says: run go generate ./internal/config")
	}
}
