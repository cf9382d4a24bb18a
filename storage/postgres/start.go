package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

// migrationLock is the number of the advisory lock for changes of the schema.
const migrationLock = 0x6d696d69706f7274 // "mimiport"

// turnPatience is the longest wait for another process that updates the schema.
const turnPatience = time.Minute

// takeTurn takes the lock on the schema with the only connection of a pool. After patience it fails with an error that
// says who has the lock.
func takeTurn(ctx context.Context, db *sql.DB, patience time.Duration, log *slog.Logger) error {
	var ok bool
	err := db.QueryRowContext(ctx, "SELECT pg_try_advisory_lock($1)", int64(migrationLock)).Scan(&ok)
	if err != nil || ok {
		return err
	}
	log.WarnContext(ctx, "another process holds the lock on the database's schema: waiting for it", "delay", patience)
	if _, err := db.ExecContext(ctx, fmt.Sprintf("SET lock_timeout = %d", patience.Milliseconds())); err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, "SELECT pg_advisory_lock($1)", int64(migrationLock))
	if pq.As(err, pqerror.LockNotAvailable) == nil {
		return err
	}
	holder := "nobody"
	err = db.QueryRowContext(ctx, `SELECT format(
			'process %s of PostgreSQL, for a client at %s', pid, coalesce(client_addr::text, 'a socket'))
		FROM pg_locks JOIN pg_stat_activity USING (pid)
		WHERE locktype = 'advisory' AND granted AND (classid::bigint << 32 | objid::bigint) = $1 AND objsubid = 1`,
		int64(migrationLock)).Scan(&holder)
	const held = "the lock on the database's schema was not free for %s: it is held by %s"
	return errors.Join(fmt.Errorf(held, patience, holder), err)
}

// errPooled refuses a pooler that breaks claims.
var errPooled = errors.New("a pooler hands out connections by transaction: it must do so by session " +
	"(pool_mode = session), or the connection string must lead to PostgreSQL itself")

// rounds is how often requireSessions compares. Another client of the pooler may disturb one comparison.
const rounds = 3

// requireSessions fails if a pooler can give a connection to another client between two transactions. Two connections
// of this process ask which backend serves them, one of them inside a transaction. If each has its own session, they
// never share a backend, and their backends never change.
func requireSessions(ctx context.Context, c *connector) error {
	db := sql.OpenDB(c)
	defer db.Close()
	one, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer one.Close()
	other, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer other.Close()
	for range rounds {
		if err := requireOwnBackends(ctx, one, other); err != nil {
			return err
		}
	}
	return nil
}

// requireOwnBackends is one round of requireSessions.
func requireOwnBackends(ctx context.Context, one, other *sql.Conn) error {
	first, err := backendOf(ctx, one)
	if err != nil {
		return err
	}
	tx, err := other.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // it changed nothing
	meanwhile, err := backendOf(ctx, tx)
	if err != nil {
		return err
	}
	again, err := backendOf(ctx, one)
	if err == nil && (again != first || meanwhile == first) {
		err = errPooled
	}
	return err
}

// backendOf returns the pid of the backend that answers.
func backendOf(ctx context.Context, asked interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}) (pid int, err error) {
	err = asked.QueryRowContext(ctx, "SELECT pg_backend_pid()").Scan(&pid)
	return pid, err
}
