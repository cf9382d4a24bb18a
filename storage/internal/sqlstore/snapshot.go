package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// querier runs queries, within a transaction or outside.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// Prefix begins the names of the module's tables, and of no other table in the homeserver's database.
const Prefix = "mimiport_"

var errReadOnly = errors.New("the database is open for reading only")

// Snapshot is a Store that reads the database as it is at one moment, and writes nothing: every write fails. It owns
// db. beside describes another process that uses the database at the same time, and is empty for none. It fails if the
// database has no table of the module, or a schema of another version than this program's.
func Snapshot(ctx context.Context, engine Engine, db *sql.DB, beside string) (*Store, error) {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("storage: %w", err), db.Close())
	}
	s := &Store{engine: engine, read: tx, beside: beside, open: []io.Closer{rollback{tx}, db}}
	if err := s.requireReadable(ctx, tx, db); err != nil {
		return nil, errors.Join(fmt.Errorf("storage: %w", err), s.Close())
	}
	return s, nil
}

// rollback ends a transaction that has changed nothing.
type rollback struct{ tx *sql.Tx }

func (r rollback) Close() error { return r.tx.Rollback() }

func (s *Store) requireReadable(ctx context.Context, tx *sql.Tx, db *sql.DB) error {
	found, err := TableNames(ctx, s.engine, tx)
	if err != nil {
		return err
	}
	if !slices.Contains(found, versionTable) {
		return errors.New("the database has no tables of MIMI Portability")
	}
	s.version, err = requireCurrent(ctx, tx, db, s.engine.Dialect)
	return err
}

// Beside describes another process that had the database open when this Store was opened for reading, or is empty.
func (s *Store) Beside() string { return s.beside }

// Version returns the schema version of a database that is open for reading.
func (s *Store) Version() int64 { return s.version }

// Missing lists the module's tables that the database lacks.
func (s *Store) Missing(ctx context.Context) (missing []string, err error) {
	found, err := TableNames(ctx, s.engine, s.read)
	for _, t := range tables {
		if !slices.Contains(found, t.called()) {
			missing = append(missing, t.called())
		}
	}
	return missing, err
}

// TableNames lists all tables of a database.
func TableNames(ctx context.Context, engine Engine, db querier) (names []string, err error) {
	rows, err := db.QueryContext(ctx, engine.Tables)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, rows.Err()
}

// RequireEmpty fails if one of the module's tables has rows. A database without these tables is empty.
func RequireEmpty(ctx context.Context, engine Engine, db querier) error {
	found, err := TableNames(ctx, engine, db)
	if err != nil {
		return err
	}
	for _, name := range found {
		if !strings.HasPrefix(name, Prefix) || name == versionTable {
			continue
		}
		filled, err := hasRows(ctx, db, name)
		if err != nil {
			return err
		}
		if filled {
			return fmt.Errorf("the destination is not empty: %s has rows", name)
		}
	}
	return nil
}

func hasRows(ctx context.Context, db querier, table string) (bool, error) {
	rows, err := db.QueryContext(ctx, "SELECT 1 FROM "+table+" LIMIT 1")
	if err != nil {
		return false, err
	}
	defer rows.Close()
	filled := rows.Next()
	return filled, rows.Err()
}
