package delivery

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// DevicesChanged makes this server ask a user's homeserver about the user's leaves. Call it when the devices of a local
// or remote user, or the keys of these devices, have changed. More calls than changes do no harm. Only groups of rooms
// that the user is joined to matter: a user outside the room loses their leaves in any case.
// It also deletes the KeyPackages of last resort of deleted local devices.
func (s removals) DevicesChanged(ctx context.Context, userID string) error {
	if _, err := s.lastResorts(ctx, userID); err != nil {
		return err
	}
	rooms, err := s.Rooms.RoomsOf(ctx, userID)
	if err != nil {
		return err
	}
	for _, roomID := range rooms {
		err := s.eachInRoom(ctx, roomID, func(g *storage.Group) error {
			row := s.devicesRow(g, registry.ServerOf(userID), userID, changed)
			row.Due = row.Due.Add(settling)
			return s.file(ctx, g, row)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// eachInRoom calls f for each group of a room.
func (s *core) eachInRoom(ctx context.Context, roomID string, f func(*storage.Group) error) error {
	for after := []byte(nil); ; {
		groups, err := s.Store.Groups(ctx, storage.GroupFilter{RoomID: roomID}, after, sweptAtOnce)
		if err != nil || len(groups) == 0 {
			return err
		}
		for i := range groups {
			if err := f(&groups[i]); err != nil {
				return err
			}
		}
		after = groups[len(groups)-1].ID
	}
}

// Audit makes this server check the groups that it hosts: at most limit of them, with ids after a given one. It finds
// changes for which no event came. It returns the last id, or nil when no group is left.
func (s removals) Audit(ctx context.Context, after []byte, limit int) (last []byte, err error) {
	groups, err := s.Store.Groups(ctx, storage.GroupFilter{}, after, limit)
	if err != nil || len(groups) == 0 {
		return nil, err
	}
	for i := range groups {
		if err := s.file(ctx, &groups[i], s.auditRow(&groups[i])); err != nil {
			return nil, err
		}
	}
	return groups[len(groups)-1].ID, nil
}

// file stores a row about a group that this server hosts in this term. It changes nothing when the row exists already.
func (s *core) file(ctx context.Context, g *storage.Group, row storage.Row) error {
	if !hosted(g) {
		return nil
	}
	err := s.apply(ctx, &storage.Change{Rows: []storage.Row{row}})
	if errors.Is(err, storage.ErrConflict) {
		return nil
	}
	return err
}

// auditRow is the row that makes this server check a group's room and devices.
func (s *core) auditRow(g *storage.Group) storage.Row {
	return storage.Row{
		Destination: s.Server, Queue: "audit/" + storage.FanOutQueue(g.Key()), Order: uint64(s.Now().UnixNano()),
		Kind: storage.RowAudit, GroupID: g.ID, Term: g.Term, Due: s.Now(),
	}
}

// The numbers of the two rows that can exist about one user's devices, or one room: news that this server has not
// looked into yet, and the look that follows. While this look runs, all further news shares one row.
const (
	looking = 1
	changed = 2
)

// devicesRow is the row that makes this server ask a homeserver about leaves of a group: the leaves of one user, or,
// with an empty userID, the leaves of all users of that homeserver.
func (s *core) devicesRow(g *storage.Group, server, userID string, order uint64) storage.Row {
	return storage.Row{
		Destination: server, Queue: devicesQueue(g.Key()) + userID, Order: order,
		Kind: storage.RowDevices, GroupID: g.ID, Term: g.Term, Due: s.Now(),
	}
}

func devicesQueue(key storage.GroupKey) string { return "devices/" + storage.FanOutQueue(key) + "/" }

// audit files one row for the group's room, and one row for each homeserver with members in the group.
func (s removals) audit(ctx context.Context, row *storage.Row) error {
	key := storage.GroupKey{ID: row.GroupID, Term: row.Term}
	change := &storage.Change{Done: []storage.RowKey{row.Key()}}
	err := s.groups.WithLive(ctx, key, func(g *storage.Group, l *registry.Live) error {
		if !hosted(g) {
			return nil
		}
		if g.Members == 0 { // an older version did not count
			counted := *g
			counted.Members = l.MLS.NumMembers()
			change.Group = &counted
		}
		change.Rows = []storage.Row{s.expelRow(g, row.Order)}
		for _, server := range l.Roster.Servers() {
			change.Rows = append(change.Rows, s.devicesRow(g, server, "", row.Order))
		}
		return nil
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) { // this server has purged the state of a group that left
		return err
	}
	return s.apply(ctx, change)
}

// patience is how often this server asks a homeserver that does not answer. The next audit asks again.
const patience = 100

// followDevices asks the row's destination about leaves of its users, and proposes to remove the leaves of deleted
// devices. While a homeserver does not answer, the leaves of its users stay.
func (s removals) followDevices(ctx context.Context, row *storage.Row) error {
	key := storage.GroupKey{ID: row.GroupID, Term: row.Term}
	userID := strings.TrimPrefix(row.Queue, devicesQueue(key))
	if userID != "" && row.Order == changed {
		return s.lookInto(ctx, row)
	}
	g, err := s.Store.GroupAt(ctx, key)
	if err != nil {
		return s.doneUnless(ctx, row, err)
	}
	from, leaves, err := s.leaves(ctx, key, func(of string) bool {
		return of == userID || userID == "" && registry.ServerOf(of) == row.Destination
	})
	if err != nil || len(leaves) == 0 {
		return s.doneUnless(ctx, row, err)
	}
	said, failed := s.look(ctx, from, leaves)
	if err := failed[row.Destination]; err != nil {
		if row.Attempts >= patience {
			return s.done(ctx, row)
		}
		return err
	}
	return s.withKnown(ctx, row.GroupID, g.RoomID, func(h *registry.Held, k *known) error {
		g, err := h.GroupAt(ctx, row.Term)
		if err != nil {
			return err
		}
		switch g.State {
		case migration.GroupActive:
			_, err = s.removeMisplaced(ctx, &expulsion{held: h, known: k, group: g, row: row, said: said})
			return err
		case migration.GroupFrozen:
			return mimiport.Errorf("expel", mimiport.KindInProgress, "the group is being moved")
		}
		return s.done(ctx, row)
	})
}

// lookInto replaces the row of news by the row of the look.
func (s *core) lookInto(ctx context.Context, row *storage.Row) error {
	look := *row
	look.Order, look.Due = looking, s.Now()
	return s.apply(ctx, &storage.Change{Done: []storage.RowKey{row.Key()}, Rows: []storage.Row{look}})
}

// doneUnless deletes a row if err is nil, or if err says that the state of the row's group is purged.
func (s *core) doneUnless(ctx context.Context, row *storage.Row, err error) error {
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	return s.done(ctx, row)
}

// leaves lists the leaves of wanted users in a hosted group. from is the local server that hosts the group.
func (s *core) leaves(
	ctx context.Context, key storage.GroupKey, wanted func(userID string) bool,
) (from string, leaves []LeafKey, err error) {
	err = s.groups.WithLive(ctx, key, func(g *storage.Group, l *registry.Live) error {
		if !hosted(g) || !slices.ContainsFunc(l.Roster.Users(), wanted) {
			return nil
		}
		from = g.Server
		for m := range l.MLS.Members() {
			leaf, err := leafKey(l.MLS, m)
			if err != nil {
				return err
			}
			if wanted(leaf.UserID) {
				leaves = append(leaves, leaf)
			}
		}
		return nil
	})
	return from, leaves, err
}

func everybody(string) bool { return true }

// Expel is for operators. This server proposes to remove all leaves that have no place in a group, even if these are
// most of the group.
func (s removals) Expel(ctx context.Context, id []byte) (*api.Expelled, error) {
	g, err := s.groups.Group(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := s.requireHosted(ctx, g); err != nil {
		return nil, err
	}
	from, leaves, err := s.leaves(ctx, g.Key(), everybody)
	if err != nil {
		return nil, err
	}
	said, failed := s.look(ctx, from, leaves)
	res := &api.Expelled{Unasked: names(failed)}
	err = s.withKnown(ctx, id, g.RoomID, func(h *registry.Held, k *known) error {
		g, err := h.Group(ctx)
		if err != nil {
			return err
		}
		if err := s.requireHosted(ctx, g); err != nil {
			return err
		}
		if g.State == migration.GroupFrozen {
			return &mimiport.Error{
				Op: "expel", Kind: mimiport.KindInProgress, Group: id, Info: mimiport.Info{RetryAfter: frozenRetry},
				Err: errors.New("the group is being moved"),
			}
		}
		res.Leaves, err = s.removeMisplaced(ctx, &expulsion{held: h, known: k, group: g, said: said, all: true})
		return err
	})
	return res, err
}
