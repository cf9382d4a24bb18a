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
	mu         sync.Mutex
	groups     table[numbered, delivery.Group]
	snapshots  table[numbered, delivery.Snapshot]
	entries    table[numbered, delivery.Entry]
	hashes     table[hashed, delivery.Entry]
	migrations table[mimiport.MigrationID, migration.Migration]
	contents   table[mimiport.MigrationID, delivery.Content]
	rows       table[delivery.RowKey, delivery.Row]
	evidence   table[found, delivery.Evidence]
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

// found is the key of a piece of evidence.
type found struct {
	group     string
	kind      delivery.EvidenceKind
	migration mimiport.MigrationID
}

// New makes an empty store.
func New() *Store {
	compareIDs := func(a, b mimiport.MigrationID) int { return bytes.Compare(a[:], b[:]) }
	return &Store{
		groups: table[numbered, delivery.Group]{compare: compareNumbered,
			key: func(g *delivery.Group) numbered { return numbered{string(g.ID), g.Term, 0} }},
		snapshots: table[numbered, delivery.Snapshot]{compare: compareNumbered,
			key: func(s *delivery.Snapshot) numbered { return numbered{string(s.GroupID), s.Term, s.Epoch} }},
		entries: table[numbered, delivery.Entry]{compare: compareNumbered,
			key: func(e *delivery.Entry) numbered { return numbered{string(e.GroupID), e.Term, e.Seq} }},
		hashes: table[hashed, delivery.Entry]{compare: compareHashed,
			key: func(e *delivery.Entry) hashed { return hashed{string(e.GroupID), e.Term, e.Hash} }},
		migrations: table[mimiport.MigrationID, migration.Migration]{compare: compareIDs,
			key: func(m *migration.Migration) mimiport.MigrationID { return m.ID }},
		contents: table[mimiport.MigrationID, delivery.Content]{compare: compareIDs,
			key: func(c *delivery.Content) mimiport.MigrationID { return c.ID }},
		rows: table[delivery.RowKey, delivery.Row]{compare: storage.CompareKeys, key: (*delivery.Row).Key},
		evidence: table[found, delivery.Evidence]{compare: compareFound,
			key: func(e *delivery.Evidence) found { return found{string(e.GroupID), e.Kind, e.Migration} }},
		settings: make(map[string]json.RawMessage),
	}
}

func compareNumbered(a, b numbered) int {
	return cmp.Or(strings.Compare(a.group, b.group), cmp.Compare(a.term, b.term), cmp.Compare(a.number, b.number))
}

func compareFound(a, b found) int {
	return cmp.Or(strings.Compare(a.group, b.group), cmp.Compare(a.kind, b.kind), bytes.Compare(a.migration[:], b.migration[:]))
}

