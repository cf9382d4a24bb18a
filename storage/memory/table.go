package memory

import (
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// table holds rows sorted by key, one row for each key. It never changes a row in place.
type table[K, V any] struct {
	key     func(*V) K
	compare func(a, b K) int
	rows    []*V
}

// find returns the index of a key's row, or the index where such a row would be.
func (t *table[K, V]) find(k K) (int, bool) {
	return slices.BinarySearchFunc(t.rows, k, func(row *V, k K) int { return t.compare(t.key(row), k) })
}

// get returns the row of a key, or ErrNotFound.
func (t *table[K, V]) get(k K) (*V, error) {
	i, ok := t.find(k)
	if !ok {
		return nil, storage.ErrNotFound
	}
	return t.rows[i], nil
}

// from lists the rows with keys of at least k.
func (t *table[K, V]) from(k K) []*V {
	i, _ := t.find(k)
	return t.rows[i:]
}

// transaction remembers how to undo its writes, so that a change that fails half-way leaves nothing behind.
type transaction struct{ undo []func() }

func (tx *transaction) rollback() {
	for _, f := range slices.Backward(tx.undo) {
		f()
	}
}

// put stores a row under its key and remembers the old row. A nil row deletes.
func put[K, V any](tx *transaction, t *table[K, V], k K, row *V) {
	i, found := t.find(k)
	switch {
	case found && row == nil:
		old := t.rows[i]
		t.rows = slices.Delete(t.rows, i, i+1)
		tx.undo = append(tx.undo, func() { t.rows = slices.Insert(t.rows, i, old) })
	case found:
		old := t.rows[i]
		t.rows[i] = row
		tx.undo = append(tx.undo, func() { t.rows[i] = old })
	case row != nil:
		t.rows = slices.Insert(t.rows, i, row)
		tx.undo = append(tx.undo, func() { t.rows = slices.Delete(t.rows, i, i+1) })
	}
}

// insert stores a row, and fails with ErrConflict if the key has one.
func insert[K, V any](tx *transaction, t *table[K, V], row *V) error {
	if _, found := t.find(t.key(row)); found {
		return storage.ErrConflict
	}
	put(tx, t, t.key(row), row)
	return nil
}

// replace stores the next version of a row. The stored row must have the given version; for version 0 there must be no
// row. Otherwise the error is ErrConflict.
func replace[K, V any](tx *transaction, t *table[K, V], row *V, version uint64, versionOf func(*V) uint64) error {
	if version == 0 {
		return insert(tx, t, row)
	}
	old, err := t.get(t.key(row))
	if err != nil || versionOf(old) != version {
		return storage.ErrConflict
	}
	put(tx, t, t.key(row), row)
	return nil
}
