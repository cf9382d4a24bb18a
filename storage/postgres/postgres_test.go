package postgres_test

import (
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest/pgtest"
)

var pool = postgres.Pool{MaxOpen: 10, MaxIdle: 10}

// on returns a function that makes stores in databases of a server.
func on(server *pgtest.Server) func(testing.TB) storagetest.Opener {
	return func(tb testing.TB) storagetest.Opener {
		database := server.Database(tb)
		return func() (storage.Store, error) { return postgres.Open(tb.Context(), database, pool) }
	}
}

// All tests share one server: a server takes longer to start than most tests run.
func TestPostgres(t *testing.T) {
	server := pgtest.Start(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *pgtest.Server)
	}{
		{"Store", func(t *testing.T, server *pgtest.Server) { storagetest.Run(t, on(server)) }},
		{"Model", testModel},
		{"Upgrades", testUpgrades},
		{"RacingMigrations", testRacingMigrations},
		{"NewerSchema", testNewerSchema},
		{"Claims", testClaims},
		{"Overlap", testOverlap},
		{"RemovalWaitsForAddition", testRemovalWaitsForAddition},
		{"BlackHole", testBlackHole},
		{"Pooled", testPooled},
		{"Turn", testTurn},
		{"TwoHosts", testTwoHosts},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, server) })
	}
}

func testModel(t *testing.T, server *pgtest.Server) {
	database := server.Database(t) // one for all: a hundred databases would take longer than the test
	store, err := postgres.Open(t.Context(), database, pool)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	db := connect(t, database)
	storagetest.RunModel(t, func(tb testing.TB) storagetest.Opener {
		return func() (storage.Store, error) { return unclosed{store}, empty(db) }
	})
}

// unclosed is a store whose Close does nothing.
type unclosed struct{ storage.Store }

func (unclosed) Close() error { return nil }

func testUpgrades(t *testing.T, server *pgtest.Server) {
	storagetest.RunUpgrades(t, "postgres", func(t *testing.T, dump string) storagetest.Opener {
		database := server.Database(t)
		db := connect(t, database)
		if _, err := db.Exec(dump); err != nil {
			t.Fatal(err)
		}
		return func() (storage.Store, error) { return postgres.Open(t.Context(), database, pool) }
	})
}

// Several processes may open an empty database at once.
func testRacingMigrations(t *testing.T, server *pgtest.Server) {
	database := server.Database(t)
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			store, err := postgres.Open(t.Context(), database, pool)
			if err != nil {
				t.Error(err)
				return
			}
			store.Close()
		})
	}
	wait.Wait()
}

// testTurn: a process waits while another one updates the schema. It logs that it waits. In the end its error says
// which process has the lock.
func testTurn(t *testing.T, server *pgtest.Server) {
	database := server.Database(t)
	holder := connect(t, database)
	holder.SetMaxOpenConns(1)
	log := new(strings.Builder)
	take := func() error {
		db := connect(t, database)
		db.SetMaxOpenConns(1)
		return postgres.TakeTurn(t.Context(), db, time.Millisecond, slog.New(slog.NewTextHandler(log, nil)))
	}
	var pid int
	if err := holder.QueryRow("SELECT pg_backend_pid()").Scan(&pid); err != nil {
		t.Fatal(err)
	}
	if err := postgres.TakeTurn(t.Context(), holder, time.Millisecond, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	err := take()
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("held by process %d ", pid)) {
		t.Errorf("got %v, want that %d holds the lock", err, pid)
	}
	if !strings.Contains(log.String(), "waiting for it") {
		t.Errorf("the log says %q", log)
	}
}

func testNewerSchema(t *testing.T, server *pgtest.Server) {
	database := server.Database(t)
	store, err := postgres.Open(t.Context(), database, pool)
	if err != nil {
		t.Fatal(err)
	}
	store.Close()
	const newer = "INSERT INTO mimiport_schema_version (version_id, is_applied) VALUES (1000, true)"
	if _, err := connect(t, database).Exec(newer); err != nil {
		t.Fatal(err)
	}
	_, err = postgres.Open(t.Context(), database, pool)
	if err == nil || !strings.Contains(err.Error(), "schema version 1000") {
		t.Fatalf("opened a newer schema: %v", err)
	}
}

