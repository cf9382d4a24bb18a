package delivery

import (
	"context"
	"errors"
	"fmt"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// ShowLineage implements API: a verified later term stops this server (profile, section 3), if this server has signed
// the step that leads there, or the room supports the claim that begins it. A claim without support is kept as evidence
// and is a KindConflict error, rule "contested". A receipt that this server has forgotten stops it, too. A lineage or
// receipt that says nothing new changes nothing.
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

// Yield makes this server follow a claim to a group that it has and whose room does not support the claim. It is for
// operators, and returns the errors of ShowLineage.
func (s *Service) Yield(ctx context.Context, id []byte, req *api.LineageRequest) (*api.HostResponse, error) {
	g, err := s.groups.Group(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.takeLineage(ctx, g, req, true)
}

// lineages judges the chains of hosts that others show.
type lineages struct{ *core }

// shown is a lineage that somebody shows.
type shown struct {
	*mimiport.Lineage
	operator bool // this server's operator says that it counts
}

// takeLineage does what is to be done about a lineage of a group.
func (s *Service) takeLineage(
	ctx context.Context, g *storage.Group, req *api.LineageRequest, operator bool,
) (*api.HostResponse, error) {
	l, err := mimiport.UnmarshalLineage(req.Lineage)
	if err != nil {
		return nil, err
	}
	own, err := mimiport.UnmarshalLineage(g.Lineage)
	if err != nil {
		return nil, err
	}
	sh := &shown{l, operator}
	if at, parts := proof.Parting(own, l); parts {
		err = s.takeRival(ctx, g, own, at, sh)
	} else {
		err = s.takeSteps(ctx, g.ID, sh)
	}
	if err != nil {
		return nil, err
	}
	return s.host(ctx, g.ID)
}

// takeSteps takes the steps of a lineage that follow what this server knows of the group.
func (s *Service) takeSteps(ctx context.Context, id []byte, sh *shown) error {
	for range 3 { // what was staged here may have gone on from here, and may have come back
		if err := s.takeStep(ctx, id, sh); err != nil {
			return err
		}
	}
	return nil
}

// takeStep takes the step of a lineage that follows what this server knows of the group, if there is one. What it takes
// it verifies first.
func (s *Service) takeStep(ctx context.Context, id []byte, sh *shown) error {
	g, err := s.groups.Group(ctx, id)
	if err != nil {
		return err
	}
	own, err := mimiport.UnmarshalLineage(g.Lineage)
	if err != nil {
		return err
	}
	back, err := s.cameBack(ctx, g, own, sh.Lineage)
	if err != nil || back == 0 && !stateOf(g).Owned() && g.State != migration.GroupStaged {
		return err
	}
	next := own.Term() + 1
	verified, encoded, err := s.verify(ctx, id, sh.Lineage, proof.Rules{Recorded: own, UpTo: max(next, back)})
	switch {
	case err != nil:
		return err
	case back > 0:
		return s.takeReturn(ctx, g, back, encoded)
	case verified.Term() < next:
		return nil
	}
	return s.takeNext(ctx, g, &verified.Steps[next-1], encoded, sh.operator)
}

// cameBack is the latest term in which a lineage leads back here and of which this server remembers nothing, 0 for
// none. It asks about a group that has left, or that this server has claimed itself.
func (s lineages) cameBack(ctx context.Context, g *storage.Group, own, l *mimiport.Lineage) (uint64, error) {
	next := own.Term() + 1
	if l.Term() < next {
		return 0, nil
	}
	hosts, err := proof.Hosts(l)
	if err != nil {
		return 0, err
	}
	ownClaim := stateOf(g).Owned() && l.Steps[next-1].Kind != mimiport.StepMigration && s.IsLocal(hosts[next])
	if g.State != migration.GroupMoved && !ownClaim {
		return 0, nil
	}
	for term := l.Term(); term >= next && term > g.Term; term-- {
		if !s.IsLocal(hosts[term]) {
			continue
		}
		known, err := s.remembers(ctx, &l.Steps[term-1])
		if err != nil || !known {
			return term, err
		}
	}
	return 0, nil
}

// remembers says whether this server has a record of the migration that a step is. It has none of a claim.
func (s lineages) remembers(ctx context.Context, step *mimiport.LineageStep) (bool, error) {
	if step.Kind != mimiport.StepMigration {
		return false, nil
	}
	offer, err := mimiport.UnmarshalMigrationResponse(step.Response.Message)
	if err != nil {
		return false, err
	}
	_, err = s.Store.Migration(ctx, offer.ID())
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// takeReturn stops the group in a later term, in which it came back here: this server's database is older than its
// signatures.
func (s lineages) takeReturn(ctx context.Context, g *storage.Group, term uint64, lineage []byte) error {
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

// takeRival judges a lineage that parts from the one recorded here (profile, section 3): everybody prefers the same one
// of the two, and only here does another lineage take the place of a recorded one.
func (s *Service) takeRival(ctx context.Context, g *storage.Group, own *mimiport.Lineage, at int, sh *shown) error {
	common := &mimiport.Lineage{CreatingServer: sh.CreatingServer, Preimage: own.Preimage, Steps: own.Steps[:at]}
	verified, encoded, err := s.verify(ctx, g.ID, sh.Lineage, proof.Rules{Recorded: common, UpTo: g.Term + 1})
	if err != nil {
		return err
	}
	if own.Preimage == nil && sh.Preimage != nil {
		return s.atGroup(ctx, g, migration.Displace{Lineage: encoded})
	}
	if own.CreatingServer != sh.CreatingServer || !stateOf(g).Owned() {
		return proof.Errorf(g.ID, "it is not the lineage known here")
	}
	hash, err := s.namedClaim(ctx, g)
	if err != nil {
		return err
	}
	named := func(step *mimiport.LineageStep) bool { return proof.Names(hash, step) }
	if sh.operator || proof.Outranks(&verified.Steps[at], &own.Steps[at], named) {
		return s.yield(ctx, g, encoded)
	}
	return s.atGroup(ctx, g, migration.Contest{Lineage: encoded})
}

// atGroup takes an event that is about a group's row and no migration.
func (s *core) atGroup(ctx context.Context, g *storage.Group, e migration.Event) error {
	return s.groups.With(ctx, g.ID, func(h *registry.Held) error {
		row, err := h.GroupAt(ctx, g.Term)
		if err != nil {
			return err
		}
		return s.stepRecord(ctx, h, &migration.Migration{}, row, e, nil)
	})
}

// takeNext does what is to be done about the verified step that begins the term after a group's, with which the encoded
// lineage ends.
func (s *Service) takeNext(
	ctx context.Context, g *storage.Group, step *mimiport.LineageStep, lineage []byte, operator bool,
) error {
	next, err := s.next(ctx, g, step, operator)
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
		return s.recall(ctx, g, step, lineage)
	case migration.TakeClaim:
		return s.yield(ctx, g, lineage)
	case migration.KeepOn:
		return s.atGroup(ctx, g, migration.Contest{Lineage: lineage})
	}
	return nil
}

// next is a verified step, and all that counts for or against it.
func (s *Service) next(
	ctx context.Context, g *storage.Group, step *mimiport.LineageStep, operator bool,
) (*migration.Next, error) {
	next := &migration.Next{Kind: step.Kind}
	if step.Kind == mimiport.StepMigration {
		response, err := mimiport.UnmarshalMigrationResponse(step.Response.Message)
		if err != nil {
			return nil, err
		}
		next.Migration = response.ID()
		return next, nil
	}
	var err error
	next.Supported = operator
	if !operator {
		next.Supported, err = s.supported(ctx, g, step)
	}
	return next, err
}

// supported says whether the room supports a claim to a group: its pointer holds the claim's hash.
func (s *core) supported(ctx context.Context, g *storage.Group, step *mimiport.LineageStep) (bool, error) {
	hash, err := s.namedClaim(ctx, g)
	return err == nil && proof.Names(hash, step), err
}

// namedClaim is the hash of the claim that the room supports, nil for none. Where the policy lets nobody or only
// administrators move groups away, the room's word does not count: the operator's does.
func (s *core) namedClaim(ctx context.Context, g *storage.Group) ([]byte, error) {
	p, err := s.Policy(ctx)
	if err != nil || p.Source == policy.SourceNobody || p.Source == policy.SourceServerAdmin {
		return nil, err
	}
	pointer, err := s.pointer(ctx, g)
	if err != nil || pointer == nil {
		return nil, err
	}
	return pointer.ClaimHash, nil
}

// recall stops a group that this server has confirmed away and does not remember: its signature beats its database.
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

// giveUpOther gives up the migration that a group is frozen for, unless it is the one meant, and returns the group's
// row as it is then.
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

// operator is what only operators may do.
type operator struct{ *core }

// Reclaim takes back a group from a target that is lost for good after the decision: a new term begins here, with the
// state that the target was given (profile, section 6). It is unsafe if the target is only unreachable: what it accepts
// is lost. A group that was stopped goes on from where it is here: what its members have seen since is lost. It is for
// operators.
//
// With a lineage that ends with another server's claim to a group that this server has, the new term begins above that
// claim: this server insists.
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

// insist reclaims a group from a server whose claim to it this server contests. The group is stopped first: that
// transaction is not the one that begins the new term.
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
	if l.Term() != g.Term+1 || l.Steps[g.Term].Kind == mimiport.StepMigration || !stateOf(g).Owned() {
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

// provisional is the row by which the server that has recovered a group shows the claim to the one that had the group.
func (s *core) provisional(g *storage.Group, former string) storage.Row {
	return storage.Row{
		Destination: former, Queue: "lineage/" + fanOutQueue(g.Key()), Order: 1, Kind: migration.RowLineage,
		GroupID: g.ID, Term: g.Term, Due: s.Now(),
	}
}

// showLineage shows the server that a group was claimed from how it went on, should it come back. A recover is
// provisional: a former host that contests the claim still has the group, and this server stops.
func (s lineages) showLineage(ctx context.Context, row *storage.Row) error {
	g, err := s.Store.GroupAt(ctx, storage.GroupKey{ID: row.GroupID, Term: row.Term})
	if err != nil {
		return err
	}
	err = s.Sender.PutLineage(ctx, g.Server, row.Destination, g.ID, &api.LineageRequest{Lineage: g.Lineage})
	switch {
	case mimiport.KindOf(err) == mimiport.KindUnknownGroup && !s.Now().Before(g.CreatedAt.Add(s.Limits.Retention)):
		err = nil // until then it may take up again what it had staged and dropped
	case isContested(err):
		err = s.contestedBy(ctx, g, err)
	}
	if err != nil {
		return err
	}
	return s.done(ctx, row)
}

// isContested says whether another server answers that it goes on with a group that this one has claimed.
func isContested(err error) bool {
	var e *mimiport.Error
	return errors.As(err, &e) && e.Kind == mimiport.KindConflict && e.Info.Rule == ruleContested
}

// contestedBy halts a recover that the former host contests, unless the room supports it. A reclaim goes on: the former
// host is shown it again and again.
func (s lineages) contestedBy(ctx context.Context, g *storage.Group, refusal error) error {
	l, err := mimiport.UnmarshalLineage(g.Lineage)
	if err != nil || l.Term() == 0 {
		return err
	}
	step := &l.Steps[l.Term()-1]
	if step.Kind != mimiport.StepRecover {
		return refusal
	}
	if named, err := s.supported(ctx, g, step); err != nil || named {
		return errors.Join(err, refusal)
	}
	return s.atGroup(ctx, g, migration.Halt{Lineage: g.Lineage})
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
	effect, err := s.change(ctx, &migration.Migration{}, &g, &ready)
	if err != nil {
		return err
	}
	change.Group, change.Drop = effect.Group, effect.Drop
	change.Snapshots = []storage.Snapshot{registry.SnapshotOf(&g, state, 1)}
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
