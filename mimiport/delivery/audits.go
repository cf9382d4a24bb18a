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

// DevicesChanged is to be called when the devices of a user, of this server or another, or their keys have changed, as
// often as one likes: this server asks the user's homeserver about their leaves. A room tells which groups may have
// them: a user outside the room loses their leaves in any case.
func (s removals) DevicesChanged(ctx context.Context, userID string) error {
	rooms, err := s.Rooms.RoomsOf(ctx, userID)
	if err != nil {
		return err
	}
	for _, roomID := range rooms {
		groups, err := s.Store.GroupsInRoom(ctx, roomID)
		if err != nil {
			return err
		}
		for i := range groups {
			row := s.devicesRow(&groups[i], registry.ServerOf(userID), userID, changed)
			row.Due = row.Due.Add(settling)
			if err := s.file(ctx, &groups[i], row); err != nil {
				return err
			}
		}
	}
	return nil
}

// Audit has this server look after the groups that it hosts, at most limit of them, with ids after a given one: what no
// event has told of comes to light so. It returns the last id, nil where there are no more.
func (s removals) Audit(ctx context.Context, after []byte, limit int) (last []byte, err error) {
	groups, err := s.Store.Groups(ctx, after, limit)
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

// file stores a row about a group that lives here, in this term. A row that is there already will do.
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

// auditRow is a row by which this server looks after a group in every way.
func (s *core) auditRow(g *storage.Group) storage.Row {
	return storage.Row{
		Destination: s.Server, Queue: "audit/" + fanOutQueue(g.Key()), Order: uint64(s.Now().UnixNano()),
		Kind: storage.RowAudit, GroupID: g.ID, Term: g.Term, Due: s.Now(),
	}
}

// The numbers of the two rows that there are at most about one user's devices: news that nobody has looked into, and
// the look that follows it. While that takes its time, all further news is one row.
const (
	looking = 1
	changed = 2
)

// devicesRow is a row by which this server asks a homeserver about leaves of a group: those of one user, or of all of
// its users there where userID is empty.
func (s *core) devicesRow(g *storage.Group, server, userID string, order uint64) storage.Row {
	return storage.Row{
		Destination: server, Queue: devicesQueue(g.Key()) + userID, Order: order,
		Kind: storage.RowDevices, GroupID: g.ID, Term: g.Term, Due: s.Now(),
	}
}

func devicesQueue(key storage.GroupKey) string { return "devices/" + fanOutQueue(key) + "/" }

// audit files a row for each way of looking after a group.
func (s removals) audit(ctx context.Context, row *storage.Row) error {
	key := storage.GroupKey{ID: row.GroupID, Term: row.Term}
	change := &storage.Change{Done: []storage.RowKey{row.Key()}}
	err := s.groups.WithLive(ctx, key, func(g *storage.Group, l *registry.Live) error {
		if !hosted(g) {
			return nil
		}
		change.Rows = []storage.Row{s.expelRow(g, row.Order)}
		for _, server := range l.Roster.Servers() {
			change.Rows = append(change.Rows, s.devicesRow(g, server, "", row.Order))
		}
		return nil
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) { // its state is forgotten: it has gone
		return err
	}
	return s.apply(ctx, change)
}

// patience is how often a homeserver is asked that does not answer. The next audit asks it anew.
const patience = 100

// followDevices asks the row's destination about leaves of its users, and proposes to remove those of devices that are
// gone. A homeserver that does not answer says nothing.
func (s removals) followDevices(ctx context.Context, row *storage.Row) error {
	key := storage.GroupKey{ID: row.GroupID, Term: row.Term}
	userID := strings.TrimPrefix(row.Queue, devicesQueue(key))
	if userID != "" && row.Order == changed {
		look := *row
		look.Order, look.Due = looking, s.Now()
		return s.apply(ctx, &storage.Change{Done: []storage.RowKey{row.Key()}, Rows: []storage.Row{look}})
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
	return s.groups.With(ctx, row.GroupID, func(h *registry.Held) error {
		g, err := h.GroupAt(ctx, row.Term)
		if err != nil {
			return err
		}
		switch g.State {
		case migration.GroupActive:
			_, err = s.removeMisplaced(ctx, &expulsion{held: h, group: g, row: row, said: said})
			return err
		case migration.GroupFrozen:
			return mimiport.Errorf("expel", mimiport.KindInProgress, "the group is being moved")
		}
		return s.done(ctx, row)
	})
}

// doneUnless deletes a row, unless there is an error other than that its group's state is forgotten.
func (s *core) doneUnless(ctx context.Context, row *storage.Row, err error) error {
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	return s.done(ctx, row)
}

// leaves lists the leaves of a hosted group, of wanted users. from is the local server that hosts the group.
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

// Expel is for operators: this server proposes to remove all leaves that have no place in a group, however many they
// are.
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
	err = s.groups.With(ctx, id, func(h *registry.Held) error {
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
		res.Leaves, err = s.removeMisplaced(ctx, &expulsion{held: h, group: g, said: said, all: true})
		return err
	})
	return res, err
}
