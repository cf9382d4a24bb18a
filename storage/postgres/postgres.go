// Package postgres opens the store in a PostgreSQL database.
package postgres

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
	"github.com/pressly/goose/v3/database"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// maxConnections bounds the pool.
const maxConnections = 10

// Open opens the database that a connection string of the homeserver's form names: "postgres://user@host/database". The tables
// are named so that it may be the homeserver's own. See storage.Open.
func Open(ctx context.Context, connection string) (*storage.Store, error) {
	config, err := pq.NewConfig(connection)
	if err != nil {
		return nil, fmt.Errorf("postgres: connection string: %w", err)
	}
	config.BinaryParameters = true // one round trip for a statement, and bytes are sent as they are
	connector, err := pq.NewConnectorConfig(config)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(maxConnections)
	db.SetMaxIdleConns(maxConnections)
	return storage.Open(ctx, engine, db, db)
}

var engine = storage.Engine{
	Dialect:   database.DialectPostgres,
	Parameter: "$",
	Duplicate: func(err error) bool { return pq.As(err, pqerror.UniqueViolation) != nil },
	Transient: func(err error) bool {
		return pq.As(err, pqerror.TRSerializationFailure, pqerror.TRDeadlockDetected) != nil
	},
}
