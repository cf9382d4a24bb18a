// Package engine opens a store in the database that a connection string names.
package engine

import (
	"context"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/storage/internal/sqlstore"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/sqlite"
)

// Store is a store in SQLite or PostgreSQL. It implements storage.Store.
type Store = sqlstore.Store

// Open opens an SQLite file for "file:…". For anything else it opens a PostgreSQL database with a pool of connections.
// See sqlite.Open and postgres.Open.
func Open(ctx context.Context, connection string, pool postgres.Pool) (*Store, error) {
	if strings.HasPrefix(connection, "file:") {
		return sqlite.Open(ctx, connection)
	}
	return postgres.Open(ctx, connection, pool)
}

// Copy copies a whole store into an empty one in one transaction. Then it reads the copy back and compares. During the
// copy nobody may write to either store. Copy returns the contents of each table. If the destination has rows, or the
// copy differs, Copy returns an error and the destination does not change.
func Copy(ctx context.Context, from, to *Store) ([]sqlstore.Copied, error) {
	return sqlstore.Copy(ctx, from, to)
}
