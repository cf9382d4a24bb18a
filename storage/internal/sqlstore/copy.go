package sqlstore

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"io"
)

// Copied says what a table contains after Copy.
type Copied struct {
	Table string
	Rows  int
	Sum   [32]byte // the same for the same rows, in any order and engine
}

// Copy copies a whole store into an empty one in one transaction. Then it reads the copy back and compares. During the
// copy nobody may write to either store. Copy returns the contents of each table. If the destination has rows, or the
// copy differs, Copy returns an error and the destination does not change.
func Copy(ctx context.Context, from, to *Store) (copied []Copied, err error) {
	err = to.transact(ctx, "copy", func(into *tx) error {
		copied = nil
		for _, t := range []interface {
			copy(context.Context, *Store, *tx) (Copied, error)
		}{
			&groups, &snapshots, &entries, &receipts, &former, &migrations, &contents, &outbox, &queues, &evidence, &volumes,
			&settings, &keyObjects, &nonces, &lastResorts,
		} {
			c, err := t.copy(ctx, from, into)
			if err != nil {
				return err
			}
			copied = append(copied, c)
		}
		return nil
	})
	return copied, err
}

func (t *table[T]) copy(ctx context.Context, from *Store, to *tx) (Copied, error) {
	before, err := t.scan(ctx, to.Tx, func(*T) error {
		return fmt.Errorf("the destination is not empty: %s has rows", t.name)
	})
	if err != nil {
		return before, err
	}
	read, err := t.scan(ctx, from.read, func(row *T) error { return insert(ctx, to, t, []T{*row}, "") })
	if err != nil {
		return read, err
	}
	written, err := t.scan(ctx, to.Tx, func(*T) error { return nil })
	if err == nil && written != read {
		err = fmt.Errorf("the copy of %s differs: it has %d rows, the original has %d", t.name, written.Rows, read.Rows)
	}
	return written, err
}

// querier runs queries, within a transaction or outside.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// scan calls f for every row, and sums the rows up.
func (t *table[T]) scan(ctx context.Context, db querier, f func(*T) error) (Copied, error) {
	c := Copied{Table: t.name}
	rows, err := db.QueryContext(ctx, t.selection(""))
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
		c.Rows++
		for i := range sum { // the keys of rows differ, so no two rows cancel each other out
			c.Sum[i] ^= sum[i]
		}
		if err := f(row); err != nil {
			return c, err
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
