package sqlstore

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// applyRows deletes the rows that are done, and inserts new ones. The table of queues has the first row of each queue.
// A transaction locks the queue's row there before it reads, until it commits. Otherwise one transaction could remove
// the last row of a queue while another adds a row, neither would see the other, and the new row would never become
// due.
func (tx *tx) applyRows(ctx context.Context, c *storage.Change) error {
	done := slices.SortedFunc(slices.Values(c.Done), storage.CompareKeys)
	for len(done) > 0 {
		n := 1
		for n < min(len(done), maxParameters) && sameQueue(done[n], done[0]) {
			n++
		}
		if err := tx.remove(ctx, done[:n]); err != nil {
			return err
		}
		done = done[n:]
	}
	// All transactions use the same order, so they seldom deadlock.
	rows := slices.SortedFunc(slices.Values(c.Rows),
		func(a, b storage.Row) int { return storage.CompareKeys(a.Key(), b.Key()) })
	if err := insert(ctx, tx, &outbox, rows, ""); err != nil {
		return err
	}
	heads := slices.CompactFunc(rows, func(a, b storage.Row) bool { return sameQueue(a.Key(), b.Key()) })
	return insert(ctx, tx, &queues, heads, ` ON CONFLICT (destination, queue) DO UPDATE SET
		row_order = excluded.row_order, due_at = excluded.due_at WHERE excluded.row_order < mimiport_queues.row_order`)
}

func sameQueue(a, b storage.RowKey) bool { return a.Destination == b.Destination && a.Queue == b.Queue }

// remove deletes rows of one queue, at most maxParameters. The next row becomes the first of the queue.
func (tx *tx) remove(ctx context.Context, keys []storage.RowKey) error {
	const ofQueue = " WHERE destination = $1 AND queue = $2"
	queue := []any{keys[0].Destination, keys[0].Queue}
	orders := new(where)
	orders.args = slices.Clone(queue)
	var numbers []uint64
	for _, key := range keys {
		numbers = append(numbers, clamp(key.Order))
	}
	oneOf(orders, "row_order", numbers)
	for _, statement := range []struct {
		query string
		args  []any
	}{
		{"UPDATE mimiport_queues SET row_order = row_order" + ofQueue, queue}, // locks the queue
		{"DELETE FROM mimiport_outbox " + orders.text.String() + " AND destination = $1 AND queue = $2", orders.args},
		{"DELETE FROM mimiport_queues" + ofQueue + " AND NOT EXISTS (SELECT 1 FROM mimiport_outbox" + ofQueue + ")", queue},
		{"UPDATE mimiport_queues SET (row_order, due_at) = (SELECT row_order, due_at FROM mimiport_outbox" + ofQueue +
			" ORDER BY row_order LIMIT 1)" + ofQueue, queue},
	} {
		if _, err := tx.exec(ctx, statement.query, statement.args...); err != nil {
			return err
		}
	}
	return nil
}

// Due implements storage.Store.
func (s *Store) Due(
	ctx context.Context, now time.Time, limit int, lanes ...[]string,
) (rows []storage.Row, next time.Time, err error) {
	lane, args := laneOf(lanes, storage.Millis(now), limit)
	rows, err = list(ctx, s, &outbox, `JOIN (
			SELECT destination, queue, row_order, turn,
				row_number() OVER (PARTITION BY lane ORDER BY turn, due_at, destination) AS place
			FROM (
				SELECT *, `+lane+` AS lane, row_number() OVER (PARTITION BY destination ORDER BY due_at, queue) AS turn
				FROM mimiport_queues WHERE due_at <= $1
			) AS due
		) AS heads USING (destination, queue, row_order) WHERE place <= $2 ORDER BY turn, due_at, destination`, args...)
	if err != nil {
		return nil, time.Time{}, err
	}
	err = s.answer(ctx, []any{(*millis)(&next)},
		"SELECT coalesce(min(due_at), 0) FROM mimiport_queues WHERE due_at > $1", storage.Millis(now))
	return rows, next, err
}

