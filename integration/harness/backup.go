package harness

import (
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "github.com/lib/pq"           // the driver "postgres"
	_ "github.com/mattn/go-sqlite3" // the driver "sqlite3"
)

// WhileDown stops a server, calls do, and starts the server again. It fails the test on any error.
func WhileDown(t testing.TB, s *Server, do func() error) {
	t.Helper()
	if err := errors.Join(s.Stop(), do(), s.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// BackUp stops a server, backs up its module's tables, and starts it again. The result restores the backup in the same
// way, as docs/backup.md says. It can be called once.
func BackUp(t testing.TB, s *Server) (restore func()) {
	t.Helper()
	take, put := backUpFile, restoreFile
	if s.Postgres != "" {
		take, put = backUpTables, restoreTables
	}
	backup := filepath.Join(t.TempDir(), "backup.db")
	WhileDown(t, s, func() error { return take(s, backup) })
	return func() {
		t.Helper()
		WhileDown(t, s, func() error { return put(s, backup) })
	}
}

// backUpFile also copies the changes that a server without a clean stop has left in the write-ahead log.
func backUpFile(s *Server, backup string) error {
	return onDatabase("sqlite3", s.Store(), func(db *sql.DB) error {
		_, err := db.Exec("VACUUM INTO ?", backup)
		return err
	})
}

// restoreFile also removes the write-ahead log: SQLite would apply it to the backup.
func restoreFile(s *Server, backup string) error {
	database := strings.TrimPrefix(s.Store(), "file:")
	for _, beside := range []string{"-wal", "-shm"} {
		if err := os.Remove(database + beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	content, err := os.ReadFile(backup)
	if err != nil {
		return err
	}
	return os.WriteFile(database, content, 0o600)
}

func backUpTables(s *Server, _ string) error {
	return eachTable(s, "CREATE TABLE backup_%[1]s AS TABLE %[1]s")
}

func restoreTables(s *Server, _ string) error {
	return eachTable(s, "DELETE FROM %[1]s", "INSERT INTO %[1]s SELECT * FROM backup_%[1]s", "DROP TABLE backup_%[1]s")
}

// eachTable executes statements for each of the module's tables in the homeserver's database. %s is the table's name.
func eachTable(s *Server, statements ...string) error {
	return onDatabase("postgres", s.Postgres, func(db *sql.DB) error {
		const list = "SELECT string_agg(tablename, ' ') FROM pg_tables " +
			"WHERE tablename LIKE 'mimiport%' AND tablename NOT LIKE '%version%'"
		var tables string
		if err := db.QueryRow(list).Scan(&tables); err != nil {
			return err
		}
		for _, name := range strings.Fields(tables) {
			for _, statement := range statements {
				if _, err := db.Exec(fmt.Sprintf(statement, name)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func onDatabase(driver, source string, do func(*sql.DB) error) error {
	db, err := sql.Open(driver, source)
	if err != nil {
		return err
	}
	return errors.Join(do(db), db.Close())
}