func compareHashed(a, b hashed) int {
	return cmp.Or(strings.Compare(a.group, b.group), cmp.Compare(a.term, b.term), bytes.Compare(a.hash[:], b.hash[:]))
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
		versionOf := func(g *delivery.Group) uint64 { return g.Version }
		if err := replace(tx, &s.groups, cloneGroup(g, g.Version+1), g.Version, versionOf); err != nil {
			return err
		}
	}
	if m := c.Migration; m != nil {
		versionOf := func(m *migration.Migration) uint64 { return m.Version }
		if err := replace(tx, &s.migrations, cloneMigration(m, m.Version+1), m.Version, versionOf); err != nil {
			return err
		}
	}
	if c.DropContent != nil {
		put(tx, &s.contents, *c.DropContent, nil)
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
	if e := c.DropBefore; e != nil {
		s.dropSnapshots(tx, e.GroupKey, e.Epoch)
	}
	for i := range c.Snapshots {
		_ = insert(tx, &s.snapshots, cloneSnapshot(&c.Snapshots[i])) // one that exists is left as it is
	}
	for i := range c.Evidence {
		e := c.Evidence[i]
		e.GroupID, e.Data, e.At = clone(e.GroupID), clone(e.Data), stamp(e.At)
		_ = insert(tx, &s.evidence, &e) // the first is kept
	}
	for i := range c.Entries {
		e := cloneEntry(&c.Entries[i])
		if err := cmp.Or(insert(tx, &s.entries, e), insert(tx, &s.hashes, e)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) drop(tx *transaction, key *delivery.GroupKey) {
	term := numbered{string(key.ID), key.Term, 0}
	for _, e := range slices.Clone(s.entries.from(term)) {
		if !inTerm(e.GroupID, e.Term, *key) {
			break
		}
		put(tx, &s.hashes, s.hashes.key(e), nil)
		put(tx, &s.entries, s.entries.key(e), nil)
	}
	s.dropSnapshots(tx, *key, math.MaxUint64)
}

// dropSnapshots deletes the snapshots of a term before an epoch.
func (s *Store) dropSnapshots(tx *transaction, key delivery.GroupKey, before uint64) {
	for _, snap := range slices.Clone(s.snapshots.from(numbered{string(key.ID), key.Term, 0})) {
		if !inTerm(snap.GroupID, snap.Term, key) || snap.Epoch >= before {
			break
		}
		put(tx, &s.snapshots, s.snapshots.key(snap), nil)
	}
}

func inTerm(id []byte, term uint64, key delivery.GroupKey) bool {
	return bytes.Equal(id, key.ID) && term == key.Term
}

// Group implements delivery.Store.
func (s *Store) Group(_ context.Context, id []byte) (*delivery.Group, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, _ := s.groups.find(numbered{string(id), math.MaxUint64, 0})
	for i--; i >= 0 && bytes.Equal(s.groups.rows[i].ID, id); i-- {
		if g := s.groups.rows[i]; g.State != delivery.GroupDropped {
			return cloneGroup(g, g.Version), nil
		}
	}
	return nil, delivery.ErrNotFound
}

// GroupAt implements delivery.Store.
func (s *Store) GroupAt(_ context.Context, key delivery.GroupKey) (*delivery.Group, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.groups.get(numbered{string(key.ID), key.Term, 0})
	if err != nil {
		return nil, err
	}
	return cloneGroup(g, g.Version), nil
}

// Groups implements delivery.Store.
func (s *Store) Groups(_ context.Context, after []byte, limit int) ([]delivery.Group, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var groups []delivery.Group
	for _, g := range s.groups.from(numbered{string(after), math.MaxUint64, 0}) {
		if g.State == delivery.GroupDropped {
			continue
		}
		if n := len(groups); n > 0 && bytes.Equal(groups[n-1].ID, g.ID) {
			groups = groups[:n-1] // a later term
		}
		if len(groups) >= limit {
			break
		}
		groups = append(groups, *cloneGroup(g, g.Version))
	}
	return groups, nil
}

// CountGroups implements delivery.Store.
func (s *Store) CountGroups(_ context.Context, creator string) (hosted, reserved int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.groups.rows {
		switch {
		case g.State == delivery.GroupActive || g.State == delivery.GroupFrozen:
			hosted++
		case g.State == delivery.GroupReserved && g.Creator == creator:
			reserved++
		}
	}
	return hosted, reserved, nil
}

// Snapshot implements delivery.Store.
func (s *Store) Snapshot(_ context.Context, key delivery.GroupKey, epoch uint64) (*delivery.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, found := s.snapshots.find(numbered{string(key.ID), key.Term, epoch})
	if !found {
		i-- // the one before
	}
	if i < 0 || !inTerm(s.snapshots.rows[i].GroupID, s.snapshots.rows[i].Term, key) {
		return nil, delivery.ErrNotFound
	}
	return cloneSnapshot(s.snapshots.rows[i]), nil
}

// Entries implements delivery.Store.
func (s *Store) Entries(_ context.Context, key delivery.GroupKey, from uint64, limit int) ([]delivery.Entry, error) {
	return s.log(key, from, limit, func(*delivery.Entry) bool { return true }), nil
}

// Handshakes implements delivery.Store.
func (s *Store) Handshakes(_ context.Context, key delivery.GroupKey, from uint64, limit int) ([]delivery.Entry, error) {
	return s.log(key, from, limit, handshake), nil
}

// log lists entries of a kind until there are enough of them, or of their bytes.
func (s *Store) log(key delivery.GroupKey, from uint64, limit int, of func(*delivery.Entry) bool) (found []delivery.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size := 0
	for _, e := range s.entries.from(numbered{string(key.ID), key.Term, from}) {
		if len(found) >= limit || size >= delivery.EntriesBytes || !inTerm(e.GroupID, e.Term, key) {
			break
		}
		if of(e) {
			found = append(found, *cloneEntry(e))
			size += e.Bytes()
		}
	}
	return found
}

func handshake(e *delivery.Entry) bool {
	return e.Kind == delivery.EntryProposal || e.Kind == delivery.EntryCommit
}

// EntryByHash implements delivery.Store.
func (s *Store) EntryByHash(_ context.Context, key delivery.GroupKey, hash [32]byte) (*delivery.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := s.hashes.get(hashed{string(key.ID), key.Term, hash})
	if err != nil {
		return nil, err
	}
	return cloneEntry(e), nil
}

// Migration implements delivery.Store.
func (s *Store) Migration(_ context.Context, id mimiport.MigrationID) (*migration.Migration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.migrations.get(id)
	if err != nil {
		return nil, err
	}
	return cloneMigration(m, m.Version), nil
}

// Migrations implements delivery.Store.
func (s *Store) Migrations(
	_ context.Context, f delivery.MigrationFilter, after mimiport.MigrationID, limit int,
) (migrations []migration.Migration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.migrations.from(after) {
		if len(migrations) >= limit {
			break
		}
		if m.ID != after && selected(m, &f) {
			migrations = append(migrations, *cloneMigration(m, m.Version))
		}
	}
	return migrations, nil
}

func selected(m *migration.Migration, f *delivery.MigrationFilter) bool {
	return (len(f.GroupID) == 0 || bytes.Equal(m.GroupID, f.GroupID)) &&
		(f.Role == "" || m.Role == f.Role) &&
		(len(f.States) == 0 || slices.Contains(f.States, m.State)) &&
		(f.User == "" || m.User == f.User) &&
		!m.CreatedAt.Before(stamp(f.Since))
}

// CommitAborted implements delivery.Store.
func (s *Store) CommitAborted(_ context.Context, groupID []byte, hash []byte) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.migrations.rows, func(m *migration.Migration) bool {
		return bytes.Equal(m.GroupID, groupID) && bytes.Equal(m.CommitHash, hash) &&
			m.Role == migration.Source && m.State == migration.Aborted
	}), nil
}

