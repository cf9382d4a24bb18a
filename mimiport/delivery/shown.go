package delivery

import (
	"context"
	"errors"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// ShowLineage implements API. A verified later term stops this server (profile, section 3) if this server has signed
// the step that leads there, or if the room supports the claim that begins the term. The server keeps a claim without
// support as evidence, and ShowLineage returns a KindConflict error, rule "contested". A receipt that this server has
// forgotten stops it, too. A lineage or receipt that this server knows already changes nothing.
func (s *Service) ShowLineage(
	ctx context.Context, c api.Caller, id []byte, req *api.LineageRequest,
) (*api.HostResponse, error) {
	g, err := s.groups.Group(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := s.requireInRoom(ctx, c, g); err != nil {
		return nil, err
	}
	if req.Receipt != nil {
		if err := s.takeReceipt(ctx, g, req.Receipt); err != nil {
			return nil, err
		}
		if len(req.Lineage) == 0 {
			return s.host(ctx, id)
		}
	}
	return s.takeLineage(ctx, g, req, false)
}

// Yield makes this server follow a claim to a group that it hosts, although the room does not support the claim. It is
// for operators. It returns the errors of ShowLineage.
func (s *Service) Yield(ctx context.Context, id []byte, req *api.LineageRequest) (*api.HostResponse, error) {
	g, err := s.groups.Group(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.takeLineage(ctx, g, req, true)
}

// lineages judges the lineages that others show.
type lineages struct{ *core }

// shown is a lineage that a caller shows.
type shown struct {
	*mimiport.Lineage
	operator bool // this server's operator supports the claim
}

// takeLineage judges a lineage of a group and acts on it.
func (s *Service) takeLineage(
	ctx context.Context, g *storage.Group, req *api.LineageRequest, operator bool,
) (*api.HostResponse, error) {
	l, err := mimiport.UnmarshalLineage(req.Lineage)
	if err != nil {
		return nil, err
	}
	if err := s.takeSteps(ctx, g.ID, &shown{l, operator}); err != nil {
		return nil, err
	}
	return s.host(ctx, g.ID)
}

// takeSteps takes all new steps of a lineage: first the step where it parts from this server's own lineage, then the
// steps that follow.
func (s *Service) takeSteps(ctx context.Context, id []byte, sh *shown) error {
	for range 3 { // a group that is staged here may have moved on, and may have come back
		if err := s.takeMore(ctx, id, sh); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) takeMore(ctx context.Context, id []byte, sh *shown) error {
	g, err := s.groups.Group(ctx, id)
	if err != nil {
		return err
	}
	own, err := mimiport.UnmarshalLineage(g.Lineage)
	if err != nil {
		return err
	}
	if at, parts := proof.Parting(own, sh.Lineage); parts {
		return s.takeRival(ctx, g, own, at, sh)
	}
	return s.takeStep(ctx, g, own, sh)
}

// takeStep takes the step of a lineage that follows the steps that this server knows, if the lineage has one. It
// verifies the step first.
func (s *Service) takeStep(ctx context.Context, g *storage.Group, own *mimiport.Lineage, sh *shown) error {
	if sh.Term() <= own.Term() {
		if !stateOf(g).Owned() && g.State != migration.GroupStaged {
			return nil
		}
		_, _, err := s.verify(ctx, g.ID, sh.Lineage, proof.Rules{Recorded: own})
		return err
	}
	word, err := s.word(ctx, g)
	if err != nil {
		return err
	}
	end := own.Term() + uint64(word.Counts(sh.Steps[own.Term():]))
	back, err := s.cameBack(ctx, g, own, sh.Lineage, end)
	switch {
	case err != nil:
		return err
	case back > 0:
		return s.takeReturn(ctx, g, own, back, sh.Lineage)
	case isYielded(g) && word.NamesAny(sh.Steps[own.Term():]):
		return s.takeRival(ctx, g, own, int(own.Term()), sh)
	case !stateOf(g).Owned() && g.State != migration.GroupStaged:
		return nil
	}
	verified, encoded, err := s.verify(ctx, g.ID, sh.Lineage, proof.Rules{Recorded: own, UpTo: end})
	if err != nil {
		return err
	}
	return s.takeNext(ctx, g, verified.Steps[own.Term():], encoded, sh.operator)
}

// isYielded reports whether a group redirects because of another server's claim.
func isYielded(g *storage.Group) bool {
	return g.State == migration.GroupMoved && g.Migration == (mimiport.MigrationID{})
}

// cameBack returns the latest term in which a lineage leads back to this server without this server remembering the
// term, or 0. It is for a group that has left, or that this server itself claims by the step that counts.
func (s lineages) cameBack(
	ctx context.Context, g *storage.Group, own, l *mimiport.Lineage, counts uint64,
) (uint64, error) {
	next := own.Term() + 1
	hosts, err := proof.Hosts(l)
	if err != nil {
		return 0, err
	}
	ownClaim := stateOf(g).Owned() && l.Steps[next-1].Kind != mimiport.StepMigration && s.IsLocal(hosts[counts])
	if g.State != migration.GroupMoved && !ownClaim {
		return 0, nil
	}
	for term := l.Term(); term >= next && term > g.Term; term-- {
		if !s.IsLocal(hosts[term]) {
			continue
		}
		forgot, err := s.forgot(ctx, g.ID, l, term)
		if err != nil || forgot {
			return term, err
		}
	}
	return 0, nil
}

// isSigned reports whether the host of a term has signed for this term in a verified lineage: by a claim, by its vote
// in the migration that began the term, or by its decision on the next migration. An offer alone promises nothing.
func isSigned(l *mimiport.Lineage, term uint64) bool {
	step := &l.Steps[term-1]
	return step.Kind != mimiport.StepMigration || step.Vote.Message != nil || isDecidedOn(l, term)
}

// isDecidedOn reports whether a migration ended a term of a lineage.
func isDecidedOn(l *mimiport.Lineage, term uint64) bool {
	return term < l.Term() && l.Steps[term].Kind == mimiport.StepMigration
}

// forgot reports whether this server has signed for a term of a lineage and has forgotten it. For a claim, it then has
// no row of the term. For a migration, it then has no record with the vote.
func (s lineages) forgot(ctx context.Context, id []byte, l *mimiport.Lineage, term uint64) (bool, error) {
	if !isSigned(l, term) {
		return false, nil
	}
	step := &l.Steps[term-1]
	if step.Kind != mimiport.StepMigration {
		row, err := s.newTerm(ctx, storage.GroupKey{ID: id, Term: term})
		return err == nil && (row.State == "" || row.State == migration.GroupDropped), err
	}
	offer, err := mimiport.UnmarshalMigrationResponse(step.Response.Message)
	if err != nil {
		return false, err
	}
	m, err := s.Store.Migration(ctx, offer.ID())
	if errors.Is(err, storage.ErrNotFound) {
		return true, nil
	}
	return err == nil && m.Complete.Message == nil, err
}

// takeReturn stops the group in the later term in which a lineage gives the group back to this server. This server's
// database is older than its signatures.
func (s lineages) takeReturn(
	ctx context.Context, g *storage.Group, own *mimiport.Lineage, term uint64, l *mimiport.Lineage,
) error {
	verified, encoded, err := s.verify(ctx, g.ID, l, proof.Rules{Recorded: own, UpTo: term})
	if err != nil {
		return err
	}
	// The verified lineage no longer has a vote that does not verify.
	if !isSigned(verified, term) && isDecidedOn(l, term) {
		verified, _, err = s.verify(ctx, g.ID, l, proof.Rules{Recorded: own, UpTo: term + 1})
		if err != nil {
			return err
		}
	}
	if forgot, err := s.forgot(ctx, g.ID, verified, term); err != nil || !forgot {
		return err
	}
	return s.stopIn(ctx, g, term, encoded)
}

// stopIn stops the group in the term in which a verified lineage gives the group to this server.
func (s lineages) stopIn(ctx context.Context, g *storage.Group, term uint64, lineage []byte) error {
	return s.groups.With(ctx, g.ID, func(h *registry.Held) error {
		row, err := s.newTerm(ctx, storage.GroupKey{ID: g.ID, Term: term})
		if err != nil {
			return err
		}
		if row.State == "" {
			version := row.Version
			*row = *g
			row.Term, row.Version, row.State, row.Migration = term, version, "", mimiport.MigrationID{}
			row.NextSeq, row.Lineage, row.CreatedAt = 1, lineage, s.Now()
		}
		return s.stepRecord(ctx, h, &migration.Migration{}, row, migration.Return{Lineage: lineage}, nil)
	})
}

// takeRival judges a lineage that parts from the recorded one (profile, section 3). Every server prefers the same
// lineage of the two. No other function replaces a recorded lineage.
func (s *Service) takeRival(ctx context.Context, g *storage.Group, own *mimiport.Lineage, at int, sh *shown) error {
	word, err := s.word(ctx, g)
	if err != nil {
		return err
	}
	end := uint64(at + word.Counts(sh.Steps[at:]))
	common := &mimiport.Lineage{CreatingServer: sh.CreatingServer, Preimage: own.Preimage, Steps: own.Steps[:at]}
	verified, encoded, err := s.verify(ctx, g.ID, sh.Lineage, proof.Rules{Recorded: common, UpTo: end})
	if err != nil {
		return err
	}
	if own.Preimage == nil && sh.Preimage != nil {
		return s.atGroup(ctx, g, migration.Displace{Lineage: encoded})
	}
	if own.CreatingServer != sh.CreatingServer {
		return proof.Errorf(g.ID, "it is not the lineage known here")
	}
	rival, err := s.rival(ctx, g, verified)
	if err != nil {
		return err
	}
	rival.Outranks = sh.operator || word.Prefers(verified.Steps[at:], own.Steps[at:])
	switch stateOf(g).JudgeRival(*rival) {
	case migration.TakeBack:
		return s.stopIn(ctx, g, end, encoded)
	case migration.Stop:
		return s.halt(ctx, g, encoded)
	case migration.TakeClaim:
		return s.yield(ctx, g, encoded)
	case migration.KeepOn:
		return s.atGroup(ctx, g, migration.Contest{Lineage: encoded})
	}
	return proof.Errorf(g.ID, "it is not the lineage known here")
}

// rival returns a verified lineage, up to the step that counts, for package migration.
func (s lineages) rival(ctx context.Context, g *storage.Group, l *mimiport.Lineage) (*migration.Rival, error) {
	hosts, err := proof.Hosts(l)
	if err != nil || !s.IsLocal(hosts[l.Term()]) || l.Term() == 0 {
		return new(migration.Rival), err
	}
	forgot, err := s.forgot(ctx, g.ID, l, l.Term())
	return &migration.Rival{Here: true, Signed: isSigned(l, l.Term()), Forgot: forgot}, err
}

// halt stops a group because this server has signed for it in another lineage and has forgotten that.
func (s lineages) halt(ctx context.Context, g *storage.Group, lineage []byte) error {
	return s.groups.With(ctx, g.ID, func(h *registry.Held) error {
		row, err := s.giveUpOther(ctx, h, g.Term, mimiport.MigrationID{})
		if err != nil {
			return err
		}
		return s.stepRecord(ctx, h, &migration.Migration{}, row, migration.Halt{Lineage: lineage}, nil)
	})
}

// atGroup takes an event about a group's row without a migration.
func (s *core) atGroup(ctx context.Context, g *storage.Group, e migration.Event) error {
	return s.groups.With(ctx, g.ID, func(h *registry.Held) error {
		row, err := h.GroupAt(ctx, g.Term)
		if err != nil {
			return err
		}
		return s.stepRecord(ctx, h, &migration.Migration{}, row, e, nil)
	})
}

// takeNext acts on the verified steps that follow a group's own steps. The encoded lineage ends with the step that
// counts.
func (s *Service) takeNext(
	ctx context.Context, g *storage.Group, steps []mimiport.LineageStep, lineage []byte, operator bool,
) error {
	next, err := s.next(ctx, g, steps, operator)
	if err != nil {
		return err
	}
	step := &steps[0]
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
		return s.recall(ctx, g, step, lineage)
	case migration.TakeClaim:
		return s.yield(ctx, g, lineage)
	case migration.KeepOn:
		return s.atGroup(ctx, g, migration.Contest{Lineage: lineage})
	}
	return nil
}

// next returns a verified step with the facts that count for or against it.
func (s *Service) next(
	ctx context.Context, g *storage.Group, steps []mimiport.LineageStep, operator bool,
) (*migration.Next, error) {
	step := &steps[0]
	next := &migration.Next{Kind: step.Kind}
	if step.Kind == mimiport.StepMigration {
		response, err := mimiport.UnmarshalMigrationResponse(step.Response.Message)
		if err != nil {
			return nil, err
		}
		next.Migration = response.ID()
		return next, nil
	}
	if operator {
		next.Supported = true
		return next, nil
	}
	word, err := s.word(ctx, g)
	if err != nil {
		return nil, err
	}
	next.Supported = word.NamesAny(steps)
	if !next.Supported {
		next.Supported, err = s.mayFollow(ctx, g, word, step)
	}
	return next, err
}

// recall stops a group that this server has moved away by a confirmation and has forgotten. The signature counts more
// than the database.
func (s *Service) recall(
	ctx context.Context, g *storage.Group, step *mimiport.LineageStep, lineage []byte,
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
		return s.stepRecord(ctx, h, m, g, migration.Recall{Confirmation: step.Confirmation, Lineage: lineage}, nil)
	})
}

// giveUpOther gives up the migration that a group is frozen for, unless it is the given one. It returns the group's new
// row.
func (s *core) giveUpOther(
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

// forgotten returns the record that this server once had of a migration that it confirmed, without a state.
func (s *Service) forgotten(
	g *storage.Group, r *mimiport.MigrationResponse, step *mimiport.LineageStep,
) *migration.Migration {
	return &migration.Migration{
		ID: r.ID(), GroupID: g.ID, RoomID: g.RoomID, Term: g.Term + 1,
		Source: r.Request.SourceDomain, Target: r.Request.TargetDomain, Epoch: r.Request.Epoch, CreatedAt: s.Now(),
		Response: step.Response,
		Reason:   "learnt from a lineage: this server does not remember it",
	}
}

// yield gives a group up to the server that has claimed it.
func (s *Service) yield(ctx context.Context, g *storage.Group, lineage []byte) error {
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
		return s.stepRecord(ctx, h, m, g, migration.Yield{Lineage: lineage}, nil)
	})
}
