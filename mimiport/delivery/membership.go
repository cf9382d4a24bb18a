package delivery

import (
	"context"
	"errors"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// requireMemberOf fails unless the caller may change a group that the caller of this holds: they are joined to its
// room, by its state now. Of a room that this server has never been in it takes the group's members.
func (s *core) requireMemberOf(ctx context.Context, h *registry.Held, c api.Caller, g *storage.Group) error {
	st, err := s.standing(ctx, c, g.RoomID)
	switch {
	case err != nil:
		return err
	case st.Left:
		return hostLeft()
	case st.Exists:
		return s.requireStanding(ctx, c, g.RoomID, st)
	}
	l, err := h.Live(ctx, g)
	return s.requireLeaf(ctx, c, err == nil && l.Roster.Has(c.UserID), err)
}

// requireReader fails unless the caller may read a group and move it away: they are joined to its room, by the last
// state that this server saw of it. Of a room that this server has never been in it takes the group's members.
func (s *core) requireReader(ctx context.Context, c api.Caller, g *storage.Group) error {
	st, err := s.standing(ctx, c, g.RoomID)
	if err != nil {
		return err
	}
	if st.Exists {
		return s.requireStanding(ctx, c, g.RoomID, st)
	}
	has := false
	err = s.groups.WithLive(ctx, g.Key(), func(_ *storage.Group, l *registry.Live) error {
		has = l.Roster.Has(c.UserID)
		return nil
	})
	return s.requireLeaf(ctx, c, has, err)
}

// requireLeaf fails unless the caller has a leaf of a group whose room this server does not know, and its policy lets
// it host such groups. err is why it is not known whether they have.
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

// requireInRoom fails unless the caller, a user or a server, is in the group's room, and its server ACL lets them in.
// It takes the last state of a room that this server has left.
func (s *core) requireInRoom(ctx context.Context, c api.Caller, g *storage.Group) error {
	if c.UserID != "" {
		return s.requireReader(ctx, c, g)
	}
	in, err := s.Rooms.ServerJoined(ctx, g.RoomID, c.Server)
	if err != nil {
		return err
	}
	if !in {
		return mimiport.Errorf("authorise", mimiport.KindForbidden, "%s is not in the room", c.Server)
	}
	return s.requireAllowed(ctx, g.RoomID, []string{c.Server})
}
