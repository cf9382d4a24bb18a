package hooks

import (
	"encoding/json"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
)

func newRoom(t testing.TB, creator *harness.User) string {
	t.Helper()
	room, err := creator.CreateRoom(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return room
}

func join(t *testing.T, inviter, u *harness.User, room string) {
	t.Helper()
	if err := inviter.Invite(t.Context(), room, u.ID); err != nil {
		t.Fatal(err)
	}
	if err := u.Join(t.Context(), room, inviter.Server.Name); err != nil {
		t.Fatal(err)
	}
}

func factsOf(t *testing.T, r *rooms, room string) delivery.Room {
	t.Helper()
	f, err := r.Room(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func standing(t *testing.T, r *rooms, room, user string) delivery.Standing {
	t.Helper()
	return factsOf(t, r, room).Standing(user)
}

func TestStanding(t *testing.T) {
	s := start(t, "s.example", newFabric())
	alice, bob, carol := s.register(t, "alice"), s.register(t, "bob"), s.register(t, "carol")
	room := newRoom(t, alice)
	join(t, alice, bob, room)
	wantNone(t, alice.Invite(t.Context(), room, carol.ID))
	r := s.rooms()

	for user, want := range map[string]delivery.Standing{
		alice.ID:            {Exists: true, Joined: true, Power: 100, PointerLevel: 50, KickLevel: 50},
		bob.ID:              {Exists: true, Joined: true, Power: 0, PointerLevel: 50, KickLevel: 50},
		carol.ID:            {Exists: true, Power: 0, PointerLevel: 50, KickLevel: 50},
		"@nobody:x.example": {Exists: true, Power: 0, PointerLevel: 50, KickLevel: 50},
		"not a user":        {Exists: true, Power: 0, PointerLevel: 50, KickLevel: 50},
	} {
		if got := standing(t, r, room, user); got != want {
			t.Errorf("%s: got %+v, want %+v", user, got, want)
		}
	}
	for _, unknown := range []string{"!unknown:s.example", "not a room", ""} {
		if got := standing(t, r, unknown, alice.ID); got != (delivery.Standing{}) {
			t.Errorf("%q: got %+v", unknown, got)
		}
	}

	wantNone(t, alice.SetPowerLevel(t.Context(), room, bob.ID, 60))
	if got := standing(t, r, room, bob.ID); got.Power != 60 {
		t.Errorf("after the change: %+v", got)
	}
	wantNone(t, alice.Kick(t.Context(), room, bob.ID))
	if got := standing(t, r, room, bob.ID); got.Joined {
		t.Errorf("after the kick: %+v", got)
	}
	wantNone(t, alice.Leave(t.Context(), room))
	last := delivery.Standing{Exists: true, Left: true, Power: 100, PointerLevel: 50, KickLevel: 50}
	if got := standing(t, r, room, alice.ID); got != last {
		t.Errorf("when nobody of this server is left: %+v", got)
	}
}

// TestLevels: Levels has the level that the room names for the pointer, or the default of state events.
func TestLevels(t *testing.T) {
	s := start(t, "s.example", newFabric())
	alice, bob := s.register(t, "alice"), "@bob:t.example"
	room, r := newRoom(t, alice), s.rooms()
	want := func(name string, content map[string]any, want policy.Levels) {
		t.Helper()
		wantNone(t, alice.SetState(t.Context(), room, "m.room.power_levels", content))
		if diff := cmp.Diff(&want, factsOf(t, r, room).Levels()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	users := map[string]int64{alice.ID: 100, bob: 7}
	want("no level for the pointer", map[string]any{"users": users}, policy.Levels{Users: users, Pointer: 50})
	want("a level of its own", map[string]any{
		"users": users, "users_default": 3, "events": map[string]any{api.EventPointer: 60},
	}, policy.Levels{Users: users, Default: 3, Pointer: 60, Explicit: true})
	if got := factsOf(t, r, "!unknown:s.example").Levels(); got != nil {
		t.Errorf("an unknown room has %v", got)
	}
	wantNone(t, alice.Leave(t.Context(), room))
	if got := factsOf(t, r, room).Levels(); got == nil || !got.Left || got.Pointer != 60 {
		t.Errorf("when nobody of this server is left: %+v", got)
	}
}

// TestCreators: the creators of a room of version 12 stand above all power levels. In earlier versions nobody does.
func TestCreators(t *testing.T) {
	for content, want := range map[string][]string{
		`{"room_version":"12"}`:                                {"@a:x"},
		`{"room_version":"12","additional_creators":["@b:x"]}`: {"@b:x", "@a:x"},
		`{"room_version":"11","additional_creators":["@b:x"]}`: nil,
		`{"additional_creators":["@b:x"]}`:                     nil,
		`{"room_version":"org.matrix.msc4297"}`:                nil,
		`{"room_version":12}`:                                  nil,
	} {
		if got := creators("@a:x", json.RawMessage(content)); !slices.Equal(got, want) {
			t.Errorf("%s: got %v", content, got)
		}
	}
	levels := roomLevels{creators: []string{"@a:x"}}
	levels.Users = map[string]int64{"@b:x": 100}
	if a, b := levels.of("@a:x"), levels.of("@b:x"); a != math.MaxInt64 || b != 100 {
		t.Errorf("the creator has %d, another %d", a, b)
	}
}

func TestPointerLevel(t *testing.T) {
	s := start(t, "s.example", newFabric())
	alice := s.register(t, "alice")
	room := newRoom(t, alice)
	levels := map[string]any{"users": map[string]any{alice.ID: 100}, "events": map[string]any{api.EventPointer: 90}}
	wantNone(t, alice.SetState(t.Context(), room, "m.room.power_levels", levels))
	if got := standing(t, s.rooms(), room, alice.ID); got.PointerLevel != 90 {
		t.Errorf("got %+v", got)
	}
}

// wantInForce compares the term of the pointer in force with the wanted one. 0 is none.
func wantInForce(t *testing.T, r *rooms, room string, term uint64) {
	t.Helper()
	content := factsOf(t, r, room).InForce(api.EventPointer)
	var p api.Pointer
	if content != nil {
		wantNone(t, json.Unmarshal(content, &p))
	}
	if p.Term != term {
		t.Errorf("the pointer of term %d is in force, want %d", p.Term, term)
	}
}

// TestPointerInForce: a pointer counts only while its sender has the power to send it. After a redaction, the last good
// pointer stays in force.
func TestPointerInForce(t *testing.T) {
	s := start(t, "s.example", newFabric())
	alice, bob := s.register(t, "alice"), s.register(t, "bob")
	room, r := newRoom(t, alice), s.rooms()
	join(t, alice, bob, room)
	wantInForce(t, r, room, 0)
	wantNone(t, alice.SetPowerLevel(t.Context(), room, bob.ID, 60))
	wantNone(t, bob.SetState(t.Context(), room, api.EventPointer, api.Pointer{Term: 1}))
	wantInForce(t, r, room, 1)
	wantNone(t, alice.SetPowerLevel(t.Context(), room, bob.ID, 0))
	wantInForce(t, r, room, 0)
	event, err := alice.SendState(t.Context(), room, api.EventPointer, api.Pointer{Term: 2})
	wantNone(t, err)
	wantInForce(t, r, room, 2)
	wantNone(t, alice.Redact(t.Context(), room, event))
	wantInForce(t, r, room, 2)
}

// TestSuccessorsInForce: a list of successors counts only while its sender has the power to send the pointer, also in a
// room that has no level of its own for the list. After a redaction, the last good list stays in force.
func TestSuccessorsInForce(t *testing.T) {
	s := start(t, "s.example", newFabric())
	alice, bob := s.register(t, "alice"), s.register(t, "bob")
	room, r := newRoom(t, alice), s.rooms()
	join(t, alice, bob, room)
	want := func(name, server string) {
		t.Helper()
		content := factsOf(t, r, room).InForce(api.EventSuccessors)
		if (content != nil) != (server != "") || !strings.Contains(string(content), server) {
			t.Errorf("%s: %s is in force, want %q", name, content, server)
		}
	}
	levels := map[string]any{
		"users": map[string]any{alice.ID: 100, bob.ID: 60}, "events": map[string]any{api.EventPointer: 100},
	}
	wantNone(t, alice.SetState(t.Context(), room, "m.room.power_levels", levels))
	wantNone(t, bob.SetState(t.Context(), room, api.EventSuccessors, api.Successors{Servers: []string{"evil.example"}}))
	want("by bob, who may not send the pointer", "")
	event, err := alice.SendState(t.Context(), room, api.EventSuccessors, api.Successors{Servers: []string{"t.example"}})
	wantNone(t, err)
	want("by alice", "t.example")
	wantNone(t, alice.Redact(t.Context(), room, event))
	want("redacted", "t.example")
}

func TestMembersAndServers(t *testing.T) {
	net := newFabric()
	s, tt := start(t, "s.example", net), start(t, "t.example", net)
	alice, bob := s.register(t, "alice"), tt.register(t, "bob")
	room := newRoom(t, alice)
	join(t, alice, bob, room)
	for name, r := range map[string]*rooms{"resident": s.rooms(), "joining": tt.rooms()} {
		t.Run(name, func(t *testing.T) {
			f := factsOf(t, r, room)
			missing := f.NotJoined([]string{bob.ID, "@carol:s.example", alice.ID})
			if want := []string{"@carol:s.example"}; !slices.Equal(missing, want) {
				t.Errorf("not joined: %v", missing)
			}
			if joined := f.Joined(); !slices.Equal(joined, []string{alice.ID, bob.ID}) {
				t.Errorf("joined: %v", joined)
			}
			for server, want := range map[string]bool{s.Name: true, tt.Name: true, "u.example": false, "": true} {
				if got := f.ServerJoined(server); got != want {
					t.Errorf("%s joined: %v", server, got)
				}
			}
		})
	}
	nobody := factsOf(t, s.rooms(), "!unknown:s.example").NotJoined([]string{alice.ID})
	if !slices.Equal(nobody, []string{alice.ID}) {
		t.Errorf("an unknown room: %v", nobody)
	}
}

func TestSendState(t *testing.T) {
	s := start(t, "s.example", newFabric())
	alice, bob := s.register(t, "alice"), s.register(t, "bob")
	room := newRoom(t, alice)
	join(t, alice, bob, room)
	r := s.rooms()
	const eventType = api.EventPointer
	if got, err := r.State(t.Context(), room, eventType); err != nil || got != nil {
		t.Errorf("before: %s, %v", got, err)
	}
	content := map[string]any{"via": "t.example", "term": 1}
	wantNone(t, r.SendState(t.Context(), room, alice.ID, eventType, content))
	got, err := r.State(t.Context(), room, eventType)
	if want := `{"term":1,"via":"t.example"}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v", got, err)
	}

	wantNone(t, r.SendState(t.Context(), room, alice.ID, eventType, content))
	wantNone(t, r.SendState(t.Context(), room, alice.ID, eventType, map[string]any{"via": "u.example", "term": 2}))
	s.quiesce(t) // /messages asks the sync API, which follows the room server
	if n := countEvents(t, alice, room, eventType); n != 2 {
		t.Errorf("there are %d events: the same content was sent again", n)
	}

	for name, user := range map[string]string{
		"without power": bob.ID, "not in the room": s.register(t, "carol").ID, "of another server": "@alice:t.example",
		"no user": "alice",
	} {
		t.Run(name, func(t *testing.T) {
			wantKind(t, r.SendState(t.Context(), room, user, eventType, map[string]any{"by": name}), mimiport.KindForbidden)
		})
	}
	wantKind(t, r.SendState(t.Context(), "!unknown:s.example", alice.ID, eventType, content), mimiport.KindForbidden)
	wantKind(t, r.SendState(t.Context(), room, alice.ID, eventType, map[string]any{"big": strings.Repeat("x", 1<<16)}),
		mimiport.KindTooLarge)
}

func countEvents(t *testing.T, u *harness.User, room, eventType string) (n int) {
	t.Helper()
	var page struct {
		Chunk []harness.Event `json:"chunk"`
	}
	path := "/_matrix/client/v3/rooms/" + room + "/messages?dir=b&limit=100"
	if err := u.Do(t.Context(), http.MethodGet, path, nil, &page); err != nil {
		t.Fatal(err)
	}
	for _, e := range page.Chunk {
		if e.Type == eventType {
			n++
		}
	}
	return n
}

func TestLocalAccount(t *testing.T) {
	s := start(t, "s.example", newFabric())
	alice, bob := s.register(t, "alice"), s.register(t, "bob")
	r := s.rooms()
	deactivate(t, s, bob)
	for user, want := range map[string]bool{
		alice.ID: true, bob.ID: false, "@carol:s.example": false, "@alice:t.example": false, "alice": false,
		federation.SenderID(s.Name): false,
	} {
		if got, err := r.LocalAccount(t.Context(), user); err != nil || got != want {
			t.Errorf("%s: %v, %v", user, got, err)
		}
	}
}

func TestToDevice(t *testing.T) {
	s := start(t, "s.example", newFabric())
	alice := s.register(t, "alice")
	d := newDevices(&s.Deps, s.deviceKeys().ownDevices)
	content := json.RawMessage(`{"seq":7}`)
	to := map[string][]string{alice.ID: {alice.DeviceID}}
	event := api.DeviceEvent{Type: api.EventMessage, Devices: to, Content: content}
	_, err := d.ToDevice(t.Context(), s.Name, s.Name, []api.DeviceEvent{event})
	wantNone(t, err)
	var seen harness.Event
	_, err = alice.Await(harness.Within(t), "", func(sync *harness.Sync) bool {
		for _, seen = range sync.ToDevice.Events {
			return true
		}
		return false
	})
	if err != nil || seen.Type != api.EventMessage || seen.Sender != "@_mimiport:s.example" ||
		string(seen.Content) != string(content) {
		t.Errorf("got %+v, %v", seen, err)
	}
}

// TestToDeviceLoggedOut: Dendrite does not keep an event for a device that is logged out.
func TestToDeviceLoggedOut(t *testing.T) {
	s := start(t, "s.example", newFabric())
	alice := s.register(t, "alice")
	d := newDevices(&s.Deps, s.deviceKeys().ownDevices)
	phone, err := alice.Login(t.Context(), "PHONE")
	wantNone(t, err)
	wantNone(t, phone.Logout(t.Context()))
	to := map[string][]string{alice.ID: {"PHONE", alice.DeviceID}}
	event := api.DeviceEvent{Type: api.EventMessage, Devices: to, Content: json.RawMessage(`{}`)}
	_, err = d.ToDevice(t.Context(), s.Name, s.Name, []api.DeviceEvent{event})
	wantNone(t, err)
	phone, err = alice.Login(t.Context(), "PHONE") // a new device with this id would get the event
	wantNone(t, err)
	_, err = alice.Await(harness.Within(t), "", func(sync *harness.Sync) bool { return len(sync.ToDevice.Events) > 0 })
	wantNone(t, err)
	news, err := phone.Sync(t.Context(), "", 0)
	wantNone(t, err)
	if len(news.ToDevice.Events) > 0 {
		t.Errorf("got %+v", news.ToDevice.Events)
	}
}
