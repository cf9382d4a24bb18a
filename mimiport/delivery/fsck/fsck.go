// Package fsck checks the store of a Delivery Service. It derives every group again from its snapshots and its log, and
// every migration from its signed messages. It changes nothing.
package fsck

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Store is the store to check. It must not change during the check: if a row disappears while Check reads its group,
// the row looks like a problem. So it is a snapshot, or nobody writes to it.
type Store interface {
	storage.Store

	// Missing lists the tables that the store lacks.
	Missing(ctx context.Context) ([]string, error)

	// Outbox lists at most limit rows after a key, in the order of their keys.
	Outbox(ctx context.Context, after storage.RowKey, limit int) ([]storage.Row, error)

	// AllKeyObjects lists the key objects of all servers.
	AllKeyObjects(ctx context.Context) ([]storage.KeyObject, error)
}

// Problem is a fault that the store of a sound Delivery Service never has.
type Problem struct {
	Group     []byte
	Term      uint64
	Migration mimiport.MigrationID // set if a migration has the problem
	Server    string               // set if the stored keys of another server have the problem
	Setting   string               // set if a setting has the problem
	Table     string               // set if a table has the problem
	What      string
}

func (p Problem) String() string {
	switch {
	case p.Server != "":
		return fmt.Sprintf("keys of %s: %s", p.Server, p.What)
	case p.Setting != "":
		return fmt.Sprintf("setting %s: %s", p.Setting, p.What)
	case p.Table != "":
		return fmt.Sprintf("table %s: %s", p.Table, p.What)
	}
	if p.Migration != (mimiport.MigrationID{}) {
		return fmt.Sprintf("migration %s: %s", p.Migration, p.What)
	}
	return fmt.Sprintf("group %s in term %d: %s", mimiport.IDText(p.Group), p.Term, p.What)
}

// Report is the result of a check.
type Report struct {
	Groups, Migrations, Rows int
	Problems                 []Problem
}

// page is the number of entries that a check reads at a time.
const page = 256

// maxTerm is larger than every term that servers accept. A wrong term must not make a check endless.
const maxTerm = 10_000

// Check checks everything in a store. If tables are missing, it checks nothing else. It returns an error only if it
// cannot read the store.
func Check(ctx context.Context, store Store, engines map[string]mls.Engine) (*Report, error) {
	c := &checker{
		store: store, engines: engines, report: new(Report),
		todo: map[task]bool{}, records: map[mimiport.MigrationID]*migration.Migration{}, last: map[string]uint64{},
		nonces: map[mimiport.Nonce]mimiport.MigrationID{},
	}
	if err := c.checkTables(ctx); err != nil || len(c.report.Problems) > 0 {
		return c.report, err
	}
	for _, pass := range []func(context.Context) error{
		c.readGroups, c.readMigrations, c.readOutbox, c.readFanOuts, c.checkGroups, c.checkMigrations, c.checkKeyObjects,
		c.checkSettings, c.checkDrain,
	} {
		if err := pass(ctx); err != nil {
			return nil, err
		}
	}
	return c.report, nil
}

// checkTables checks that no table is missing.
func (c *checker) checkTables(ctx context.Context) error {
	missing, err := c.store.Missing(ctx)
	for _, name := range missing {
		c.found(Problem{Table: name, What: "it is missing"})
	}
	return err
}

// checkSettings checks that the server can read what the admin API has set.
func (c *checker) checkSettings(ctx context.Context) error {
	for _, s := range []struct {
		name    string
		require func(context.Context, storage.Settings) error
	}{
		{"policy", delivery.RequireReadablePolicy},
		{"drain", delivery.RequireReadableDrain},
	} {
		switch err := s.require(ctx, c.store); {
		case mimiport.KindOf(err) == mimiport.KindBadMessage:
			c.found(Problem{Setting: s.name, What: err.Error()})
		case err != nil:
			return err
		}
	}
	return nil
}

// task is the work of a row of the outbox.
type task struct {
	kind      storage.RowKind
	migration mimiport.MigrationID
}

