package sqlstore

import (
	"context"
	"database/sql"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

func (tx *tx) applyFanOuts(ctx context.Context, c *storage.Change) error {
	for _, p := range c.Settled {
		_, err := tx.exec(ctx, "DELETE FROM mimiport_fan_outs WHERE group_id = $1 AND term = $2 AND seq <= $3",
			p.ID, clamp(p.Term), clamp(p.Seq))
		if err != nil {
			return err
		}
	}
	return insert(ctx, tx, &fanOuts, c.FanOuts, "")
}

// Waiting implements storage.Store.
func (s *Store) Waiting(ctx context.Context) (waiting []storage.Position, err error) {
	const query = "SELECT group_id, term, max(seq) FROM mimiport_fan_outs GROUP BY group_id, term ORDER BY group_id, term"
	err = s.query(ctx, query, nil, func(rows *sql.Rows) error {
		var p storage.Position
		err := rows.Scan((*blob)(&p.ID), &p.Term, &p.Seq)
		waiting = append(waiting, p)
		return err
	})
	return waiting, err
}

// FanOuts implements storage.Store.
func (s *Store) FanOuts(ctx context.Context, from storage.Position, limit int) ([]storage.FanOut, error) {
	return list(ctx, s, &fanOuts, "WHERE group_id = $1 AND term = $2 AND seq >= $3 ORDER BY seq LIMIT $4",
		from.ID, clamp(from.Term), clamp(from.Seq), limit)
}

// Behind implements storage.Store.
func (s *Store) Behind(ctx context.Context, key storage.GroupKey) (servers []string, err error) {
	const query = "SELECT destination FROM mimiport_queues WHERE queue = $1 ORDER BY destination"
	err = s.query(ctx, query, []any{storage.FanOutQueue(key)}, func(rows *sql.Rows) error {
		var server string
		err := rows.Scan(&server)
		servers = append(servers, server)
		return err
	})
	return servers, err
}

// ClaimFanOuts implements storage.Store. Every queue of rows has a destination, so no Claim has the same name.
func (s *Store) ClaimFanOuts(ctx context.Context, key storage.GroupKey) (release func(), err error) {
	if s.engine.Locks == nil {
		return func() {}, nil
	}
	return s.lock(ctx, "", storage.FanOutQueue(key))
}
