package sqlstore

import (
	"context"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// KeyObjects implements storage.Store.
func (s *Store) KeyObjects(ctx context.Context, server string) ([]storage.KeyObject, error) {
	return list(ctx, s, &keyObjects, "WHERE server = $1 ORDER BY fetched_at DESC, key_id", server)
}

// KeepKeyObject implements storage.Store.
func (s *Store) KeepKeyObject(ctx context.Context, k *storage.KeyObject) error {
	return s.transact(ctx, "keep key object", func(tx *tx) error {
		err := insert(ctx, tx, &keyObjects, []storage.KeyObject{*k},
			" ON CONFLICT (server, key_id) DO UPDATE SET object = excluded.object, fetched_at = excluded.fetched_at")
		if err != nil {
			return err
		}
		_, err = tx.exec(ctx, `DELETE FROM mimiport_key_objects WHERE server = $1 AND key_id NOT IN (SELECT key_id
			FROM mimiport_key_objects WHERE server = $1 ORDER BY fetched_at DESC, key_id LIMIT $2)`,
			k.Server, storage.MaxKeyObjectsOfServer)
		if err != nil {
			return err
		}
		_, err = tx.exec(ctx, `DELETE FROM mimiport_key_objects WHERE (server, key_id) IN (SELECT server, key_id
			FROM mimiport_key_objects ORDER BY fetched_at DESC, server, key_id LIMIT 1 OFFSET $1)`, storage.MaxKeyObjects)
		return err
	})
}
