package hooks

import (
	"net/http"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/acl"
)

// setACL gives a room a server ACL and returns the event's id.
func setACL(t *testing.T, u *harness.User, room string, content map[string]any) string {
	t.Helper()
	var sent struct {
		EventID string `json:"event_id"`
	}
	wantNone(t, u.Do(t.Context(), http.MethodPut, "/_matrix/client/v3/rooms/"+room+"/state/"+acl.EventType, content, &sent))
	return sent.EventID
}

func redact(t *testing.T, u *harness.User, room, eventID string) {
	t.Helper()
	path := "/_matrix/client/v3/rooms/" + room + "/redact/" + eventID + "/txn" + eventID[1:5]
	wantNone(t, u.Do(t.Context(), http.MethodPut, path, map[string]any{}, nil))
}

// wantAllowed compares which of a few servers a room lets in with those that should be.
func wantAllowed(t *testing.T, r *rooms, room string, want ...string) {
	t.Helper()
	var allowed []string
	for _, server := range []string{"localhost:8448", "good.example", "good.example.evil.example", "evil.example"} {
		ok, err := r.ServerAllowed(t.Context(), room, server)
		wantNone(t, err)
		if ok {
			allowed = append(allowed, server)
		}
	}
	if got, want := strings.Join(allowed, " "), strings.Join(want, " "); got != want {
		t.Errorf("the room lets in %q, want %q", got, want)
	}
}

// TestServerACL: the ACL of the room's state counts at once, and by the specification's rules, which the host does not keep.
func TestServerACL(t *testing.T) {
	s := start(t, "s.example", newFabric())
	alice := s.register(t, "alice")
	room, r := newRoom(t, alice), s.rooms()
	wantAllowed(t, r, room, "localhost:8448", "good.example", "good.example.evil.example", "evil.example")
	wantAllowed(t, r, "!unknown:s.example", "localhost:8448", "good.example", "good.example.evil.example", "evil.example")

	setACL(t, alice, room, map[string]any{"allow": []string{"*"}, "deny": []string{"ocalhos", "EVIL.example"}})
	wantAllowed(t, r, room, "localhost:8448", "good.example", "good.example.evil.example")
	setACL(t, alice, room, map[string]any{"allow": []string{"good.example"}})
	wantAllowed(t, r, room, "good.example")
	setACL(t, alice, room, map[string]any{"allow": "*"})
	wantAllowed(t, r, room)
}

// TestRedactedACL: a redaction takes less power than an ACL, and must not change one, neither to "nobody" nor to "everybody"; not after a
// restart either.
func TestRedactedACL(t *testing.T) {
	s := start(t, "s.example", newFabric())
	alice := s.register(t, "alice")
	room, r := newRoom(t, alice), s.rooms()
	setACL(t, alice, room, map[string]any{"allow": []string{"*"}, "deny": []string{"localhost"}})
	wantAllowed(t, r, room, "good.example", "good.example.evil.example", "evil.example")
	event := setACL(t, alice, room, map[string]any{"allow": []string{"good.example"}})
	wantAllowed(t, r, room, "good.example")
	redact(t, alice, room, event)
	wantAllowed(t, r, room, "good.example")

	restarted := s.rooms()
	restarted.acls.store = r.acls.store
	wantAllowed(t, restarted, room, "good.example")
	wantAllowed(t, s.rooms(), room) // one that has never seen the ACL follows the specification

	setACL(t, alice, room, map[string]any{"allow": []string{"*"}})
	wantAllowed(t, restarted, room, "localhost:8448", "good.example", "good.example.evil.example", "evil.example")
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
