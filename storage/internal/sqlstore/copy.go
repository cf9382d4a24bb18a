package sqlstore

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"io"
)

// Copied is what a table holds after Copy.
type Copied struct {
	Table string
	Rows  int
	Sum   [32]byte // the sum of its contents, which is the same for the same rows in any order and engine
}

// Copy copies all of a store into an empty one, in one transaction, reads it back there, and compares. Nobody may write
// to either meanwhile. It returns what each table holds now. When the destination has a row already, or what it gives
// back is not what it was given, that is an error and the destination is as it was.
func Copy(ctx context.Context, from, to *Store) (copied []Copied, err error) {
	err = to.transact(ctx, "copy", func(into *tx) error {
		copied = nil
		for _, t := range []interface {
			copy(context.Context, *Store, *tx) (Copied, error)
		}{
			&groups, &snapshots, &entries, &receipts, &former, &migrations, &contents, &outbox, &queues, &evidence, &volumes,
			&settings, &keyObjects, &nonces,
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
		err = fmt.Errorf("%s has %d rows of %d, or others", t.name, written.Rows, read.Rows)
	}
	return written, err
}

// querier reads, within a transaction or without one.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// scan calls f for every row and sums the rows up.
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
		for i := range sum { // rows differ in their keys: none cancels another out
			c.Sum[i] ^= sum[i]
		}
		if err := f(row); err != nil {
			return c, err
		}
	}
	return c, rows.Err()
}

// sumOf is the SHA-256 of a row's columns, each after its length.
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
	_, _ = w.Write(data) // a hash takes everything
}
