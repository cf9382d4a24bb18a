// Package memory is a delivery.Store for unit tests: it forgets everything with the process, and answers exactly as the SQL
// stores do.
package memory

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Store is safe for concurrent use.
type Store struct {
	now func() time.Time

	mu         sync.Mutex
	groups     table[numbered, delivery.Group]
	snapshots  table[numbered, delivery.Snapshot]
	entries    table[numbered, delivery.Entry]
	hashes     table[hashed, delivery.Entry]
	migrations table[mimiport.MigrationID, record]
	contents   table[mimiport.MigrationID, delivery.Content]
	rows       table[delivery.RowKey, delivery.Row]
	settings   map[string]json.RawMessage
}

var _ delivery.Store = (*Store)(nil)

// numbered is the key of a group, an epoch's snapshot or a log entry; a group has the number 0.
type numbered struct {
	group        string
	term, number uint64
}

// hashed is the key of a log entry by its hash.
type hashed struct {
	group string
	term  uint64
	hash  [32]byte
}

// record is a migration and when it was first written.
type record struct {
	migration.Migration
	createdAt int64 // milliseconds since 1970
}

// New makes an empty store. It stamps new migrations with the time that now tells.
func New(now func() time.Time) *Store {
	compareIDs := func(a, b mimiport.MigrationID) int { return bytes.Compare(a[:], b[:]) }
	return &Store{
		now: now,
		groups: table[numbered, delivery.Group]{compare: compareNumbered,
			key: func(g *delivery.Group) numbered { return numbered{string(g.ID), g.Term, 0} }},
		snapshots: table[numbered, delivery.Snapshot]{compare: compareNumbered,
			key: func(s *delivery.Snapshot) numbered { return numbered{string(s.GroupID), s.Term, s.Epoch} }},
		entries: table[numbered, delivery.Entry]{compare: compareNumbered,
			key: func(e *delivery.Entry) numbered { return numbered{string(e.GroupID), e.Term, e.Seq} }},
		hashes: table[hashed, delivery.Entry]{compare: compareHashed,
			key: func(e *delivery.Entry) hashed { return hashed{string(e.GroupID), e.Term, e.Hash} }},
		migrations: table[mimiport.MigrationID, record]{compare: compareIDs,
			key: func(r *record) mimiport.MigrationID { return r.ID }},
		contents: table[mimiport.MigrationID, delivery.Content]{compare: compareIDs,
			key: func(c *delivery.Content) mimiport.MigrationID { return c.ID }},
		rows:     table[delivery.RowKey, delivery.Row]{compare: compareRowKeys, key: (*delivery.Row).Key},
		settings: make(map[string]json.RawMessage),
	}
}

func compareNumbered(a, b numbered) int {
	return cmp.Or(strings.Compare(a.group, b.group), cmp.Compare(a.term, b.term), cmp.Compare(a.number, b.number))
}

func compareHashed(a, b hashed) int {
	return cmp.Or(strings.Compare(a.group, b.group), cmp.Compare(a.term, b.term), bytes.Compare(a.hash[:], b.hash[:]))
}

func compareRowKeys(a, b delivery.RowKey) int {
	return cmp.Or(strings.Compare(a.Destination, b.Destination), strings.Compare(a.Queue, b.Queue), cmp.Compare(a.Order, b.Order))
}

// Close does nothing: what is in memory stays readable.
func (s *Store) Close() error { return nil }

// Apply implements delivery.Store.
func (s *Store) Apply(ctx context.Context, c *delivery.Change) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := storage.CheckRange(c); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	tx := new(transaction)
	if err := s.apply(tx, c); err != nil {
		tx.rollback()
		return err
	}
	return nil
}

// apply checks and writes part by part. Deletions precede insertions, so that a change can put a row in the place of one it
// removes.
func (s *Store) apply(tx *transaction, c *delivery.Change) error {
	if g := c.Group; g != nil {
		if err := replace(tx, &s.groups, cloneGroup(g, g.Version+1), g.Version, func(g *delivery.Group) uint64 { return g.Version }); err != nil {
			return err
		}
	}
	if m := c.Migration; m != nil {
		r := &record{*cloneMigration(m, m.Version+1), storage.Millis(s.now())}
		if old, err := s.migrations.get(m.ID); err == nil {
			r.createdAt = old.createdAt
		}
		if err := replace(tx, &s.migrations, r, m.Version, func(r *record) uint64 { return r.Version }); err != nil {
			return err
		}
	}
	if c.Content != nil {
		if err := insert(tx, &s.contents, &delivery.Content{ID: c.Content.ID, Data: clone(c.Content.Data)}); err != nil {
			return err
		}
	}
	if err := s.applyLog(tx, c); err != nil {
		return err
	}
	for _, key := range c.Done {
		put(tx, &s.rows, key, nil)
	}
	for i := range c.Rows {
		if err := insert(tx, &s.rows, cloneRow(&c.Rows[i])); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) applyLog(tx *transaction, c *delivery.Change) error {
	if c.Drop != nil {
		s.drop(tx, c.Drop)
	}
	for i := range c.Snapshots {
		_ = insert(tx, &s.snapshots, cloneSnapshot(&c.Snapshots[i])) // one that exists is left as it is
	}
	for i := range c.Entries {
		e := cloneEntry(&c.Entries[i])
		if err := cmp.Or(insert(tx, &s.entries, e), insert(tx, &s.hashes, e)); err != nil {
			return err
		}
	}
	return nil
}

