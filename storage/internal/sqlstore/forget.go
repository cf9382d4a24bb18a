package sqlstore

import (
	"context"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// forgottenAtOnce is the most rows that one transaction deletes. Other writers wait until it ends.
const forgottenAtOnce = 100

// Forget implements storage.Store.
func (s *Store) Forget(ctx context.Context, before storage.Horizon) error {
	return s.forgetBy(ctx, before, forgottenAtOnce, time.After)
}

// wait returns a channel that receives after a time.
type wait func(time.Duration) <-chan time.Time

// forgetBy is Forget with at most atOnce rows in a transaction.
func (s *Store) forgetBy(ctx context.Context, before storage.Horizon, atOnce int, after wait) error {
	for _, statement := range []struct {
		query string
		args  []any
	}{
		{`DELETE FROM mimiport_entries WHERE (group_id, term, seq) IN (
			SELECT group_id, term, seq FROM mimiport_entries AS e WHERE accepted_at < $1 AND (NOT ` + handshake + ` OR seq < (
				SELECT min(seq) FROM mimiport_snapshots AS s WHERE s.group_id = e.group_id AND s.term = e.term))
			ORDER BY accepted_at LIMIT $2)`,
			[]any{storage.Millis(before.Log), atOnce}},
		{`DELETE FROM mimiport_migrations WHERE migration_id IN (
			SELECT migration_id FROM mimiport_migrations
			WHERE role = $1 AND state = $2 AND length(complete) = 0 AND expires_at < $3 LIMIT $4)`,
			[]any{migration.Target, migration.Dropped, storage.Millis(before.Offers), atOnce}},
		{`DELETE FROM mimiport_evidence WHERE found_at < $1`, []any{storage.Millis(before.Evidence)}},
		{`DELETE FROM mimiport_nonces WHERE (user_id, device_id, nonce) IN (
			SELECT user_id, device_id, nonce FROM mimiport_nonces WHERE used_at < $1 LIMIT $2)`,
			[]any{storage.Millis(before.Nonces), atOnce}},
	} {
		if err := s.forget(ctx, after, statement.query, statement.args); err != nil {
			return err
		}
	}
	return s.releaseAll(ctx, after)
}

// forget repeats a deletion until it finds no more rows. Each transaction also releases some free space.
func (s *Store) forget(ctx context.Context, after wait, query string, args []any) error {
	return s.slowly(ctx, after, func(tx *tx) (more bool, err error) {
		result, err := tx.exec(ctx, query, args...)
		if err != nil {
			return false, err
		}
		deleted, err := result.RowsAffected()
		if err != nil {
			return false, err
		}
		_, err = tx.release(ctx)
		return deleted > 0, err
	})
}

// releaseAll releases the remaining free space.
func (s *Store) releaseAll(ctx context.Context, after wait) error {
	return s.slowly(ctx, after, func(tx *tx) (more bool, err error) { return tx.release(ctx) })
}

// slowly runs f in one transaction after the other while there is more to do. After each it rests for as long as the
// transaction took, so that other writers find the database free for half of the time.
func (s *Store) slowly(ctx context.Context, after wait, f func(*tx) (more bool, err error)) error {
	for {
		begin, more := time.Now(), false
		err := s.transact(ctx, "forget", func(tx *tx) (err error) {
			more, err = f(tx)
			return err
		})
		if err != nil || !more {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-after(time.Since(begin)):
		}
	}
}

// release gives some free space of the database back to the file system. It reports whether there was any.
func (tx *tx) release(ctx context.Context) (released bool, err error) {
	if tx.store.engine.Release == nil {
		return false, nil
	}
	return tx.store.engine.Release(ctx, tx.Tx)
}
