package delivery

import (
	"context"
	"errors"
	"fmt"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// This file writes the results of package migration to the store. No other file knows how.

// takeEvent lets the record of a migration take one step, and writes the result in one transaction. This transaction
// also deletes row, if row is not nil. If a signed message contradicts the record, the server keeps it as evidence, and
// takeEvent returns a KindConflict error.
func (s *core) takeEvent(ctx context.Context, id mimiport.MigrationID, e migration.Event, row *storage.Row) error {
	m, err := s.record(ctx, id)
	if err != nil {
		return err
	}
	return s.groups.With(ctx, m.GroupID, func(h *registry.Held) error { return s.takeHeld(ctx, h, id, e, row) })
}

// takeHeld does the same as takeEvent. Its caller holds the group.
func (s *core) takeHeld(
	ctx context.Context, h *registry.Held, id mimiport.MigrationID, e migration.Event, row *storage.Row,
) error {
	m, err := s.record(ctx, id)
	if err != nil {
		return err
	}
	g, err := groupOf(ctx, h, m)
	if err != nil {
		return err
	}
	return s.stepRecord(ctx, h, m, g, e, row)
}

// groupOf returns the row of a record's group, or nil.
func groupOf(ctx context.Context, h *registry.Held, m *migration.Migration) (*storage.Group, error) {
	term := m.Term
	if m.Role == migration.Source {
		term--
	}
	g, err := h.GroupAt(ctx, term)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	return g, err
}

// stateOf returns the fields of a group's row that migrations change. g may be nil.
func stateOf(g *storage.Group) migration.Group {
	if g == nil {
		return migration.Group{}
	}
	return migration.Group{State: g.State, Migration: g.Migration}
}

// stepRecord does the same as takeEvent. Its caller holds the group and has loaded the record and the group's row.
func (s *core) stepRecord(
	ctx context.Context, h *registry.Held, m *migration.Migration, g *storage.Group, e migration.Event, row *storage.Row,
) error {
	ready, refused := m.Step(stateOf(g), e)
	change, err := s.change(ctx, m, g, &ready)
	if err != nil {
		return err
	}
	after := func() {}
	if ready.Accept {
		if after, err = s.acceptMigration(ctx, h, m, g, change); err != nil {
			return err
		}
	}
	if row != nil && refused == nil {
		change.Done = append(change.Done, row.Key())
	}
	if change.Migration != nil || change.Group != nil || change.Evidence != nil || change.Done != nil {
		if err := s.apply(ctx, change); err != nil {
			return err
		}
	}
	after()
	if ready.Migration.State == migration.Aborted && m.State != migration.Aborted {
		s.hastenDrain(ctx, m.GroupID)
	}
	if ready.Evidence != nil && stateOf(g).Owned() && !ready.Group.Owned() {
		s.Log.Error("the group is elsewhere in a later term: this server stops",
			"group_id", mimiport.IDText(g.ID), "term", g.Term)
	}
	if change.Drop != nil || ready.Group.State == migration.GroupDropped {
		h.Drop(g.Term)
	}
	return refusal(refused)
}

// refusal returns the error for a refused step.
func refusal(err error) error {
	switch {
	case errors.Is(err, migration.ErrEquivocation):
		return mimiport.Errorf("decide", mimiport.KindConflict, "%w", err)
	case errors.Is(err, migration.ErrContested):
		contested := mimiport.Errorf("take lineage", mimiport.KindConflict, "%w", err)
		contested.Info.Rule = ruleContested
		return contested
	case errors.Is(err, migration.ErrFrozen): // the group was not frozen when its row was loaded
		return fmt.Errorf("%w: %w", storage.ErrConflict, err)
	case errors.Is(err, migration.ErrStaged):
		return &mimiport.Error{
			Op: "begin term", Kind: mimiport.KindInProgress, Info: mimiport.Info{RetryAfter: frozenRetry}, Err: err,
		}
	case errors.Is(err, migration.ErrTaken):
		return mimiport.Errorf("begin term", mimiport.KindConflict, "%w", err)
	}
	return err
}

// change returns what to write for a Ready, signed, without the log and the trees. m and g are the record and the
// group's row before the step. g may be nil.
func (s *core) change(
	ctx context.Context, m *migration.Migration, g *storage.Group, r *migration.Ready,
) (*storage.Change, error) {
	if err := s.signReady(r); err != nil {
		return nil, err
	}
	next := &r.Migration
	change := &storage.Change{}
	var err error
	if next.State != m.State || next.Refused != m.Refused {
		change.Migration = next
		if change.Limits, err = s.stepping(ctx, m, next); err != nil {
			return nil, err
		}
	}
	if r.Begin || r.Group != stateOf(g) {
		if change.Group, err = s.nextGroup(ctx, g, r); err != nil {
			return nil, err
		}
	}
	if r.Begin || r.Forget {
		key := g.Key()
		change.Drop = &key
	}
	for _, kind := range r.Done {
		row := s.row(next, g, migration.Row{Kind: kind})
		change.Done = append(change.Done, row.Key())
	}
	for _, row := range r.Put {
		change.Rows = append(change.Rows, s.row(next, g, row))
	}
	if r.KeepContent != nil {
		change.Content = &storage.Content{ID: next.ID, Data: r.KeepContent}
	}
	if r.DropContent {
		change.DropContent = &next.ID
	}
	for _, e := range r.Evidence {
		change.Evidence = append(change.Evidence, s.evidence(next, g, e))
	}
	return change, nil
}

// signReady signs the messages that a step asks for and puts them into the record.
func (s *core) signReady(r *migration.Ready) (err error) {
	switch m := &r.Migration; r.Sign {
	case migration.SignComplete:
		err = s.signVote(m)
	case migration.SignConfirmation:
		m.Confirmation, err = s.signConfirmation(m)
	case migration.SignAbort:
		m.Abort, err = s.signAbort(m)
	}
	return err
}

// signVote signs T's two votes: the draft's TargetMigrationComplete, and the MigrationVote, which names the migration.
func (s *core) signVote(m *migration.Migration) (err error) {
	m.Complete, err = s.sign(m.Target, &mimiport.TargetMigrationComplete{ContentHash: m.ContentHash})
	if err != nil {
		return err
	}
	vote, err := s.sign(
		m.Target, &mimiport.MigrationVote{MigrationID: m.ID, Term: m.Term, ContentHash: m.ContentHash},
	)
	m.Vote = vote.Message
	return err
}

// nextGroup returns the group's row after a step.
func (s *core) nextGroup(ctx context.Context, g *storage.Group, r *migration.Ready) (*storage.Group, error) {
	if g == nil {
		return nil, mimiport.Errorf("step", mimiport.KindInternal, "no group for migration %s", r.Migration.ID)
	}
	next := *g
	next.State, next.Migration = r.Group.State, r.Group.Migration
	var err error
	switch {
	case r.Extend:
		next.Lineage, err = s.extendLineage(ctx, g.Lineage, &r.Migration)
	case r.Follow != nil:
		next.Lineage = r.Follow
	}
	return &next, err
}

// acceptMigration adds the log entry of the migration Commit to a change. The caller calls after when the change is
// stored.
func (s *core) acceptMigration(
	ctx context.Context, h *registry.Held, m *migration.Migration, g *storage.Group, change *storage.Change,
) (after func(), err error) {
	l, err := h.Live(ctx, g)
	if err != nil {
		return nil, err
	}
	a, err := s.decidedCommit(ctx, m, l)
	if err != nil {
		return nil, err
	}
	next, log, err := s.extend(ctx, change.Group, l, a)
	if err != nil {
		return nil, err
	}
	change.Group, change.Entries, change.Receipt = next, log.Entries, log.Receipt
	change.Snapshots, change.DropBefore = log.Snapshots, log.DropBefore
	change.FanOuts, change.Rows = log.FanOuts, append(change.Rows, log.Rows...)
	return func() { h.Advance(next, l, a) }, nil
}

// evidence returns a piece of evidence about a migration or a group, and logs the alarm for it.
func (s *core) evidence(m *migration.Migration, g *storage.Group, e migration.Evidence) storage.Evidence {
	id := m.GroupID
	if g != nil {
		id = g.ID
	}
	s.Log.Error("evidence kept: see the admin API", "kind", e.Kind, "group_id", mimiport.IDText(id),
		"migration_id", m.ID, "source", m.Source, "target", m.Target)
	return storage.Evidence{
		GroupID: id, Migration: m.ID, Kind: e.Kind, Data: e.Message.Message, KeyID: e.Message.KeyID, At: s.Now(),
	}
}