// Content implements delivery.Store.
func (s *Store) Content(_ context.Context, id mimiport.MigrationID) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.contents.get(id)
	if err != nil {
		return nil, err
	}
	return clone(c.Data), nil
}

// Due implements delivery.Store.
func (s *Store) Due(_ context.Context, now time.Time, limit int) (rows []delivery.Row, next time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now = stamp(now)
	for _, h := range s.heads() {
		switch due := h.row.Due; {
		case !due.After(now) && len(rows) < limit:
			rows = append(rows, *cloneRow(h.row))
		case !due.After(now):
			next = now
		case next.IsZero() || due.Before(next):
			next = due
		}
	}
	return rows, next, nil
}

// head is the first row of a queue, and how many of the same destination come before it.
type head struct {
	row  *delivery.Row
	turn int
}

// heads lists the first row of every queue by when they are due, the destinations taking turns.
func (s *Store) heads() []head {
	var heads []head
	for i, r := range s.rows.rows {
		if i == 0 || s.rows.rows[i-1].Destination != r.Destination || s.rows.rows[i-1].Queue != r.Queue {
			heads = append(heads, head{row: r})
		}
	}
	slices.SortStableFunc(heads, func(a, b head) int { return a.row.Due.Compare(b.row.Due) })
	turns := make(map[string]int)
	for i := range heads {
		destination := heads[i].row.Destination
		heads[i].turn = turns[destination]
		turns[destination]++
	}
	slices.SortStableFunc(heads, func(a, b head) int { return cmp.Compare(a.turn, b.turn) })
	return heads
}

