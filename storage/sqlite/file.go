package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/storage/internal/sqlstore"
)

// private is the mode of every file that holds keys.
const private = 0o600

// Besides are the endings of the files that SQLite keeps beside a database.
var Besides = []string{"-wal", "-shm"}

// prepare makes a file ready for Open. It creates a private file. If there is one, prepare fails for tables of another
// program, before it changes anything, and takes the file from everybody but its owner.
func prepare(ctx context.Context, file string) error {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, private) // SQLite takes an empty file as a new one
		if err != nil {
			return fmt.Errorf("sqlite: %w", err)
		}
		return f.Close()
	}
	if err != nil {
		return fmt.Errorf("sqlite: %w", err)
	}
	if info.Size() > 0 {
		if err := requireOurs(ctx, file); err != nil {
			return err
		}
	}
	for _, end := range append([]string{""}, Besides...) {
		if info, err := os.Stat(file + end); err == nil && info.Mode().Perm()&^private != 0 {
			_ = os.Chmod(file+end, private) // whoever does not own the file cannot, and may use it all the same
		}
	}
	return nil
}

// requireOurs fails unless each table of a file belongs to this module. It changes nothing.
func requireOurs(ctx context.Context, file string) error {
	db, err := openWith(file, 1, "mode=ro&_busy_timeout=10000")
	if err != nil {
		return err
	}
	err = requireOwnTables(ctx, db, file)
	return errors.Join(err, db.Close())
}

func requireOwnTables(ctx context.Context, db *sql.DB, file string) error {
	names, err := sqlstore.TableNames(ctx, engine, db)
	if err != nil {
		return fmt.Errorf("sqlite: %s: %w", file, err)
	}
	for _, name := range names {
		if !strings.HasPrefix(name, sqlstore.Prefix) {
			return fmt.Errorf("sqlite: %s belongs to another program: it has the table %s. "+
				"MIMI Portability needs a file of its own, not one of Dendrite's", file, name)
		}
	}
	return nil
}

// OpenSnapshot opens a file as it is at one moment, for reading only. It creates no file and changes none. It fails for
// a file that is absent, empty or of another program. See sqlstore.Snapshot.
func OpenSnapshot(ctx context.Context, connection string) (*sqlstore.Store, error) {
	file, err := Path(connection)
	if err != nil {
		return nil, err
	}
	beside, db, err := openToRead(file)
	if err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	if err := requireOwnTables(ctx, db, file); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	store, err := sqlstore.Snapshot(ctx, engine, db, beside)
	if err != nil {
		return nil, fmt.Errorf("sqlite: %s: %w", file, err)
	}
	return store, nil
}

// RequireEmpty fails if a file has tables of another program, or if a table of the module has rows. An absent file is
// empty. RequireEmpty changes nothing.
func RequireEmpty(ctx context.Context, connection string) error {
	file, err := Path(connection)
	if err != nil {
		return err
	}
	if info, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
		return nil
	}
	_, db, err := openToRead(file)
	if err != nil {
		return fmt.Errorf("sqlite: %w", err)
	}
	err = requireOwnTables(ctx, db, file)
	if err == nil {
		err = sqlstore.RequireEmpty(ctx, engine, db)
	}
	return errors.Join(err, db.Close())
}

// openToRead opens an existing file for reading. beside describes another process that has the file open.
func openToRead(file string) (beside string, db *sql.DB, err error) {
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return "", nil, err
	case !info.Mode().IsRegular():
		return "", nil, fmt.Errorf("%s is not a file", file)
	case info.Size() == 0:
		return "", nil, fmt.Errorf("%s is empty", file)
	}
	beside, err = holder(file) // before this process opens the file: see there
	if err != nil {
		return "", nil, err
	}
	parameters, err := readParameters(file)
	if err != nil {
		return "", nil, err
	}
	db, err = openWith(file, 1, parameters)
	return beside, db, err
}

// readParameters chooses how to read a file without creating anything. While a server runs, and after a server that was
// killed, the latest changes are in the write-ahead log. SQLite finds its way there by the shared memory, and would
// create that. Without a log nobody has the file open, and nobody changes it.
func readParameters(file string) (string, error) {
	log, err := os.Stat(file + "-wal")
	if errors.Is(err, fs.ErrNotExist) || err == nil && log.Size() == 0 {
		return "mode=ro&immutable=1", nil
	}
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(file + "-shm"); err != nil {
		return "", fmt.Errorf("changes of %[1]s are in %[1]s-wal, and reading them would create a file: %[2]w. "+
			"Make one complete file of both: sqlite3 %[1]s \"VACUUM INTO 'copy.db'\"", file, err)
	}
	return "mode=ro&_busy_timeout=10000", nil
}

// Remove removes a file and what SQLite keeps beside it. It returns the names.
func Remove(connection string) (removed []string, err error) {
	file, err := Path(connection)
	if err != nil {
		return nil, err
	}
	for _, end := range append(slices.Clip(Besides), "") { // the database last: a log without it means nothing
		switch err := os.Remove(file + end); {
		case err == nil:
			removed = append(removed, file+end)
		case !errors.Is(err, fs.ErrNotExist):
			return removed, fmt.Errorf("sqlite: %w", err)
		}
	}
	return removed, nil
}
