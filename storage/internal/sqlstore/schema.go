package sqlstore

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// versionTable has our own name, since the host may keep its versions in the same database.
const versionTable = "mimiport_schema_version"

// About returns the name of the database, and the version of its schema: that of this program.
func (s *Store) About() (name string, schema int64) {
	files, _ := migrationFiles.ReadDir("migrations") // they are part of the program
	last := files[len(files)-1].Name()
	schema, _ = strconv.ParseInt(last[:strings.Index(last, "_")], 10, 64)
	return map[database.Dialect]string{
		database.DialectSQLite3: "SQLite", database.DialectPostgres: "PostgreSQL",
	}[s.engine.Dialect], schema
}

// Migrate updates the schema to the version of this program. It refuses a schema that a newer program wrote.
func Migrate(ctx context.Context, db *sql.DB, dialect database.Dialect) error {
	if err := migrate(ctx, db, dialect); err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	return nil
}

func migrate(ctx context.Context, db *sql.DB, dialect database.Dialect) error {
	provider, err := newProvider(db, dialect)
	if err != nil {
		return err
	}
	stored, err := provider.GetDBVersion(ctx)
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if err := requireKnown(stored, newest(provider)); err != nil {
		return err
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate the schema: %w", err)
	}
	return nil
}

func newProvider(db *sql.DB, dialect database.Dialect) (*goose.Provider, error) {
	versions, err := database.NewStore(dialect, versionTable)
	if err != nil {
		return nil, err
	}
	files, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return nil, err
	}
	return goose.NewProvider("", db, files, goose.WithStore(versions), goose.WithDisableGlobalRegistry(true))
}

// newest returns the schema version of this program.
func newest(provider *goose.Provider) int64 {
	sources := provider.ListSources()
	return sources[len(sources)-1].Version
}

// requireKnown fails for a schema version that a newer program wrote.
func requireKnown(stored, known int64) error {
	if stored > known {
		return fmt.Errorf("the database has schema version %d and this program knows only version %d: "+
			"start the newer program that wrote it, or restore a backup from before the upgrade", stored, known)
	}
	return nil
}

// requireCurrent fails unless the schema has the version of this program. It changes nothing.
func requireCurrent(ctx context.Context, tx *sql.Tx, db *sql.DB, dialect database.Dialect) (version int64, err error) {
	provider, err := newProvider(db, dialect)
	if err != nil {
		return 0, err
	}
	versions, err := database.NewStore(dialect, versionTable)
	if err != nil {
		return 0, err
	}
	if version, err = versions.GetLatestVersion(ctx, tx); err != nil {
		return 0, fmt.Errorf("read the schema's version: %w", err)
	}
	known := newest(provider)
	if version < known {
		return version, fmt.Errorf("the database has schema version %d and this program needs version %d: "+
			"start the server of this version once, which updates the schema, or take the mimictl of the version that wrote it",
			version, known)
	}
	return version, requireKnown(version, known)
}
