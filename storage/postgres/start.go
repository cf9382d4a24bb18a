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

// migrationLock is the advisory lock of whoever brings the schema up to date, a number of our own choosing.
const migrationLock = 0x6d696d69706f7274 // "mimiport"

// turnPatience is how long a process waits for another one that brings the schema up to date.
const turnPatience = time.Minute

// takeTurn takes the lock on the schema, on the one connection of a pool, or fails after a while and says who has it.
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

// errPooled is the refusal of a pooler that breaks claims.
var errPooled = errors.New("a pooler hands out connections by transaction: it must do so by session " +
	"(pool_mode = session), or the connection string must lead to PostgreSQL itself")

// rounds is how often the sessions are compared. Another client of the pooler may get in between once.
const rounds = 3

// requireSessions fails where a pooler gives a connection to somebody else between two transactions. Two connections of
// this process look who serves them, one of them within a transaction: with sessions of their own they never share a
// process of the server's, nor do they change it.
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
	defer tx.Rollback() // it has done nothing
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

// backendOf is the process of the server's that answers.
func backendOf(ctx context.Context, asked interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}) (pid int, err error) {
	err = asked.QueryRowContext(ctx, "SELECT pg_backend_pid()").Scan(&pid)
	return pid, err
}
