package integration

import (
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// TestMemberLeavesAndGroupIsReset: a member leaves by a SelfRemove, which another member commits. Then a member closes
// the group, and its members join the room's next group.
func TestMemberLeavesAndGroupIsReset(t *testing.T) {
	p := newPair(t)
	former := harness.Args{"group": p.Group}
	harness.Do(t, p.bob, "leave", nil, nil)
	harness.Do(t, p.alice, "wait_for", harness.Args{"kind": "state", "pending_proposals": 1}, nil)
	harness.Do(t, p.alice, "update", nil, nil)
	harness.Do(t, p.bob, "wait_for", harness.Args{"kind": "removed"}, nil)
	if members := harness.State(t, p.alice).Members; len(members) != 1 {
		t.Fatalf("there are %d members after bob has left", len(members))
	}
	harness.Do(t, p.bob, "publish_key_packages", nil, nil)
	harness.Do(t, p.alice, "add", harness.Args{"user": p.bob.User.ID}, nil)
	harness.Do(t, p.bob, "wait_for", harness.Args{"kind": "joined"}, nil)

	harness.Do(t, p.bob, "publish_key_packages", nil, nil)
	harness.Do(t, p.alice, "close", nil, nil)
	err := p.bob.Do(harness.Within(t), "send", harness.Args{"text": "too late"}, nil)
	harness.RequireRefused(t, err, prefix+"M_GROUP_CLOSED")
	var next harness.GroupState
	harness.Do(t, p.alice, "reset", former, &next)
	harness.Do(t, p.bob, "wait_for", harness.Args{"kind": "joined", "group": next.Group}, nil)
	harness.Do(t, p.alice, "send", harness.Args{"group": next.Group, "text": "here we are"}, nil)
	harness.Do(t, p.bob, "wait_for", harness.Args{"kind": "message", "text": "here we are"}, nil)
	var members []struct {
		User     string `json:"user"`
		Verified string `json:"verified"`
	}
	harness.Do(t, p.alice, "members", harness.Args{"group": next.Group}, &members)
	for _, m := range members {
		if m.Verified != "key" {
			t.Errorf("the leaf of %s is %s", m.User, m.Verified)
		}
	}
	if len(members) != 2 {
		t.Errorf("the next group has %d members", len(members))
	}
}
