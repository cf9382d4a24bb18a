package adversary

import (
	"database/sql"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// backUp keeps a server's module's database as it is. The result puts it back, while the server is down.
func backUp(t *testing.T, s *harness.Server) (putBack func()) {
	t.Helper()
	if s.Postgres != "" {
		return backUpTables(t, s)
	}
	path := strings.TrimPrefix(s.Store(), "file:")
	var backup []byte
	whileDown(t, s, func() (err error) {
		backup, err = os.ReadFile(path)
		return err
	})
	return func() {
		t.Helper()
		whileDown(t, s, func() error { return os.WriteFile(path, backup, 0o600) })
	}
}

// backUpTables is backUp where the module's tables are in the homeserver's database.
func backUpTables(t *testing.T, s *harness.Server) (putBack func()) {
	t.Helper()
	db, err := sql.Open("postgres", s.Postgres)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	var tables []string
	const list = "SELECT tablename FROM pg_tables WHERE tablename LIKE 'mimiport%' AND tablename NOT LIKE '%version%'"
	rows, err := db.Query(list)
	for err == nil && rows.Next() {
		var name string
		err = rows.Scan(&name)
		tables = append(tables, name)
	}
	if err = errors.Join(err, rows.Close()); err != nil || len(tables) == 0 {
		t.Fatal(tables, err)
	}
	each := func(statements ...string) error {
		for _, name := range tables {
			for _, statement := range statements {
				if _, err := db.Exec(strings.ReplaceAll(statement, "TABLE_NAME", name)); err != nil {
					return err
				}
			}
		}
		return nil
	}
	whileDown(t, s, func() error { return each("CREATE TABLE backup_TABLE_NAME AS TABLE TABLE_NAME") })
	return func() {
		t.Helper()
		whileDown(t, s, func() error {
			return each(
				"DELETE FROM TABLE_NAME", "INSERT INTO TABLE_NAME SELECT * FROM backup_TABLE_NAME", "DROP TABLE backup_TABLE_NAME",
			)
		})
	}
}

// whileDown does something while a server is down.
func whileDown(t *testing.T, s *harness.Server, do func() error) {
	t.Helper()
	if err := errors.Join(s.Stop(), do(), s.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
}
