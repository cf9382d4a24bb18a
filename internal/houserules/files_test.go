package houserules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// notOurs lists the folders whose files are not part of the project.
var notOurs = []string{".git", "node_modules", "dist", "build", "_artifacts"}

// files yields the files of the tree whose names end in one of the suffixes: the path from the root, with slashes, and
// the text.
func files(t *testing.T, suffixes ...string) iter.Seq2[string, string] {
	t.Helper()
	return func(yield func(path, text string) bool) {
		err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case entry.IsDir() && slices.Contains(notOurs, entry.Name()):
				return fs.SkipDir
			case entry.IsDir() || !slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(name, s) }):
				return nil
			}
			text, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			path, err := filepath.Rel(root, name)
			if err == nil && !yield(filepath.ToSlash(path), string(text)) {
				err = fs.SkipAll
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// sources parses the Go files of this module that are not tests, and returns them by path.
func sources(t *testing.T, fset *token.FileSet) map[string]*ast.File {
	t.Helper()
	parsed := make(map[string]*ast.File)
	for path, text := range files(t, ".go") {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, path, text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		parsed[path] = file
	}
	return parsed
}
