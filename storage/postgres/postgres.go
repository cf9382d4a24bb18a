// Package postgres opens the store in a PostgreSQL database.
package postgres

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
	"github.com/pressly/goose/v3/database"

	"github.com/matrix-org/dendrite/contrib/mimi/storage/internal/sqlstore"
)

// Pool bounds the connections, with the meanings of database/sql.
type Pool struct {
	MaxOpen     int           // connections; 0 or less is no bound
	MaxIdle     int           // of them, kept while there is nothing to do; less than 0 keeps none
	MaxLifetime time.Duration // of a connection; 0 or less is no bound
}

// migrationLock is the advisory lock of whoever brings the schema up to date, a number of our own choosing.
const migrationLock = 0x6d696d69706f7274 // "mimiport"

// Open opens the database that a connection string of the homeserver's form names: "postgres://user@host/database". The tables
// are named so that it may be the homeserver's own. Processes that open one database at once take turns with its schema. Besides
// the pool there is one connection, which holds the claims (see storage.Store). See sqlstore.Open.
func Open(ctx context.Context, connection string, pool Pool) (*sqlstore.Store, error) {
	config, err := pq.NewConfig(connection)
	if err != nil {
		return nil, fmt.Errorf("postgres: connection string: %w", err)
	}
	config.BinaryParameters = true // one round trip for a statement, and bytes are sent as they are
	connector, err := pq.NewConnectorConfig(config)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	turn := sql.OpenDB(connector)
	defer turn.Close() // ends the session, and with it the lock
	turn.SetMaxOpenConns(1)
	if _, err := turn.ExecContext(ctx, "SELECT pg_advisory_lock($1)", int64(migrationLock)); err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(pool.MaxOpen)
	db.SetMaxIdleConns(pool.MaxIdle)
	db.SetConnMaxLifetime(pool.MaxLifetime)
	return sqlstore.Open(ctx, engine(&locks{db: sql.OpenDB(connector)}), db, db)
}

func engine(locks *locks) sqlstore.Engine {
	return sqlstore.Engine{
		Dialect:   database.DialectPostgres,
		Parameter: "$",
		Duplicate: func(err error) bool { return pq.As(err, pqerror.UniqueViolation) != nil },
		Transient: func(err error) bool {
			return pq.As(err, pqerror.TRSerializationFailure, pqerror.TRDeadlockDetected) != nil
		},
		Locks: locks,
		Hold:  "SELECT pg_advisory_xact_lock(hashtextextended($1, 1))", // claims are hashed with 0
	}
}
