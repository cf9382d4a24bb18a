// Package sqlite opens the store in an SQLite file.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"

	"github.com/mattn/go-sqlite3"
	"github.com/pressly/goose/v3/database"

	"github.com/matrix-org/dendrite/contrib/mimi/storage/internal/sqlstore"
)

// maxReaders is the largest number of connections that read.
const maxReaders = 8

// Open opens or creates an SQLite file. The connection string has the homeserver's form: "file:mimi.db", relative to
// the working directory, or "file:/var/lib/mimi.db". Committed changes survive a power cut. The file must be on a local
// disk: readers do not wait for writers, and for that SQLite's connections share memory. Open refuses a file with
// tables of another program, such as one of Dendrite's. Only the file's owner can read it afterwards, because it holds
// keys. See sqlstore.Migrate.
func Open(ctx context.Context, connection string) (*sqlstore.Store, error) {
	file, err := Path(connection)
	if err != nil {
		return nil, err
	}
	if err := prepare(ctx, file); err != nil {
		return nil, err
	}
	write, err := open(file, 1, "_txlock=immediate") // it waits for its turn before it reads, so it never fails midway
	if err != nil {
		return nil, err
	}
	read, err := open(file, maxReaders, "_query_only=1")
	if err != nil {
		return nil, errors.Join(err, write.Close())
	}
	store := sqlstore.New(engine, write, read)
	if err := sqlstore.Migrate(ctx, write, engine.Dialect); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return store, nil
}

// Path returns the file's path from its connection string. It ignores everything else in the string, as the homeserver
// does.
func Path(connection string) (string, error) {
	u, err := url.Parse(connection)
	if err != nil {
		return "", fmt.Errorf("sqlite: connection string: %w", err)
	}
	path := u.Path
	if u.Opaque != "" {
		path, err = url.PathUnescape(u.Opaque)
	}
	if err != nil || u.Scheme != "file" || u.Host != "" || path == "" || path == ":memory:" {
		return "", fmt.Errorf("sqlite: connection string %q is not of the form file:name.db or file:/directory/name.db",
			connection)
	}
	return filepath.Clean(path), nil
}

// releasedAtOnce is the most pages of 4 KiB that one transaction gives back to the file system. One batch of deletions
// frees fewer.
const releasedAtOnce = 512

// release implements sqlstore.Engine.Release. It gives nothing back for a file that an earlier version of this program
// made.
func release(ctx context.Context, tx *sql.Tx) (released bool, err error) {
	var free int
	if err := tx.QueryRowContext(ctx, "PRAGMA freelist_count").Scan(&free); err != nil || free == 0 {
		return false, err
	}
	rows, err := tx.QueryContext(ctx, fmt.Sprintf("PRAGMA incremental_vacuum(%d)", releasedAtOnce))
	if err != nil {
		return false, err
	}
	defer rows.Close()
	for rows.Next() { // each step gives back a page
		released = true
	}
	return released, rows.Err()
}

// These pragmas make a commit reach the disk, and let readers work during a write. A writer waits up to ten seconds for
// another process that holds the file. A new file can give free space back. A connection keeps the statements that it
// used last, so that SQLite compiles each of them once.
const pragmas = "_journal_mode=WAL&_synchronous=FULL&_busy_timeout=10000&_auto_vacuum=incremental&_stmt_cache_size=64"

func open(path string, connections int, more string) (*sql.DB, error) {
	return openWith(path, connections, pragmas+"&"+more)
}

// openWith opens a file with the parameters of the driver, and changes nothing by itself.
func openWith(path string, connections int, parameters string) (*sql.DB, error) {
	dsn := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: parameters}
	db, err := sql.Open("sqlite3", dsn.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return db, nil
}

var engine = sqlstore.Engine{
	Dialect:   database.DialectSQLite3,
	Parameter: "?",
	Tables:    "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'",
	Duplicate: func(err error) bool {
		failure, ok := errors.AsType[sqlite3.Error](err)
		return ok && slices.Contains([]sqlite3.ErrNoExtended{sqlite3.ErrConstraintPrimaryKey, sqlite3.ErrConstraintUnique},
			failure.ExtendedCode)
	},
	Release:   release,
	Transient: func(error) bool { return false }, // there is one writer, and it waits for its turn before it starts
}
