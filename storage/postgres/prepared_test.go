package postgres

import (
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest/pgtest"
)

// oneConnection opens a fresh database through one connection, with the deadlines of a store.
func oneConnection(t *testing.T) *sql.DB {
	t.Helper()
	c, err := newConnector(pgtest.Start(t).Database(t), serverName, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	db := c.open(Pool{MaxOpen: 1, MaxIdle: 1})
	t.Cleanup(func() { db.Close() })
	return db
}

// ask runs a text that adds n to a number.
func ask(t *testing.T, db *sql.DB, n int) {
	t.Helper()
	var sum int
	if err := db.QueryRowContext(t.Context(), fmt.Sprintf("SELECT $1::bigint + %d", n), 1).Scan(&sum); err != nil {
		t.Fatal(err)
	}
	if sum != n+1 {
		t.Errorf("1 and %d are %d", n, sum)
	}
}

// kept counts the statements that the connection of db has prepared.
func kept(t *testing.T, db *sql.DB) (n int) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM pg_prepared_statements").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestPreparedOnce: a connection prepares a text on its second run, and keeps a bounded number of them. Texts that run
// once are never prepared.
func TestPreparedOnce(t *testing.T) {
	db := oneConnection(t)
	for n := range 3 * maxPrepared {
		ask(t, db, n)
	}
	if n := kept(t, db); n != 0 {
		t.Errorf("%d statements that ran once are prepared", n)
	}
	for range 3 {
		ask(t, db, 1)
	}
	if n := kept(t, db); n != 1 {
		t.Errorf("%d statements are prepared, want 1", n)
	}
	for n := range 3 * maxPrepared {
		ask(t, db, n)
		ask(t, db, n)
	}
	if n := kept(t, db); n != maxPrepared {
		t.Errorf("%d statements are prepared, want %d", n, maxPrepared)
	}
}

// TestPreparedAfterLoss: a prepared statement works on after its connection is lost, and after its transaction failed.
func TestPreparedAfterLoss(t *testing.T) {
	db := oneConnection(t)
	for range 3 {
		ask(t, db, 1)
	}
	_, _ = db.ExecContext(t.Context(), "SELECT pg_terminate_backend(pg_backend_pid())")
	for range 3 {
		ask(t, db, 1)
	}
	for range 3 {
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.ExecContext(t.Context(), "SELECT 1 / $1::bigint", 0); err == nil {
			t.Error("a division by 0 succeeded")
		}
		if _, err := tx.ExecContext(t.Context(), "SELECT $1::bigint + 2", 1); err == nil {
			t.Error("a failed transaction goes on")
		}
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
		ask(t, db, 1)
		ask(t, db, 2)
	}
}
