package sqlite

import (
	"path/filepath"
	"testing"
)

// A commit must reach the disk, and readers must not wait for the writer.
func TestPragmas(t *testing.T) {
	db, err := open(filepath.Join(t.TempDir(), "mimi.db"), 1, "_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "busy_timeout": "10000"} {
		var got string
		if err := db.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, %v; want %s", pragma, got, err, want)
		}
	}
}
