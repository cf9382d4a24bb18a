package sqlstore

import (
	"context"
	"errors"
	"math"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// requireLimits fails unless the change, which is already written, keeps its limits. The transaction holds the name of
// each quota until it ends. Another transaction with the same quota waits, and then counts the rows of this one too.
// There is no deadlock: a transaction writes nothing after it holds the first name, and all transactions hold names in
// the same order.
func (tx *tx) requireLimits(ctx context.Context, c *storage.Change) error {
	for _, l := range c.LimitsInOrder() {
		if err := tx.hold(ctx, &l); err != nil {
			return err
		}
		n, err := tx.count(ctx, &l, c.Volume)
		if err != nil {
			return err
		}
		if n > l.Max {
			return &storage.LimitError{Quota: l.Quota}
		}
	}
	return nil
}

func isLimit(err error) bool {
	_, ok := errors.AsType[*storage.LimitError](err)
	return ok
}

// hold makes other transactions with the same quota wait. A volume needs no lock of its own: the transaction wrote the
// volume's row, and so holds it.
func (tx *tx) hold(ctx context.Context, l *storage.Limit) error {
	if tx.store.engine.Hold == "" || l.Volume {
		return nil
	}
	_, err := tx.exec(ctx, tx.store.engine.Hold, l.Name())
	return err
}

// count returns the number of things that a limit counts. It stops when there are too many.
func (tx *tx) count(ctx context.Context, l *storage.Limit, v *storage.Volume) (n int64, err error) {
	table, w := "", new(where)
	switch {
	case l.Groups != nil:
		table, w = groups.name, groupsWhere(l.Groups)
	case l.Migrations != nil:
		table, w = migrations.name, migrationsWhere(l.Migrations)
	case v != nil:
		err = tx.QueryRowContext(ctx, tx.store.bind("SELECT bytes FROM "+volumes.name+
			" WHERE group_id = $1 AND term = $2 AND user_id = $3"), v.ID, v.Term, v.UserID).Scan(&n)
		return n, err
	default:
		return 0, nil
	}
	tail := w.with("LIMIT ?", min(l.Max, math.MaxInt64-1)+1)
	query := "SELECT count(*) FROM (SELECT 1 FROM " + table + " " + tail + ") AS counted"
	err = tx.QueryRowContext(ctx, tx.store.bind(query), w.args...).Scan(&n)
	return n, err
}
