package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// requireHistory checks the hosts of the group up to the source (profile, section 3). The chain must verify, end at the
// source, and begin with the lineage that this server knows. requireHistory returns the lineage to store.
func (s *Service) requireHistory(
	ctx context.Context, m *migration.Migration, l *mimiport.Lineage,
) (*mimiport.Lineage, error) {
	if l.RoomID != m.RoomID {
		return nil, proof.Errorf(m.GroupID, "the group is bound to another room than the offer is for")
	}
	if err := s.requireBound(ctx, m.GroupID, l); err != nil {
		return nil, err
	}
	if err := s.displaceSquatter(ctx, m.GroupID, l); err != nil {
		return nil, err
	}
	chain, err := s.checkChain(ctx, m.GroupID, l, m.Source)
	if err != nil {
		return nil, err
	}
	if chain.Server != m.Source || len(l.Steps) > 0 && m.Epoch < chain.Epoch {
		return nil, proof.Errorf(m.GroupID, "the chain does not end at %s before epoch %d", m.Source, m.Epoch)
	}
	if err := s.requireClaimsAccepted(ctx, m.GroupID, l); err != nil {
		return nil, err
	}
	return chain.Lineage, s.requireContinuation(ctx, m.GroupID, chain.Lineage)
}

// requireBound fails for a foreign id that the room's binding does not name. Otherwise anybody could import an id and
// keep out the real group with this id.
func (s lineages) requireBound(ctx context.Context, groupID []byte, l *mimiport.Lineage) error {
	if l.Preimage != nil {
		return nil
	}
	room, err := s.Rooms.Room(ctx, l.RoomID)
	if err != nil {
		return err
	}
	if bound := binding(room); bound == nil || !bound.Names(l.RoomID, groupID) {
		return &mimiport.Error{
			Op: "check lineage", Kind: mimiport.KindForbidden, Group: groupID,
			Err: errors.New("the room does not name this foreign id"),
		}
	}
	return nil
}

// binding returns the content of the room's binding event, or nil if no valid binding is in force.
func binding(room Room) *api.Binding {
	content, bound := room.InForce(api.EventGroup), new(api.Binding)
	if content == nil || json.Unmarshal(content, bound) != nil {
		return nil // any user with the power can put any JSON there
	}
	return bound
}

// displaceSquatter drops the group that has this id here without a preimage. l is the lineage of the group that comes
// here: it must verify and have the id's preimage.
func (s lineages) displaceSquatter(ctx context.Context, groupID []byte, l *mimiport.Lineage) error {
	recorded, err := s.recordedLineage(ctx, groupID)
	if err != nil || recorded == nil || recorded.Preimage != nil || l.Preimage == nil {
		return err
	}
	_, encoded, err := s.verify(ctx, groupID, l, proof.Rules{})
	if err != nil {
		return err
	}
	known, err := s.groups.Group(ctx, groupID)
	if err != nil {
		return err
	}
	return s.atGroup(ctx, known, migration.Displace{Lineage: encoded})
}

