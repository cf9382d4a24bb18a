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

// pointer is where the room says that its group is, nil where it says nothing of this group that is in force.
func (s *core) pointer(ctx context.Context, g *storage.Group) (*api.Pointer, error) {
	content, err := s.Rooms.StateInForce(ctx, g.RoomID, api.EventPointer)
	if err != nil || content == nil {
		return nil, err
	}
	p := new(api.Pointer)
	if json.Unmarshal(content, p) != nil || !p.Names(g.RoomID, g.ID) {
		return nil, nil // anybody with the power can put anything there
	}
	return p, nil
}

// pointed is the lineage of a group with the step that the room's pointer shows for the term after it.
type pointed struct {
	shown
	encoded []byte
	target  string // the server that the step leads to
}

// pointedAt reads a room's pointer. It returns nil where the pointer shows no step that may be checked.
func (s *core) pointedAt(ctx context.Context, g *storage.Group) (*pointed, error) {
	p, err := s.pointer(ctx, g)
	if err != nil || p == nil || p.Evidence == nil || p.Term != g.Term+1 {
		return nil, err
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

// key is that of the row by which this server checks the step. It is filed under the target, whose keys it takes, and
// the same step has the same row.
func (sh *pointed) key(g *storage.Group) storage.RowKey {
	sum := sha256.Sum256(sh.encoded)
	return storage.RowKey{
		Destination: sh.target, Queue: "pointer/" + fanOutQueue(g.Key()), Order: binary.BigEndian.Uint64(sum[:]) >> 1,
	}
}

// filePointer puts a row for the step that the room's pointer shows, if it shows one.
func (s *core) filePointer(ctx context.Context, g *storage.Group) error {
	sh, err := s.pointedAt(ctx, g)
	if err != nil || sh == nil {
		return err
	}
	key := sh.key(g)
	err = s.apply(ctx, &storage.Change{Rows: []storage.Row{{
		Destination: key.Destination, Queue: key.Queue, Order: key.Order, Kind: storage.RowPointer,
		GroupID: g.ID, Term: g.Term, Due: s.Now(),
	}}})
	if errors.Is(err, storage.ErrConflict) { // it is there
		return nil
	}
	return err
}

// followPointer looks at where the room says that its group is: shown there a confirmation of its own that it does not
// remember, this server stops. The pointer is advisory: a step that does not verify is passed over. While the target
// cannot be asked, the row waits.
func (s *Service) followPointer(ctx context.Context, row *storage.Row) error {
	g, err := s.Store.GroupAt(ctx, storage.GroupKey{ID: row.GroupID, Term: row.Term})
	if err != nil {
		return err
	}
	sh, err := s.pointedAt(ctx, g)
	if err != nil {
		return err
	}
	if stateOf(g).Owned() && sh != nil && sh.key(g) == row.Key() { // else the room shows something else by now
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
