package delivery

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// maxSteps bounds the chain of a group that has moved often.
const maxSteps = 1000

// checkLineage checks who hosted the group before the source claims to (profile, section 3): the chain starts at the
// creating server, each step is proved, epochs rise, it ends at the source, and what this server knows of the group is its
// beginning.
func (s *Service) checkLineage(ctx context.Context, m *migration.Migration, l *mimiport.Lineage) error {
	if l.RoomID != m.RoomID {
		return badLineage(m.GroupID, "the group is bound to another room than the offer is for")
	}
	host, epoch, err := s.checkChain(ctx, m.GroupID, l)
	if err != nil {
		return err
	}
	if host != m.Source || len(l.Steps) > 0 && m.Epoch < epoch {
		return badLineage(m.GroupID, "the chain does not end at %s before epoch %d", m.Source, m.Epoch)
	}
	if err := s.claimsAccepted(ctx, m.GroupID, l); err != nil {
		return err
	}
	return s.taken(ctx, m.GroupID, l)
}

// taken checks that the chain goes on from what this server knows, and heeds it: it may have signed one of the steps itself and not
// remember.
func (s *Service) taken(ctx context.Context, groupID []byte, l *mimiport.Lineage) error {
	known, err := s.Store.Group(ctx, groupID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if mine(known) {
		encoded, err := l.Marshal()
		if err != nil {
			return err
		}
		if err := s.heed(ctx, groupID, l, &api.LineageRequest{Lineage: encoded}); err != nil {
			return err
		}
		if known, err = s.group(ctx, groupID); err != nil {
			return err
		}
	}
	return s.continues(ctx, known, l)
}

func badLineage(groupID []byte, format string, args ...any) error {
	err := mimiport.Errorf("check lineage", mimiport.KindInvalid, format, args...)
	err.Group, err.Info.Rule = groupID, "lineage"
	return err
}

// checkChain verifies a lineage by itself and returns the host it ends at, and the epoch that host's term begins with.
func (s *Service) checkChain(ctx context.Context, groupID []byte, l *mimiport.Lineage) (host string, epoch uint64, err error) {
	switch {
	case l.Preimage != nil && !bytes.Equal(l.Preimage.GroupID(), groupID):
		return "", 0, badLineage(groupID, "the preimage is not the group id's")
	case len(l.Steps) > maxSteps:
		return "", 0, badLineage(groupID, "more than %d steps", maxSteps)
	}
	host, before := l.CreatingServer, ""
	for i := range l.Steps {
		next, from, err := s.checkStep(ctx, groupID, uint64(i)+1, host, before, &l.Steps[i])
		if err != nil {
			return "", 0, badLineage(groupID, "step %d: %w", i+1, err)
		}
		if from < epoch || from == epoch && l.Steps[i].Kind == mimiport.StepMigration {
			return "", 0, badLineage(groupID, "step %d: epochs do not rise", i+1)
		}
		host, before, epoch = next, host, from
	}
	return host, epoch, nil
}

// checkStep verifies the proof of the step that begins a term: from host, which had the group from before. It returns the next host
// and the epoch that its term begins with.
func (s *Service) checkStep(ctx context.Context, groupID []byte, term uint64, host, before string, step *mimiport.LineageStep) (string, uint64, error) {
	if step.Kind != mimiport.StepMigration {
		return s.checkClaim(ctx, groupID, term, host, before, step)
	}
	response, err := mimiport.UnmarshalMigrationResponse(step.Response.Message)
	if err != nil {
		return "", 0, err
	}
	confirmation, err := mimiport.UnmarshalMigrationConfirmation(step.Confirmation.Message)
	if err != nil {
		return "", 0, err
	}
	r := &response.Request
	switch {
	case r.SourceDomain != host:
		return "", 0, errors.New("it does not start where the one before ends")
	case !bytes.Equal(r.GroupID, groupID), !bytes.Equal(confirmation.GroupID, groupID):
		return "", 0, errors.New("it is of another group")
	case confirmation.DomainName != r.TargetDomain, confirmation.Nonce != response.Nonce:
		return "", 0, errors.New("the confirmation is not for the response")
	}
	if err := s.Keys.VerifyArchived(ctx, r.TargetDomain, step.Response.KeyID, step.Response.KeyObject, response); err != nil {
		return "", 0, err
	}
	err = s.Keys.VerifyArchived(ctx, r.SourceDomain, step.Confirmation.KeyID, step.Confirmation.KeyObject, confirmation)
	return r.TargetDomain, r.Epoch + 1, err
}

// checkClaim verifies a reclaim or recover: from host, which had the group from before.
func (s *Service) checkClaim(ctx context.Context, groupID []byte, term uint64, host, before string, step *mimiport.LineageStep) (string, uint64, error) {
	claim, err := mimiport.UnmarshalLineageClaim(step.Claim.Message)
	if err != nil {
		return "", 0, err
	}
	switch {
	case claim.Kind != step.Kind, claim.Term != term, !bytes.Equal(claim.GroupID, groupID):
		return "", 0, errors.New("the claim is for another step")
	case step.Kind == mimiport.StepReclaim && claim.DomainName != before && claim.DomainName != host:
		return "", 0, errors.New("only the host and the one before reclaim a group")
	}
	return claim.DomainName, claim.Epoch, s.Keys.VerifyArchived(ctx, claim.DomainName, step.Claim.KeyID, step.Claim.KeyObject, claim)
}

// claimsAccepted fails for a lineage with claims where the policy does not accept them.
func (s *Service) claimsAccepted(ctx context.Context, groupID []byte, l *mimiport.Lineage) error {
	claimed := slices.ContainsFunc(l.Steps, func(step mimiport.LineageStep) bool { return step.Kind != mimiport.StepMigration })
	if !claimed {
		return nil
	}
	p, err := s.Policy(ctx)
	if err != nil {
		return err
	}
	if !p.AcceptClaims {
		return &mimiport.Error{Op: "check lineage", Kind: mimiport.KindForbidden, Group: groupID, Err: errors.New("the group was reclaimed or recovered, which this server's policy does not accept")}
	}
	return nil
}

// continues checks that the chain goes on from what this server knows of the group.
func (s *Service) continues(ctx context.Context, known *storage.Group, l *mimiport.Lineage) error {
	own, err := mimiport.UnmarshalLineage(known.Lineage)
	if err != nil {
		return err
	}
	if !begins(own, l) {
		return badLineage(known.ID, "it is not the lineage known here")
	}
	if known.State != migration.GroupMoved || known.Migration == (mimiport.MigrationID{}) {
		return nil // staged here before, or reserved: storing it decides; or yielded: the claim is in the lineage
	}
	moved, err := s.moved(ctx, known)
	if err != nil {
		return err
	}
	if len(l.Steps) <= len(own.Steps) || !bytes.Equal(l.Steps[len(own.Steps)].Response.Message, moved.Response) {
		return badLineage(known.ID, "it does not go on where the group left this server")
	}
	return nil
}

// begins says whether one lineage is the beginning of another.
func begins(own, l *mimiport.Lineage) bool {
	if own.CreatingServer != l.CreatingServer || len(own.Steps) > len(l.Steps) {
		return false
	}
	for i := range own.Steps {
		if !sameStep(&own.Steps[i], &l.Steps[i]) {
			return false
		}
	}
	return true
}

// sameStep says whether two proofs are of one step. A signature that was made again with a newer key is no other step.
func sameStep(a, b *mimiport.LineageStep) bool {
	if a.Kind != b.Kind {
		return false
	}
	if a.Kind != mimiport.StepMigration {
		return bytes.Equal(a.Claim.Message, b.Claim.Message)
	}
	return bytes.Equal(a.Response.Message, b.Response.Message)
}

// extendLineage adds the step that a migration was.
func (s *Service) extendLineage(ctx context.Context, encoded []byte, m *migration.Migration) ([]byte, error) {
	l, err := mimiport.UnmarshalLineage(encoded)
	if err != nil {
		return nil, err
	}
	step := mimiport.LineageStep{Kind: mimiport.StepMigration, Response: m.Response, Confirmation: m.Confirmation, Complete: m.Complete}
	for _, own := range []*mimiport.SignedMessage{&step.Response, &step.Complete} {
		if own.KeyObject, err = s.Keys.KeyObject(ctx, m.Target, own.KeyID); err != nil {
			s.Log.Warn("no own key object for the lineage", "key", own.KeyID, "error", err)
		}
	}
	l.Steps = append(l.Steps, step)
	return l.Marshal()
}
