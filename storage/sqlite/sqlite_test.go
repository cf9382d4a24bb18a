package sqlite_test

import (
	"bytes"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/sqlite"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest"
)

func TestStore(t *testing.T) { storagetest.Run(t, fresh) }

func TestModel(t *testing.T) { storagetest.RunModel(t, fresh) }

func TestUpgrades(t *testing.T) {
	storagetest.RunUpgrades(t, "sqlite", func(t *testing.T, dump string) storagetest.Opener {
		file := filepath.Join(t.TempDir(), "mimi.db")
		db, err := sql.Open("sqlite3", file)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec(dump); err != nil {
			t.Fatal(err)
		}
		return func() (storage.Store, error) { return sqlite.Open(t.Context(), "file:"+file) }
	})
}

func BenchmarkStore(b *testing.B) { storagetest.Benchmark(b, fresh) }

func fresh(tb testing.TB) storagetest.Opener {
	file := "file:" + filepath.Join(tb.TempDir(), "a file%20?.db")
	return func() (storage.Store, error) {
		return sqlite.Open(tb.Context(), file)
	}
}

func TestConnectionString(t *testing.T) {
	for _, connection := range []string{"", "mimi.db", "file:", "file::memory:", "file://host/mimi.db",
		"postgres://host/mimi", "file:%zz"} {
		if store, err := sqlite.Open(t.Context(), connection); err == nil {
			t.Errorf("%q: opened", connection)
			store.Close()
		}
	}
	t.Chdir(t.TempDir())
	for _, connection := range []string{"file:relative.db", "file:./relative.db?mode=memory",
		"file://" + t.TempDir() + "/absolute.db"} {
		store, err := sqlite.Open(t.Context(), connection)
		if err != nil {
			t.Errorf("%q: %v", connection, err)
			continue
		}
		store.Close()
	}
	if _, err := os.Stat("relative.db"); err != nil {
		t.Error(err)
	}
}

// A copy of the files at the moment of a power cut has the committed changes.
func TestPowerCut(t *testing.T) {
	alive, dead := t.TempDir(), t.TempDir()
	store, err := sqlite.Open(t.Context(), "file:"+filepath.Join(alive, "mimi.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	content := &storage.Content{Data: []byte("committed")}
	if err := store.Apply(t.Context(), &storage.Change{Content: content}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"mimi.db", "mimi.db-wal"} {
		data, err := os.ReadFile(filepath.Join(alive, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dead, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	revived, err := sqlite.Open(t.Context(), "file:"+filepath.Join(dead, "mimi.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer revived.Close()
	if got, err := revived.Content(t.Context(), content.ID); err != nil || string(got) != "committed" {
		t.Fatalf("found %q, %v", got, err)
	}
}

// A file of another program is refused before anything in it changes.
func TestForeignFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "roomserver.db")
	db, err := sql.Open("sqlite3", file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("CREATE TABLE roomserver_events (event_nid INTEGER)"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, err = sqlite.Open(t.Context(), "file:"+file)
	want := file + " belongs to another program: it has the table roomserver_events"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Fatalf("opened a file of Dendrite's: %v", err)
	}
	if after, err := os.ReadFile(file); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file has changed (%v)", err)
	}
}

// Nobody but its owner can read a file: not a new one, and not one that an earlier version has made.
func TestPrivate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mimi.db")
	for range 2 {
		store, err := sqlite.Open(t.Context(), "file:"+file)
		if err != nil {
			t.Fatal(err)
		}
		for _, end := range append([]string{""}, sqlite.Besides...) {
			if info, err := os.Stat(file + end); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%q has mode %v, %v", end, info.Mode(), err)
			}
		}
		if err := errors.Join(store.Close(), os.Chmod(file, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNewerSchema(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mimi.db")
	store, err := sqlite.Open(t.Context(), "file:"+file)
	if err != nil {
		t.Fatal(err)
	}
	store.Close()
	db, err := sql.Open("sqlite3", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("INSERT INTO mimiport_schema_version (version_id, is_applied) VALUES (1000, 1)"); err != nil {
		t.Fatal(err)
	}
	_, err = sqlite.Open(t.Context(), "file:"+file)
	const newer = "the database has schema version 1000 and this program knows only version 15"
	if err == nil || !strings.Contains(err.Error(), newer) {
		t.Fatalf("opened a newer schema: %v", err)
	}
}

// A file gives space back to the file system after Forget.
func TestForgetShrinks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mimi.db")
	store, err := sqlite.Open(t.Context(), "file:"+file)
	if err != nil {
		t.Fatal(err)
	}
	size := func() int64 {
		t.Helper()
		if err := store.Close(); err != nil { // closing moves all writes into the file
			t.Fatal(err)
		}
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if store, err = sqlite.Open(t.Context(), "file:"+file); err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	empty := size()
	old := time.UnixMilli(1)
	var entries []storage.Entry
	for seq := range uint64(3000) {
		message := bytes.Repeat(binary.BigEndian.AppendUint64(nil, seq), 128)
		entries = append(entries, storage.Entry{
			GroupID: []byte("group"), Term: 1, Seq: seq, Kind: storage.EntryApplication, Message: message,
			Hash: sha256.Sum256(message), At: old,
		})
	}
	if err := store.Apply(t.Context(), &storage.Change{Entries: entries}); err != nil {
		t.Fatal(err)
	}
	full := size()
	if err := store.Forget(t.Context(), storage.Horizon{Log: old.Add(time.Second)}); err != nil {
		t.Fatal(err)
	}
	if after := size(); after > empty+(full-empty)/20 {
		t.Errorf("the file had %d bytes, and %d when it was empty; after Forget it has %d",
			full, empty, after)
	}
	if err := store.Close(); err != nil {
		t.Error(err)
	}
}
