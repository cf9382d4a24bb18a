package postgres_test

import (
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest/pgtest"
)

// on makes stores in databases of a server's.
func on(server *pgtest.Server) func(testing.TB) storagetest.Opener {
	return func(tb testing.TB) storagetest.Opener {
		database := server.Database(tb)
		return func() (delivery.Store, error) { return postgres.Open(tb.Context(), database) }
	}
}

func TestStore(t *testing.T) {
	fresh := on(pgtest.Start(t))
	t.Run("Suite", func(t *testing.T) { storagetest.Run(t, fresh) })
	t.Run("Model", func(t *testing.T) { storagetest.RunModel(t, fresh) })
}

func BenchmarkStore(b *testing.B) { storagetest.Benchmark(b, on(pgtest.Start(b))) }

func TestConnectionString(t *testing.T) {
	for _, connection := range []string{"postgres://%zz", "nonsense", "postgres://nobody@/nowhere?host=" + t.TempDir() + "&sslmode=disable"} {
		if store, err := postgres.Open(t.Context(), connection); err == nil {
			t.Errorf("%q: opened", connection)
			store.Close()
		}
	}
}
