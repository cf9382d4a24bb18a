package sqlstore

import (
	"context"
	"database/sql"
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

// hold makes other transactions with the same quota wait. A volume and a counter need no lock of their own: a
// transaction that changes one has written its row, and so holds it.
func (tx *tx) hold(ctx context.Context, l *storage.Limit) error {
	if tx.store.engine.Hold == "" || l.Migrations == nil {
		return nil
	}
	_, err := tx.exec(ctx, tx.store.engine.Hold, l.Name())
	return err
}

// count returns the number of things that a limit counts. It stops when there are too many.
func (tx *tx) count(ctx context.Context, l *storage.Limit, v *storage.Volume) (n int64, err error) {
	switch {
	case l.Counter != nil:
		c := l.Counter
		err = tx.read(ctx, &n, "SELECT number FROM "+counts.name+
			" WHERE quota = $1 AND user_id = $2 AND room_id = $3 AND source = $4", c.Quota, c.User, c.RoomID, c.Source)
		if errors.Is(err, sql.ErrNoRows) {
			return 0, nil
		}
	case l.Migrations != nil:
		w := migrationsWhere(l.Migrations)
		tail := w.with("LIMIT ?", min(l.Max, math.MaxInt64-1)+1)
		err = tx.read(ctx, &n, "SELECT count(*) FROM (SELECT 1 FROM "+migrations.name+" "+tail+") AS counted", w.args...)
	case v != nil:
		err = tx.read(ctx, &n, "SELECT bytes FROM "+volumes.name+
			" WHERE group_id = $1 AND term = $2 AND user_id = $3", v.ID, v.Term, v.UserID)
	}
	return n, err
}

// recount changes the kept numbers for a thing that counted in before and counts in after. The transaction writes the
// numbers later, in one order with all others.
func (tx *tx) recount(before, after []storage.Counter) {
	tx.before, tx.after = append(tx.before, before...), append(tx.after, after...)
}

// applyCounts writes the kept numbers, and deletes those that are 0. Another transaction that changes one of them waits
// until this one ends. So it comes late.
func (tx *tx) applyCounts(ctx context.Context, _ *storage.Change) error {
	changes := storage.Differences(tx.before, tx.after)
	err := insert(ctx, tx, &counts, changes, ` ON CONFLICT (quota, user_id, room_id, source)
		DO UPDATE SET number = mimiport_counts.number + excluded.number`)
	if err != nil {
		return err
	}
	for i := range changes {
		if c := &changes[i]; c.Number < 0 {
			if _, err := tx.exec(ctx, "DELETE FROM mimiport_counts WHERE quota = $1 AND user_id = $2 AND room_id = $3 "+
				"AND source = $4 AND number = 0", c.Quota, c.User, c.RoomID, c.Source); err != nil {
				return err
			}
		}
	}
	return nil
}
