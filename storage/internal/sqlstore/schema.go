package sqlstore

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// versionTable has our own name, since the host may keep its versions in the same database.
const versionTable = "mimiport_schema_version"

// Migrate updates the schema to the version of this program. It refuses a schema that a newer program wrote.
func Migrate(ctx context.Context, db *sql.DB, dialect database.Dialect) error {
	if err := migrate(ctx, db, dialect); err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	return nil
}

func migrate(ctx context.Context, db *sql.DB, dialect database.Dialect) error {
	versions, err := database.NewStore(dialect, versionTable)
	if err != nil {
		return err
	}
	files, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider("", db, files, goose.WithStore(versions), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	stored, err := provider.GetDBVersion(ctx)
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	sources := provider.ListSources()
	if newest := sources[len(sources)-1].Version; stored > newest {
		return fmt.Errorf("the database has schema version %d and this program knows only version %d: "+
			"start the newer program that wrote it, or restore a backup from before the upgrade", stored, newest)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate the schema: %w", err)
	}
	return nil
}
