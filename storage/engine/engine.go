// Package engine opens the store in whichever database a connection string names.
package engine

import (
	"context"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/storage/internal/sqlstore"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/sqlite"
)

// Store is a store in either database. It implements storage.Store.
type Store = sqlstore.Store

// Open opens an SQLite file for "file:…" and a PostgreSQL database, through a pool, for anything else. See the Open of
// either.
func Open(ctx context.Context, connection string, pool postgres.Pool) (*Store, error) {
	if strings.HasPrefix(connection, "file:") {
		return sqlite.Open(ctx, connection)
	}
	return postgres.Open(ctx, connection, pool)
}

// Copy copies all of a store into an empty one, in one transaction, reads it back there, and compares. Nobody may write
// to either meanwhile. It returns what each table holds now. When the destination has a row already, or what it gives
// back is not what it was given, that is an error and the destination is as it was.
func Copy(ctx context.Context, from, to *Store) ([]sqlstore.Copied, error) {
	return sqlstore.Copy(ctx, from, to)
}
