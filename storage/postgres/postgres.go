// Package postgres opens the store in a PostgreSQL database.
package postgres

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
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
	unhurried, err := newConnector(connection, serverName, 0) // a change of the schema may take any time
	if err != nil {
		return nil, err
	}
	hurried, err := newConnector(connection, serverName, pool.Patience)
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

// OpenSnapshot opens a database as it is at one moment, for reading only. It changes nothing. See sqlstore.Snapshot.
func OpenSnapshot(ctx context.Context, connection string) (*sqlstore.Store, error) {
	c, err := newConnector(connection, readerName, 0)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(c)
	db.SetMaxOpenConns(1)
	beside, err := users(ctx, db)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("postgres: %w", err), db.Close())
	}
	return sqlstore.Snapshot(ctx, engine(nil), db, beside)
}

// RequireEmpty fails if a table of the module in a database has rows. It changes nothing.
func RequireEmpty(ctx context.Context, connection string) error {
	c, err := newConnector(connection, readerName, 0)
	if err != nil {
		return err
	}
	db := sql.OpenDB(c)
	return errors.Join(sqlstore.RequireEmpty(ctx, engine(nil), db), db.Close())
}

// Remove drops the module's tables in a database, in one transaction. It returns their names.
func Remove(ctx context.Context, connection string) (removed []string, err error) {
	c, err := newConnector(connection, readerName, 0)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(c)
	defer db.Close()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	defer tx.Rollback() // without effect after the commit
	names, err := sqlstore.TableNames(ctx, engine(nil), tx)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	for _, name := range names {
		if !strings.HasPrefix(name, sqlstore.Prefix) {
			continue
		}
		if _, err := tx.ExecContext(ctx, "DROP TABLE "+pq.QuoteIdentifier(name)); err != nil {
			return nil, fmt.Errorf("postgres: %w", err)
		}
		removed = append(removed, name)
	}
	return removed, tx.Commit()
}

// users describes the servers of this module that have a database open, or returns "". It does not see those whose
// connection string has an application_name.
func users(ctx context.Context, db *sql.DB) (string, error) {
	var count int
	err := db.QueryRowContext(ctx, `SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name = $1 AND pid <> pg_backend_pid()`, serverName).Scan(&count)
	if err != nil || count == 0 {
		return "", err
	}
	return fmt.Sprintf("a server has %d connections to the database", count), nil
}

// engine describes PostgreSQL. locks is nil for a database that is open for reading.
func engine(locks sqlstore.Locks) sqlstore.Engine {
	return sqlstore.Engine{
		Dialect:   database.DialectPostgres,
		Parameter: "$",
		Tables:    "SELECT tablename FROM pg_tables WHERE schemaname = ANY (current_schemas(false))",
		Duplicate: func(err error) bool { return pq.As(err, pqerror.UniqueViolation) != nil },
		Transient: func(err error) bool {
			return pq.As(err, pqerror.TRSerializationFailure, pqerror.TRDeadlockDetected) != nil
		},
		Locks: locks,
		Hold:  "SELECT pg_advisory_xact_lock(hashtextextended($1, 1))", // claims use the seed 0
	}
}
