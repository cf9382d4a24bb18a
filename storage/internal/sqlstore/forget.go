package sqlstore

import (
	"context"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// forgottenAtOnce is how many rows one transaction deletes.
const forgottenAtOnce = 1000

// Forget implements storage.Store.
func (s *Store) Forget(ctx context.Context, before storage.Horizon) error {
	for _, statement := range []struct {
		query string
		args  []any
	}{
		{`DELETE FROM mimiport_entries WHERE (group_id, term, seq) IN (
			SELECT group_id, term, seq FROM mimiport_entries AS e WHERE accepted_at < $1 AND (NOT ` + handshake + ` OR seq < (
				SELECT min(seq) FROM mimiport_snapshots AS s WHERE s.group_id = e.group_id AND s.term = e.term))
			ORDER BY accepted_at LIMIT $2)`,
			[]any{storage.Millis(before.Log), forgottenAtOnce}},
		{`DELETE FROM mimiport_migrations WHERE migration_id IN (
			SELECT migration_id FROM mimiport_migrations
			WHERE role = $1 AND state = $2 AND length(complete) = 0 AND expires_at < $3 LIMIT $4)`,
			[]any{migration.Target, migration.Dropped, storage.Millis(before.Offers), forgottenAtOnce}},
		{`DELETE FROM mimiport_evidence WHERE found_at < $1`, []any{storage.Millis(before.Evidence)}},
		{`DELETE FROM mimiport_nonces WHERE (user_id, device_id, nonce) IN (
			SELECT user_id, device_id, nonce FROM mimiport_nonces WHERE used_at < $1 LIMIT $2)`,
			[]any{storage.Millis(before.Nonces), forgottenAtOnce}},
	} {
		if err := s.forget(ctx, statement.query, statement.args); err != nil {
			return err
		}
	}
	return nil
}

// forget runs a deletion until it finds nothing more.
func (s *Store) forget(ctx context.Context, query string, args []any) error {
	for deleted := int64(1); deleted > 0; {
		err := s.transact(ctx, "forget", func(tx *tx) error {
			result, err := tx.exec(ctx, query, args...)
			if err == nil {
				deleted, err = result.RowsAffected()
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
