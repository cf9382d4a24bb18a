// Package memory is a storage.Store for unit tests. It keeps its data in memory, and answers exactly as the SQL stores
// do.
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
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Store is safe for concurrent use.
type Store struct {
	mu         sync.Mutex
	groups     table[numbered, storage.Group]
	snapshots  table[numbered, storage.Snapshot]
	entries    table[numbered, storage.Entry]
	hashes     table[hashed, storage.Entry]
	receipts   table[numbered, storage.Receipt]
	former     table[numbered, storage.Former]
	migrations table[mimiport.MigrationID, migration.Migration]
	contents   table[mimiport.MigrationID, storage.Content]
	rows       table[storage.RowKey, storage.Row]
	fanOuts    table[numbered, storage.FanOut]
	evidence   table[storage.EvidenceKey, storage.Evidence]
	volumes    table[owned, storage.Volume]
	settings   map[string]json.RawMessage
	keys       table[keyed, storage.KeyObject]
	nonces     table[used, storage.Nonce]
	resorts    table[device, storage.LastResort]
	audit      table[storage.AuditID, storage.AuditEntry]
	drain      table[string, storage.DrainGroup]
}

var _ storage.Store = (*Store)(nil)

// numbered is the key of a group, an epoch's snapshot or receipt, or a log entry. A group has the number 0.
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

// keyed is the key of a key object.
type keyed struct{ server, keyID string }

// used is the key of a nonce.
type used struct {
	user, device string
	nonce        mimiport.Nonce
}

// device is the key of a KeyPackage of last resort.
type device struct{ user, id string }

// owned is the key of a volume.
type owned struct {
	numbered
	user string
}

// New makes an empty store.
func New() *Store {
	compareIDs := func(a, b mimiport.MigrationID) int { return bytes.Compare(a[:], b[:]) }
	return &Store{
		groups: table[numbered, storage.Group]{compare: compareNumbered,
			key: func(g *storage.Group) numbered { return numbered{string(g.ID), g.Term, 0} }},
		snapshots: table[numbered, storage.Snapshot]{compare: compareNumbered,
			key: func(s *storage.Snapshot) numbered { return numbered{string(s.GroupID), s.Term, s.Epoch} }},
		entries: table[numbered, storage.Entry]{compare: compareNumbered,
			key: func(e *storage.Entry) numbered { return numbered{string(e.GroupID), e.Term, e.Seq} }},
		hashes: table[hashed, storage.Entry]{compare: compareHashed,
			key: func(e *storage.Entry) hashed { return hashed{string(e.GroupID), e.Term, e.Hash} }},
		receipts: table[numbered, storage.Receipt]{compare: compareNumbered,
			key: func(r *storage.Receipt) numbered { return numbered{string(r.GroupID), r.Term, r.Epoch} }},
		former: table[numbered, storage.Former]{compare: compareNumbered,
			key: func(f *storage.Former) numbered { return numbered{string(f.ID), f.Term, 0} }},
		migrations: table[mimiport.MigrationID, migration.Migration]{compare: compareIDs,
			key: func(m *migration.Migration) mimiport.MigrationID { return m.ID }},
		contents: table[mimiport.MigrationID, storage.Content]{compare: compareIDs,
			key: func(c *storage.Content) mimiport.MigrationID { return c.ID }},
		rows: table[storage.RowKey, storage.Row]{compare: storage.CompareKeys, key: (*storage.Row).Key},
		fanOuts: table[numbered, storage.FanOut]{compare: compareNumbered,
			key: func(f *storage.FanOut) numbered { return numbered{string(f.ID), f.Term, f.Seq} }},
		evidence: table[storage.EvidenceKey, storage.Evidence]{compare: compareFound,
			key: (*storage.Evidence).Key},
		volumes: table[owned, storage.Volume]{compare: compareOwned,
			key: func(v *storage.Volume) owned { return owned{numbered{string(v.ID), v.Term, 0}, v.UserID} }},
		settings: make(map[string]json.RawMessage),
		keys: table[keyed, storage.KeyObject]{
			compare: func(a, b keyed) int {
				return cmp.Or(strings.Compare(a.server, b.server), strings.Compare(a.keyID, b.keyID))
			},
			key: func(k *storage.KeyObject) keyed { return keyed{k.Server, k.KeyID} }},
		nonces: table[used, storage.Nonce]{compare: compareUsed,
			key: func(n *storage.Nonce) used { return used{n.UserID, n.DeviceID, n.Nonce} }},
		resorts: table[device, storage.LastResort]{
			compare: func(a, b device) int { return cmp.Or(strings.Compare(a.user, b.user), strings.Compare(a.id, b.id)) },
			key:     func(l *storage.LastResort) device { return device{l.UserID, l.DeviceID} }},
		audit: table[storage.AuditID, storage.AuditEntry]{
			compare: func(a, b storage.AuditID) int { return bytes.Compare(a[:], b[:]) },
			key:     func(e *storage.AuditEntry) storage.AuditID { return e.ID }},
		drain: table[string, storage.DrainGroup]{compare: strings.Compare,
			key: func(g *storage.DrainGroup) string { return string(g.ID) }},
	}
}