// A claim belongs to one process, and ends with that process.
func testClaims(t *testing.T, server *pgtest.Server) { testClaimsAt(t, server.Database(t)) }

func testClaimsAt(t *testing.T, database string) {
	open := func() storage.Store {
		store, err := postgres.Open(t.Context(), database, pool)
		if err != nil {
			t.Fatal(err)
		}
		return store
	}
	one, other := open(), open()
	defer other.Close()
	first := storage.Row{Destination: "a", Queue: "q", Order: 1}
	second := storage.Row{Destination: "a", Queue: "q", Order: 2}
	elsewhere := storage.Row{Destination: "b", Queue: "q", Order: 1}
	if err := one.Apply(t.Context(), &storage.Change{Rows: []storage.Row{first, second, elsewhere}}); err != nil {
		t.Fatal(err)
	}
	claim := func(s storage.Store, row storage.Row, want error) func() {
		t.Helper()
		release, err := s.Claim(t.Context(), row.Key())
		if !errors.Is(err, want) {
			t.Fatalf("claimed with %v, want %v", err, want)
		}
		return release
	}
	release := claim(one, first, nil)
	claim(other, first, storage.ErrConflict)
	claim(other, elsewhere, nil)
	claim(one, elsewhere, storage.ErrConflict)
	release()
	claim(other, second, storage.ErrNotFound) // not the first of its queue
	claim(one, first, nil)
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	for err := storage.ErrConflict; errors.Is(err, storage.ErrConflict); { // until the server notices
		_, err = other.Claim(t.Context(), first.Key())
		if err != nil && !errors.Is(err, storage.ErrConflict) {
			t.Fatal(err)
		}
	}
}

// connect opens a second connection to a store's database.
func connect(tb testing.TB, database string) *sql.DB {
	tb.Helper()
	db, err := sql.Open("postgres", database)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { db.Close() })
	return db
}

// empty deletes all rows except the schema's version.
func empty(db *sql.DB) error {
	_, err := db.Exec(`DO $$ DECLARE name text; BEGIN
		FOR name IN SELECT tablename FROM pg_tables
			WHERE tablename LIKE 'mimiport_%' AND tablename <> 'mimiport_schema_version'
		LOOP EXECUTE 'DELETE FROM ' || name; END LOOP; END $$`)
	return err
}

func TestConnectionString(t *testing.T) {
	for _, connection := range []string{"postgres://%zz", "nonsense",
		"postgres://nobody@/nowhere?host=" + t.TempDir() + "&sslmode=disable"} {
		if store, err := postgres.Open(t.Context(), connection, pool); err == nil {
			t.Errorf("%q: opened", connection)
			store.Close()
		}
	}
}

// A row must become due if one transaction adds it while another removes the only row of its queue. The test stops the
// transaction that adds when it has reached the queue and has not committed.
func testRemovalWaitsForAddition(t *testing.T, server *pgtest.Server) {
	database := server.Database(t)
	store, err := postgres.Open(t.Context(), database, pool)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	db := connect(t, database)
	apply := func(c *storage.Change) {
		if err := store.Apply(t.Context(), c); err != nil {
			t.Error(err)
		}
	}
	first := storage.Row{Destination: "a", Queue: "q", Order: 1}
	second := storage.Row{Destination: "a", Queue: "q", Order: 2}
	other := storage.Row{Destination: "z", Queue: "q", Order: 1}
	apply(&storage.Change{Rows: []storage.Row{first}})

	barrier, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	const barred = "INSERT INTO mimiport_queues (destination, queue, row_order, due_at) VALUES ('z', 'q', 0, 0)"
	if _, err := barrier.Exec(barred); err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	wait.Go(func() { apply(&storage.Change{Rows: []storage.Row{second, other}}) })
	blocked(t, db, 1)
	wait.Go(func() { apply(&storage.Change{Done: []storage.RowKey{first.Key()}}) })
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

// blocked waits until that many sessions wait for locks.
func blocked(t *testing.T, db *sql.DB, want int) {
	t.Helper()
	for waiting := -1; waiting != want; {
		const count = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"
		if err := db.QueryRowContext(t.Context(), count).Scan(&waiting); err != nil {
			t.Fatal(err)
		}
	}
}
