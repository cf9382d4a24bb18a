package delivery

import (
	"context"
	"errors"
	"fmt"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// requireHosted fails unless this server hosts the group. The error has the redirect if the group has moved, and a time
// to try again if the group is staged. A stopped group, a closed group and an id without a group have an error kind of
// their own.
func (s *core) requireHosted(ctx context.Context, g *storage.Group) error {
	switch g.State {
	case migration.GroupMoved:
		moved, err := s.moved(ctx, g)
		if err != nil {
			return err
		}
		return &mimiport.Error{
			Op: "find group", Kind: mimiport.KindMoved, Group: g.ID,
			Info: mimiport.Info{Moved: moved}, Err: fmt.Errorf("the group is at %s", moved.Server),
		}
	case migration.GroupStaged:
		return &mimiport.Error{
			Op: "find group", Kind: mimiport.KindInProgress, Group: g.ID,
			Info: mimiport.Info{RetryAfter: frozenRetry}, Err: errors.New("the group is being moved here"),
		}
	case migration.GroupStopped:
		return &mimiport.Error{
			Op: "find group", Kind: mimiport.KindStopped, Group: g.ID,
			Err: errors.New("this server has forgotten a Commit that it accepted, and its operator has to decide"),
		}
	case migration.GroupClosed, migration.GroupEnded:
		return &mimiport.Error{
			Op: "find group", Kind: mimiport.KindClosed, Group: g.ID, Err: errors.New("the group was closed"),
		}
	case migration.GroupReserved:
		return &mimiport.Error{
			Op: "find group", Kind: mimiport.KindUnknownGroup, Group: g.ID, Err: errors.New("no group is bound to the id"),
		}
	}
	return nil
}

// heldFor returns the row of a held group for a caller who may change the group. It returns the errors of
// requireMemberOf and requireShown.
func (s *core) heldFor(ctx context.Context, h *registry.Held, k *known, c api.Caller) (*storage.Group, error) {
	g, err := h.Group(ctx)
	if err != nil {
		return nil, err
	}
	room, err := k.of(g)
	if err != nil {
		return nil, err
	}
	if err := s.requireMemberOf(ctx, h, room, c, g); err != nil {
		return nil, err
	}
	return g, s.requireShown(ctx, g)
}

// requireShown fails unless this server has the group's present epoch: it hosts the group, or the group was closed
// here.
func (s *core) requireShown(ctx context.Context, g *storage.Group) error {
	if g.State == migration.GroupClosed {
		return nil
	}
	return s.requireHosted(ctx, g)
}

// moved returns the redirect of a group that has moved.
func (s *core) moved(ctx context.Context, g *storage.Group) (*mimiport.Moved, error) {
	if g.Migration == (mimiport.MigrationID{}) {
		return movedByLineage(g)
	}
	m, err := s.record(ctx, g.Migration)
	if err != nil {
		return nil, err
	}
	return redirect(m), nil
}

// redirect returns the redirect that a migration leaves, with its evidence.
func redirect(m *migration.Migration) *mimiport.Moved {
	return &mimiport.Moved{
		Server: m.Target, Term: m.Term, Response: m.Response.Message,
		Confirmation: m.Confirmation.Message, KeyID: m.Confirmation.KeyID,
	}
}

// movedByLineage returns the redirect of a group that this server has yielded. The last step of the lineage gives it.
func movedByLineage(g *storage.Group) (*mimiport.Moved, error) {
	l, err := mimiport.UnmarshalLineage(g.Lineage)
	if err != nil {
		return nil, err
	}
	if len(l.Steps) == 0 {
		return nil, errors.New("delivery: the lineage of a moved group has no step")
	}
	return stepRedirect(&l.Steps[len(l.Steps)-1], l.Term())
}

// stepRedirect returns the redirect of a group whose term ended with a step of its lineage. It leads to the term that
// the step began.
func stepRedirect(step *mimiport.LineageStep, term uint64) (*mimiport.Moved, error) {
	if step.Kind == mimiport.StepMigration {
		offer, err := mimiport.UnmarshalMigrationResponse(step.Response.Message)
		if err != nil {
			return nil, err
		}
		return &mimiport.Moved{
			Server: offer.Request.TargetDomain, Term: term, Response: step.Response.Message,
			Confirmation: step.Confirmation.Message, KeyID: step.Confirmation.KeyID,
		}, nil
	}
	signed := step.Claim
	claim, err := mimiport.UnmarshalLineageClaim(signed.Message)
	if err != nil {
		return nil, err
	}
	return &mimiport.Moved{Server: claim.DomainName, Term: claim.Term, Claim: signed.Message, KeyID: signed.KeyID}, nil
}

// host tells any caller where a group is.
func (s *core) host(ctx context.Context, id []byte) (*api.HostResponse, error) {
	g, err := s.groups.Group(ctx, id)
	if err != nil {
		return nil, err
	}
	res := &api.HostResponse{GroupID: g.ID, DeliveryService: g.Server, Term: g.Term, Lineage: g.Lineage}
	if g.State == migration.GroupMoved {
		moved, err := s.moved(ctx, g)
		if err != nil {
			return nil, err
		}
		res.DeliveryService, res.Term, res.Moved = moved.Server, moved.Term, api.RedirectInfo(moved)
	}
	return res, nil
}
