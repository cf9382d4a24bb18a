package delivery

import (
	"context"
	"errors"
	"fmt"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// operator holds the actions for operators alone.
type operator struct{ *core }

// Reclaim takes a group back from a target that is lost for good after the decision. A new term begins here with the
// state that the target got (profile, section 6). Reclaim is unsafe if the target is only unreachable: the messages
// that the target accepts are lost. A stopped group goes on from the state that this server has: all later Commits that
// its members have seen are lost. Reclaim is for operators.
//
// The request may carry a lineage that ends with another server's claim to the group. Then this server insists: the new
// term begins above that claim.
func (s operator) Reclaim(ctx context.Context, id []byte, req *api.LineageRequest) (*api.HostResponse, error) {
	err := s.groups.With(ctx, id, func(h *registry.Held) error {
		if len(req.Lineage) > 0 {
			return s.insist(ctx, h, req.Lineage)
		}
		return s.reclaim(ctx, h)
	})
	if err != nil {
		return nil, err
	}
	return s.host(ctx, id)
}

// insist reclaims a group from a server whose claim this server contests. It stops the group in a transaction of its
// own, before the transaction that begins the new term.
func (s operator) insist(ctx context.Context, h *registry.Held, lineage []byte) error {
	g, err := h.Group(ctx)
	if err != nil {
		return err
	}
	l, err := mimiport.UnmarshalLineage(lineage)
	if err != nil {
		return err
	}
	chain, err := s.checkChain(ctx, g.ID, l, "")
	if err != nil {
		return err
	}
	if lineage, err = chain.Lineage.Marshal(); err != nil {
		return err
	}
	if l.Term() != g.Term+1 || l.Steps[g.Term].Kind == mimiport.StepMigration || !stateOf(g).Owned() ||
		stateOf(g).Closed() {
		return cannotReclaim(g.ID, errors.New("the lineage does not end with another server's claim to this term"))
	}
	if g, err = s.giveUpOther(ctx, h, g.Term, mimiport.MigrationID{}); err != nil {
		return err
	}
	halt := migration.Halt{Lineage: lineage}
	if err := s.stepRecord(ctx, h, &migration.Migration{}, g, halt, nil); err != nil {
		return err
	}
	if g, err = h.GroupAt(ctx, g.Term); err != nil {
		return err
	}
	state, err := h.Live(ctx, g)
	if err != nil {
		return err
	}
	return s.claim(ctx, mimiport.StepReclaim, g, lineage, state.MLS, &storage.Change{})
}

func (s operator) reclaim(ctx context.Context, h *registry.Held) error {
	g, err := h.Group(ctx)
	if err != nil {
		return err
	}
	encoded, change, err := s.reclaimed(ctx, g)
	if err != nil {
		return err
	}
	l, err := h.Live(ctx, g)
	if errors.Is(err, storage.ErrNotFound) {
		return cannotReclaim(g.ID, errors.New("the group's state is deleted: its retention is over"))
	}
	if err != nil {
		return err
	}
	return s.claim(ctx, mimiport.StepReclaim, g, encoded, l.MLS, change)
}

// reclaimed returns the lineage of a group up to the term that a reclaim ends, and the change that goes with the claim.
// By this change the server shows the claim to the target, should the target come back, and no longer sends it the
// confirmation.
func (s operator) reclaimed(ctx context.Context, g *storage.Group) (lineage []byte, change *storage.Change, err error) {
	m, err := s.movedBy(ctx, g)
	if err != nil {
		return nil, nil, err
	}
	ready, err := m.Step(stateOf(g), migration.Reclaim{Given: m.Accepted() && m.Epoch+1 == g.Epoch})
	if err != nil {
		return nil, nil, cannotReclaim(g.ID, err)
	}
	if change, err = s.change(ctx, m, g, &ready); err != nil {
		return nil, nil, err
	}
	if g.State == migration.GroupStopped {
		return g.Lineage, change, nil
	}
	lineage, err = s.extendLineage(ctx, g.Lineage, m)
	return lineage, change, err
}

// movedBy returns the record of the migration by which a group moved away, or a zero record.
func (s operator) movedBy(ctx context.Context, g *storage.Group) (*migration.Migration, error) {
	if g.State != migration.GroupMoved || g.Migration == (mimiport.MigrationID{}) {
		return &migration.Migration{}, nil
	}
	return s.record(ctx, g.Migration)
}

func cannotReclaim(id []byte, why error) error {
	return &mimiport.Error{Op: "reclaim", Kind: mimiport.KindConflict, Group: id, Err: why}
}

// provisional is the row by which a server that has recovered a group shows its claim to the former host.
func (s *core) provisional(g *storage.Group, former string) storage.Row {
	return storage.Row{
		Destination: former, Queue: "lineage/" + storage.FanOutQueue(g.Key()), Order: 1, Kind: migration.RowLineage,
		GroupID: g.ID, Term: g.Term, Due: s.Now(),
	}
}

// showLineage shows the claim to the server that the group was claimed from, should that server come back. A recover is
// provisional: if the former host contests the claim, the former host still has the group, and this server stops.
func (s lineages) showLineage(ctx context.Context, row *storage.Row) error {
	g, err := s.Store.GroupAt(ctx, storage.GroupKey{ID: row.GroupID, Term: row.Term})
	if err != nil {
		return err
	}
	err = s.Sender.PutLineage(ctx, g.Server, row.Destination, g.ID, &api.LineageRequest{Lineage: g.Lineage})
	switch {
	case mimiport.KindOf(err) == mimiport.KindUnknownGroup && !s.Now().Before(g.CreatedAt.Add(s.Limits.Retention)):
		err = nil // until then the former host may activate the group that it had staged and dropped
	case isContested(err):
		err = s.contestedBy(ctx, g, err)
	}
	if err != nil {
		return err
	}
	return s.done(ctx, row)
}

// isContested reports whether another server answers that it still hosts a group that this server has claimed.
func isContested(err error) bool {
	var e *mimiport.Error
	return errors.As(err, &e) && e.Kind == mimiport.KindConflict && e.Info.Rule == ruleContested
}

// contestedBy halts a recover that the former host contests, unless the room's pointer names the recover. After a
// contested reclaim this server goes on: it shows the reclaim to the former host again and again.
func (s lineages) contestedBy(ctx context.Context, g *storage.Group, refusal error) error {
	l, err := mimiport.UnmarshalLineage(g.Lineage)
	if err != nil || l.Term() == 0 {
		return err
	}
	step := &l.Steps[l.Term()-1]
	if step.Kind != mimiport.StepRecover {
		return refusal
	}
	if word, err := s.word(ctx, g); err != nil || proof.Names(word.Claim, step) {
		return errors.Join(err, refusal)
	}
	return s.atGroup(ctx, g, migration.Halt{Lineage: g.Lineage})
}

// Recover makes this server the host of a group whose host is lost for good. It starts from the public state of an
// epoch and the lineage, which a member holds (profile, section 6). Commits that only the lost host knew are lost.
// Recover is for operators. It is off unless the policy allows it.
func (s operator) Recover(ctx context.Context, id []byte, req *api.RecoverRequest) (*api.HostResponse, error) {
	p, err := s.Policy(ctx)
	if err != nil {
		return nil, err
	}
	if !p.Recover {
		return nil, &mimiport.Error{
			Op: "recover", Kind: mimiport.KindForbidden, Group: id,
			Err: errors.New("this server's policy does not allow recovering groups"),
		}
	}
	l, err := mimiport.UnmarshalLineage(req.Lineage)
	if err != nil {
		return nil, err
	}
	chain, err := s.checkChain(ctx, id, l, "")
	if err != nil {
		return nil, err
	}
	lineage, err := chain.Lineage.Marshal()
	if err != nil {
		return nil, err
	}
	engine, err := s.Engines.Find(req.Protocol)
	if err != nil {
		return nil, err
	}
	state, err := engine.Open(req.GroupInfo, req.RatchetTree)
	if err != nil {
		return nil, err
	}
	if string(state.ID()) != string(id) {
		return nil, proof.Errorf(id, "the GroupInfo is of another group")
	}
	if _, err := registry.NewRoster(state); err != nil {
		return nil, err
	}
	g := &storage.Group{
		ID: id, Term: l.Term(), Server: s.Server, RoomID: l.RoomID, Protocol: req.Protocol, CipherSuite: state.CipherSuite(),
	}
	err = s.groups.With(ctx, id, func(*registry.Held) error {
		if err := s.requireRecoverable(ctx, id, l); err != nil {
			return err
		}
		return s.claim(ctx, mimiport.StepRecover, g, lineage, state, &storage.Change{})
	})
	if err != nil {
		return nil, err
	}
	return s.host(ctx, id)
}

// requireRecoverable fails if this server hosts or stages the group. It also fails if the lineage does not continue the
// lineage that this server knows, its own confirmations included.
func (s operator) requireRecoverable(ctx context.Context, id []byte, l *mimiport.Lineage) error {
	known, err := s.Store.Group(ctx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if !stateOf(known).Recoverable() {
		return &mimiport.Error{
			Op: "recover", Kind: mimiport.KindConflict, Group: id, Err: fmt.Errorf("the group is %s here", known.State),
		}
	}
	return s.requireContinues(ctx, known, l)
}

// claim begins a new term here. The encoded lineage of old ends at the lost host.
func (s operator) claim(
	ctx context.Context, kind mimiport.StepKind, old *storage.Group, encoded []byte, state mls.Group,
	change *storage.Change,
) error {
	l, err := mimiport.UnmarshalLineage(encoded)
	if err != nil {
		return err
	}
	term := l.Term() + 1
	signed, err := s.sign(
		old.Server,
		&mimiport.LineageClaim{Kind: kind, DomainName: old.Server, GroupID: old.ID, Term: term, Epoch: state.Epoch()},
	)
	if err != nil {
		return err
	}
	if signed.KeyObject, err = s.Keys.KeyObject(ctx, old.Server, signed.KeyID); err != nil {
		s.Log.Warn("no own key object for the lineage", "key_id", signed.KeyID, "error", err)
	}
	l.Steps = append(l.Steps, mimiport.LineageStep{Kind: kind, Claim: &signed})
	if encoded, err = l.Marshal(); err != nil {
		return err
	}
	row, err := s.newTerm(ctx, storage.GroupKey{ID: old.ID, Term: term})
	if err != nil {
		return err
	}
	ready, err := (migration.Migration{}).Step(stateOf(row), migration.Claim{})
	if err != nil {
		return refusal(err)
	}
	g := *old
	g.Term, g.Version, g.Epoch, g.NextSeq = term, row.Version, state.Epoch(), 1
	g.Lineage, g.CreatedAt, g.Members = encoded, s.Now(), state.NumMembers()
	effect, err := s.change(ctx, &migration.Migration{}, &g, &ready)
	if err != nil {
		return err
	}
	change.Group, change.Drop = effect.Group, effect.Drop
	change.Snapshots = []storage.Snapshot{registry.SnapshotOf(&g, state, 1)}
	change.Rows = append(change.Rows, s.auditRow(&g))
	if kind == mimiport.StepRecover {
		former, err := proof.Hosts(l)
		if err != nil {
			return err
		}
		if before := former[term-1]; !s.IsLocal(before) {
			change.Rows = append(change.Rows, s.provisional(&g, before))
		}
	}
	return s.apply(ctx, change)
}
