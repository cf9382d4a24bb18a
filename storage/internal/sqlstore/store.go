// Package sqlstore is a storage.Store in SQLite or PostgreSQL. Both run the same SQL and the same migrations. Packages
// sqlite and postgres open a database, and classify its errors.
package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/pressly/goose/v3/database"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Engine describes the differences between the databases.
type Engine struct {
	Dialect   database.Dialect // of the migrations
	Parameter string           // the sign before a parameter's number: "$" or "?"
	Tables    string           // a query that lists the names of all tables

	Duplicate func(error) bool // reports that an inserted row has the key of another row
	Transient func(error) bool // reports that the transaction failed only because of others

	// Hold is a statement that locks a name until the transaction ends. It is empty for a database with one writer at a
	// time.
	Hold string

	// Release gives some free space back to the file system, in a transaction that is short for other writers. It reports
	// whether there was any. It is nil for a database that does so by itself.
	Release func(ctx context.Context, tx *sql.Tx) (released bool, err error)

	Locks Locks // nil for a database that one process uses at a time
}

// Locks are named locks that all processes on one database share. They end with the process.
type Locks interface {
	// TryLock takes a lock, and reports false if another process has it.
	TryLock(ctx context.Context, name string) (ok bool, err error)
	Unlock(ctx context.Context, name string) error
	Close() error
}

// Store implements storage.Store. It is safe for concurrent use.
type Store struct {
	engine Engine
	write  *sql.DB // nil for a snapshot
	read   querier
	open   []io.Closer // everything that Close closes, in this order

	beside  string // see Snapshot
	version int64

	observe func(operation string, took time.Duration)
}

// Observe sets a function that gets the time of each transaction ("write") and each query ("read"). Call it before any
// other method.
func (s *Store) Observe(f func(operation string, took time.Duration)) { s.observe = f }

// timed times an operation. The result ends it.
func (s *Store) timed(operation string) (end func()) {
	if s.observe == nil {
		return func() {}
	}
	begin := time.Now()
	return func() { s.observe(operation, time.Since(begin)) }
}

var _ storage.Store = (*Store)(nil)

// New makes a Store that writes and reads through two pools, which may be the same. Close closes them. The schema must
// have this program's version: see Migrate.
func New(engine Engine, write, read *sql.DB) *Store {
	s := &Store{engine: engine, write: write, read: read, open: []io.Closer{read}}
	if read != write {
		s.open = append(s.open, write)
	}
	if engine.Locks != nil {
		s.open = append(s.open, engine.Locks)
	}
	return s
}

// Close waits for running transactions and closes the database.
func (s *Store) Close() (err error) {
	for _, c := range s.open {
		err = errors.Join(err, c.Close())
	}
	return err
}

// bind writes the parameters of a statement as the engine wants them.
func (s *Store) bind(query string) string { return strings.ReplaceAll(query, "$", s.engine.Parameter) }

// tx is a write transaction.
type tx struct {
	*sql.Tx
	store         *Store
	before, after []storage.Counter // in which the changed rows counted, and count now
}

func (tx *tx) exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return tx.ExecContext(ctx, tx.store.bind(query), args...)
}

// read reads the only column of one row.
func (tx *tx) read(ctx context.Context, into any, query string, args ...any) error {
	return tx.QueryRowContext(ctx, tx.store.bind(query), args...).Scan(into)
}

// maxAttempts is how often transact tries a transaction with transient failures.
const maxAttempts = 5

// transact runs f in a transaction, and again after a transient failure. It returns ErrConflict if f inserts a row
// whose key exists.
func (s *Store) transact(ctx context.Context, op string, f func(*tx) error) error {
	defer s.timed("write")()
	var err error
	for range maxAttempts {
		if err = s.attempt(ctx, f); err == nil || !s.engine.Transient(err) {
			break
		}
	}
	switch {
	case err == nil || errors.Is(err, storage.ErrConflict) || isLimit(err):
		return err
	case s.engine.Duplicate(err):
		return storage.ErrConflict
	}
	return fmt.Errorf("storage: %s: %w", op, err)
}

func (s *Store) attempt(ctx context.Context, f func(*tx) error) error {
	t, err := s.begin(ctx)
	if err != nil {
		return err
	}
	if err := f(&tx{Tx: t, store: s}); err != nil {
		_ = t.Rollback() // the first error is the important one, and a lost connection rolls back by itself
		return err
	}
	return t.Commit()
}

