package postgres_test

import (
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest/pgtest"
)

func TestStore(t *testing.T) {
	server := pgtest.Start(t)
	fresh := func(tb testing.TB) storagetest.Opener {
		database := server.Database(tb)
		return func() (delivery.Store, error) { return postgres.Open(tb.Context(), database) }
	}
	t.Run("Suite", func(t *testing.T) { storagetest.Run(t, fresh) })
	t.Run("Model", func(t *testing.T) { storagetest.RunModel(t, fresh) })
}