// laneOf returns an SQL expression for the number of a destination's lane, and the arguments of the statement with one
// more for each lane. A lane is a JSON object whose keys are its destinations. Both engines read it with json_each, and
// find a destination without a scan.
func laneOf(lanes [][]string, args ...any) (string, []any) {
	lane := "CASE"
	for i, destinations := range lanes {
		keys := make(map[string]int, len(destinations))
		for _, d := range destinations {
			keys[d] = i
		}
		object, _ := json.Marshal(keys) // a map of numbers always encodes
		args = append(args, string(object))
		lane += fmt.Sprintf(" WHEN destination IN (SELECT key FROM json_each($%d)) THEN %d", len(args), i)
	}
	return lane + fmt.Sprintf(" WHEN TRUE THEN %d END", len(lanes)), args
}

// Rows implements storage.Store.
func (s *Store) Rows(ctx context.Context, from storage.RowKey, limit int) ([]storage.Row, error) {
	return list(ctx, s, &outbox, `WHERE destination = $1 AND queue = $2 AND row_order >= $3 ORDER BY row_order LIMIT $4`,
		from.Destination, from.Queue, clamp(from.Order), limit)
}

// Retry implements storage.Store.
func (s *Store) Retry(ctx context.Context, key storage.RowKey, attempts int, due time.Time) error {
	return s.transact(ctx, "retry", func(tx *tx) error {
		const ofRow = " WHERE destination = $1 AND queue = $2 AND row_order = $3"
		if _, err := tx.exec(ctx, "UPDATE mimiport_queues SET due_at = $4"+ofRow,
			key.Destination, key.Queue, clamp(key.Order), storage.Millis(due)); err != nil {
			return err
		}
		_, err := tx.exec(ctx, "UPDATE mimiport_outbox SET due_at = $4, attempts = $5"+ofRow,
			key.Destination, key.Queue, clamp(key.Order), storage.Millis(due), attempts)
		return err
	})
}

// Hasten implements storage.Store.
func (s *Store) Hasten(ctx context.Context, now time.Time) error {
	return s.transact(ctx, "hasten", func(tx *tx) error {
		ahead := storage.Millis(now.Add(storage.MaxWait))
		if _, err := tx.exec(ctx, `UPDATE mimiport_outbox SET due_at = $1 WHERE due_at > $2 AND kind NOT IN ($3, $4)`,
			storage.Millis(now), ahead, migration.RowPurge, migration.RowEnd); err != nil {
			return err
		}
		_, err := tx.exec(ctx, `UPDATE mimiport_queues AS q SET due_at = $1 WHERE due_at > $2 AND EXISTS (
			SELECT 1 FROM mimiport_outbox WHERE destination = q.destination AND queue = q.queue
				AND row_order = q.row_order AND due_at <= $2)`,
			storage.Millis(now), ahead)
		return err
	})
}

// Claim implements storage.Store.
func (s *Store) Claim(ctx context.Context, key storage.RowKey) (release func(), err error) {
	if s.engine.Locks == nil {
		return func() {}, nil
	}
	if release, err = s.lock(ctx, key.Destination, key.Queue); err != nil {
		return nil, err
	}
	var first bool
	err = s.answer(ctx, []any{&first}, `SELECT EXISTS (SELECT 1 FROM mimiport_queues
		WHERE destination = $1 AND queue = $2 AND row_order = $3)`, key.Destination, key.Queue, clamp(key.Order))
	if err == nil && !first {
		err = storage.ErrNotFound // another process did the row since Due listed it
	}
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// lock takes the lock of a queue.
func (s *Store) lock(ctx context.Context, destination, queue string) (release func(), err error) {
	name := destination + "\x1f" + queue // neither has control characters
	switch ok, err := s.engine.Locks.TryLock(ctx, name); {
	case err != nil:
		return nil, fmt.Errorf("storage: claim: %w", err)
	case !ok:
		return nil, storage.ErrConflict
	}
	release = func() { _ = s.engine.Locks.Unlock(ctx, name) } // it fails only if the session ended, and its locks with it
	return release, nil
}
