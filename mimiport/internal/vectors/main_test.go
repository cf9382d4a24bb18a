package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestFilesAreCurrent fails when the files in testdata differ from the output of this program: run go generate
// ./mimiport.
func TestFilesAreCurrent(t *testing.T) {
	const dir = "../../testdata"
	want, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range want {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s is not what the generator writes (%v)", name, err)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) != len(want) {
		t.Errorf("%d files, the generator writes %d (%v)", len(files), len(want), err)
	}
}
