package integration

import (
	"errors"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// TestHostLeavesRoom: the last user of a group's host leaves the room. The host then accepts no messages. Its refusal
// says that the host has left, not that the member has. The members move the group away.
func TestHostLeavesRoom(t *testing.T)           { testHostLeavesRoom(t, harness.NewTestNetwork(t)) }
func TestHostLeavesRoomOnPostgres(t *testing.T) { testHostLeavesRoom(t, harness.NewPostgresNetwork(t)) }

func testHostLeavesRoom(t *testing.T, n *harness.TestNetwork) {
	g := newAwayOn(t, n)
	if err := g.admins[g.lost].Leave(harness.Within(t), g.Room); err != nil {
		t.Fatal(err)
	}
	err := g.bob.Do(harness.Within(t), "send", harness.Args{"text": "too late"}, nil)
	refusal, ok := errors.AsType[*harness.Error](err)
	if !ok || refusal.Code != "M_FORBIDDEN" || refusal.Fields["rule"] != "host-left-room" {
		t.Errorf("bob sends: %v", err)
	}
	harness.Do(t, g.alice, "sync", nil, nil) // members can still read the log
	g.Move(t, g.bob, g.b)
	g.RequireAt(t, g.b, 2)
	g.Talk(t)
	commit(t, g.alice, g.bob)
	g.RequireSettled(t)
}
