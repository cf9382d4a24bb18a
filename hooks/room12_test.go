package hooks

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/roomserver/types"
)

// room12 stands in for the room server. It has a real room of version 12, of which Dendrite v0.13.8 knows nothing: its
// state is from a server of the fork.
type room12 struct {
	rsapi.RoomserverInternalAPI
	id    string
	state map[gomatrixserverlib.StateKeyTuple]*types.HeaderedEvent
}

func newRoom12(t *testing.T) *room12 {
	t.Helper()
	text, err := os.ReadFile("testdata/room12.json")
	wantNone(t, err)
	var events []event12
	wantNone(t, json.Unmarshal(text, &events))
	room := &room12{id: events[0].Room, state: make(map[gomatrixserverlib.StateKeyTuple]*types.HeaderedEvent)}
	for _, e := range events {
		room.state[gomatrixserverlib.StateKeyTuple{EventType: e.Kind, StateKey: e.Key}] = &types.HeaderedEvent{PDU: &e}
	}
	return room
}

// event12 is an event that the library of Dendrite v0.13.8 cannot read, since the room's id has no domain.
type event12 struct {
	gomatrixserverlib.PDU
	Kind string          `json:"type"`
	Key  string          `json:"state_key"`
	From spec.SenderID   `json:"sender"`
	Room string          `json:"room_id"`
	Says json.RawMessage `json:"content"`
}

func (e *event12) SenderID() spec.SenderID { return e.From }
func (e *event12) Content() []byte         { return e.Says }

// Version is 11, whose power levels have the same form.
func (e *event12) Version() gomatrixserverlib.RoomVersion { return gomatrixserverlib.RoomVersionV11 }

func (r *room12) QueryServerJoinedToRoom(
	_ context.Context, q *rsapi.QueryServerJoinedToRoomRequest, answer *rsapi.QueryServerJoinedToRoomResponse,
) error {
	answer.RoomExists, answer.IsInRoom = q.RoomID == r.id, q.RoomID == r.id
	return nil
}

func (r *room12) QueryCurrentState(
	_ context.Context, q *rsapi.QueryCurrentStateRequest, answer *rsapi.QueryCurrentStateResponse,
) error {
	answer.StateEvents = make(map[gomatrixserverlib.StateKeyTuple]*types.HeaderedEvent)
	for _, key := range q.StateTuples {
		if event := r.state[key]; event != nil {
			answer.StateEvents[key] = event
		}
	}
	return nil
}

func (r *room12) QueryMembershipForUser(
	_ context.Context, q *rsapi.QueryMembershipForUserRequest, answer *rsapi.QueryMembershipForUserResponse,
) error {
	key := gomatrixserverlib.StateKeyTuple{EventType: spec.MRoomMember, StateKey: q.UserID.String()}
	answer.IsInRoom = r.state[key] != nil
	sender := spec.SenderID(q.UserID.String())
	answer.SenderID = &sender
	return nil
}

func (r *room12) QuerySharedUsers(
	_ context.Context, q *rsapi.QuerySharedUsersRequest, answer *rsapi.QuerySharedUsersResponse,
) error {
	answer.UserIDsToCount = make(map[string]int)
	for _, u := range q.OtherUserIDs {
		if r.state[gomatrixserverlib.StateKeyTuple{EventType: spec.MRoomMember, StateKey: u}] != nil {
			answer.UserIDsToCount[u] = 1
		}
	}
	return nil
}

// TestRoom12: in a room of version 12, whose id has no domain, the creator and the additional creator have more power
// than any level. The power levels name neither of them.
func TestRoom12(t *testing.T) {
	room := newRoom12(t)
	r := &rooms{config: &testConfig(t, "localhost").Global, api: room, now: time.Now, acls: acls{store: memory.New()}}
	for user, power := range map[string]int64{
		"@alice:localhost": math.MaxInt64, "@bob:localhost": math.MaxInt64, "@carol:localhost": 50,
	} {
		want := delivery.Standing{Exists: true, Joined: true, Power: power, PointerLevel: 100, KickLevel: 50}
		if got := standing(t, r, room.id, user); got != want {
			t.Errorf("%s: got %+v, want %+v", user, got, want)
		}
	}
	levels, err := r.Levels(t.Context(), room.id)
	creators := []int64{levels.Users["@alice:localhost"], levels.Users["@bob:localhost"]}
	if err != nil || !slices.Equal(creators, []int64{math.MaxInt64, math.MaxInt64}) {
		t.Errorf("levels: %+v, %v", levels, err)
	}
	pointer, err := r.StateInForce(t.Context(), room.id, api.EventPointer)
	if err != nil || pointer == nil {
		t.Errorf("the creator's pointer is not in force: %v", err)
	}
}
