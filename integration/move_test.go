package integration

import (
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/scenario"
)

func TestGroupMovesAndComesBack(t *testing.T) {
	if err := scenario.Move(harness.Within(t), harness.NewTestNetwork(t).Network, scenario.TypeScript, func(line string) { t.Log(line) }); err != nil {
		t.Fatal(err)
	}
}

// Profile, section 6: "Nothing signed leaves before its state is committed to the database; the worker that resumes after a crash
// is the one that runs every time." Either server is killed at any moment of a migration, and starts again: the group is at one
// of the two afterwards, and all members with it.
func TestCrashesWhileMoving(t *testing.T) {
	p := newPair(t)
	moved := 0
	for round := range 12 {
		ds := p.settle(t)
		mover, other := p.alice, p.bob
		if ds.DS == p.alice.User.Server.Name {
			mover, other = p.bob, p.alice
		}
		victim := mover // the target; else the source
		if round%2 == 1 {
			victim = other
		}
		end := p.migrate(t, mover)
		after(t, time.Duration(round/2)*20*time.Millisecond)
		restart(t, victim.User.Server)
		if out := end(t); out.State == "moved" {
			moved++
		} else {
			t.Logf("round %d: %+v", round, out)
		}
		p.talk(t)
	}
	ds := p.settle(t)
	if want := uint64(moved); ds.Term != want {
		t.Errorf("after %d moves the term is %d", moved, ds.Term)
	}
	if moved == 0 {
		t.Error("nothing has moved")
	}
}
