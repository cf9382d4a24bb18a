package sqlite_test

import (
	"path/filepath"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/sqlite"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest"
)

func TestStore(t *testing.T) { storagetest.Run(t, fresh) }

func TestModel(t *testing.T) { storagetest.RunModel(t, fresh) }

func fresh(tb testing.TB) storagetest.Opener {
	file := "file:" + filepath.Join(tb.TempDir(), "a file%20?.db")
	return func() (delivery.Store, error) {
		return sqlite.Open(tb.Context(), file)
	}
}
