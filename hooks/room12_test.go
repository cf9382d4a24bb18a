package hooks

import (
	"encoding/json"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
	"github.com/matrix-org/dendrite/roomserver/types"
)

// room12 has the state of a real room of version 12, of which Dendrite v0.13.8 knows nothing: it is from a server of
// the fork.
type room12 struct {
	id     string
	state  map[string]*types.HeaderedEvent // by type; without the members
	joined map[string]int
}

func newRoom12(t *testing.T) *room12 {
	t.Helper()
	text, err := os.ReadFile("testdata/room12.json")
	wantNone(t, err)
	var events []event12
	wantNone(t, json.Unmarshal(text, &events))
	room := &room12{id: events[0].Room, state: make(map[string]*types.HeaderedEvent), joined: make(map[string]int)}
	for _, e := range events {
		if e.Kind == spec.MRoomMember {
			room.joined[e.Key] = 1
			continue
		}
		room.state[e.Kind] = &types.HeaderedEvent{PDU: &e}
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

// TestRoom12: in a room of version 12, whose id has no domain, the creator and the additional creator have more power
// than any level. The power levels name neither of them.
func TestRoom12(t *testing.T) {
	room := newRoom12(t)
	r := newRooms(&testConfig(t, "localhost").Global, nil, nil, memory.New())
	read, err := r.factsOf(t.Context(), room.id, room.state, room.joined)
	wantNone(t, err)
	f := &roomFacts{facts: read, version: roomVersion{1, 1}}
	for user, power := range map[string]int64{
		"@alice:localhost": math.MaxInt64, "@bob:localhost": math.MaxInt64, "@carol:localhost": 50,
	} {
		want := delivery.Standing{Exists: true, Joined: true, Power: power, PointerLevel: 100, KickLevel: 50}
		if got := f.Standing(user); got != want {
			t.Errorf("%s: got %+v, want %+v", user, got, want)
		}
	}
	levels := f.Levels()
	creators := []int64{levels.Users["@alice:localhost"], levels.Users["@bob:localhost"]}
	if !slices.Equal(creators, []int64{math.MaxInt64, math.MaxInt64}) {
		t.Errorf("levels: %+v", levels)
	}
	if f.InForce(api.EventPointer) == nil {
		t.Error("the creator's pointer is not in force")
	}
}
