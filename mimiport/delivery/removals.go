package delivery

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// settling is how long after the news of a change this server asks for the room's state: the host tells the news before
// it has committed the change.
const settling = time.Second

// RoomChanged is to be called when somebody has left a room, or its pointer, successors or server ACL have changed, as
// often as one likes: this server looks after the groups bound to it.
func (s removals) RoomChanged(ctx context.Context, roomID string) error {
	groups, err := s.Store.GroupsInRoom(ctx, roomID)
	if err != nil {
		return err
	}
	for i := range groups {
		if !hosted(&groups[i]) {
			continue
		}
		row := s.expelRow(&groups[i], uint64(s.Now().UnixNano()))
		row.Due = row.Due.Add(settling)
		err := s.apply(ctx, &storage.Change{Rows: []storage.Row{row}})
		if err != nil && !errors.Is(err, storage.ErrConflict) {
			return err
		}
	}
	return nil
}

// hosted says whether a group lives here, in this term.
func hosted(g *storage.Group) bool {
	return g.State == migration.GroupActive || g.State == migration.GroupFrozen
}

// expelRow is a row by which this server looks after a group: whether the room says that it is elsewhere, and who of
// its members is not in the room.
func (s *core) expelRow(g *storage.Group, order uint64) storage.Row {
	return storage.Row{
		Destination: s.Server, Queue: "expel/" + fanOutQueue(g.Key()), Order: order, Kind: migration.RowExpel,
		GroupID: g.ID, Term: g.Term, Due: s.Now(),
	}
}

// followRoom does what a change of the room asks for. It asks no other server.
func (s *Service) followRoom(ctx context.Context, row *storage.Row) error {
	g, err := s.Store.GroupAt(ctx, storage.GroupKey{ID: row.GroupID, Term: row.Term})
	if err != nil {
		return err
	}
	if stateOf(g).Owned() {
		if err := s.warnIfDenied(ctx, g); err != nil {
			return err
		}
		if err := s.filePointer(ctx, g); err != nil {
			return err
		}
		if _, err := s.successors(ctx, g); err != nil { // asking also has the list kept, should it be redacted later
			return err
		}
	}
	return s.expel(ctx, row)
}

// warnIfDenied tells the operator when the room's server ACL denies this server. Asking for a new ACL now also has it
// kept, should it be redacted later.
func (s *Service) warnIfDenied(ctx context.Context, g *storage.Group) error {
	denied, err := s.Rooms.Denied(ctx, g.RoomID, []string{g.Server})
	if err == nil && len(denied) > 0 {
		s.Log.Warn("a room's server ACL denies this server, its group's host", "room_id", g.RoomID, "server", g.Server)
	}
	return err
}

// removals look after the leaves of groups. They propose that leaves go which have no place in a group: of users who
// are not joined to the room, of devices that are gone, and all but the first of one device (profile, section 7).
type removals struct{ *core }

// expel proposes to remove the leaves that have no place in a group as far as this server knows by itself.
func (s removals) expel(ctx context.Context, row *storage.Row) error {
	return s.groups.With(ctx, row.GroupID, func(h *registry.Held) error {
		g, err := h.GroupAt(ctx, row.Term)
		if err != nil {
			return err
		}
		if g.State != migration.GroupActive { // frozen: the set of proposals is closed; what follows asks again
			return s.done(ctx, row)
		}
		_, err = s.removeMisplaced(ctx, &expulsion{held: h, group: g, row: row})
		return err
	})
}

// expulsion is which leaves are to go, and in which group.
type expulsion struct {
	held  *registry.Held
	group *storage.Group
	row   *storage.Row // that is done with it; nil for none
	said  findings     // about leaves of some users
	all   bool         // an operator lets most of the members go
}

// removeMisplaced proposes to remove the leaves that have no place in a group, where the group lets this server
// propose. It returns how many are to go, those that have been proposed before included.
func (s removals) removeMisplaced(ctx context.Context, e *expulsion) (int, error) {
	l, err := e.held.Live(ctx, e.group)
	if err != nil {
		return 0, err
	}
	var leaves map[uint32]string
	if len(ownEntries(e.group.Server, l.MLS)) > 0 {
		if leaves, err = s.misplaced(ctx, e, l); err != nil {
			return 0, err
		}
	}
	leaving := leavingLeaves(l.MLS)
	fresh := slices.DeleteFunc(slices.Sorted(maps.Keys(leaves)), func(leaf uint32) bool { return leaving[leaf] })
	if len(fresh) == 0 {
		return len(leaves), s.finish(ctx, e, l, leaves)
	}
	if err := s.requireShare(e, l, leaves); err != nil {
		return 0, err
	}
	return len(leaves), s.proposeRemoves(ctx, e, l, fresh)
}

