package hooks

import (
	"slices"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/acl"
)

func setACL(t *testing.T, u *harness.User, room string, content map[string]any) (eventID string) {
	t.Helper()
	eventID, err := u.SendState(t.Context(), room, acl.EventType, content)
	wantNone(t, err)
	return eventID
}

var aclServers = []string{"localhost:8448", "good.example", "good.example.evil.example", "evil.example"}

// wantDenied compares the aclServers that a room denies with the wanted ones.
func wantDenied(t *testing.T, r *rooms, room string, want ...string) {
	t.Helper()
	if got := factsOf(t, r, room).Denied(aclServers); !slices.Equal(got, want) {
		t.Errorf("the room denies %q, want %q", got, want)
	}
}

// TestServerACL: the ACL in the room's state counts, by the specification's rules. Dendrite itself does not follow
// these rules.
func TestServerACL(t *testing.T) {
	s := start(t, "s.example", newFabric())
	alice := s.register(t, "alice")
	room, r := newRoom(t, alice), s.rooms()
	wantDenied(t, r, room)
	wantDenied(t, r, "!unknown:s.example")

	setACL(t, alice, room, map[string]any{"allow": []string{"*"}, "deny": []string{"ocalhos", "EVIL.example"}})
	wantDenied(t, r, room, "evil.example")
	setACL(t, alice, room, map[string]any{"allow": []string{"good.example"}})
	wantDenied(t, r, room, "localhost:8448", "good.example.evil.example", "evil.example")
	setACL(t, alice, room, map[string]any{"allow": "*"})
	wantDenied(t, r, room, aclServers...)
}

// TestRedactedACL: a redaction, which takes less power than an ACL, does not change the ACL, neither to "nobody" nor to
// "everybody". A restart does not change it either.
func TestRedactedACL(t *testing.T) {
	s := start(t, "s.example", newFabric())
	alice := s.register(t, "alice")
	room, r := newRoom(t, alice), s.rooms()
	setACL(t, alice, room, map[string]any{"allow": []string{"*"}, "deny": []string{"localhost"}})
	wantDenied(t, r, room, "localhost:8448")
	event := setACL(t, alice, room, map[string]any{"allow": []string{"*"}, "deny": []string{"evil.example"}})
	wantDenied(t, r, room, "evil.example")
	wantNone(t, alice.Redact(t.Context(), room, event))
	wantDenied(t, r, room, "evil.example")

	restarted := s.rooms()
	restarted.store = r.store
	wantDenied(t, restarted, room, "evil.example")
	wantDenied(t, s.rooms(), room, aclServers...) // a server that never saw the ACL follows the specification

	setACL(t, alice, room, map[string]any{"allow": []string{"*"}})
	wantDenied(t, restarted, room)
}
