package integration

import (
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// TestKickedMemberIsRemoved: when a member is kicked from the room, the group's Delivery Service proposes the removal.
// The next Commit removes the leaf, and the kicked member reads that Commit. This holds at the server that created the
// group, and at the target of a move.
func TestKickedMemberIsRemoved(t *testing.T) {
	p := newPair(t)
	p.requireKickedRemoved(t, "carol")
	p.Move(t, p.bob, p.bob.User.Server)
	p.RequireSettled(t)
	p.requireKickedRemoved(t, "dave")
}

// requireKickedRemoved adds a member, kicks the user from the room, and checks that the next Commit removes the leaf.
func (p *pair) requireKickedRemoved(t *testing.T, localpart string) {
	t.Helper()
	u := harness.RegisterUser(t, p.bob.User.Server, localpart, false)
	harness.Admit(t, p.bob.User, p.Room, u)
	c := harness.StartTestClient(t, u)
	harness.Do(t, c, "publish_key_packages", nil, nil)
	harness.Do(t, p.bob, "add", harness.Args{"user": u.ID}, nil)
	harness.Do(t, c, "join", nil, nil)
	if err := p.alice.User.Kick(harness.Within(t), p.Room, u.ID); err != nil {
		t.Fatal(err)
	}
	harness.Do(t, p.bob, "wait_for", harness.Args{"kind": "state", "pending_proposals": 1}, nil)
	harness.Do(t, p.bob, "update", nil, nil)
	harness.Do(t, c, "wait_for", harness.Args{"kind": "removed"}, nil)
	if at := p.RequireSettled(t); len(at.Members) != 2 {
		t.Errorf("there are %d members after the kick of %s", len(at.Members), localpart)
	}
}
