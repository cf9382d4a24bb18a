package delivery

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// pointer returns the content of the room's pointer event, or nil if no pointer to this group is in force.
func pointer(room Room, g *storage.Group) *api.Pointer {
	return pointerIn(room.InForce(api.EventPointer), g.RoomID, g.ID)
}

// pointerIn decodes a pointer, or returns nil if it does not name the group. A room upgrade may copy a pointer.
func pointerIn(content json.RawMessage, roomID string, groupID []byte) *api.Pointer {
	p := new(api.Pointer)
	if content == nil || json.Unmarshal(content, p) != nil || !p.Names(roomID, groupID) {
		return nil // any user with the power can put any JSON there
	}
	return p
}

// Named returns the binding and the pointer of a group in a room. Without a pointer the group is at its creating server
// in term 0. It returns a KindInvalid error unless the room names the group.
func Named(ctx context.Context, rooms Rooms, roomID string, groupID []byte) (*api.Binding, *api.Pointer, error) {
	content, err := rooms.State(ctx, roomID, api.EventGroup)
	if err != nil {
		return nil, nil, err
	}
	bound := new(api.Binding)
	if content == nil || json.Unmarshal(content, bound) != nil || !bound.Names(roomID, groupID) {
		return nil, nil, mimiport.Errorf("announce move", mimiport.KindInvalid, "the room does not name this group")
	}
	content, err = rooms.State(ctx, roomID, api.EventPointer)
	if err != nil {
		return nil, nil, err
	}
	if p := pointerIn(content, roomID, groupID); p != nil {
		return bound, p, nil
	}
	return bound, &api.Pointer{Via: bound.CreatingServer}, nil
}

// pointed is the lineage of a group, extended by the step of the next term that the room's pointer shows.
type pointed struct {
	shown
	encoded []byte
	target  string // the server that the step gives the group to
}

// pointedAt reads a room's pointer. It returns nil if the pointer shows no step that this server can check.
func pointedAt(room Room, g *storage.Group) (*pointed, error) {
	p := pointer(room, g)
	if p == nil || p.Evidence == nil || p.Term != g.Term+1 {
		return nil, nil
	}
	response, err := mimiport.UnmarshalMigrationResponse(p.Evidence.MigrationResponse)
	if err != nil || mimiport.ValidateServerName(response.Request.TargetDomain) != nil {
		return nil, nil
	}
	l, err := mimiport.UnmarshalLineage(g.Lineage)
	if err != nil {
		return nil, err
	}
	l.Steps = append(l.Steps, mimiport.LineageStep{
		Kind:         mimiport.StepMigration,
		Response:     mimiport.SignedMessage{Message: p.Evidence.MigrationResponse, KeyID: p.Evidence.ResponseKeyID},
		Confirmation: mimiport.SignedMessage{Message: p.Evidence.MigrationConfirmation, KeyID: p.Evidence.ConfirmationKeyID},
	})
	encoded, err := l.Marshal()
	if err != nil {
		return nil, nil
	}
	return &pointed{shown{l, false}, encoded, response.Request.TargetDomain}, nil
}

// key is the key of the row that makes this server check the step. Its destination is the target, because the check
// needs the target's keys. The same step always has the same key.
func (sh *pointed) key(g *storage.Group) storage.RowKey {
	sum := sha256.Sum256(sh.encoded)
	return storage.RowKey{
		Destination: sh.target, Queue: "pointer/" + storage.FanOutQueue(g.Key()), Order: binary.BigEndian.Uint64(sum[:]) >> 1,
	}
}

// filePointer stores a row for the step that the room's pointer shows, if the pointer shows a step.
func (s *core) filePointer(ctx context.Context, room Room, g *storage.Group) error {
	sh, err := pointedAt(room, g)
	if err != nil || sh == nil {
		return err
	}
	key := sh.key(g)
	err = s.apply(ctx, &storage.Change{Rows: []storage.Row{{
		Destination: key.Destination, Queue: key.Queue, Order: key.Order, Kind: storage.RowPointer,
		GroupID: g.ID, Term: g.Term, Due: s.Now(),
	}}})
	if errors.Is(err, storage.ErrConflict) { // the row exists already
		return nil
	}
	return err
}

// followPointer checks the step that the room's pointer shows. If the step carries a confirmation that this server has
// signed and forgotten, this server stops. The pointer is advisory: followPointer ignores a step that does not verify.
// While the target does not answer, the row waits.
func (s *Service) followPointer(ctx context.Context, row *storage.Row) error {
	g, err := s.Store.GroupAt(ctx, storage.GroupKey{ID: row.GroupID, Term: row.Term})
	if err != nil {
		return err
	}
	room, err := s.Rooms.Room(ctx, g.RoomID)
	if err != nil {
		return err
	}
	sh, err := pointedAt(room, g)
	if err != nil {
		return err
	}
	if stateOf(g).Owned() && sh != nil && sh.key(g) == row.Key() { // else the pointer shows another step by now
		if err := s.takeShown(ctx, g, sh); err != nil {
			return err
		}
	}
	return s.done(ctx, row)
}

func (s *Service) takeShown(ctx context.Context, g *storage.Group, sh *pointed) error {
	err := s.takeSteps(ctx, g.ID, &sh.shown)
	if err != nil && mimiport.KindOf(err) != mimiport.KindPeer {
		s.Log.Warn("a room's pointer does not verify", "room_id", g.RoomID, "error", err)
		return nil
	}
	return err
}