// checker is one check.
type checker struct {
	store   Store
	engines map[string]mls.Engine
	report  *Report

	todo    map[task]bool
	records map[mimiport.MigrationID]*migration.Migration
	last    map[string]uint64 // by group: the latest term that the store mentions
	nonces  map[mimiport.Nonce]mimiport.MigrationID
}

func (c *checker) readGroups(ctx context.Context) error {
	for after := []byte(nil); ; {
		groups, err := c.store.Groups(ctx, storage.GroupFilter{}, after, page)
		if err != nil {
			return err
		}
		for i := range groups {
			g := &groups[i]
			if g.Term > maxTerm {
				c.group(g, "no group has moved so often")
				continue
			}
			c.last[string(g.ID)] = g.Term
		}
		if len(groups) < page {
			return nil
		}
		after = groups[page-1].ID
	}
}

func (c *checker) readMigrations(ctx context.Context) error {
	for after := (mimiport.MigrationID{}); ; {
		records, err := c.store.Migrations(ctx, storage.MigrationFilter{}, after, page)
		if err != nil {
			return err
		}
		for i := range records {
			m := &records[i]
			c.records[m.ID] = m
			id := string(m.GroupID)
			c.last[id] = max(c.last[id], min(m.Term, maxTerm))
		}
		c.report.Migrations += len(records)
		if len(records) < page {
			return nil
		}
		after = records[page-1].ID
	}
}

func (c *checker) readOutbox(ctx context.Context) error {
	for after := (storage.RowKey{}); ; {
		rows, err := c.store.Outbox(ctx, after, page)
		if err != nil {
			return err
		}
		for i := range rows {
			if err := c.row(ctx, &rows[i]); err != nil {
				return err
			}
		}
		c.report.Rows += len(rows)
		if len(rows) < page {
			return nil
		}
		after = rows[page-1].Key()
	}
}

// readFanOuts checks that the group of each message on its way exists.
func (c *checker) readFanOuts(ctx context.Context) error {
	waiting, err := c.store.Waiting(ctx)
	if err != nil {
		return err
	}
	for _, p := range waiting {
		last := storage.FanOut{GroupKey: p.GroupKey, Seq: p.Seq}
		row := last.Row("")
		if err := c.row(ctx, &row); err != nil {
			return err
		}
	}
	return nil
}

// row checks that the group and the migration of a row exist.
func (c *checker) row(ctx context.Context, r *storage.Row) error {
	c.todo[task{r.Kind, r.Migration}] = true
	if r.Migration != (mimiport.MigrationID{}) {
		if c.records[r.Migration] == nil {
			c.found(Problem{Migration: r.Migration,
				What: fmt.Sprintf("the outbox has a row of kind %s for it, but the store does not have it", r.Kind)})
		}
		return nil
	}
	switch r.Kind {
	case storage.RowSweep, storage.RowDrain, storage.RowAnnounce: // of a room, of all groups, of a group elsewhere
		return nil
	}
	g, err := c.store.GroupAt(ctx, storage.GroupKey{ID: r.GroupID, Term: r.Term})
	switch {
	case errors.Is(err, storage.ErrNotFound):
		c.found(Problem{Group: r.GroupID, Term: r.Term,
			What: fmt.Sprintf("the outbox has a row of kind %s for it, but the store does not have it", r.Kind)})
		return nil
	case err == nil && r.Kind == storage.RowFanOut && r.Seq >= g.NextSeq:
		c.group(g, "message %d is to be delivered, and the next to come is %d", r.Seq, g.NextSeq)
	}
	return err
}

func (c *checker) found(p Problem) { c.report.Problems = append(c.report.Problems, p) }

func (c *checker) group(g *storage.Group, format string, args ...any) {
	c.found(Problem{Group: g.ID, Term: g.Term, What: fmt.Sprintf(format, args...)})
}

