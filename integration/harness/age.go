package harness

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
)

// Age changes the module's database of a stopped server, as if the server had stopped a time d ago. The last heartbeat
// becomes d old. All entries and groups become older by d.
func (s *Server) Age(ctx context.Context, d time.Duration) error {
	store, err := engine.Open(ctx, s.Store(), postgres.Pool{MaxOpen: 1, MaxIdle: 1})
	if err != nil {
		return err
	}
	beat := fmt.Sprintf(`{"at":%d}`, time.Now().Add(-d).UnixMilli())
	err = store.PutSetting(ctx, "heartbeat", json.RawMessage(beat))
	if err := errors.Join(err, store.Close()); err != nil {
		return err
	}
	driver := "sqlite3"
	if s.Postgres != "" {
		driver = "postgres"
	}
	db, err := sql.Open(driver, s.Store())
	if err != nil {
		return err
	}
	for _, column := range []string{
		"mimiport_entries SET accepted_at = accepted_at", "mimiport_groups SET created_at = created_at",
	} {
		_, failed := db.ExecContext(ctx, fmt.Sprintf("UPDATE %s - %d", column, d.Milliseconds()))
		err = errors.Join(err, failed)
	}
	return errors.Join(err, db.Close())
}
