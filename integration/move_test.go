package integration

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/party"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/scenario"
)

func TestGroupMovesAndComesBack(t *testing.T) {
	n := harness.NewTestNetwork(t).Network
	if err := scenario.Move(harness.Within(t), n, scenario.TypeScript, t.Log); err != nil {
		t.Fatal(err)
	}
}

// The module shares the one PostgreSQL database of each homeserver.
func TestGroupMovesOnPostgres(t *testing.T) {
	n := harness.NewPostgresNetwork(t).Network
	if err := scenario.Move(harness.Within(t), n, scenario.TypeScript, t.Log); err != nil {
		t.Fatal(err)
	}
}

// Profile, section 6: "Nothing signed leaves before its state is committed to the database; the worker that resumes
// after a crash is the one that runs every time." Either server is killed at any moment of a migration, and starts
// again: the group is at one of the two afterwards, and all members with it.
func TestCrashesWhileMoving(t *testing.T) {
	p := newPair(t)
	moved := 0
	for round := range 12 {
		at := p.RequireSettled(t)
		mover, other := p.alice, p.bob
		if at.DS == p.alice.User.Server.Name {
			mover, other = p.bob, p.alice
		}
		victim := mover // the target; else the source
		if round%2 == 1 {
			victim = other
		}
		end := migrateHome(t, mover)
		// Where in its work a server is then must not matter.
		harness.Wait(t.Context(), time.Duration(round/2)*20*time.Millisecond)
		restart(t, victim.User.Server)
		if out := end(); out.State == party.Moved {
			moved++
		} else {
			t.Logf("round %d: %+v", round, out)
		}
		p.Talk(t)
	}
	at := p.RequireSettled(t)
	if want := uint64(moved); at.Term != want {
		t.Errorf("after %d moves the term is %d", moved, at.Term)
	}
	if moved == 0 {
		t.Error("nothing has moved")
	}
}

// migrateHome has a member move the group to their homeserver, again and again while that is away. It returns before
// that has ended.
func migrateHome(t *testing.T, mover *harness.Client) (end func() party.Outcome) {
	return harness.Beside(t, func(ctx context.Context) (party.Outcome, error) {
		for {
			out, err := party.Migrate(ctx, mover, mover.User.Server.Name)
			var refused *harness.Error
			switch {
			case errors.As(err, &refused) || ctx.Err() != nil:
				return out, err
			case out.State != "":
				return out, nil
			}
			harness.Breathe(ctx)
		}
	})
}