// Claim implements delivery.Store.
func (s *Store) Claim(context.Context, delivery.RowKey) (release func(), err error) {
	return func() {}, nil
}

// Retry implements delivery.Store.
func (s *Store) Retry(_ context.Context, key delivery.RowKey, attempts int, due time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.rows.get(key)
	if err != nil {
		return nil // done in the meantime
	}
	later := *r
	later.Attempts, later.Due = attempts, stamp(due)
	put(new(transaction), &s.rows, key, &later)
	return nil
}

// Hasten implements delivery.Store.
func (s *Store) Hasten(_ context.Context, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := stamp(now.Add(delivery.MaxWait))
	for i, r := range s.rows.rows {
		if r.Due.After(limit) && r.Kind != delivery.RowPurge {
			sooner := *r
			sooner.Due = stamp(now)
			s.rows.rows[i] = &sooner
		}
	}
	return nil
}

// GroupsInRoom implements delivery.Store.
func (s *Store) GroupsInRoom(ctx context.Context, roomID string) (found []delivery.Group, err error) {
	all, err := s.Groups(ctx, nil, math.MaxInt)
	for _, g := range all {
		if g.RoomID == roomID {
			found = append(found, g)
		}
	}
	return found, err
}

// Evidence implements delivery.Store.
func (s *Store) Evidence(_ context.Context, groupID []byte) ([]delivery.Evidence, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []delivery.Evidence
	for _, e := range s.evidence.rows {
		if bytes.Equal(e.GroupID, groupID) {
			copied := *e
			copied.GroupID, copied.Data = clone(e.GroupID), clone(e.Data)
			list = append(list, copied)
		}
	}
	slices.SortStableFunc(list, func(a, b delivery.Evidence) int { return a.At.Compare(b.At) })
	return list, nil
}

// Forget implements delivery.Store.
func (s *Store) Forget(_ context.Context, before delivery.Horizon) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	tx := new(transaction)
	for _, e := range slices.Clone(s.entries.rows) {
		if e.At.Before(before.Log) && (!handshake(e) || e.Seq < s.replayedFrom(e)) {
			put(tx, &s.hashes, s.hashes.key(e), nil)
			put(tx, &s.entries, s.entries.key(e), nil)
		}
	}
	for _, m := range slices.Clone(s.migrations.rows) {
		if m.Role == migration.Target && m.State == migration.Dropped && len(m.Complete.Message) == 0 && m.ExpiresAt.Before(before.Offers) {
			put(tx, &s.migrations, m.ID, nil)
		}
	}
	for _, e := range slices.Clone(s.evidence.rows) {
		if e.At.Before(before.Evidence) {
			put(tx, &s.evidence, s.evidence.key(e), nil)
		}
	}
	return nil
}

// replayedFrom is the first log number that the oldest snapshot of an entry's group leaves to be replayed.
func (s *Store) replayedFrom(e *delivery.Entry) uint64 {
	later := s.snapshots.from(numbered{string(e.GroupID), e.Term, 0})
	if len(later) == 0 || !inTerm(later[0].GroupID, later[0].Term, delivery.GroupKey{ID: e.GroupID, Term: e.Term}) {
		return 0
	}
	return later[0].Seq
}

// Setting implements delivery.Store.
func (s *Store) Setting(_ context.Context, name string) (json.RawMessage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.settings[name]
	if !ok {
		return nil, delivery.ErrNotFound
	}
	return clone(value), nil
}

// PutSetting implements delivery.Store.
func (s *Store) PutSetting(_ context.Context, name string, value json.RawMessage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settings[name] = clone(value)
	return nil
}

// AddSetting implements delivery.Store.
func (s *Store) AddSetting(_ context.Context, name string, value json.RawMessage) (json.RawMessage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.settings[name]; !ok {
		s.settings[name] = clone(value)
	}
	return clone(s.settings[name]), nil
}
