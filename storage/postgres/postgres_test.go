package postgres_test

import (
	"database/sql"
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
	server := pgtest.Start(t)
	t.Run("Suite", func(t *testing.T) { storagetest.Run(t, on(server)) })
	t.Run("Model", func(t *testing.T) {
		database := server.Database(t) // one for all: to create a hundred takes longer than the test
		storagetest.RunModel(t, func(tb testing.TB) storagetest.Opener {
			return func() (delivery.Store, error) {
				store, err := postgres.Open(tb.Context(), database)
				empty(tb, database)
				return store, err
			}
		})
	})
}

// empty deletes all rows but the schema's version.
func empty(tb testing.TB, database string) {
	db, err := sql.Open("postgres", database)
	if err != nil {
		tb.Fatal(err)
	}
	defer db.Close()
	const each = `DO $$ DECLARE name text; BEGIN
		FOR name IN SELECT tablename FROM pg_tables WHERE tablename LIKE 'mimiport_%' AND tablename <> 'mimiport_schema_version'
		LOOP EXECUTE 'DELETE FROM ' || name; END LOOP; END $$`
	if _, err := db.Exec(each); err != nil {
		tb.Fatal(err)
	}
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
