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

// TestGroupMovesOnPostgres: the module uses the same PostgreSQL database as its homeserver.
func TestGroupMovesOnPostgres(t *testing.T) {
	n := harness.NewPostgresNetwork(t).Network
	if err := scenario.Move(harness.Within(t), n, scenario.TypeScript, t.Log); err != nil {
		t.Fatal(err)
	}
}

// Profile, section 6: "Nothing signed leaves before its state is committed to the database; the worker that resumes
// after a crash is the one that runs every time." The test kills either server at any moment of a migration, and
// starts it again. Afterwards the group is at one of the two servers, and all members follow it there.
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
		// The test kills a server at another moment in each round.
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
		t.Error("no migration succeeded")
	}
}

// migrateHome moves the group to a member's homeserver in the background. It tries again while that homeserver is down.
// end waits for the outcome.
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
