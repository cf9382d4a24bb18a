package memory_test

import (
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest"
)

func TestStore(t *testing.T) {
	storagetest.Run(t, func(testing.TB) storagetest.Opener {
		var store *memory.Store
		return func() (storage.Store, error) {
			if store == nil {
				store = memory.New()
			}
			return store, nil
		}
	})
}
