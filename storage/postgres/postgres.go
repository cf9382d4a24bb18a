// Package postgres opens the store in a PostgreSQL database.
package postgres

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
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

	// Patience is how long the server may keep silent when it is asked something, before it counts as gone; 0 is for
	// ever. A call fails then, and its outcome is unknown. A statement waits half as long for a lock.
	Patience time.Duration

	Log *slog.Logger // for what takes long at the start; nil for none
}

// Open opens the database that a connection string of the homeserver's form names: "postgres://user@host/database", or
// "postgres://user@/database?host=one,two". Of several hosts it takes the one that can be written to. The tables
// are named so that it may be the homeserver's own. Processes that open one database at once take turns with its
// schema. Besides the pool there is one connection, which holds the claims (see storage.Store). Open fails for a pooler
// that hands out connections by transaction. See sqlstore.Migrate.
func Open(ctx context.Context, connection string, pool Pool) (*sqlstore.Store, error) {
	unhurried, err := newConnector(connection, 0) // to change the schema may take any time
	if err != nil {
		return nil, err
	}
	hurried, err := newConnector(connection, pool.Patience)
	if err != nil {
		return nil, err
	}
	if err := requireSessions(ctx, unhurried); err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	turn := sql.OpenDB(unhurried)
	defer turn.Close() // ends the session, and with it the lock
	turn.SetMaxOpenConns(1)
	if err := takeTurn(ctx, turn, turnPatience, cmp.Or(pool.Log, slog.New(slog.DiscardHandler))); err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	schema := unhurried.open(pool)
	defer schema.Close()
	if err := sqlstore.Migrate(ctx, schema, database.DialectPostgres); err != nil {
		return nil, err
	}
	db := hurried.open(pool)
	return sqlstore.New(engine(newLocks(sql.OpenDB(hurried))), db, db), nil
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
