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

// requireHistory checks who hosted the group before the source claims to (profile, section 3): the chain holds, it ends
// at the source, and what this server knows of the group is its beginning.
func (s *Service) requireHistory(ctx context.Context, m *migration.Migration, l *mimiport.Lineage) error {
	if l.RoomID != m.RoomID {
		return proof.Errorf(m.GroupID, "the group is bound to another room than the offer is for")
	}
	if err := s.requireBound(ctx, m.GroupID, l); err != nil {
		return err
	}
	if err := s.displaceSquatter(ctx, m.GroupID, l); err != nil {
		return err
	}
	end, err := s.checkChain(ctx, m.GroupID, l)
	if err != nil {
		return err
	}
	if end.Host != m.Source || len(l.Steps) > 0 && m.Epoch < end.Epoch {
		return proof.Errorf(m.GroupID, "the chain does not end at %s before epoch %d", m.Source, m.Epoch)
	}
	if err := s.requireClaimsAccepted(ctx, m.GroupID, l); err != nil {
		return err
	}
	return s.requireContinuation(ctx, m.GroupID, l)
}

// requireBound fails for a foreign id that the room's binding does not name: anybody could import an id otherwise, and
// keep the group that has it from coming here.
func (s lineages) requireBound(ctx context.Context, groupID []byte, l *mimiport.Lineage) error {
	if l.Preimage != nil {
		return nil
	}
	content, err := s.Rooms.StateInForce(ctx, l.RoomID, api.EventGroup)
	if err != nil {
		return err
	}
	var bound api.Binding
	if content == nil || json.Unmarshal(content, &bound) != nil || !bound.Names(l.RoomID, groupID) {
		return &mimiport.Error{
			Op: "check lineage", Kind: mimiport.KindForbidden, Group: groupID,
			Err: errors.New("the room does not name this foreign id"),
		}
	}
	return nil
}

// displaceSquatter drops a group that is here without a preimage, by the id of the group whose lineage has the
// preimage.
func (s lineages) displaceSquatter(ctx context.Context, groupID []byte, l *mimiport.Lineage) error {
	known, err := s.Store.Group(ctx, groupID)
	if errors.Is(err, storage.ErrNotFound) || err == nil && l.Preimage == nil {
		return nil
	}
	if err != nil {
		return err
	}
	recorded, err := mimiport.UnmarshalLineage(known.Lineage)
	if err != nil || recorded.Preimage != nil {
		return err
	}
	if _, err := proof.Lineage(ctx, s.Keys, groupID, nil, l); err != nil {
		return err
	}
	encoded, err := l.Marshal()
	if err != nil {
		return err
	}
	return s.atGroup(ctx, known, migration.Displace{Lineage: encoded})
}

// checkChain verifies a lineage as far as it goes on from what this server knows of the group.
func (s *core) checkChain(ctx context.Context, groupID []byte, l *mimiport.Lineage) (*proof.End, error) {
	known, err := s.Store.Group(ctx, groupID)
	if errors.Is(err, storage.ErrNotFound) {
		return proof.Lineage(ctx, s.Keys, groupID, nil, l)
	}
	if err != nil {
		return nil, err
	}
	recorded, err := mimiport.UnmarshalLineage(known.Lineage)
	if err != nil {
		return nil, err
	}
	return proof.Lineage(ctx, s.Keys, groupID, recorded, l)
}

// requireContinuation fails unless the chain goes on from what this server knows. Of a group that is here it takes the
// next step first: this server may have signed that step and not remember.
func (s *Service) requireContinuation(ctx context.Context, groupID []byte, l *mimiport.Lineage) error {
	known, err := s.Store.Group(ctx, groupID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if stateOf(known).Owned() {
		encoded, err := l.Marshal()
		if err != nil {
			return err
		}
		if err := s.takeStep(ctx, groupID, &shown{l, encoded, false}); err != nil {
			return err
		}
		if known, err = s.groups.Group(ctx, groupID); err != nil {
			return err
		}
	}
	return s.requireContinues(ctx, known, l)
}

// requireClaimsAccepted fails for a lineage with claims where the policy does not accept them.
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

// requireContinues checks that the chain goes on from what this server knows of the group.
func (s *core) requireContinues(ctx context.Context, known *storage.Group, l *mimiport.Lineage) error {
	own, err := mimiport.UnmarshalLineage(known.Lineage)
	if err != nil {
		return err
	}
	if !proof.Begins(own, l) {
		return proof.Errorf(known.ID, "it is not the lineage known here")
	}
	if known.State != migration.GroupMoved || known.Migration == (mimiport.MigrationID{}) {
		return nil // staged here before, or reserved: storing it decides; or yielded: the claim is in the lineage
	}
	moved, err := s.moved(ctx, known)
	if err != nil {
		return err
	}
	if len(l.Steps) <= len(own.Steps) || !proof.ByOffer(&l.Steps[len(own.Steps)], moved.Response) {
		return proof.Errorf(known.ID, "it does not go on where the group left this server")
	}
	return nil
}

// extendLineage adds the step that a migration was.
func (s *core) extendLineage(ctx context.Context, encoded []byte, m *migration.Migration) ([]byte, error) {
	l, err := mimiport.UnmarshalLineage(encoded)
	if err != nil {
		return nil, err
	}
	step := mimiport.LineageStep{
		Kind: mimiport.StepMigration, Response: m.Response, Confirmation: m.Confirmation, Complete: m.Complete,
	}
	for _, own := range []*mimiport.SignedMessage{&step.Response, &step.Complete} {
		if own.KeyObject, err = s.Keys.KeyObject(ctx, m.Target, own.KeyID); err != nil {
			s.Log.Warn("no own key object for the lineage", "key_id", own.KeyID, "error", err)
		}
	}
	l.Steps = append(l.Steps, step)
	return l.Marshal()
}
