package delivery

import (
	"context"
	"errors"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// requireMemberOf fails unless the caller may change a group, which h holds: the room's current state must have the
// caller joined. If this server was never in the room, the caller must have a leaf in the group.
func (s *core) requireMemberOf(
	ctx context.Context, h *registry.Held, room Room, c api.Caller, g *storage.Group,
) error {
	st, err := standing(room, c)
	switch {
	case err != nil:
		return err
	case st.Left:
		return hostLeft()
	case st.Exists:
		return requireStanding(room, c, st)
	}
	l, err := h.Live(ctx, g)
	return s.requireLeaf(ctx, c, err == nil && l.Roster.Has(c.UserID), err)
}

// requireReader fails unless the caller may read a group and move it away: the last room state that this server saw
// must have the caller joined. If this server was never in the room, the caller must have a leaf in the group.
func (s *core) requireReader(ctx context.Context, c api.Caller, g *storage.Group) error {
	room, err := s.Rooms.Room(ctx, g.RoomID)
	if err != nil {
		return err
	}
	st, err := standing(room, c)
	if err != nil {
		return err
	}
	if st.Exists {
		return requireStanding(room, c, st)
	}
	has := false
	err = s.groups.WithLive(ctx, g.Key(), func(_ *storage.Group, l *registry.Live) error {
		has = l.Roster.Has(c.UserID)
		return nil
	})
	return s.requireLeaf(ctx, c, has, err)
}

// requireLeaf is for a group whose room this server was never in. It fails unless the caller has a leaf (has), and the
// policy lets this server host such groups. err says why has could not be found out.
func (s *core) requireLeaf(ctx context.Context, c api.Caller, has bool, err error) error {
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	p, err := s.Policy(ctx)
	if err != nil {
		return err
	}
	if p.RequireRoom || !has {
		return mimiport.Errorf("authorise", mimiport.KindForbidden, "%s is not joined to the room", c.UserID)
	}
	return nil
}

// requireInRoom fails unless the caller, a user or a server, is in the group's room, and the room's server ACL allows
// the caller's server. If this server has left the room, the last state that it saw counts.
func (s *core) requireInRoom(ctx context.Context, c api.Caller, g *storage.Group) error {
	if c.UserID != "" {
		return s.requireReader(ctx, c, g)
	}
	room, err := s.Rooms.Room(ctx, g.RoomID)
	if err != nil {
		return err
	}
	if !room.ServerJoined(c.Server) {
		return mimiport.Errorf("authorise", mimiport.KindForbidden, "%s is not in the room", c.Server)
	}
	return requireAllowed(room, []string{c.Server})
}
