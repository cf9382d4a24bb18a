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
	if IsFile(connection) {
		return sqlite.Open(ctx, connection)
	}
	return postgres.Open(ctx, connection, pool)
}

// OpenSnapshot opens the database that Open would open, as it is at one moment, for reading only. It creates nothing
// and changes nothing. See sqlite.OpenSnapshot and postgres.OpenSnapshot.
func OpenSnapshot(ctx context.Context, connection string) (*Store, error) {
	if IsFile(connection) {
		return sqlite.OpenSnapshot(ctx, connection)
	}
	return postgres.OpenSnapshot(ctx, connection)
}

// IsFile reports whether a connection string names an SQLite file.
func IsFile(connection string) bool { return strings.HasPrefix(connection, "file:") }

// RequireEmpty fails if the module's tables in a database have rows, or if a file belongs to another program. A file
// that does not exist is empty. RequireEmpty changes nothing.
func RequireEmpty(ctx context.Context, connection string) error {
	if IsFile(connection) {
		return sqlite.RequireEmpty(ctx, connection)
	}
	return postgres.RequireEmpty(ctx, connection)
}

// Remove removes the module's tables with everything in them: a whole SQLite file, or the tables in a PostgreSQL
// database. It returns what it has removed, for people. No other process may use them.
func Remove(ctx context.Context, connection string) (removed []string, err error) {
	if IsFile(connection) {
		return sqlite.Remove(connection)
	}
	return postgres.Remove(ctx, connection)
}

// Copy copies a whole store into an empty one in one transaction. Then it reads the copy back and compares. During the
// copy nobody may write to either store. Copy returns the contents of each table. If the destination has rows, or the
// copy differs, Copy returns an error and the destination does not change.
func Copy(ctx context.Context, from, to *Store) ([]sqlstore.Copied, error) {
	return sqlstore.Copy(ctx, from, to)
}

// CopyGone copies the groups that are not here any more into an empty store. See sqlstore.CopyGone.
func CopyGone(ctx context.Context, from, to *Store) error { return sqlstore.CopyGone(ctx, from, to) }
