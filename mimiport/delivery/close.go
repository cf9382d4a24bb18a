package delivery

import (
	"context"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// closing closes groups for good.
type closing struct{ *core }

// CloseGroup implements API. A caller who may move the group may close it. Closing a closed group changes nothing.
func (s *Service) CloseGroup(ctx context.Context, c api.Caller, id []byte) (*api.GroupResponse, error) {
	g, err := s.groups.Group(ctx, id)
	if err != nil {
		return nil, err
	}
	err = s.withKnown(ctx, id, g.RoomID, func(h *registry.Held, k *known) error { return s.close(ctx, h, k, c) })
	if err != nil {
		return nil, err
	}
	return s.Group(ctx, c, id)
}

func (s closing) close(ctx context.Context, h *registry.Held, k *known, c api.Caller) error {
	g, err := s.heldFor(ctx, h, k, c)
	if err != nil {
		return err
	}
	if err := s.requireCloser(ctx, k.room, c, g); err != nil {
		return err
	}
	m := &migration.Migration{}
	if g.State == migration.GroupFrozen {
		if m, err = s.record(ctx, g.Migration); err != nil {
			return err
		}
	}
	if err := k.requireCurrent(); err != nil {
		return err
	}
	return s.stepRecord(ctx, h, m, g, migration.Close{}, nil)
}

// requireCloser fails unless the caller may move the group away to some server.
func (s closing) requireCloser(ctx context.Context, room Room, c api.Caller, g *storage.Group) error {
	p, err := s.Policy(ctx)
	if err != nil {
		return err
	}
	nowhere := &migration.Migration{RoomID: g.RoomID, Source: g.Server, Target: g.Server}
	return policy.DecideClose(&p, facts(room, migration.Source, nowhere, c))
}

// endRow is the row that makes this server delete the log and the trees of a closed group.
func (s *core) endRow(g *storage.Group) storage.Row {
	return storage.Row{
		Destination: s.Server, Queue: "end/" + storage.FanOutQueue(g.Key()), Order: 1, Kind: migration.RowEnd,
		GroupID: g.ID, Term: g.Term, Due: s.Now().Add(s.Limits.Retention),
	}
}

// end deletes the log and the trees of a closed group. The server remembers for good that the group was closed.
func (s closing) end(ctx context.Context, row *storage.Row) error {
	return s.groups.With(ctx, row.GroupID, func(h *registry.Held) error {
		g, err := h.GroupAt(ctx, row.Term)
		if err != nil {
			return err
		}
		return s.stepRecord(ctx, h, &migration.Migration{}, g, migration.End{}, row)
	})
}
