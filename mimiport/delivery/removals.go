package delivery

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// settling is how long after the news of a change this server asks for the room's state: the host tells the news before
// it has committed the change.
const settling = time.Second

// RoomChanged is to be called when somebody has left a room, or its pointer, successors or server ACL have changed, as
// often as one likes: this server looks after the groups bound to it.
func (s *Service) RoomChanged(ctx context.Context, roomID string) error {
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

// removals propose that members go who have left the room.
type removals struct{ *core }

// expel proposes to remove the leaves of users who are not joined to the room, where the group lets this server
// propose.
func (s removals) expel(ctx context.Context, row *storage.Row) error {
	return s.groups.With(ctx, row.GroupID, func(h *registry.Held) error {
		g, err := h.GroupAt(ctx, row.Term)
		if err != nil {
			return err
		}
		if g.State != migration.GroupActive { // frozen: the set of proposals is closed; what follows asks again
			return s.done(ctx, row)
		}
		l, err := h.Live(ctx, g)
		if err != nil {
			return err
		}
		own := ownEntries(g.Server, l.MLS)
		if len(own) == 0 {
			return s.done(ctx, row)
		}
		leaves, err := s.strangers(ctx, g, l)
		if err != nil {
			return err
		}
		if len(leaves) == 0 {
			return s.done(ctx, row)
		}
		return s.proposeRemoves(ctx, &expulsion{h, g, l, own[0], leaves}, row)
	})
}

// expelShare is the share of a group's leaves above which nothing is proposed at once: rather has the room's state been
// reset.
const expelShare = 0.5

// strangers lists the leaves of users who are not joined to the room and whose removal is not proposed yet.
func (s removals) strangers(ctx context.Context, g *storage.Group, l *registry.Live) (leaves []uint32, err error) {
	gone, err := s.Rooms.NotJoined(ctx, g.RoomID, l.Roster.Users())
	if err != nil || len(gone) == 0 {
		return nil, err
	}
	pending := pendingRemoves(g.Server, l.MLS)
	total := 0
	for m := range l.MLS.Members() {
		id, err := registry.Identity(m)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(gone, id.UserID) {
			continue
		}
		if total++; !slices.Contains(pending, m.Leaf) {
			leaves = append(leaves, m.Leaf)
		}
	}
	if float64(total) > expelShare*float64(l.MLS.NumMembers()) {
		s.Log.Error(
			"most of a group's members have left its room at once: nothing is proposed", "room_id", g.RoomID, "leaves", total,
		)
		return nil, mimiport.Errorf("expel", mimiport.KindInProgress, "%d of %d leaves at once", total, l.MLS.NumMembers())
	}
	return leaves, nil
}

// expulsion is what this server proposes in a group.
type expulsion struct {
	held   *registry.Held
	group  *storage.Group
	live   *registry.Live
	sender uint32   // this server's index among the external senders
	leaves []uint32 // to remove
}

// proposeRemoves accepts this server's own proposals into the log.
func (s removals) proposeRemoves(ctx context.Context, e *expulsion, row *storage.Row) error {
	g, l := e.group, e.live
	o, err := s.sender(ctx, g.Server, g.Protocol, g.CipherSuite)
	if err != nil {
		return err
	}
	a := &registry.Accepted{Next: l.MLS}
	for _, leaf := range e.leaves {
		message, err := o.mls.ProposeRemove(l.MLS, o.private, e.sender, leaf)
		if err != nil {
			return err
		}
		if a.Next, _, err = a.Next.Propose(message); err != nil {
			return err
		}
		a.Entries = append(a.Entries, storage.Entry{Kind: storage.EntryProposal, Epoch: g.Epoch, Message: message})
	}
	next, change, err := s.extend(g, l, a)
	if err != nil {
		return err
	}
	change.Done = []storage.RowKey{row.Key()}
	if err := s.apply(ctx, change); err != nil {
		return err
	}
	e.held.Advance(next, l, a)
	return nil
}
