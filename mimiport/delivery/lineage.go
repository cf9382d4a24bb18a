package delivery

import (
	"bytes"
	"context"
	"errors"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// maxSteps bounds the chain of a group that has moved often.
const maxSteps = 1000

// checkLineage checks who hosted the group before the source claims to (profile, section 3): the chain starts at the
// creating server, each step is proved by both sides, epochs rise, it ends at the source, and what this server knows of the
// group is its beginning.
func (s *Service) checkLineage(ctx context.Context, m *migration.Migration, l *mimiport.Lineage) error {
	fail := func(format string, args ...any) error {
		err := mimiport.Errorf("check lineage", mimiport.KindInvalid, format, args...)
		err.Group, err.Info.Rule = m.GroupID, "lineage"
		return err
	}
	switch {
	case l.Preimage != nil && !bytes.Equal(l.Preimage.GroupID(), m.GroupID):
		return fail("the preimage is not the group id's")
	case l.Preimage != nil && l.Preimage.CreatingServer != l.CreatingServer:
		return fail("the group id names another creating server")
	case l.RoomID != m.RoomID:
		return fail("the group is bound to another room than the offer is for")
	case len(l.Steps) > maxSteps:
		return fail("more than %d steps", maxSteps)
	}
	host, epoch := l.CreatingServer, uint64(0)
	for i := range l.Steps {
		r, err := s.checkStep(ctx, m.GroupID, host, &l.Steps[i])
		if err != nil {
			return fail("step %d: %w", i+1, err)
		}
		if i > 0 && r.Epoch <= epoch {
			return fail("step %d: epochs do not rise", i+1)
		}
		host, epoch = r.TargetDomain, r.Epoch
	}
	if host != m.Source || len(l.Steps) > 0 && m.Epoch <= epoch {
		return fail("the chain does not end at %s before epoch %d", m.Source, m.Epoch)
	}
	known, err := s.Store.Group(ctx, m.GroupID)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.continues(ctx, known, l, fail)
}

// checkStep verifies both proofs of a step and returns its request.
func (s *Service) checkStep(ctx context.Context, groupID []byte, host string, step *mimiport.LineageStep) (*mimiport.MigrationRequest, error) {
	response, err := mimiport.UnmarshalMigrationResponse(step.Response.Message)
	if err != nil {
		return nil, err
	}
	confirmation, err := mimiport.UnmarshalMigrationConfirmation(step.Confirmation.Message)
	if err != nil {
		return nil, err
	}
	r := &response.Request
	switch {
	case r.SourceDomain != host:
		return nil, errors.New("it does not start where the one before ends")
	case !bytes.Equal(r.GroupID, groupID), !bytes.Equal(confirmation.GroupID, groupID):
		return nil, errors.New("it is of another group")
	case confirmation.DomainName != r.TargetDomain, confirmation.Nonce != response.Nonce:
		return nil, errors.New("the confirmation is not for the response")
	}
	if err := s.Keys.VerifyArchived(ctx, r.TargetDomain, step.Response.KeyID, step.Response.KeyObject, response); err != nil {
		return nil, err
	}
	return r, s.Keys.VerifyArchived(ctx, r.SourceDomain, step.Confirmation.KeyID, step.Confirmation.KeyObject, confirmation)
}

// continues checks that the chain goes on from what this server knows of the group.
func (s *Service) continues(ctx context.Context, known *Group, l *mimiport.Lineage, fail func(string, ...any) error) error {
	own, err := mimiport.UnmarshalLineage(known.Lineage)
	if err != nil {
		return err
	}
	if own.CreatingServer != l.CreatingServer || len(own.Steps) > len(l.Steps) {
		return fail("it is not the lineage known here")
	}
	for i := range own.Steps {
		if !bytes.Equal(own.Steps[i].Response.Message, l.Steps[i].Response.Message) ||
			!bytes.Equal(own.Steps[i].Confirmation.Message, l.Steps[i].Confirmation.Message) {
			return fail("step %d is not the one known here", i+1)
		}
	}
	if known.State != GroupMoved {
		return nil // staged here before, or reserved: storing it decides
	}
	moved, err := s.moved(ctx, known)
	if err != nil {
		return err
	}
	if len(l.Steps) <= len(own.Steps) || !bytes.Equal(l.Steps[len(own.Steps)].Response.Message, moved.Response) {
		return fail("it does not go on where the group left this server")
	}
	return nil
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
