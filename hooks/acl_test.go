package hooks

import (
	"slices"
	"testing"
	"time"

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

// wantDenied compares the aclServers that a room denies with the wanted ones, a second later than before.
func wantDenied(t *testing.T, r *rooms, room string, want ...string) {
	t.Helper()
	at := r.now().Add(time.Second)
	r.now = func() time.Time { return at }
	got, err := r.Denied(t.Context(), room, aclServers)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("the room denies %q, %v, want %q", got, err, want)
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
	restarted.acls.store = r.acls.store
	wantDenied(t, restarted, room, "evil.example")
	wantDenied(t, s.rooms(), room, aclServers...) // a server that never saw the ACL follows the specification

	setACL(t, alice, room, map[string]any{"allow": []string{"*"}})
	wantDenied(t, restarted, room)
}

// TestACLIsAskedOnceAMoment: this server does not ask for the room's state again for half a second, unless the clock
// goes back.
func TestACLIsAskedOnceAMoment(t *testing.T) {
	s := start(t, "s.example", newFabric())
	alice := s.register(t, "alice")
	room, r := newRoom(t, alice), s.rooms()
	wantDenied(t, r, room)
	setACL(t, alice, room, map[string]any{"allow": []string{"evil.example"}})
	now := r.now()
	for _, c := range []struct {
		after  time.Duration
		denied int
	}{{aclFresh - 1, 0}, {aclFresh, 3}} {
		r.now = func() time.Time { return now.Add(c.after) }
		if got, err := r.Denied(t.Context(), room, aclServers); err != nil || len(got) != c.denied {
			t.Errorf("after %v the room denies %q, %v", c.after, got, err)
		}
	}
	setACL(t, alice, room, map[string]any{"allow": []string{"*"}})
	r.now = func() time.Time { return now.Add(-time.Hour) }
	if got, err := r.Denied(t.Context(), room, aclServers); err != nil || len(got) != 0 {
		t.Errorf("after the clock went back the room denies %q, %v", got, err)
	}
}

// TestKnownACLs: the ACLs in memory stay within their bound. A dropped ACL is not found.
func TestKnownACLs(t *testing.T) {
	var c acls
	parsed := acl.Parse([]byte(`{"allow":["*"]}`))
	for _, room := range []string{"a", "b", "c"} {
		c.put(room, knownACL{eventID: "$event", acl: &parsed}, maxKnown/2-entrySize)
		if c.size > maxKnown || len(c.known) > 2 {
			t.Fatalf("%d bytes of %d ACLs", c.size, len(c.known))
		}
	}
	if c.get("c").acl == nil || c.get("a").acl != nil {
		t.Errorf("kept: %v", c.known)
	}
}
