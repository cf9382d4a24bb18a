package postgres_test

import (
	"database/sql"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest/pgtest"
)

var pool = postgres.Pool{MaxOpen: 10, MaxIdle: 10}

// on makes stores in databases of a server's.
func on(server *pgtest.Server) func(testing.TB) storagetest.Opener {
	return func(tb testing.TB) storagetest.Opener {
		database := server.Database(tb)
		return func() (delivery.Store, error) { return postgres.Open(tb.Context(), database, pool) }
	}
}

func TestStore(t *testing.T) {
	server := pgtest.Start(t)
	t.Run("Suite", func(t *testing.T) { storagetest.Run(t, on(server)) })
	t.Run("Model", func(t *testing.T) {
		database := server.Database(t) // one for all: to create a hundred takes longer than the test
		storagetest.RunModel(t, func(tb testing.TB) storagetest.Opener {
			return func() (delivery.Store, error) {
				store, err := postgres.Open(tb.Context(), database, pool)
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
		if store, err := postgres.Open(t.Context(), connection, pool); err == nil {
			t.Errorf("%q: opened", connection)
			store.Close()
		}
	}
}

// A row that is added to a queue while its only row is removed must become due. The test holds the transaction that adds at a
// point where it has come to the queue and not yet to its end.
func TestRemovalWaitsForAddition(t *testing.T) {
	database := pgtest.Start(t).Database(t)
	store, err := postgres.Open(t.Context(), database, pool)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	db, err := sql.Open("postgres", database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	apply := func(c *delivery.Change) {
		if err := store.Apply(t.Context(), c); err != nil {
			t.Error(err)
		}
	}
	first := delivery.Row{Destination: "a", Queue: "q", Order: 1}
	second := delivery.Row{Destination: "a", Queue: "q", Order: 2}
	other := delivery.Row{Destination: "z", Queue: "q", Order: 1}
	apply(&delivery.Change{Rows: []delivery.Row{first}})

	barrier, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := barrier.Exec("INSERT INTO mimiport_queues (destination, queue, row_order, due_at) VALUES ('z', 'q', 0, 0)"); err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	wait.Go(func() { apply(&delivery.Change{Rows: []delivery.Row{second, other}}) })
	blocked(t, db, 1)
	wait.Go(func() { apply(&delivery.Change{Done: []delivery.RowKey{first.Key()}}) })
	blocked(t, db, 2)
	if err := barrier.Rollback(); err != nil {
		t.Fatal(err)
	}
	wait.Wait()
	rows, _, err := store.Due(t.Context(), time.Now(), 10)
	if err != nil || len(rows) != 2 || rows[0].Key() != second.Key() {
		t.Fatalf("due: %v, %v; want the second row of a and the row of z", rows, err)
	}
}

// blocked waits until so many transactions wait for others.
func blocked(t *testing.T, db *sql.DB, want int) {
	t.Helper()
	for waiting := -1; waiting != want; {
		if err := db.QueryRowContext(t.Context(), "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted").Scan(&waiting); err != nil {
			t.Fatal(err)
		}
	}
}