// checkGroups checks each term of each group. All terms before the last must be over.
func (c *checker) checkGroups(ctx context.Context) error {
	ids := make([]string, 0, len(c.last))
	for id := range c.last {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		var live *storage.Group // the latest term that is not over
		var hashed bool         // the lineage of an earlier term has the preimage of the id
		for term := range c.last[id] + 1 {
			g, err := c.store.GroupAt(ctx, storage.GroupKey{ID: []byte(id), Term: term})
			if errors.Is(err, storage.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			if live != nil {
				c.group(live, "it is %s, and the group is also here in term %d", live.State, g.Term)
			}
			if live = g; g.State == migration.GroupMoved || g.State == migration.GroupEnded ||
				g.State == migration.GroupStopped || g.State == migration.GroupDropped {
				live = nil
			}
			c.report.Groups++
			hashed = c.checkLineage(g, hashed)
			c.checkState(g)
			if err := c.checkLog(ctx, g); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkState checks a group against the migration that it names, and the migration against the outbox.
func (c *checker) checkState(g *storage.Group) {
	if g.State == migration.GroupActive || g.State == migration.GroupStopped || g.State == migration.GroupReserved {
		return
	}
	if g.Migration == (mimiport.MigrationID{}) {
		if g.State == migration.GroupFrozen || g.State == migration.GroupStaged {
			c.group(g, "it is %s by no migration", g.State)
		}
		return
	}
	m := c.records[g.Migration]
	if m == nil {
		c.group(g, "it is %s by a migration that is not known", g.State)
		return
	}
	allowed := map[migration.GroupState][]migration.State{
		migration.GroupFrozen:  {migration.Frozen},
		migration.GroupMoved:   {migration.Decided, migration.Moved},
		migration.GroupStaged:  {migration.Staged},
		migration.GroupDropped: {migration.Dropped},
	}[g.State]
	if !slices.Contains(allowed, m.State) || !bytes.Equal(m.GroupID, g.ID) {
		c.group(g, "it is %s by migration %s, which is %s", g.State, m.ID, m.State)
	}
	if g.State == migration.GroupFrozen && m.Epoch != g.Epoch {
		c.group(g, "it is frozen at epoch %d for a migration of epoch %d", g.Epoch, m.Epoch)
	}
}

// checkLineage checks that the chain leads to this server in this term. A server makes the id of each group that begins
// at it from a preimage, and hands the preimage on. hashed says that an earlier term has it; so does the result.
func (c *checker) checkLineage(g *storage.Group, hashed bool) bool {
	l, err := mimiport.UnmarshalLineage(g.Lineage)
	if err != nil {
		c.group(g, "its lineage: %v", err)
		return hashed
	}
	if l.Preimage == nil && (hashed || g.Term == 0) {
		c.group(g, "its lineage has lost the preimage of the group id")
	}
	want := g.Term
	switch {
	case g.State == migration.GroupStaged || g.State == migration.GroupDropped:
		want-- // the last step is not confirmed yet
	case g.State == migration.GroupMoved && g.Migration == (mimiport.MigrationID{}):
		want = l.Term() // yielded: the lineage includes the claim
	}
	end, err := proof.Stored(g.ID, l)
	switch {
	case err != nil:
		c.group(g, "its lineage: %v", err)
	case l.Term() != want:
		c.group(g, "its lineage has %d steps, not %d", l.Term(), want)
	case l.RoomID != g.RoomID:
		c.group(g, "its lineage is of the room %s, and it is bound to %s", l.RoomID, g.RoomID)
	case want == g.Term && l.Term() == want && end.Server != g.Server:
		c.group(g, "its lineage leads to %s, and it is at %s", end.Server, g.Server)
	}
	return hashed || l.Preimage != nil
}

// checkKeyObjects checks that each stored key object is signed by its server, and holds the key that it is stored for.
func (c *checker) checkKeyObjects(ctx context.Context) error {
	objects, err := c.store.AllKeyObjects(ctx)
	for _, o := range objects {
		keys, err := proof.KeyObject(o.Server, o.Object)
		if _, ok := keys[o.KeyID]; !ok {
			c.found(Problem{Server: o.Server,
				What: fmt.Sprintf("the key object stored for %q does not hold this key (%v)", o.KeyID, err)})
		}
	}
	return err
}
