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
	Newer     func() bool                // reports that the room has changed since a server asked; nil for never
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

func (r rooms) Room(_ context.Context, roomID string) (delivery.Room, error) {
	return view{r.room, r.server, roomID == RoomID && !r.room.Unseen[r.server]}, nil
}

func (r rooms) State(_ context.Context, roomID, eventType string) (json.RawMessage, error) {
	if roomID != RoomID || r.room.Unseen[r.server] {
		return nil, nil
	}
	return r.room.Events[eventType], nil
}

func (r rooms) SendState(context.Context, string, string, string, any) error { return nil }

func (r rooms) RoomsOf(_ context.Context, userID string) ([]string, error) {
	if !r.room.Joined[userID] {
		return nil, nil
	}
	return []string{RoomID}, nil
}

func (r rooms) Administers(_ context.Context, userID string) (bool, error) {
	return slices.Contains(r.room.Admins, userID), nil
}

func (r rooms) LocalAccount(_ context.Context, userID string) (bool, error) {
	return !slices.Contains(r.room.Strangers, userID), nil
}

// view is a room as a server sees it.
type view struct {
	*Room
	server string
	known  bool // the server was ever in the room
}

func (v view) Standing(userID string) delivery.Standing {
	if !v.known {
		return delivery.Standing{}
	}
	return delivery.Standing{
		Exists: true, Left: v.Left[v.server], Joined: v.Room.Joined[userID], Power: v.Power[userID], PointerLevel: 100,
		KickLevel: 50,
	}
}

func (v view) NotJoined(users []string) (missing []string) {
	for _, user := range users {
		if !v.known || !v.Room.Joined[user] {
			missing = append(missing, user)
		}
	}
	return missing
}

func (v view) Joined() (users []string) {
	for user, joined := range v.Room.Joined {
		if joined && v.known {
			users = append(users, user)
		}
	}
	slices.Sort(users)
	return users
}

func (v view) ServerJoined(server string) bool {
	return slices.ContainsFunc(v.Joined(), func(user string) bool { return serverOf(user) == server })
}

func (v view) Levels() *policy.Levels {
	if !v.known {
		return nil
	}
	return &policy.Levels{Users: maps.Clone(v.Power), Pointer: 100, Explicit: true, Left: v.Left[v.server]}
}

func (v view) Denied(servers []string) (denied []string) {
	for _, server := range servers {
		if slices.Contains(v.Room.Denied, server) {
			denied = append(denied, server)
		}
	}
	return denied
}

func (v view) InForce(eventType string) json.RawMessage {
	if !v.known || v.Left[v.server] {
		return nil
	}
	return v.Events[eventType]
}

func (v view) Current() bool { return v.Newer == nil || !v.Newer() }
