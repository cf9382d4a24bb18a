package redirects

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// rooms is delivery.Rooms. The last state of each room that the homeserver saw counts, at the time of the export.
type rooms struct{ table storage.Settings }

var _ delivery.Rooms = rooms{}

// Room implements delivery.Rooms.
func (r rooms) Room(ctx context.Context, roomID string) (delivery.Room, error) {
	readers := new(api.Readers)
	if _, err := get(ctx, r.table, roomSetting+roomID, readers); err != nil {
		return nil, err
	}
	return room{readers}, nil
}

// State implements delivery.Rooms.
func (rooms) State(context.Context, string, string) (json.RawMessage, error) { return nil, nil }

// SendState implements delivery.Rooms.
func (rooms) SendState(context.Context, string, string, string, any) error { return errStatic }

// RoomsOf implements delivery.Rooms.
func (rooms) RoomsOf(context.Context, string) ([]string, error) { return nil, nil }

// LocalAccount implements delivery.Rooms: no account is left.
func (rooms) LocalAccount(context.Context, string) (bool, error) { return false, nil }

// Administers implements delivery.Rooms.
func (rooms) Administers(context.Context, string) (bool, error) { return false, nil }

// room is delivery.Room. Nobody has any power in it.
type room struct{ readers *api.Readers }

// Standing implements delivery.Room.
func (r room) Standing(userID string) delivery.Standing {
	if !r.readers.Known {
		return delivery.Standing{}
	}
	_, joined := slices.BinarySearch(r.readers.Users, userID)
	return delivery.Standing{Exists: true, Joined: joined, PointerLevel: 1, KickLevel: 1}
}

// NotJoined implements delivery.Room.
func (r room) NotJoined(userIDs []string) (missing []string) {
	for _, user := range userIDs {
		if _, joined := slices.BinarySearch(r.readers.Users, user); !joined {
			missing = append(missing, user)
		}
	}
	return missing
}

// Joined implements delivery.Room.
func (r room) Joined() []string { return r.readers.Users }

// ServerJoined implements delivery.Room.
func (r room) ServerJoined(server string) bool {
	return slices.ContainsFunc(r.readers.Users, func(user string) bool { return registry.ServerOf(user) == server })
}

// Levels implements delivery.Room.
func (room) Levels() *policy.Levels { return nil }

// Denied implements delivery.Room. The readers have no user of a denied server.
func (room) Denied([]string) []string { return nil }

// InForce implements delivery.Room.
func (room) InForce(string) json.RawMessage { return nil }

// Current implements delivery.Room.
func (room) Current() bool { return true }

// errStatic refuses whatever would change a table.
var errStatic = mimiport.Errorf("redirect", mimiport.KindForbidden,
	"this server has ended: it answers only where its groups have gone")
