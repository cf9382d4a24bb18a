package sqlstore

import (
	"context"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// UseNonce implements storage.Store. Concurrent requests of one device may store a few nonces more than
// storage.MaxNonces.
func (s *Store) UseNonce(ctx context.Context, n *storage.Nonce) error {
	return s.transact(ctx, "use nonce", func(tx *tx) error {
		_, err := tx.exec(ctx, "DELETE FROM mimiport_nonces WHERE user_id = $1 AND device_id = $2 AND used_at < $3",
			n.UserID, n.DeviceID, storage.Millis(n.UsedAt.Add(-storage.NonceLife)))
		if err != nil {
			return err
		}
		if err := insert(ctx, tx, &nonces, []storage.Nonce{*n}, ""); err != nil {
			return err
		}
		used := 0
		query := tx.store.bind("SELECT count(*) FROM mimiport_nonces WHERE user_id = $1 AND device_id = $2")
		err = tx.QueryRowContext(ctx, query, n.UserID, n.DeviceID).Scan(&used)
		if err == nil && used > storage.MaxNonces {
			err = &storage.LimitError{Quota: storage.QuotaNonces}
		}
		return err
	})
}
