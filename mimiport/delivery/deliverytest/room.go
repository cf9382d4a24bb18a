package deliverytest

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
)

// RoomID is the room that all servers of a World see.
const RoomID = "!room:a.example"

// Room is the state of RoomID. A test sets it while no request runs.
type Room struct {
	Joined    map[string]bool            // by user
	Power     map[string]int64           // by user; the pointer event needs 100, kicking 50
	Denied    []string                   // the servers that the room's ACL denies
	Admins    []string                   // users who administer their server
	Strangers []string                   // users without an account on their server
	Events    map[string]json.RawMessage // the contents of state events, by type
	Left      map[string]bool            // servers that have left the room; they see it as it is
	Unseen    map[string]bool            // servers that have never been in it
}

// Join joins users to the room, with the power to do everything.
func (r *Room) Join(users ...string) {
	for _, user := range users {
		r.Joined[user], r.Power[user] = true, 100
	}
}

// rooms are the rooms that a server knows: one.
type rooms struct {
	room   *Room
	server string
}

// knows reports whether the server was ever in a room.
func (r rooms) knows(roomID string) bool { return roomID == RoomID && !r.room.Unseen[r.server] }

func (r rooms) Standing(_ context.Context, roomID, userID string) (delivery.Standing, error) {
	if !r.knows(roomID) {
		return delivery.Standing{}, nil
	}
	joined, power, left := r.room.Joined[userID], r.room.Power[userID], r.room.Left[r.server]
	return delivery.Standing{
		Exists: true, Left: left, Joined: joined, Power: power, PointerLevel: 100, KickLevel: 50,
	}, nil
}

func (r rooms) Powers(_ context.Context, roomID string, users []string) ([]int64, error) {
	powers := make([]int64, len(users))
	for i, user := range users {
		if r.knows(roomID) {
			powers[i] = r.room.Power[user]
		}
	}
	return powers, nil
}

func (r rooms) NotJoined(_ context.Context, roomID string, users []string) (missing []string, err error) {
	for _, user := range users {
		if !r.knows(roomID) || !r.room.Joined[user] {
			missing = append(missing, user)
		}
	}
	return missing, nil
}

func (r rooms) ServerJoined(_ context.Context, roomID, server string) (bool, error) {
	for user, joined := range r.room.Joined {
		if joined && r.knows(roomID) && serverOf(user) == server {
			return true, nil
		}
	}
	return false, nil
}

func (r rooms) Denied(_ context.Context, _ string, servers []string) (denied []string, err error) {
	for _, server := range servers {
		if slices.Contains(r.room.Denied, server) {
			denied = append(denied, server)
		}
	}
	return denied, nil
}

func (r rooms) Levels(_ context.Context, roomID string) (*policy.Levels, error) {
	if !r.knows(roomID) {
		return nil, nil
	}
	return &policy.Levels{
		Users: maps.Clone(r.room.Power), Pointer: 100, Explicit: true, Left: r.room.Left[r.server],
	}, nil
}

func (r rooms) State(_ context.Context, roomID, eventType string) (json.RawMessage, error) {
	if !r.knows(roomID) {
		return nil, nil
	}
	return r.room.Events[eventType], nil
}

func (r rooms) StateInForce(ctx context.Context, roomID, eventType string) (json.RawMessage, error) {
	if r.room.Left[r.server] {
		return nil, nil
	}
	return r.State(ctx, roomID, eventType)
}

func (r rooms) SendState(context.Context, string, string, string, any) error { return nil }

func (r rooms) RoomsOf(_ context.Context, userID string) ([]string, error) {
	if !r.room.Joined[userID] {
		return nil, nil
	}
	return []string{RoomID}, nil
}

func (r rooms) Joined(_ context.Context, roomID string) (users []string, err error) {
	for user, joined := range r.room.Joined {
		if joined && roomID == RoomID {
			users = append(users, user)
		}
	}
	slices.Sort(users)
	return users, nil
}

func (r rooms) Administers(_ context.Context, userID string) (bool, error) {
	return slices.Contains(r.room.Admins, userID), nil
}

func (r rooms) LocalAccount(_ context.Context, userID string) (bool, error) {
	return !slices.Contains(r.room.Strangers, userID), nil
}
