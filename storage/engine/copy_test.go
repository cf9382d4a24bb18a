package engine_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/internal/sqlstore"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest/pgtest"
)

func open(t *testing.T, connection string) *engine.Store {
	t.Helper()
	store, err := engine.Open(t.Context(), connection, postgres.Pool{MaxOpen: 4, MaxIdle: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

// A store copied from SQLite to PostgreSQL and on to another SQLite file has the same contents.
func TestCopy(t *testing.T) {
	file := "file:" + filepath.Join(t.TempDir(), "mimi.db")
	from := open(t, file)
	want := storagetest.Fill(t, from)
	var sums [][]sqlstore.Copied
	for _, connection := range []string{pgtest.Start(t).Database(t), "file:" + filepath.Join(t.TempDir(), "back.db")} {
		to := open(t, connection)
		copied, err := engine.Copy(t.Context(), from, to)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range copied {
			if c.Rows == 0 {
				t.Errorf("table %s had no rows to copy", c.Table)
			}
		}
		if diff := cmp.Diff(want, storagetest.Dump(t, to)); diff != "" {
			t.Errorf("the copy differs (-want +got):\n%s", diff)
		}
		if again, err := engine.Copy(t.Context(), from, to); err == nil || !strings.Contains(err.Error(), "not empty") {
			t.Errorf("copied onto a full database: %v, %v", again, err)
		}
		sums = append(sums, copied)
		from = to
	}
	if diff := cmp.Diff(sums[0], sums[1]); diff != "" {
		t.Errorf("the engines have different sums:\n%s", diff)
	}
}
