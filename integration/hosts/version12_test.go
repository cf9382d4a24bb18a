package hosts

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/party"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/acl"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// TestVersion12: a group lives its whole life in a room of version 12. The room's id has no domain. Its creators have
// no power level, and may do everything.
func TestVersion12(t *testing.T) {
	onSQLite(t, func(t *testing.T, n *harness.TestNetwork) {
		n.Binary = forked(t)
		section := strings.Replace(harness.Section, "allow_ip_literals: false", "allow_ip_literals: true", 1)
		a := n.StartServer(t, section)
		n.Host = "127.0.0.1" // a server ACL ignores ports
		b := n.StartServer(t, section)
		open := map[string]any{"target": "joined_servers"}
		admin := harness.RegisterUser(t, b, "admin", true)
		if err := admin.Do(harness.Within(t), http.MethodPut, adminapi.PathPrefix+"/policy", open, nil); err != nil {
			t.Fatal(err)
		}
		t.Run("life", func(t *testing.T) { testLife(t, a, b) })
		t.Run("additional creator", func(t *testing.T) { testAdditionalCreator(t, a, b) })
		t.Run("join rules", func(t *testing.T) { testJoinRules(t, a, b) })
		t.Run("upgrade", func(t *testing.T) { testRoomUpgrade(t, a, b) })
	})
}

// newRoom makes a room of version 12.
func newRoom(t *testing.T, creator *harness.User, more map[string]any) (id string) {
	t.Helper()
	content := map[string]any{"preset": "private_chat", "room_version": "12"}
	for key, value := range more {
		content[key] = value
	}
	var room struct {
		RoomID string `json:"room_id"`
	}
	err := creator.Do(harness.Within(t), http.MethodPost, "/_matrix/client/v3/createRoom", content, &room)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(room.RoomID, ":") {
		t.Fatalf("the room id %s has a domain", room.RoomID)
	}
	return room.RoomID
}

// gatherIn makes a group in a room, with users who are there or whom the first of them admits.
func gatherIn(t *testing.T, room string, creator *harness.User, others ...*harness.User) *party.Party {
	t.Helper()
	p, err := party.Create(harness.Within(t), harness.StartTestClient(t, creator), room)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range others {
		if err := p.Add(harness.Within(t), harness.StartTestClient(t, u)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// testLife: the creator binds a group, moves it away and back, kicks a member, and shuts a server out.
func testLife(t *testing.T, a, b *harness.Server) {
	alice, bob := newUser(t, a), newUser(t, b)
	room := newRoom(t, alice, nil)
	harness.Admit(t, alice, room, bob)
	p := gatherIn(t, room, alice, bob)
	p.Talk(t)

	var refused *harness.Error
	if err := alice.SetPowerLevel(harness.Within(t), room, alice.ID, 100); !errors.As(err, &refused) {
		t.Errorf("a power level for a creator: %v", err)
	}
	_, err := party.Migrate(harness.Within(t), p.Members[1], b.Name)
	harness.RequireRefused(t, err, "M_FORBIDDEN") // bob has power level 0
	p.Move(t, p.Members[0], b)
	p.RequireAt(t, b, 1)
	p.Talk(t)
	requireKickedRemoved(t, p, newUser(t, a))
	p.Move(t, p.Members[0], a)
	p.RequireAt(t, a, 2)
	p.Talk(t)

	shut := map[string]any{"allow": []string{"*"}, "deny": []string{"127.*"}}
	if err := alice.SetState(harness.Within(t), room, acl.EventType, shut); err != nil {
		t.Fatal(err)
	}
	err = p.Members[1].Do(harness.Within(t), "send", harness.Args{"text": "from outside"}, nil)
	harness.RequireRefused(t, err, "M_FORBIDDEN")
}

// testAdditionalCreator: an additional creator at another server may bind a group, move it, and kick.
func testAdditionalCreator(t *testing.T, a, b *harness.Server) {
	alice, bob := newUser(t, a), newUser(t, b)
	room := newRoom(t, alice, map[string]any{"creation_content": map[string]any{"additional_creators": []string{bob.ID}}})
	harness.Admit(t, alice, room, bob)
	p := gatherIn(t, room, bob, alice)
	p.Talk(t)
	requireKickedRemoved(t, p, newUser(t, b))
	p.Move(t, p.Members[1], a)
	p.RequireAt(t, a, 1)
	p.Move(t, p.Members[0], b)
	p.RequireAt(t, b, 2)
	p.Talk(t)
}

// testJoinRules: users who join a room without an invitation, or after a knock rule lets them in by one, are members as
// all others.
func testJoinRules(t *testing.T, a, b *harness.Server) {
	for _, rule := range []string{"restricted", "knock_restricted", "knock"} {
		t.Run(rule, func(t *testing.T) {
			alice, bob := newUser(t, a), newUser(t, b)
			space := newRoom(t, alice, nil)
			harness.Admit(t, alice, space, bob)
			content := map[string]any{"join_rule": rule}
			if rule != "knock" {
				content["allow"] = []map[string]any{{"type": "m.room_membership", "room_id": space}}
			}
			initial := []map[string]any{{"type": "m.room.join_rules", "state_key": "", "content": content}}
			room := newRoom(t, alice, map[string]any{"initial_state": initial})
			if rule == "knock" {
				if err := alice.Invite(harness.Within(t), room, bob.ID); err != nil {
					t.Fatal(err)
				}
			}
			if err := bob.Join(harness.Within(t), room, a.Name); err != nil {
				t.Fatal(err)
			}
			gatherIn(t, room, alice, bob).Talk(t)
		})
	}
}

// testRoomUpgrade: after the upgrade of a room from version 11 to 12, the binding of the new room's group names the
// group of the old room.
func testRoomUpgrade(t *testing.T, a, b *harness.Server) {
	alice, bob := newUser(t, a), newUser(t, b)
	former := party.Gather(t, alice, bob)
	former.Talk(t)
	var upgraded struct {
		Room string `json:"replacement_room"`
	}
	path := "/_matrix/client/v3/rooms/" + url.PathEscape(former.Room) + "/upgrade"
	err := alice.Do(harness.Within(t), http.MethodPost, path, map[string]any{"new_version": "12"}, &upgraded)
	if err != nil {
		t.Fatal(err)
	}
	harness.Admit(t, alice, upgraded.Room, bob)
	p := gatherIn(t, upgraded.Room, another(t, alice), another(t, bob))
	p.Talk(t)
	var binding api.Binding
	if err := alice.State(harness.Within(t), upgraded.Room, api.EventGroup, &binding); err != nil {
		t.Fatal(err)
	}
	if f := binding.Former; f == nil || f.GroupID.String() != former.Group || f.RoomID != former.Room {
		t.Errorf("the binding of %s names %+v as the group before %s", upgraded.Room, f, former.Group)
	}
	p.Move(t, p.Members[0], b)
	p.RequireAt(t, b, 1)
	p.Talk(t)
}

// another logs in another device of a user.
func another(t *testing.T, u *harness.User) *harness.User {
	t.Helper()
	device, err := u.Login(harness.Within(t), "ANOTHER")
	if err != nil {
		t.Fatal(err)
	}
	return device
}
