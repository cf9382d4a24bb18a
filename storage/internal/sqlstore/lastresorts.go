package sqlstore

import (
	"context"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// LastResorts implements storage.Store.
func (s *Store) LastResorts(ctx context.Context, userID string) ([]storage.LastResort, error) {
	return list(ctx, s, &lastResorts, "WHERE user_id = $1 ORDER BY device_id", userID)
}

// PutLastResort implements storage.Store. Devices of one user that come at once may find room for a few more than
// storage.MaxLastResorts.
func (s *Store) PutLastResort(ctx context.Context, l *storage.LastResort) error {
	return s.transact(ctx, "put last resort", func(tx *tx) error {
		err := insert(ctx, tx, &lastResorts, []storage.LastResort{*l},
			" ON CONFLICT (user_id, device_id) DO UPDATE SET value = excluded.value")
		if err != nil {
			return err
		}
		kept := 0
		query := tx.store.bind("SELECT count(*) FROM mimiport_last_resorts WHERE user_id = $1")
		err = tx.QueryRowContext(ctx, query, l.UserID).Scan(&kept)
		if err == nil && kept > storage.MaxLastResorts {
			err = &storage.LimitError{Quota: storage.QuotaLastResorts}
		}
		return err
	})
}

// DropLastResort implements storage.Store.
func (s *Store) DropLastResort(ctx context.Context, userID, deviceID string) error {
	return s.transact(ctx, "drop last resort", func(tx *tx) error {
		_, err := tx.exec(ctx, "DELETE FROM mimiport_last_resorts WHERE user_id = $1 AND device_id = $2", userID, deviceID)
		return err
	})
}