// begin starts a transaction. The end of the context interrupts it before its COMMIT, but not the COMMIT itself:
// PostgreSQL reports an interrupted wait for a synchronous standby as success.
func (s *Store) begin(ctx context.Context) (*sql.Tx, error) {
	if s.write == nil {
		return nil, errReadOnly
	}
	until, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	t, err := s.write.BeginTx(until, nil)
	if !stop() && err == nil {
		err = ctx.Err() // the transaction is rolled back
	}
	return t, err
}

// Apply implements storage.Store.
func (s *Store) Apply(ctx context.Context, c *storage.Change) error {
	if err := storage.RequireRange(c); err != nil {
		return err
	}
	return s.transact(ctx, "apply", func(tx *tx) error { return tx.apply(ctx, c) })
}

// apply writes part by part. The rows with the most races come first, so that a race is lost early and others of the
// group wait. apply deletes before it inserts, so that a change can replace a row.
func (tx *tx) apply(ctx context.Context, c *storage.Change) error {
	parts := []func(context.Context, *storage.Change) error{
		tx.applyGroup, tx.applyMigration, tx.applyContent, tx.applyLog, tx.applyRows, tx.applyFanOuts, tx.applySetting,
		tx.applyCounts, tx.requireLimits,
	}
	for _, apply := range parts {
		if err := apply(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func (tx *tx) applyGroup(ctx context.Context, c *storage.Change) error {
	if c.Group == nil {
		return nil
	}
	g := *c.Group
	g.Version++
	before, err := replace(ctx, tx, &groups, &g, c.Group.Version)
	if err != nil {
		return err
	}
	if before != &g {
		tx.recount(before.Counters(), g.Counters())
	}
	return nil
}

func (tx *tx) applyMigration(ctx context.Context, c *storage.Change) error {
	if c.Migration == nil {
		return nil
	}
	m := *c.Migration
	m.Version++
	m.Reason = storage.Text(m.Reason)
	before, err := replace(ctx, tx, &migrations, &m, c.Migration.Version)
	if err != nil {
		return err
	}
	if before != &m {
		tx.recount(storage.MigrationCounters(before), storage.MigrationCounters(&m))
	}
	return nil
}

func (tx *tx) applyContent(ctx context.Context, c *storage.Change) error {
	if id := c.DropContent; id != nil {
		if _, err := tx.exec(ctx, "DELETE FROM "+contents.name+" WHERE migration_id = $1", (*hash)(id)); err != nil {
			return err
		}
	}
	if c.Content == nil {
		return nil
	}
	return insert(ctx, tx, &contents, []storage.Content{*c.Content}, "")
}

func (tx *tx) applyLog(ctx context.Context, c *storage.Change) error {
	if d := c.Drop; d != nil {
		for _, table := range []string{entries.name, receipts.name, former.name, snapshots.name, volumes.name} {
			query := "DELETE FROM " + table + " WHERE group_id = $1 AND term = $2"
			if _, err := tx.exec(ctx, query, d.ID, clamp(d.Term)); err != nil {
				return err
			}
		}
	}
	if e := c.DropBefore; e != nil {
		if _, err := tx.exec(ctx, "DELETE FROM mimiport_snapshots WHERE group_id = $1 AND term = $2 AND epoch < $3",
			e.ID, clamp(e.Term), clamp(e.Epoch)); err != nil {
			return err
		}
	}
	if err := insert(ctx, tx, &snapshots, c.Snapshots, " ON CONFLICT DO NOTHING"); err != nil {
		return err
	}
	if err := insert(ctx, tx, &evidence, c.Evidence, " ON CONFLICT DO NOTHING"); err != nil {
		return err
	}
	if c.Receipt != nil {
		if err := insert(ctx, tx, &receipts, []storage.Receipt{*c.Receipt}, ""); err != nil {
			return err
		}
	}
	if c.Former != nil {
		const replacing = " ON CONFLICT (group_id, term) DO UPDATE SET data = excluded.data"
		if err := insert(ctx, tx, &former, []storage.Former{*c.Former}, replacing); err != nil {
			return err
		}
	}
	if c.Volume != nil {
		if err := insert(ctx, tx, &volumes, []storage.Volume{*c.Volume}, addVolume); err != nil {
			return err
		}
	}
	return insert(ctx, tx, &entries, c.Entries, "")
}

// clamp bounds a number in a query to the range of a column. No stored number is larger.
func clamp(n uint64) uint64 { return min(n, math.MaxInt64) }

// query runs a query and calls scan for each row.
func (s *Store) query(ctx context.Context, query string, args []any, scan func(*sql.Rows) error) error {
	defer s.timed("read")()
	rows, err := s.read.QueryContext(ctx, s.bind(query), args...)
	if err != nil {
		return fmt.Errorf("storage: read: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return fmt.Errorf("storage: read: %w", err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("storage: read: %w", err)
	}
	return nil
}

// answer reads the only row of a query.
func (s *Store) answer(ctx context.Context, into []any, query string, args ...any) error {
	return s.query(ctx, query, args, func(rows *sql.Rows) error { return rows.Scan(into...) })
}

// Group implements storage.Store.
func (s *Store) Group(ctx context.Context, id []byte) (*storage.Group, error) {
	return one(ctx, s, &groups, "WHERE group_id = $1 AND state <> $2 ORDER BY term DESC", id, migration.GroupDropped)
}

// GroupAt implements storage.Store.
func (s *Store) GroupAt(ctx context.Context, key storage.GroupKey) (*storage.Group, error) {
	return one(ctx, s, &groups, "WHERE group_id = $1 AND term = $2", key.ID, clamp(key.Term))
}

// Groups implements storage.Store.
func (s *Store) Groups(
	ctx context.Context, f storage.GroupFilter, after []byte, limit int,
) ([]storage.Group, error) {
	w := latestWhere(&f)
	w.and("group_id > ?", notNull(after))
	return list(ctx, s, &groups, "AS g "+w.with("ORDER BY group_id LIMIT ?", limit), w.args...)
}

// CountGroups implements storage.Store.
func (s *Store) CountGroups(ctx context.Context, f storage.GroupFilter) (n int, err error) {
	w := latestWhere(&f)
	err = s.answer(ctx, []any{&n}, "SELECT count(*) FROM mimiport_groups AS g "+w.with(""), w.args...)
	return n, err
}

// Snapshot implements storage.Store.
func (s *Store) Snapshot(ctx context.Context, key storage.GroupKey, epoch uint64) (*storage.Snapshot, error) {
	return one(ctx, s, &snapshots, "WHERE group_id = $1 AND term = $2 AND epoch <= $3 ORDER BY epoch DESC",
		key.ID, clamp(key.Term), clamp(epoch))
}

// Entries implements storage.Store.
func (s *Store) Entries(ctx context.Context, key storage.GroupKey, from uint64, limit int) ([]storage.Entry, error) {
	return s.log(ctx, "", key, from, limit)
}

// handshake must have the exact text of an index's condition, or the database does not use the index.
const handshake = "kind IN ('proposal', 'commit')"

// Handshakes implements storage.Store.
func (s *Store) Handshakes(ctx context.Context, key storage.GroupKey, from uint64, limit int) ([]storage.Entry, error) {
	return s.log(ctx, handshake+" AND ", key, from, limit)
}

// log reads entries, at most limit and about EntriesBytes. The query sums up the sizes first, so that the database does
// not send messages that nobody reads.
func (s *Store) log(ctx context.Context, condition string, key storage.GroupKey, from uint64,
	limit int) ([]storage.Entry, error) {
	return list(ctx, s, &entries, `JOIN (
			SELECT group_id, term, seq, sum(length(message) + length(group_info)) OVER (ORDER BY seq)
				- length(message) - length(group_info) AS preceding
			FROM mimiport_entries WHERE `+condition+`group_id = $1 AND term = $2 AND seq >= $3 ORDER BY seq LIMIT $4
		) AS page USING (group_id, term, seq) WHERE preceding < $5 ORDER BY seq`,
		key.ID, clamp(key.Term), clamp(from), limit, storage.EntriesBytes)
}

// Latest implements storage.Store.
func (s *Store) Latest(ctx context.Context, key storage.GroupKey, limit int) ([]storage.Entry, error) {
	return list(ctx, s, &entries, `JOIN (
			SELECT group_id, term, seq, sum(length(message) + length(group_info)) OVER (ORDER BY seq DESC)
				- length(message) - length(group_info) AS following
			FROM mimiport_entries WHERE kind <> 'application' AND group_id = $1 AND term = $2 ORDER BY seq DESC LIMIT $3
		) AS page USING (group_id, term, seq) WHERE following < $4 ORDER BY seq`,
		key.ID, clamp(key.Term), limit, storage.EntriesBytes)
}

// EntryByHash implements storage.Store.
func (s *Store) EntryByHash(ctx context.Context, key storage.GroupKey, sum [32]byte) (*storage.Entry, error) {
	return one(ctx, s, &entries, "WHERE group_id = $1 AND term = $2 AND hash = $3", key.ID, clamp(key.Term), (*hash)(&sum))
}

// LastCommit implements storage.Store. The condition with handshake makes the database use its index.
func (s *Store) LastCommit(ctx context.Context, key storage.GroupKey) (at time.Time, err error) {
	err = s.answer(ctx, []any{(*millis)(&at)}, `SELECT accepted_at FROM mimiport_entries WHERE `+handshake+`
		AND kind = $1 AND group_id = $2 AND term = $3 ORDER BY seq DESC LIMIT 1`,
		storage.EntryCommit, key.ID, clamp(key.Term))
	return at, err
}

// Receipts implements storage.Store.
func (s *Store) Receipts(ctx context.Context, from storage.Epoch, limit int) ([]storage.Receipt, error) {
	return list(ctx, s, &receipts, "WHERE group_id = $1 AND term = $2 AND epoch >= $3 ORDER BY epoch LIMIT $4",
		from.ID, clamp(from.Term), clamp(from.Epoch), limit)
}

// Former implements storage.Store.
func (s *Store) Former(ctx context.Context, key storage.GroupKey) (*storage.Former, error) {
	return one(ctx, s, &former, "WHERE group_id = $1 AND term = $2", key.ID, clamp(key.Term))
}

// Migration implements storage.Store.
func (s *Store) Migration(ctx context.Context, id mimiport.MigrationID) (*migration.Migration, error) {
	return one(ctx, s, &migrations, "WHERE migration_id = $1", (*hash)(&id))
}

// Migrations implements storage.Store.
func (s *Store) Migrations(
	ctx context.Context, f storage.MigrationFilter, after mimiport.MigrationID, limit int,
) ([]migration.Migration, error) {
	w := migrationsWhere(&f)
	w.and("migration_id > ?", (*hash)(&after))
	return list(ctx, s, &migrations, w.with("ORDER BY migration_id LIMIT ?", limit), w.args...)
}

// CommitAborted implements storage.Store.
func (s *Store) CommitAborted(ctx context.Context, groupID []byte, commitHash []byte) (aborted bool, err error) {
	err = s.answer(ctx, []any{&aborted}, `SELECT EXISTS (SELECT 1 FROM mimiport_migrations
		WHERE group_id = $1 AND commit_hash = $2 AND role = $3 AND state = $4)`,
		groupID, commitHash, migration.Source, migration.Aborted)
	return aborted, err
}

// Content implements storage.Store.
func (s *Store) Content(ctx context.Context, id mimiport.MigrationID) ([]byte, error) {
	c, err := one(ctx, s, &contents, "WHERE migration_id = $1", (*hash)(&id))
	if err != nil {
		return nil, err
	}
	return c.Data, nil
}

// Evidence implements storage.Store.
func (s *Store) Evidence(ctx context.Context, groupID []byte) ([]storage.Evidence, error) {
	return list(ctx, s, &evidence, "WHERE group_id = $1 ORDER BY found_at, kind, migration_id", groupID)
}

// AllEvidence implements storage.Store.
func (s *Store) AllEvidence(
	ctx context.Context, f storage.EvidenceFilter, after storage.EvidenceKey, limit int,
) ([]storage.Evidence, error) {
	w := new(where)
	w.and("(group_id, kind, migration_id) > (?, ?, ?)", []byte(after.GroupID), after.Kind, (*hash)(&after.Migration))
	if len(f.GroupID) > 0 {
		w.and("group_id = ?", f.GroupID)
	}
	oneOf(w, "kind", f.Kinds)
	return list(ctx, s, &evidence, w.with("ORDER BY group_id, kind, migration_id LIMIT ?", limit), w.args...)
}

// Setting implements storage.Store.
func (s *Store) Setting(ctx context.Context, name string) (json.RawMessage, error) {
	set, err := one(ctx, s, &settings, "WHERE name = $1", name)
	if err != nil {
		return nil, err
	}
	return set.value, nil
}

// PutSetting implements storage.Store.
func (s *Store) PutSetting(ctx context.Context, name string, value json.RawMessage) error {
	return s.transact(ctx, "put setting", func(tx *tx) error { return tx.putSetting(ctx, name, value) })
}

func (tx *tx) putSetting(ctx context.Context, name string, value json.RawMessage) error {
	return insert(ctx, tx, &settings, []setting{{name, value}},
		" ON CONFLICT (name) DO UPDATE SET value = excluded.value")
}

func (tx *tx) applySetting(ctx context.Context, c *storage.Change) error {
	if c.Setting == nil {
		return nil
	}
	return tx.putSetting(ctx, c.Setting.Name, c.Setting.Value)
}

// AddSetting implements storage.Store.
func (s *Store) AddSetting(ctx context.Context, name string, value json.RawMessage) (json.RawMessage, error) {
	err := s.transact(ctx, "add setting", func(tx *tx) error {
		return insert(ctx, tx, &settings, []setting{{name, value}}, " ON CONFLICT DO NOTHING")
	})
	if err != nil {
		return nil, err
	}
	return s.Setting(ctx, name)
}
