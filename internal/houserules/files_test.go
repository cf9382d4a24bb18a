package houserules

import (
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// notOurs are the folders whose files the project neither wrote nor keeps.
var notOurs = []string{".git", "node_modules", "dist", "_artifacts"}

// files yields the tree's files whose names end in one of the suffixes: the path, with slashes from the root, and the
// text.
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