func compareNumbered(a, b numbered) int {
	return cmp.Or(strings.Compare(a.group, b.group), cmp.Compare(a.term, b.term), cmp.Compare(a.number, b.number))
}

func compareOwned(a, b owned) int {
	return cmp.Or(compareNumbered(a.numbered, b.numbered), strings.Compare(a.user, b.user))
}

func compareUsed(a, b used) int {
	byDevice := cmp.Or(strings.Compare(a.user, b.user), strings.Compare(a.device, b.device))
	return cmp.Or(byDevice, bytes.Compare(a.nonce[:], b.nonce[:]))
}

func compareFound(a, b storage.EvidenceKey) int {
	return cmp.Or(strings.Compare(a.GroupID, b.GroupID), cmp.Compare(a.Kind, b.Kind),
		bytes.Compare(a.Migration[:], b.Migration[:]))
}

func compareHashed(a, b hashed) int {
	return cmp.Or(strings.Compare(a.group, b.group), cmp.Compare(a.term, b.term), bytes.Compare(a.hash[:], b.hash[:]))
}

// Close does nothing. The data stays readable.
func (s *Store) Close() error { return nil }

// Apply implements storage.Store.
func (s *Store) Apply(ctx context.Context, c *storage.Change) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := storage.RequireRange(c); err != nil {
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

// apply checks and writes part by part. It deletes before it inserts, so that a change can replace a row.
func (s *Store) apply(tx *transaction, c *storage.Change) error {
	if g := c.Group; g != nil {
		versionOf := func(g *storage.Group) uint64 { return g.Version }
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
		if err := insert(tx, &s.contents, &storage.Content{ID: c.Content.ID, Data: clone(c.Content.Data)}); err != nil {
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
	if err := s.applyFanOuts(tx, c); err != nil {
		return err
	}
	if err := s.requireLimits(c); err != nil {
		return err
	}
	if c.Setting != nil { // nothing fails after it
		s.settings[c.Setting.Name] = clone(c.Setting.Value)
	}
	return nil
}

func (s *Store) applyLog(tx *transaction, c *storage.Change) error {
	if c.Drop != nil {
		s.drop(tx, c.Drop)
	}
	if e := c.DropBefore; e != nil {
		s.dropSnapshots(tx, e.GroupKey, e.Epoch)
	}
	for i := range c.Snapshots {
		_ = insert(tx, &s.snapshots, cloneSnapshot(&c.Snapshots[i])) // a stored one stays
	}
	for i := range c.Evidence {
		e := c.Evidence[i]
		e.GroupID, e.Data, e.At = clone(e.GroupID), clone(e.Data), stamp(e.At)
		_ = insert(tx, &s.evidence, &e) // the first one stays
	}
	if c.Receipt != nil {
		if err := insert(tx, &s.receipts, cloneReceipt(c.Receipt)); err != nil {
			return err
		}
	}
	if f := c.Former; f != nil {
		put(tx, &s.former, s.former.key(f), cloneFormer(f))
	}
	if c.Volume != nil {
		s.addVolume(tx, c.Volume)
	}
	for i := range c.Entries {
		e := cloneEntry(&c.Entries[i])
		if err := cmp.Or(insert(tx, &s.entries, e), insert(tx, &s.hashes, e)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) drop(tx *transaction, key *storage.GroupKey) {
	term := numbered{string(key.ID), key.Term, 0}
	for _, e := range slices.Clone(s.entries.from(term)) {
		if !inTerm(e.GroupID, e.Term, *key) {
			break
		}
		put(tx, &s.hashes, s.hashes.key(e), nil)
		put(tx, &s.entries, s.entries.key(e), nil)
	}
	for _, r := range slices.Clone(s.receipts.from(term)) {
		if !inTerm(r.GroupID, r.Term, *key) {
			break
		}
		put(tx, &s.receipts, s.receipts.key(r), nil)
	}
	for _, v := range slices.Clone(s.volumes.from(owned{numbered: term})) {
		if !inTerm(v.ID, v.Term, *key) {
			break
		}
		put(tx, &s.volumes, s.volumes.key(v), nil)
	}
	put(tx, &s.former, term, nil)
	s.dropSnapshots(tx, *key, math.MaxUint64)
}

// dropSnapshots deletes the snapshots of a term before an epoch.
func (s *Store) dropSnapshots(tx *transaction, key storage.GroupKey, before uint64) {
	for _, snap := range slices.Clone(s.snapshots.from(numbered{string(key.ID), key.Term, 0})) {
		if !inTerm(snap.GroupID, snap.Term, key) || snap.Epoch >= before {
			break
		}
		put(tx, &s.snapshots, s.snapshots.key(snap), nil)
	}
}

func inTerm(id []byte, term uint64, key storage.GroupKey) bool {
	return bytes.Equal(id, key.ID) && term == key.Term
}

// Group implements storage.Store.
func (s *Store) Group(_ context.Context, id []byte) (*storage.Group, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, _ := s.groups.find(numbered{string(id), math.MaxUint64, 0})
	for i--; i >= 0 && bytes.Equal(s.groups.rows[i].ID, id); i-- {
		if g := s.groups.rows[i]; g.State != migration.GroupDropped {
			return cloneGroup(g, g.Version), nil
		}
	}
	return nil, storage.ErrNotFound
}

// GroupAt implements storage.Store.
func (s *Store) GroupAt(_ context.Context, key storage.GroupKey) (*storage.Group, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.groups.get(numbered{string(key.ID), key.Term, 0})
	if err != nil {
		return nil, err
	}
	return cloneGroup(g, g.Version), nil
}

// Groups implements storage.Store.
func (s *Store) Groups(
	_ context.Context, f storage.GroupFilter, after []byte, limit int,
) (groups []storage.Group, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.latest(after) {
		if len(groups) < limit && counted(g, &f) {
			groups = append(groups, *cloneGroup(g, g.Version))
		}
	}
	return groups, nil
}

// CountGroups implements storage.Store.
func (s *Store) CountGroups(ctx context.Context, f storage.GroupFilter) (int, error) {
	groups, err := s.Groups(ctx, f, nil, math.MaxInt)
	return len(groups), err
}

// latest lists the groups with ids after a given one, each in its highest term that is not dropped.
func (s *Store) latest(after []byte) (groups []*storage.Group) {
	for _, g := range s.groups.from(numbered{string(after), math.MaxUint64, 0}) {
		if g.State == migration.GroupDropped {
			continue
		}
		if n := len(groups); n > 0 && bytes.Equal(groups[n-1].ID, g.ID) {
			groups = groups[:n-1] // this term is higher
		}
		groups = append(groups, g)
	}
	return groups
}

// Snapshot implements storage.Store.
func (s *Store) Snapshot(_ context.Context, key storage.GroupKey, epoch uint64) (*storage.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, found := s.snapshots.find(numbered{string(key.ID), key.Term, epoch})
	if !found {
		i-- // the row before
	}
	if i < 0 || !inTerm(s.snapshots.rows[i].GroupID, s.snapshots.rows[i].Term, key) {
		return nil, storage.ErrNotFound
	}
	return cloneSnapshot(s.snapshots.rows[i]), nil
}

// Entries implements storage.Store.
func (s *Store) Entries(_ context.Context, key storage.GroupKey, from uint64, limit int) ([]storage.Entry, error) {
	return s.log(key, from, limit, func(*storage.Entry) bool { return true }), nil
}

// Handshakes implements storage.Store.
func (s *Store) Handshakes(_ context.Context, key storage.GroupKey, from uint64, limit int) ([]storage.Entry, error) {
	return s.log(key, from, limit, handshake), nil
}

// log lists entries of a kind, at most limit and about EntriesBytes.
func (s *Store) log(key storage.GroupKey, from uint64, limit int,
	of func(*storage.Entry) bool) (found []storage.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size := 0
	for _, e := range s.entries.from(numbered{string(key.ID), key.Term, from}) {
		if len(found) >= limit || size >= storage.EntriesBytes || !inTerm(e.GroupID, e.Term, key) {
			break
		}
		if of(e) {
			found = append(found, *cloneEntry(e))
			size += e.Bytes()
		}
	}
	return found
}

func handshake(e *storage.Entry) bool {
	return e.Kind == storage.EntryProposal || e.Kind == storage.EntryCommit
}

// Latest implements storage.Store.
func (s *Store) Latest(_ context.Context, key storage.GroupKey, limit int) (found []storage.Entry, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	end, _ := s.entries.find(numbered{string(key.ID), key.Term, math.MaxUint64})
	size := 0
	for _, e := range slices.Backward(s.entries.rows[:end]) {
		if len(found) >= limit || size >= storage.EntriesBytes || !inTerm(e.GroupID, e.Term, key) {
			break
		}
		if e.Kind != storage.EntryApplication {
			found = append(found, *cloneEntry(e))
			size += e.Bytes()
		}
	}
	slices.Reverse(found)
	return found, nil
}

// EntryByHash implements storage.Store.
func (s *Store) EntryByHash(_ context.Context, key storage.GroupKey, hash [32]byte) (*storage.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := s.hashes.get(hashed{string(key.ID), key.Term, hash})
	if err != nil {
		return nil, err
	}
	return cloneEntry(e), nil
}

// LastCommit implements storage.Store.
func (s *Store) LastCommit(_ context.Context, key storage.GroupKey) (at time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries.from(numbered{string(key.ID), key.Term, 0}) {
		if !inTerm(e.GroupID, e.Term, key) {
			break
		}
		if e.Kind == storage.EntryCommit {
			at = e.At
		}
	}
	return at, nil
}

// Receipts implements storage.Store.
func (s *Store) Receipts(_ context.Context, from storage.Epoch, limit int) (found []storage.Receipt, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.receipts.from(numbered{string(from.ID), from.Term, from.Epoch}) {
		if len(found) >= limit || !inTerm(r.GroupID, r.Term, from.GroupKey) {
			break
		}
		found = append(found, *cloneReceipt(r))
	}
	return found, nil
}

// Former implements storage.Store.
func (s *Store) Former(_ context.Context, key storage.GroupKey) (*storage.Former, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := s.former.get(numbered{string(key.ID), key.Term, 0})
	if err != nil {
		return nil, err
	}
	return cloneFormer(f), nil
}

// Migration implements storage.Store.
func (s *Store) Migration(_ context.Context, id mimiport.MigrationID) (*migration.Migration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.migrations.get(id)
	if err != nil {
		return nil, err
	}
	return cloneMigration(m, m.Version), nil
}

// Migrations implements storage.Store.
func (s *Store) Migrations(
	_ context.Context, f storage.MigrationFilter, after mimiport.MigrationID, limit int,
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

func selected(m *migration.Migration, f *storage.MigrationFilter) bool {
	return (len(f.GroupID) == 0 || bytes.Equal(m.GroupID, f.GroupID)) &&
		(f.Role == "" || m.Role == f.Role) &&
		(len(f.States) == 0 || slices.Contains(f.States, m.State)) &&
		(f.User == "" || m.User == f.User) &&
		(f.RoomID == "" || m.RoomID == f.RoomID) &&
		(f.Source == "" || m.Source == f.Source) &&
		!m.CreatedAt.Before(stamp(f.Since)) &&
		(f.Until.IsZero() || !m.CreatedAt.After(stamp(f.Until)))
}

// CommitAborted implements storage.Store.
func (s *Store) CommitAborted(_ context.Context, groupID []byte, hash []byte) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.migrations.rows, func(m *migration.Migration) bool {
		return bytes.Equal(m.GroupID, groupID) && bytes.Equal(m.CommitHash, hash) &&
			m.Role == migration.Source && m.State == migration.Aborted
	}), nil
}

// Content implements storage.Store.
func (s *Store) Content(_ context.Context, id mimiport.MigrationID) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.contents.get(id)
	if err != nil {
		return nil, err
	}
	return clone(c.Data), nil
}

// Due implements storage.Store.
func (s *Store) Due(
	_ context.Context, now time.Time, limit int, lanes ...[]string,
) (rows []storage.Row, next time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now = stamp(now)
	lane, shown := laneOf(lanes), make([]int, len(lanes)+1)
	for _, h := range s.heads() {
		if due := h.row.Due; due.After(now) {
			if next.IsZero() || due.Before(next) {
				next = due
			}
			continue
		}
		i := lane(h.row.Destination)
		if shown[i]++; shown[i] <= limit {
			rows = append(rows, *cloneRow(h.row))
		}
	}
	return rows, next, nil
}

// laneOf returns the number of a destination's lane. A destination in no list is in the last lane.
func laneOf(lanes [][]string) func(destination string) int {
	named := make(map[string]int)
	for i, destinations := range slices.Backward(lanes) { // the first lane that names a destination counts
		for _, d := range destinations {
			named[d] = i
		}
	}
	return func(destination string) int {
		if i, ok := named[destination]; ok {
			return i
		}
		return len(lanes)
	}
}

// head is the first row of a queue. turn is the number of earlier heads with the same destination.
type head struct {
	row  *storage.Row
	turn int
}

// heads lists the first row of every queue in the order of their due times. Destinations take turns.
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

// Claim implements storage.Store.
func (s *Store) Claim(context.Context, storage.RowKey) (release func(), err error) {
	return func() {}, nil
}

// Rows implements storage.Store.
func (s *Store) Rows(_ context.Context, from storage.RowKey, limit int) (rows []storage.Row, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rows.from(from) {
		if len(rows) >= limit || r.Destination != from.Destination || r.Queue != from.Queue {
			break
		}
		rows = append(rows, *cloneRow(r))
	}
	return rows, nil
}

// Retry implements storage.Store.
func (s *Store) Retry(_ context.Context, key storage.RowKey, attempts int, due time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.rows.get(key)
	if err != nil {
		return nil // another caller did it
	}
	later := *r
	later.Attempts, later.Due = attempts, stamp(due)
	put(new(transaction), &s.rows, key, &later)
	return nil
}

// Hasten implements storage.Store.
func (s *Store) Hasten(_ context.Context, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := stamp(now.Add(storage.MaxWait))
	for i, r := range s.rows.rows {
		if r.Due.After(limit) && r.Kind != migration.RowPurge && r.Kind != migration.RowEnd {
			sooner := *r
			sooner.Due = stamp(now)
			s.rows.rows[i] = &sooner
		}
	}
	return nil
}

// Evidence implements storage.Store.
func (s *Store) Evidence(_ context.Context, groupID []byte) ([]storage.Evidence, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []storage.Evidence
	for _, e := range s.evidence.rows {
		if bytes.Equal(e.GroupID, groupID) {
			list = append(list, copyOf(e))
		}
	}
	slices.SortStableFunc(list, func(a, b storage.Evidence) int { return a.At.Compare(b.At) })
	return list, nil
}

func copyOf(e *storage.Evidence) storage.Evidence {
	copied := *e
	copied.GroupID, copied.Data = clone(e.GroupID), clone(e.Data)
	return copied
}

// AllEvidence implements storage.Store.
func (s *Store) AllEvidence(
	_ context.Context, f storage.EvidenceFilter, after storage.EvidenceKey, limit int,
) (list []storage.Evidence, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.evidence.from(after) {
		switch {
		case len(list) == limit:
			return list, nil
		case e.Key() == after || f.GroupID != nil && !bytes.Equal(e.GroupID, f.GroupID):
		case len(f.Kinds) > 0 && !slices.Contains(f.Kinds, e.Kind):
		default:
			list = append(list, copyOf(e))
		}
	}
	return list, nil
}

// Forget implements storage.Store.
func (s *Store) Forget(_ context.Context, before storage.Horizon) error {
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
		if m.Role == migration.Target && m.State == migration.Dropped && len(m.Complete.Message) == 0 &&
			m.ExpiresAt.Before(before.Offers) {
			put(tx, &s.migrations, m.ID, nil)
		}
	}
	for _, e := range slices.Clone(s.evidence.rows) {
		if e.At.Before(before.Evidence) {
			put(tx, &s.evidence, s.evidence.key(e), nil)
		}
	}
	s.dropNonces(tx, s.nonces.rows, before.Nonces)
	return nil
}

// replayedFrom returns the number of the first log entry that a replay from the oldest snapshot needs.
func (s *Store) replayedFrom(e *storage.Entry) uint64 {
	later := s.snapshots.from(numbered{string(e.GroupID), e.Term, 0})
	if len(later) == 0 || !inTerm(later[0].GroupID, later[0].Term, storage.GroupKey{ID: e.GroupID, Term: e.Term}) {
		return 0
	}
	return later[0].Seq
}

// Setting implements storage.Store.
func (s *Store) Setting(_ context.Context, name string) (json.RawMessage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.settings[name]
	if !ok {
		return nil, storage.ErrNotFound
	}
	return clone(value), nil
}

// PutSetting implements storage.Store.
func (s *Store) PutSetting(_ context.Context, name string, value json.RawMessage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settings[name] = clone(value)
	return nil
}

// AddSetting implements storage.Store.
func (s *Store) AddSetting(_ context.Context, name string, value json.RawMessage) (json.RawMessage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.settings[name]; !ok {
		s.settings[name] = clone(value)
	}
	return clone(s.settings[name]), nil
}
