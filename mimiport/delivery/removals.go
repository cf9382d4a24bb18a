package delivery

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// settling is the time that this server waits after the news of a change before it asks for the room's state. Dendrite
// tells the news before it has committed the change.
const settling = time.Second

// RoomChanged makes this server check the groups of a room. Call it when a user has left the room, or when the room's
// pointer, successors or server ACL have changed. More calls than changes do no harm. It stores one row for any number
// of groups and changes, so it returns soon. It stores nothing for a room whose groups are all elsewhere.
func (s removals) RoomChanged(ctx context.Context, roomID string) error {
	some, err := s.Store.Groups(ctx, storage.GroupFilter{RoomID: roomID, States: hostable}, nil, 1)
	if err != nil || len(some) == 0 {
		return err
	}
	err = s.apply(ctx, &storage.Change{Rows: []storage.Row{{
		Destination: storage.Background, Queue: sweepQueue + roomID, Order: changed, Kind: storage.RowSweep,
		Due: s.Now().Add(settling),
	}}})
	if errors.Is(err, storage.ErrConflict) { // earlier news waits
		return nil
	}
	return err
}

const (
	sweepQueue  = "sweep/" // and the room
	sweptAtOnce = 100      // groups that one row checks; then other rooms have their turn
)

// sweep checks the groups of a room that follow the row's group. A row of the group's own goes on with a group that
// cannot be checked now.
func (s *Service) sweep(ctx context.Context, row *storage.Row) error {
	if row.Order == changed {
		return s.lookInto(ctx, row)
	}
	roomID := strings.TrimPrefix(row.Queue, sweepQueue)
	if _, err := s.Rooms.Room(ctx, roomID); err != nil { // without the host no group can be checked
		return err
	}
	groups, err := s.Store.Groups(ctx, storage.GroupFilter{RoomID: roomID, States: hostable}, row.GroupID, sweptAtOnce)
	if err != nil {
		return err
	}
	for i := range groups {
		if !hosted(&groups[i]) {
			continue
		}
		if err := s.followRoom(ctx, &groups[i], nil); err != nil {
			err = s.file(ctx, &groups[i], s.expelRow(&groups[i], uint64(s.Now().UnixNano())))
			if err != nil {
				return err
			}
		}
	}
	change := &storage.Change{Done: []storage.RowKey{row.Key()}}
	if len(groups) == sweptAtOnce {
		rest := *row
		rest.GroupID, rest.Attempts = groups[sweptAtOnce-1].ID, 0
		rest.Due = row.Due.Add(time.Millisecond) // the outbox takes a row that is the same for one that was not done
		change.Rows = []storage.Row{rest}
	}
	return s.apply(ctx, change)
}

// hostable are the states of groups that this server hosts, or may host without another word about their rooms.
var hostable = []migration.GroupState{
	migration.GroupReserved, migration.GroupActive, migration.GroupFrozen, migration.GroupStopped, migration.GroupStaged,
}

// hosted reports whether this server hosts a group in this term.
func hosted(g *storage.Group) bool {
	return g.State == migration.GroupActive || g.State == migration.GroupFrozen
}

// expelRow is the row that makes this server check a group against its room: whether the room's pointer leads
// elsewhere, and which members are not in the room.
func (s *core) expelRow(g *storage.Group, order uint64) storage.Row {
	return storage.Row{
		Destination: s.Server, Queue: "expel/" + storage.FanOutQueue(g.Key()), Order: order, Kind: migration.RowExpel,
		GroupID: g.ID, Term: g.Term, Due: s.Now(),
	}
}

// expelFrom does a row of a group.
func (s *Service) expelFrom(ctx context.Context, row *storage.Row) error {
	g, err := s.Store.GroupAt(ctx, storage.GroupKey{ID: row.GroupID, Term: row.Term})
	if err != nil {
		return err
	}
	return s.followRoom(ctx, g, row)
}

// followRoom acts on a change of a group's room, and deletes row if there is one. It uses only facts that this server
// has without asking other homeservers. The look at the room also makes the host keep the room's server ACL, pointer
// and successors, in case of a later redaction.
func (s *Service) followRoom(ctx context.Context, g *storage.Group, row *storage.Row) error {
	return s.withKnown(ctx, g.ID, g.RoomID, func(h *registry.Held, k *known) error {
		g, err := h.GroupAt(ctx, g.Term)
		if err != nil {
			return err
		}
		room, err := k.of(g)
		if err != nil {
			return err
		}
		if stateOf(g).Owned() {
			if err := s.followState(ctx, room, g); err != nil {
				return err
			}
		}
		return s.expel(ctx, &expulsion{held: h, known: k, group: g, row: row})
	})
}

