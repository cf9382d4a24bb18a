package main

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/sqlite"
)

var digits = regexp.MustCompile("[0-9]+")

// docs/upgrade.md has a row for each schema version, and the very words of the programs.
func TestUpgradePage(t *testing.T) {
	text, err := os.ReadFile("../../docs/upgrade.md")
	if err != nil {
		t.Fatal(err)
	}
	steps, err := filepath.Glob("../../storage/internal/sqlstore/migrations/*.sql")
	if err != nil || len(steps) < 10 {
		t.Fatal(len(steps), err)
	}
	for _, step := range steps {
		version := strings.TrimLeft(digits.FindString(filepath.Base(step)), "0")
		if !strings.Contains(string(text), "\n| "+version+" | ") {
			t.Errorf("the page has no row for version %s", version)
		}
	}
	file := "file:" + filepath.Join(t.TempDir(), "mimi.db")
	store, err := sqlite.Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	page := strings.Join(strings.Fields(digits.ReplaceAllString(string(text), "N")), " ")
	for version, open := range map[int]func() error{
		1:    func() error { _, err := engine.OpenSnapshot(t.Context(), file); return err },
		1000: func() error { _, err := sqlite.Open(t.Context(), file); return err },
	} {
		setVersion(t, strings.TrimPrefix(file, "file:"), version)
		err := open()
		if err == nil {
			t.Fatalf("version %d was opened", version)
		}
		_, words, _ := strings.Cut(err.Error(), "storage: ")
		if !strings.Contains(page, "``` "+digits.ReplaceAllString(words, "N")+" ```") {
			t.Errorf("the page does not have %q", words)
		}
	}
}

func setVersion(t *testing.T, file string, version int) {
	t.Helper()
	db, err := sql.Open("sqlite3", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, s := range versionStatements(version) {
		if _, err := db.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
}

// versionStatements give a database another schema version, without its changes.
func versionStatements(version int) []string {
	return []string{
		fmt.Sprintf("DELETE FROM mimiport_schema_version WHERE version_id > %d", version),
		fmt.Sprintf("INSERT INTO mimiport_schema_version (version_id, is_applied) VALUES (%d, 1)", version),
	}
}
