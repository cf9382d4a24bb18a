package engine_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest/pgtest"
)

// A snapshot shows a store as it was, also while a server writes, and cannot write. It names that server on PostgreSQL,
// where one process can see another; on SQLite the server must be another process, as in the scripts of mimictl.
func TestSnapshot(t *testing.T) {
	server := pgtest.Start(t)
	for name, connection := range map[string]string{
		"SQLite": "file:" + filepath.Join(t.TempDir(), "mimi.db"), "PostgreSQL": server.Database(t),
	} {
		t.Run(name, func(t *testing.T) {
			store := open(t, connection)
			put := func(name string) error { return store.PutSetting(t.Context(), name, []byte("{}")) }
			if err := put("before"); err != nil {
				t.Fatal(err)
			}
			snapshot, err := engine.OpenSnapshot(t.Context(), connection)
			if err != nil {
				t.Fatal(err)
			}
			defer snapshot.Close()
			if _, err := snapshot.Setting(t.Context(), "before"); err != nil {
				t.Error(err)
			}
			if err := put("after"); err != nil {
				t.Fatal(err)
			}
			if _, err := snapshot.Setting(t.Context(), "after"); !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("it shows what came later: %v", err)
			}
			if err := snapshot.PutSetting(t.Context(), "mine", []byte("{}")); err == nil {
				t.Error("it writes")
			}
			if missing, err := snapshot.Missing(t.Context()); err != nil || len(missing) > 0 {
				t.Errorf("it lacks %q, %v", missing, err)
			}
			if said := snapshot.Beside(); name == "PostgreSQL" && !strings.Contains(said, "a server has") {
				t.Errorf("beside it: %q", said)
			}
			if err := engine.RequireEmpty(t.Context(), connection); err == nil {
				t.Error("it counts as empty")
			}
		})
	}
}

// A PostgreSQL database without the module's tables is not opened, and stays as it is.
func TestSnapshotOfNothing(t *testing.T) {
	connection := pgtest.Start(t).Database(t)
	for range 2 {
		_, err := engine.OpenSnapshot(t.Context(), connection)
		if err == nil || !strings.Contains(err.Error(), "the database has no tables of MIMI Portability") {
			t.Fatal(err)
		}
	}
	if err := engine.RequireEmpty(t.Context(), connection); err != nil {
		t.Error(err)
	}
	if err := open(t, connection).Close(); err != nil {
		t.Fatal(err)
	}
	removed, err := engine.Remove(t.Context(), connection)
	if err != nil || !slices.Contains(removed, "mimiport_groups") {
		t.Errorf("removed %q, %v", removed, err)
	}
	if _, err := engine.OpenSnapshot(t.Context(), connection); err == nil {
		t.Error("some tables are left")
	}
}
