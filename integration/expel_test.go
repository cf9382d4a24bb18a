package integration

import (
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// TestKickedMemberIsRemoved: when a member is kicked from the room, the Delivery Service that hosts the group proposes the removal, and the
// next Commit carries it out: at the server that created the group, and at the one it moved to, which was given the right to propose.
func TestKickedMemberIsRemoved(t *testing.T) {
	servers := harness.StartServers(t, 2)
	p := newPairAt(t, servers[0], servers[1])
	p.kicked(t, "carol")
	do(t, p.bob, "migrate", harness.Args{"target": servers[1].Name}, nil)
	p.settle(t)
	p.kicked(t, "dave")
}

// kicked lets a member come and be kicked, and checks that the others' next Commit removes the leaf.
func (p *pair) kicked(t *testing.T, localpart string) {
	t.Helper()
	u := harness.RegisterUser(t, p.bob.User.Server, localpart, false)
	ctx := harness.Within(t)
	if err := p.bob.User.Invite(ctx, p.room, u.ID); err != nil {
		t.Fatal(err)
	}
	if err := u.Join(ctx, p.room, p.alice.User.Server.Name); err != nil {
		t.Fatal(err)
	}
	c := startClient(t, u)
	do(t, c, "publish_key_packages", harness.Args{"n": 1}, nil)
	do(t, p.bob, "add", harness.Args{"user": u.ID}, nil)
	do(t, c, "join", nil, nil)
	if err := p.alice.User.Kick(ctx, p.room, u.ID); err != nil {
		t.Fatal(err)
	}
	do(t, p.bob, "wait_for", harness.Args{"kind": "state", "pending_proposals": 1}, nil)
	do(t, p.bob, "update", nil, nil)
	p.settle(t)
	if st := state(t, p.alice); len(st.Members) != 2 {
		t.Errorf("there are %d members after %s was kicked", len(st.Members), localpart)
	}
}
