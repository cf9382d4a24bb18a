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

// Pool bounds the connections. The bounds mean the same as in database/sql.
type Pool struct {
	MaxOpen     int           // connections; 0 or less is no bound
	MaxIdle     int           // idle connections that stay open; less than 0 is none
	MaxLifetime time.Duration // of a connection; 0 or less is no bound

	// Patience is the longest silence of a server after a question; 0 is for ever. After it, the server counts as gone:
	// the call fails, and its outcome is unknown. A statement waits half as long for a lock.
	Patience time.Duration

	Log *slog.Logger // reports a slow start; nil for none
}

// Open opens a PostgreSQL database. The connection string has the homeserver's form: "postgres://user@host/database",
// or "postgres://user@/database?host=one,two". If it has several hosts, Open takes one that accepts writes. The
// database can be the homeserver's own: the names of the tables have a prefix. Processes that open one database at once
// take turns with its schema. One connection outside the pool holds the claims (see storage.Queue). Open fails for a
// pooler that hands out connections by transaction. See sqlstore.Migrate.
func Open(ctx context.Context, connection string, pool Pool) (*sqlstore.Store, error) {
	unhurried, err := newConnector(connection, 0) // a change of the schema may take any time
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
	defer turn.Close() // this ends the session, and so frees the lock
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
		Hold:  "SELECT pg_advisory_xact_lock(hashtextextended($1, 1))", // claims use the seed 0
	}
}