// followState warns if the room's server ACL denies the group's host, and files what the room's pointer shows.
func (s *core) followState(ctx context.Context, room Room, g *storage.Group) error {
	if len(room.Denied([]string{g.Server})) > 0 {
		s.Log.Warn("a room's server ACL denies this server, its group's host", "room_id", g.RoomID, "server", g.Server)
	}
	return s.filePointer(ctx, room, g)
}

// removals proposes to remove the leaves that have no place in a group: leaves of users who are not joined to the room,
// leaves of deleted devices, and all leaves of one device but the first (profile, section 7).
type removals struct{ *core }

// expel proposes to remove the leaves that have no place in a held group, and deletes its row if there is one.
func (s removals) expel(ctx context.Context, e *expulsion) error {
	// A frozen group takes no proposals. The end of the migration has a row of its own.
	if e.group.State != migration.GroupActive {
		return s.done(ctx, e.row)
	}
	_, err := s.removeMisplaced(ctx, e)
	return err
}

// expulsion says which leaves this server proposes to remove, and from which group.
type expulsion struct {
	held  *registry.Held
	known *known
	group *storage.Group
	row   *storage.Row // the row to delete when all is proposed; nil for none
	said  findings     // the homeservers' answers about leaves of some users
	all   bool         // an operator allows the removal of most members
}

// removeMisplaced proposes to remove the leaves that have no place in a group, if the group has this server as an
// external sender. It returns the number of such leaves, including those whose removal was proposed before.
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
	if err := e.known.requireCurrent(); err != nil {
		return 0, err
	}
	if len(fresh) == 0 {
		return len(leaves), s.finish(ctx, e, l, leaves)
	}
	if err := s.requireShare(e, l, leaves); err != nil {
		return 0, err
	}
	return len(leaves), s.proposeRemoves(ctx, e, l, fresh)
}

// leavingLeaves returns the leaves that pending proposals of any sender remove. No Commit can cover a second Remove of
// the same leaf (RFC 9420, section 12.2).
func leavingLeaves(g mls.Group) map[uint32]bool {
	leaving := make(map[uint32]bool)
	for _, p := range g.Proposals() {
		if p.Remove != nil {
			leaving[p.Remove.Leaf] = true
		}
	}
	return leaving
}

// finish deletes the row, if there is one, when this server has itself proposed every removal. A member's proposal for
// a leaf may be dropped. In this case finish fails unless an operator asked, and the server tries again.
func (s removals) finish(
	ctx context.Context, e *expulsion, l *registry.Live, leaves map[uint32]string,
) error {
	if e.all {
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

// misplaced lists the leaves that have no place in a group, with their users. It includes leaves whose removal is
// proposed already.
func (s removals) misplaced(ctx context.Context, e *expulsion, l *registry.Live) (map[uint32]string, error) {
	room, err := e.known.of(e.group)
	if err != nil {
		return nil, err
	}
	absent, err := s.absent(ctx, room, l.Roster.Users())
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

// isGone reports whether a device is deleted. A remote homeserver does not list a device without any keys.
func (s *core) isGone(p *policy.Policy, userID string, found Finding) bool {
	switch {
	case found != DeviceUnlisted:
		return found == KeyOther
	case s.IsLocal(registry.ServerOf(userID)):
		return !p.IsApplicationService(userID)
	}
	return !p.MayBeKeyless(userID)
}

// expelShare is the share of a group's users above which this server proposes no removal by itself. More likely the
// room's state was reset, or a homeserver has lost its devices.
const expelShare = 0.5

// requireShare fails for leaves of more than expelShare of a group's users, unless an operator allows it. The leaves of
// a single user are always allowed.
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
		"most of a group's users are gone at once: this server proposes no removal until an operator allows it",
		"group_id", mimiport.IDText(e.group.ID), "room_id", e.group.RoomID, "leaves", len(leaves),
	)
	return mimiport.Errorf("expel", mimiport.KindInProgress, "%d of %d users at once", len(users), all)
}

// proposeRemoves makes this server's own Remove proposals and accepts them into the log. If the epoch has no place for
// all of them, proposeRemoves accepts those that fit. The row then stays for the others, by a KindInProgress error.
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
		next, _, err := a.Next.Propose(message)
		if mimiport.KindOf(err) == mimiport.KindTooLarge && len(a.Entries) > 0 {
			break
		}
		if err != nil {
			return err
		}
		a.Next = next
		a.Entries = append(a.Entries, storage.Entry{Kind: storage.EntryProposal, Epoch: g.Epoch, Message: message})
	}
	left := len(leaves) - len(a.Entries)
	next, change, err := s.extend(ctx, g, l, a)
	if err != nil {
		return err
	}
	if e.row != nil && left == 0 {
		change.Done = []storage.RowKey{e.row.Key()}
	}
	if err := s.apply(ctx, change); err != nil {
		return err
	}
	e.held.Advance(next, l, a)
	if left > 0 && !e.all {
		return mimiport.Errorf("expel", mimiport.KindInProgress, "%d leaves wait for a later epoch", left)
	}
	return nil
}