// leavingLeaves are the leaves that proposals of this epoch take away, whoever made them. Another Remove of one could
// not be committed with those (RFC 9420, section 12.2).
func leavingLeaves(g mls.Group) map[uint32]bool {
	leaving := make(map[uint32]bool)
	for _, p := range g.Proposals() {
		if p.Remove != nil {
			leaving[p.Remove.Leaf] = true
		}
	}
	return leaving
}

// finish deletes the row, if there is one, when this server has proposed all that is to go. A member's proposal may be
// dropped: then the row is to be tried again.
func (s removals) finish(
	ctx context.Context, e *expulsion, l *registry.Live, leaves map[uint32]string,
) error {
	if e.row == nil {
		return nil
	}
	own := setOf(pendingRemoves(e.group.Server, l.MLS))
	for leaf := range leaves {
		if !own[leaf] {
			return mimiport.Errorf("expel", mimiport.KindInProgress, "leaf %d goes by a member's proposal", leaf)
		}
	}
	return s.done(ctx, e.row)
}

// misplaced lists the leaves that have no place in a group, and their users: those whose removal is proposed included.
func (s removals) misplaced(ctx context.Context, e *expulsion, l *registry.Live) (map[uint32]string, error) {
	absent, err := s.absent(ctx, e.group.RoomID, l.Roster.Users())
	if err != nil {
		return nil, err
	}
	p, err := s.Policy(ctx)
	if err != nil {
		return nil, err
	}
	isAbsent, isPending := setOf(absent), setOf(pendingRemoves(e.group.Server, l.MLS))
	isSecond, leaves := secondLeaves(l.MLS), make(map[uint32]string)
	for m := range l.MLS.Members() {
		leaf, err := leafKey(l.MLS, m)
		if err != nil {
			return nil, err
		}
		found, asked := e.said[leaf]
		gone := asked && s.isGone(&p, leaf.UserID, found)
		if gone || isSecond[m.Leaf] || isPending[m.Leaf] || isAbsent[leaf.UserID] {
			leaves[m.Leaf] = leaf.UserID
		}
	}
	return leaves, nil
}

func setOf[T comparable](list []T) map[T]bool {
	set := make(map[T]bool, len(list))
	for _, v := range list {
		set[v] = true
	}
	return set
}

// isGone says whether a device is gone. Another server lists no device that publishes no key at all.
func (s *core) isGone(p *policy.Policy, userID string, found Finding) bool {
	switch {
	case found != DeviceUnlisted:
		return found == KeyOther
	case s.IsLocal(registry.ServerOf(userID)):
		return !p.IsApplicationService(userID)
	}
	return !p.MayBeKeyless(userID)
}

// expelShare is the share of a group's users above which nothing is proposed at once: rather has the room's state been
// reset, or a homeserver lost its devices.
const expelShare = 0.5

// requireShare fails for leaves of most of a group's users, unless an operator lets them go. One user may always go.
func (s removals) requireShare(e *expulsion, l *registry.Live, leaves map[uint32]string) error {
	users := make(map[string]bool)
	for _, user := range leaves {
		users[user] = true
	}
	all := len(l.Roster.Users())
	if e.all || len(users) <= 1 || float64(len(users)) <= expelShare*float64(all) {
		return nil
	}
	s.Log.Error(
		"most of a group's users are gone at once: nothing is proposed before an operator lets them go",
		"group_id", mimiport.IDText(e.group.ID), "room_id", e.group.RoomID, "leaves", len(leaves),
	)
	return mimiport.Errorf("expel", mimiport.KindInProgress, "%d of %d users at once", len(users), all)
}

// proposeRemoves accepts this server's own proposals into the log.
func (s removals) proposeRemoves(ctx context.Context, e *expulsion, l *registry.Live, leaves []uint32) error {
	g := e.group
	o, err := s.sender(ctx, g.Server, g.Protocol, g.CipherSuite)
	if err != nil {
		return err
	}
	index := ownEntries(g.Server, l.MLS)[0]
	a := &registry.Accepted{Next: l.MLS}
	for _, leaf := range leaves {
		message, err := o.mls.ProposeRemove(l.MLS, o.private, index, leaf)
		if err != nil {
			return err
		}
		if a.Next, _, err = a.Next.Propose(message); err != nil {
			return err
		}
		a.Entries = append(a.Entries, storage.Entry{Kind: storage.EntryProposal, Epoch: g.Epoch, Message: message})
	}
	next, change, err := s.extend(ctx, g, l, a)
	if err != nil {
		return err
	}
	if e.row != nil {
		change.Done = []storage.RowKey{e.row.Key()}
	}
	if err := s.apply(ctx, change); err != nil {
		return err
	}
	e.held.Advance(next, l, a)
	return nil
}
