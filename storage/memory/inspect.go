package memory

import (
	"context"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Outbox lists at most limit rows that follow a key, in the order of their keys, whether due or not.
func (s *Store) Outbox(_ context.Context, after storage.RowKey, limit int) (rows []storage.Row, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, row := range s.rows.from(after) {
		if row.Key() != after && len(rows) < limit {
			rows = append(rows, *row)
		}
	}
	return rows, nil
}

// AllKeyObjects lists the key objects of all servers.
func (s *Store) AllKeyObjects(ctx context.Context) ([]storage.KeyObject, error) {
	return s.KeyObjects(ctx, "")
}

// Missing lists the tables that the store lacks. A store in memory lacks none.
func (s *Store) Missing(context.Context) ([]string, error) { return nil, nil }
