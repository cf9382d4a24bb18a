package fsck

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// checkMigrations checks each record by itself, and against its group and the outbox.
func (c *checker) checkMigrations(ctx context.Context) error {
	ids := make([]mimiport.MigrationID, 0, len(c.records))
	for id := range c.records {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b mimiport.MigrationID) int { return bytes.Compare(a[:], b[:]) })
	for _, id := range ids {
		m := c.records[id]
		c.offer(m)
		c.outcome(m)
		c.tasks(m)
		if err := c.whereabouts(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) migration(m *migration.Migration, format string, args ...any) {
	c.found(Problem{Group: m.GroupID, Term: m.Term, Migration: m.ID, What: fmt.Sprintf(format, args...)})
}

// offer checks a record against the MigrationResponse that it began with.
func (c *checker) offer(m *migration.Migration) {
	response, err := mimiport.UnmarshalMigrationResponse(m.Response.Message)
	if err != nil {
		c.migration(m, "its offer: %v", err)
		return
	}
	r := &response.Request
	switch {
	case response.ID() != m.ID:
		c.migration(m, "its offer is that of migration %s", response.ID())
	case r.SourceDomain != m.Source, r.TargetDomain != m.Target, !bytes.Equal(r.GroupID, m.GroupID), r.Epoch != m.Epoch:
		c.migration(m, "its offer is for another move")
	}
	if first, ok := c.nonces[response.Nonce]; ok {
		c.migration(m, "it has the nonce of migration %s", first)
	}
	c.nonces[response.Nonce] = m.ID
	if m.Confirmation.Message == nil {
		return
	}
	if _, err := proof.Decision(response, m.Confirmation.Message); err != nil {
		c.migration(m, "its confirmation is not for its offer (%v)", err)
	}
}

// outcome checks that a record has exactly the signed messages that its state needs.
func (c *checker) outcome(m *migration.Migration) {
	confirmed, aborted := m.Confirmation.Message != nil, m.Abort.Message != nil
	switch m.State {
	case migration.Decided, migration.Moved, migration.Active:
		if !confirmed {
			c.migration(m, "it is %s without a confirmation", m.State)
		}
	case migration.Aborted:
		if confirmed || !aborted {
			c.migration(m, "it is aborted, which is signed: %v, and confirmed: %v", aborted, confirmed)
		}
	default:
		if confirmed || m.State != migration.Dropped && aborted {
			c.migration(m, "it is %s with an outcome signed", m.State)
		}
	}
	if aborted {
		abort, err := mimiport.UnmarshalMigrationAbort(m.Abort.Message)
		if err != nil || abort.MigrationID != m.ID || abort.SourceDomain != m.Source {
			c.migration(m, "its abort is not for it (%v)", err)
		}
	}
	if m.Complete.Message != nil {
		complete, err := mimiport.UnmarshalTargetMigrationComplete(m.Complete.Message)
		if err != nil || !bytes.Equal(complete.ContentHash, m.ContentHash) {
			c.migration(m, "its vote is not on its content (%v)", err)
		}
	}
	if len(m.Vote) > 0 {
		vote, err := mimiport.UnmarshalMigrationVote(m.Vote)
		if err != nil || vote.MigrationID != m.ID || vote.Term != m.Term || !bytes.Equal(vote.ContentHash, m.ContentHash) {
			c.migration(m, "its MigrationVote is not for it (%v)", err)
		}
	}
}

// due lists, by state, the rows of the outbox that a record needs.
var due = map[migration.State][]storage.RowKind{
	migration.Frozen:  {migration.RowContent, migration.RowDeadline},
	migration.Decided: {migration.RowConfirmation},
	migration.Offered: {migration.RowDeadline},
	migration.Staged:  {migration.RowAsk},
}

func (c *checker) tasks(m *migration.Migration) {
	for _, kind := range due[m.State] {
		if !c.todo[task{kind, m.ID}] {
			c.migration(m, "it is %s, and no row of kind %s goes on with it", m.State, kind)
		}
	}
}

// whereabouts checks a record against its group: at the source in the term before, at the target in that of the record.
func (c *checker) whereabouts(ctx context.Context, m *migration.Migration) error {
	want, term := map[migration.State]migration.GroupState{
		migration.Frozen:  migration.GroupFrozen,
		migration.Decided: migration.GroupMoved, migration.Moved: migration.GroupMoved,
		migration.Staged: migration.GroupStaged,
	}[m.State], m.Term
	if m.Role == migration.Source {
		term--
	}
	if m.State == migration.Offered || m.State == migration.Dropped || m.State == migration.Aborted {
		return nil // this server has no row of the group for this migration
	}
	g, err := c.store.GroupAt(ctx, storage.GroupKey{ID: m.GroupID, Term: term})
	if errors.Is(err, storage.ErrNotFound) {
		c.migration(m, "it is %s, and the group is not here in term %d", m.State, term)
		return nil
	}
	if err != nil {
		return err
	}
	if want != "" && (g.State != want || g.Migration != m.ID) {
		c.migration(m, "it is %s, and the group is %s", m.State, g.State)
	}
	if m.State == migration.Active {
		c.activated(g, m)
	}
	return nil
}

// activated checks that the group's last step before its term is the migration.
func (c *checker) activated(g *storage.Group, m *migration.Migration) {
	l, err := mimiport.UnmarshalLineage(g.Lineage)
	if err != nil {
		return // reported before
	}
	if l.Term() < m.Term || m.Term == 0 || !proof.ByOffer(&l.Steps[m.Term-1], m.Response.Message) {
		c.migration(m, "it is active, and the group's lineage does not have it")
	}
}
