package delivery

import (
	"context"
	"encoding/json"
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

// ShowLineage implements API: whoever shows a verified later term stops this server (profile, section 3). A lineage
// that says nothing new changes nothing.
func (s *Service) ShowLineage(
	ctx context.Context, c api.Caller, id []byte, req *api.LineageRequest,
) (*api.HostResponse, error) {
	g, err := s.groups.Group(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := s.requireInRoom(ctx, c, g.RoomID); err != nil {
		return nil, err
	}
	l, err := mimiport.UnmarshalLineage(req.Lineage)
	if err != nil {
		return nil, err
	}
	if _, err := s.checkChain(ctx, id, l); err != nil {
		return nil, err
	}
	for range 2 { // what was staged here may have gone on from here, too
		if err := s.takeLineage(ctx, id, l, req); err != nil {
			return nil, err
		}
	}
	return s.host(ctx, id)
}

// takeLineage takes the step of a verified lineage that follows what this server knows of the group, if there is one.
func (s *Service) takeLineage(ctx context.Context, id []byte, l *mimiport.Lineage, req *api.LineageRequest) error {
	g, err := s.groups.Group(ctx, id)
	if err != nil {
		return err
	}
	own, err := mimiport.UnmarshalLineage(g.Lineage)
	if err != nil || len(l.Steps) <= len(own.Steps) {
		return err
	}
	if !proof.Begins(own, l) {
		return proof.Errorf(id, "it is not the lineage known here")
	}
	return s.takeNext(ctx, g, &l.Steps[len(own.Steps)], req)
}

// takePointer looks at where the room says that its group is: shown there a confirmation of its own that it does not
// remember, this server stops. The pointer is advisory: what does not verify is passed over.
func (s *Service) takePointer(ctx context.Context, g *storage.Group) error {
	content, err := s.Rooms.State(ctx, g.RoomID, api.EventPointer)
	if err != nil || content == nil {
		return err
	}
	var p api.Pointer
	if json.Unmarshal(content, &p) != nil || p.Evidence == nil || p.Term != g.Term+1 {
		return nil
	}
	l, err := mimiport.UnmarshalLineage(g.Lineage)
	if err != nil {
		return err
	}
	l.Steps = append(l.Steps, mimiport.LineageStep{
		Kind:         mimiport.StepMigration,
		Response:     mimiport.SignedMessage{Message: p.Evidence.MigrationResponse, KeyID: p.Evidence.ResponseKeyID},
		Confirmation: mimiport.SignedMessage{Message: p.Evidence.MigrationConfirmation, KeyID: p.Evidence.ConfirmationKeyID},
	})
	encoded, err := l.Marshal()
	if err != nil {
		return err
	}
	if _, err := s.checkChain(ctx, g.ID, l); err != nil {
		s.Log.Warn("a room's pointer does not verify", "room_id", g.RoomID, "error", err)
		return nil
	}
	return s.takeNext(ctx, g, &l.Steps[len(l.Steps)-1], &api.LineageRequest{Lineage: encoded})
}

// takeNext does what is to be done about the verified step that begins the term after a group's.
func (s *Service) takeNext(
	ctx context.Context, g *storage.Group, step *mimiport.LineageStep, req *api.LineageRequest,
) error {
	next, err := s.next(ctx, step)
	if err != nil {
		return err
	}
	switch stateOf(g).Judge(*next) {
	case migration.TakeConfirm:
		m, err := s.record(ctx, g.Migration)
		if err != nil {
			return err
		}
		return s.confirm(ctx, m, &api.SignedRequest{Message: step.Confirmation.Message, KeyID: step.Confirmation.KeyID})
	case migration.TakeOther:
		return s.takeEvent(ctx, g.Migration, migration.Superseded{}, nil)
	case migration.TakeOwn:
		return s.recall(ctx, g, step, req)
	case migration.TakeClaim:
		return s.yield(ctx, g, req)
	case migration.RefuseRecover:
		return &mimiport.Error{
			Op: "yield", Kind: mimiport.KindForbidden, Group: g.ID,
			Err: errors.New("this server's policy does not accept that a group hosted here is recovered elsewhere"),
		}
	}
	return nil
}

// next is a verified step, and all that counts for or against it.
func (s *Service) next(ctx context.Context, step *mimiport.LineageStep) (*migration.Next, error) {
	next := &migration.Next{Kind: step.Kind}
	if step.Kind == mimiport.StepMigration {
		response, err := mimiport.UnmarshalMigrationResponse(step.Response.Message)
		if err != nil {
			return nil, err
		}
		next.Migration = response.ID()
	}
	p, err := s.Policy(ctx)
	if err != nil {
		return nil, err
	}
	next.ClaimsAccepted = p.AcceptClaims
	return next, nil
}

// recall stops a group that this server has confirmed away and does not remember: its signature beats its database.
func (s *Service) recall(
	ctx context.Context, g *storage.Group, step *mimiport.LineageStep, req *api.LineageRequest,
) error {
	response, err := mimiport.UnmarshalMigrationResponse(step.Response.Message)
	if err != nil {
		return err
	}
	return s.groups.With(ctx, g.ID, func(h *registry.Held) error {
		g, err := s.giveUpOther(ctx, h, g.Term, response.ID())
		if err != nil {
			return err
		}
		m, err := s.Store.Migration(ctx, response.ID())
		if errors.Is(err, storage.ErrNotFound) {
			m = s.forgotten(g, response, step)
		} else if err != nil {
			return err
		}
		return s.stepRecord(ctx, h, m, g, migration.Recall{Confirmation: step.Confirmation, Lineage: req.Lineage}, nil)
	})
}

// giveUpOther gives up the migration that a group is frozen for, unless it is the one meant, and returns the group's
// row as it is then.
func (s *Service) giveUpOther(
	ctx context.Context, h *registry.Held, term uint64, meant mimiport.MigrationID,
) (*storage.Group, error) {
	g, err := h.GroupAt(ctx, term)
	if err != nil || g.State != migration.GroupFrozen || g.Migration == meant {
		return g, err
	}
	m, err := s.record(ctx, g.Migration)
	if err != nil {
		return nil, err
	}
	if err := s.stepRecord(ctx, h, m, g, migration.GiveUpElsewhere, nil); err != nil {
		return nil, err
	}
	return h.GroupAt(ctx, term)
}

// forgotten is the record that this server must once have had of a migration that it confirmed, without a state.
func (s *Service) forgotten(
	g *storage.Group, r *mimiport.MigrationResponse, step *mimiport.LineageStep,
) *migration.Migration {
	return &migration.Migration{
		ID: r.ID(), GroupID: g.ID, RoomID: g.RoomID, Term: g.Term + 1,
		Source: r.Request.SourceDomain, Target: r.Request.TargetDomain, Epoch: r.Request.Epoch, CreatedAt: s.Now(),
		Response: step.Response, Complete: step.Complete,
		Reason: "learnt from a lineage: this server does not remember it",
	}
}

// yield stops a group that another server has claimed.
func (s *Service) yield(ctx context.Context, g *storage.Group, req *api.LineageRequest) error {
	return s.groups.With(ctx, g.ID, func(h *registry.Held) error {
		g, err := h.GroupAt(ctx, g.Term)
		if err != nil {
			return err
		}
		m := &migration.Migration{}
		if g.State == migration.GroupFrozen {
			if m, err = s.record(ctx, g.Migration); err != nil {
				return err
			}
		}
		return s.stepRecord(ctx, h, m, g, migration.Yield{Lineage: req.Lineage}, nil)
	})
}

// truncated is the beginning of an encoded lineage, up to a term.
func truncated(encoded []byte, term uint64) ([]byte, error) {
	l, err := mimiport.UnmarshalLineage(encoded)
	if err != nil {
		return nil, err
	}
	l.Steps = l.Steps[:term]
	return l.Marshal()
}

// operator is what only operators may do.
type operator struct{ *core }

// Reclaim takes back a group from a target that is lost for good after the decision: a new term begins here, with the
// state that the target was given (profile, section 6). It is unsafe if the target is only unreachable: what it accepts
// is lost. A group that was stopped goes on from where it is here: what its members have seen since is lost. It is for
// operators.
func (s operator) Reclaim(ctx context.Context, id []byte) (*api.HostResponse, error) {
	if err := s.groups.With(ctx, id, func(h *registry.Held) error { return s.reclaim(ctx, h) }); err != nil {
		return nil, err
	}
	return s.host(ctx, id)
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
		return cannotReclaim(g.ID, errors.New("the group's state is past its retention"))
	}
	if err != nil {
		return err
	}
	return s.claim(ctx, mimiport.StepReclaim, g, encoded, l.MLS, change)
}

// reclaimed is the lineage of a group up to the term that a reclaim ends, and what goes with the claim: the target,
// should it come back, is shown how the group went on, and no confirmation any more.
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

// movedBy is the record of the migration by which a group moved away, a zero one where there is none.
func (s operator) movedBy(ctx context.Context, g *storage.Group) (*migration.Migration, error) {
	if g.State != migration.GroupMoved || g.Migration == (mimiport.MigrationID{}) {
		return &migration.Migration{}, nil
	}
	return s.record(ctx, g.Migration)
}

func cannotReclaim(id []byte, why error) error {
	return &mimiport.Error{Op: "reclaim", Kind: mimiport.KindConflict, Group: id, Err: why}
}

// showLineage shows the server that a group was reclaimed from how it went on, should it come back.
func (s *Service) showLineage(ctx context.Context, row *storage.Row) error {
	g, err := s.Store.GroupAt(ctx, storage.GroupKey{ID: row.GroupID, Term: row.Term})
	if err != nil {
		return err
	}
	err = s.Sender.PutLineage(ctx, g.Server, row.Destination, g.ID, &api.LineageRequest{Lineage: g.Lineage})
	if mimiport.KindOf(err) == mimiport.KindUnknownGroup && !s.Now().Before(g.CreatedAt.Add(s.Limits.Retention)) {
		err = nil // until then it may take up again what it had staged and dropped
	}
	if err != nil {
		return err
	}
	return s.done(ctx, row)
}

// Recover takes on a group whose host is lost for good, from what a member holds: the public state of an epoch and the
// lineage (profile, section 6). Commits that only the lost host knew are lost. It is for operators, and off unless the
// policy says recover.
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
	if _, err := s.checkChain(ctx, id, l); err != nil {
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
		return s.claim(ctx, mimiport.StepRecover, g, req.Lineage, state, &storage.Change{})
	})
	if err != nil {
		return nil, err
	}
	return s.host(ctx, id)
}

// requireRecoverable fails for a group that is here or on its way, or where the lineage does not go on from what this
// server knows: what it has confirmed itself included.
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

// claim begins a new term here: old's lineage, encoded, ends at the host that is lost.
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
	g.Lineage, g.CreatedAt = encoded, s.Now()
	begun, err := s.change(ctx, &migration.Migration{}, &g, &ready)
	if err != nil {
		return err
	}
	change.Group, change.Drop = begun.Group, begun.Drop
	change.Snapshots = []storage.Snapshot{registry.SnapshotOf(&g, state, 1)}
	return s.apply(ctx, change)
}
