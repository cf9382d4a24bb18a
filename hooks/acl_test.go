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

// wantDenied compares those of aclServers that a room denies with those that it should.
func wantDenied(t *testing.T, r *rooms, room string, want ...string) {
	t.Helper()
	got, err := r.Denied(t.Context(), room, aclServers)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("the room denies %q, %v, want %q", got, err, want)
	}
}

// TestServerACL: the ACL of the room's state counts at once, and by the specification's rules, which the host does not
// keep.
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

// TestRedactedACL: a redaction takes less power than an ACL, and must not change one, neither to "nobody" nor to
// "everybody"; not after a restart either.
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
	restarted.acls.store = r.acls.store
	wantDenied(t, restarted, room, "evil.example")
	wantDenied(t, s.rooms(), room, aclServers...) // one that has never seen the ACL follows the specification

	setACL(t, alice, room, map[string]any{"allow": []string{"*"}})
	wantDenied(t, restarted, room)
}

// TestKnownACLs: what is kept in memory stays within its bound, and what was let go is found again.
func TestKnownACLs(t *testing.T) {
	var c acls
	parsed := acl.Parse([]byte(`{"allow":["*"]}`))
	for i := range 3 {
		c.keep(string(rune('a'+i)), knownACL{"$event", &parsed}, maxKnown/2)
		if c.size > maxKnown || len(c.known) > 2 {
			t.Fatalf("%d bytes of %d ACLs", c.size, len(c.known))
		}
	}
	if c.cached("c", "$event") == nil || c.cached("c", "$other") != nil || c.cached("a", "$event") != nil {
		t.Errorf("kept: %v", c.known)
	}
}
