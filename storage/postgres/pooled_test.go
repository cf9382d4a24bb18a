package postgres_test

import (
	"database/sql"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest/pgtest"
)

// testPooled: Open refuses a pooler with connections by transaction, at every attempt, and leaves no lock behind. A
// pooler with connections by session works like PostgreSQL itself.
func testPooled(t *testing.T, server *pgtest.Server) {
	database := server.Database(t)
	through := pgtest.Bouncer(t, server, "transaction", database)
	for range 3 {
		store, err := postgres.Open(t.Context(), through, hurried)
		if err == nil {
			store.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "a pooler hands out connections by transaction") {
			t.Errorf("pooling by transaction: %v", err)
		}
	}
	if locks := advisoryLocks(t, connect(t, database)); locks > 0 {
		t.Errorf("%d locks are left", locks)
	}
	through = pgtest.Bouncer(t, server, "session", database)
	testClaimsAt(t, through)
	testOverlapAt(t, through)
}

// advisoryLocks counts the advisory locks in a database.
func advisoryLocks(tb testing.TB, db *sql.DB) (locks int) {
	tb.Helper()
	err := db.QueryRow(`SELECT count(*) FROM pg_locks JOIN pg_database AS d ON d.oid = database
		WHERE locktype = 'advisory' AND datname = current_database()`).Scan(&locks)
	if err != nil {
		tb.Fatal(err)
	}
	return locks
}
