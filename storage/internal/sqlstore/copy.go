package sqlstore

import (
	"context"
	"crypto/sha256"
	"database/sql/driver"
	"fmt"
	"io"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// Copied says what a table contains after Copy.
type Copied struct {
	Table string
	Rows  int
	Sum   [32]byte // the same for the same rows, in any order and engine
}

// Copy copies a whole store into an empty one in one transaction. Then it reads the copy back and compares. During the
// copy nobody may write to either store. Copy returns the contents of each table. If the destination has rows, or the
// copy differs, Copy returns an error and the destination does not change. So a copy that failed can be repeated.
func Copy(ctx context.Context, from, to *Store) (copied []Copied, err error) {
	err = to.transact(ctx, "copy", func(into *tx) error {
		copied = nil
		if err := RequireEmpty(ctx, to.engine, into.Tx); err != nil {
			return err
		}
		for _, t := range tables {
			c, err := t.copy(ctx, from, into, "")
			if err != nil {
				return stopped(c, err)
			}
			copied = append(copied, c)
		}
		return nil
	})
	return copied, err
}

func stopped(c Copied, err error) error {
	return fmt.Errorf("stopped in %s after %d rows: %w", c.Table, c.Rows, err)
}

// ofGone selects the rows of groups that no server has here any more: every term of such a group here has ended.
const ofGone = "WHERE group_id NOT IN (SELECT group_id FROM mimiport_groups WHERE state NOT IN (" +
	"'" + string(migration.GroupMoved) + "', '" + string(migration.GroupClosed) + "', " +
	"'" + string(migration.GroupEnded) + "', '" + string(migration.GroupDropped) + "'))"

// CopyGone copies the groups that are not here any more into an empty store, in one transaction: their terms, logs,
// snapshots and migrations. It copies no key, no work and no offer that is open.
func CopyGone(ctx context.Context, from, to *Store) error {
	return to.transact(ctx, "copy", func(into *tx) error {
		if err := RequireEmpty(ctx, to.engine, into.Tx); err != nil {
			return err
		}
		if c, err := migrations.copy(ctx, from, into, ofGone+" AND state <> '"+string(migration.Offered)+"'"); err != nil {
			return stopped(c, err)
		}
		for _, t := range []copier{&groups, &snapshots, &entries, &receipts, &former} {
			if c, err := t.copy(ctx, from, into, ofGone); err != nil {
				return stopped(c, err)
			}
		}
		return nil
	})
}

// Sum reads every row of every table, and returns the contents of each table.
func (s *Store) Sum(ctx context.Context) (sums []Copied, err error) {
	for _, t := range tables {
		c, err := t.sum(ctx, s.read)
		if err != nil {
			return nil, fmt.Errorf("storage: read %s after %d rows: %w", c.Table, c.Rows, err)
		}
		sums = append(sums, c)
	}
	return sums, nil
}

func (t *table[T]) sum(ctx context.Context, db querier) (Copied, error) {
	return t.scan(ctx, db, "", func(*T) error { return nil })
}

// copy copies the rows that the tail of a SELECT selects into an empty table.
func (t *table[T]) copy(ctx context.Context, from *Store, to *tx, tail string) (Copied, error) {
	read, err := t.scan(ctx, from.read, tail, func(row *T) error { return insert(ctx, to, t, []T{*row}, "") })
	if err != nil {
		return read, err
	}
	written, err := t.sum(ctx, to.Tx)
	if err == nil && written != read {
		err = fmt.Errorf("the copy of %s differs: it has %d rows, the original has %d", t.name, written.Rows, read.Rows)
	}
	return written, err
}

// scan calls f for every row that the tail of a SELECT selects, and sums the rows up.
func (t *table[T]) scan(ctx context.Context, db querier, tail string, f func(*T) error) (Copied, error) {
	c := Copied{Table: t.name}
	rows, err := db.QueryContext(ctx, t.selection(tail))
	if err != nil {
		return c, err
	}
	defer rows.Close()
	for rows.Next() {
		row := new(T)
		fields := t.fields(row)
		if err := rows.Scan(fields...); err != nil {
			return c, err
		}
		sum, err := sumOf(fields)
		if err != nil {
			return c, err
		}
		if err := f(row); err != nil {
			return c, err
		}
		c.Rows++
		for i := range sum { // the keys of rows differ, so no two rows cancel each other out
			c.Sum[i] ^= sum[i]
		}
	}
	return c, rows.Err()
}

// sumOf returns the SHA-256 of a row's columns, each with its length in front.
func sumOf(fields []any) (sum [32]byte, err error) {
	h := sha256.New()
	for _, field := range fields {
		value, err := driver.DefaultParameterConverter.ConvertValue(field)
		if err != nil {
			return sum, err
		}
		addColumn(h, value)
	}
	return [32]byte(h.Sum(nil)), nil
}

func addColumn(w io.Writer, value driver.Value) {
	data, ok := value.([]byte)
	if !ok {
		data = fmt.Append(nil, value)
	}
	fmt.Fprintf(w, "%d:", len(data))
	_, _ = w.Write(data) // a hash never fails
}
