// Package engine opens the store in whichever database a connection string names.
package engine

import (
	"context"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/sqlite"
)

// Open opens an SQLite file for "file:…" and a PostgreSQL database, through a pool, for anything else. See the Open of either.
func Open(ctx context.Context, connection string, pool postgres.Pool) (*storage.Store, error) {
	if strings.HasPrefix(connection, "file:") {
		return sqlite.Open(ctx, connection)
	}
	return postgres.Open(ctx, connection, pool)
}