// recordedLineage returns the lineage that this server has of a group, or nil.
func (s *core) recordedLineage(ctx context.Context, groupID []byte) (*mimiport.Lineage, error) {
	known, err := s.Store.Group(ctx, groupID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return mimiport.UnmarshalLineage(known.Lineage)
}

// verify checks a lineage that may end hosting or staging here. It ignores the keys inside the lineage. It returns the
// verified part of the lineage, decoded and encoded.
func (s *core) verify(
	ctx context.Context, groupID []byte, l *mimiport.Lineage, rules proof.Rules,
) (*mimiport.Lineage, []byte, error) {
	rules.Own = s.IsLocal
	chain, err := proof.Lineage(ctx, s.Keys, groupID, l, rules)
	if err != nil {
		return nil, nil, err
	}
	encoded, err := chain.Lineage.Marshal()
	return chain.Lineage, encoded, err
}

// checkChain verifies the lineage of a group that comes here: the steps after those that this server knows. source is
// the server that hands the group over. It is empty for a recover.
func (s *core) checkChain(
	ctx context.Context, groupID []byte, l *mimiport.Lineage, source string,
) (*proof.Chain, error) {
	recorded, err := s.recordedLineage(ctx, groupID)
	if err != nil {
		return nil, err
	}
	room, err := s.Rooms.Room(ctx, l.RoomID)
	if err != nil {
		return nil, err
	}
	bound := binding(room)
	rules := proof.Rules{Recorded: recorded, Source: source, Own: s.IsLocal}
	rules.Hashed = bound != nil && bound.Preimage != nil && bound.Preimage.HashesTo(groupID)
	if p := pointer(room, &storage.Group{ID: groupID, RoomID: l.RoomID}); p != nil {
		rules.Named = &proof.Place{Server: p.Via, Term: p.Term}
	}
	chain, err := proof.Lineage(ctx, s.Keys, groupID, l, rules)
	if err != nil {
		return nil, err
	}
	for _, use := range chain.Presented {
		s.Log.Warn("a lineage rests on a key that came with it", "group_id", mimiport.IDText(groupID),
			"term", use.Term, "server", use.Server, "key_id", use.KeyID, "error", use.Reason)
	}
	return chain, nil
}

// requireSigned fails unless a server has signed m with one of its present keys.
func (d *Deps) requireSigned(ctx context.Context, server, keyID string, m mimiport.Signed) error {
	_, err := proof.Verify(ctx, d.Keys, server, keyID, m, d.Now(), proof.Known)
	return err
}

// requireContinuation fails unless the chain continues the lineage that this server knows. If this server hosts the
// group, requireContinuation first takes the next step of the chain: this server may have signed that step and
// forgotten it.
func (s *Service) requireContinuation(ctx context.Context, groupID []byte, l *mimiport.Lineage) error {
	known, err := s.Store.Group(ctx, groupID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if stateOf(known).Owned() {
		own, err := mimiport.UnmarshalLineage(known.Lineage)
		if err != nil {
			return err
		}
		if err := s.takeStep(ctx, known, own, &shown{l, false}); err != nil {
			return err
		}
		if known, err = s.groups.Group(ctx, groupID); err != nil {
			return err
		}
	}
	return s.requireContinues(ctx, known, l)
}

// requireClaimsAccepted fails for a lineage with claims if the policy does not accept claims.
func (s lineages) requireClaimsAccepted(ctx context.Context, groupID []byte, l *mimiport.Lineage) error {
	claimed := slices.ContainsFunc(
		l.Steps, func(step mimiport.LineageStep) bool { return step.Kind != mimiport.StepMigration },
	)
	if !claimed {
		return nil
	}
	p, err := s.Policy(ctx)
	if err != nil {
		return err
	}
	if !p.AcceptClaims {
		return &mimiport.Error{
			Op: "check lineage", Kind: mimiport.KindForbidden, Group: groupID,
			Err: errors.New("the group was reclaimed or recovered, which this server's policy does not accept"),
		}
	}
	return nil
}

// requireContinues fails unless the chain continues the lineage that this server knows.
func (s *core) requireContinues(ctx context.Context, known *storage.Group, l *mimiport.Lineage) error {
	own, err := mimiport.UnmarshalLineage(known.Lineage)
	if err != nil {
		return err
	}
	if !proof.Begins(own, l) {
		return proof.Errorf(known.ID, "it is not the lineage known here")
	}
	if isYielded(known) && l.Term() < known.Term {
		return proof.Errorf(known.ID, "the group has been here in a later term of another lineage")
	}
	if known.State != migration.GroupMoved || known.Migration == (mimiport.MigrationID{}) {
		return nil // staged before, or reserved: the store decides. Yielded: the lineage has the claim.
	}
	moved, err := s.moved(ctx, known)
	if err != nil {
		return err
	}
	if len(l.Steps) <= len(own.Steps) || !proof.ByOffer(&l.Steps[len(own.Steps)], moved.Response) {
		return proof.Errorf(known.ID, "it does not go on from the step by which the group left this server")
	}
	return nil
}

// extendLineage adds the step of a migration to a lineage.
func (s *core) extendLineage(ctx context.Context, encoded []byte, m *migration.Migration) ([]byte, error) {
	l, err := mimiport.UnmarshalLineage(encoded)
	if err != nil {
		return nil, err
	}
	step := mimiport.LineageStep{Kind: mimiport.StepMigration, Response: m.Response, Confirmation: m.Confirmation}
	targets := []*mimiport.SignedMessage{&step.Response}
	if len(m.Vote) > 0 {
		step.Vote = mimiport.SignedMessage{Message: m.Vote, KeyID: m.Complete.KeyID}
		targets = append(targets, &step.Vote)
	}
	for _, signed := range targets {
		if signed.KeyObject, err = s.Keys.KeyObject(ctx, m.Target, signed.KeyID); err != nil {
			s.Log.Warn("no own key object for the lineage", "key_id", signed.KeyID, "error", err)
		}
	}
	l.Steps = append(l.Steps, step)
	return l.Marshal()
}
