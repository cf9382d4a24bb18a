package integration

import (
	"context"
	"errors"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// TestFollowsByTargetAlone: a member is away while others commit and the group moves. Then the former host is lost. The
// member catches up from the present host only, and the group goes on (profile, section 6, "What members do").
func TestFollowsByTargetAlone(t *testing.T) {
	g := newAway(t)
	harness.WhileDown(t, g.a, func() error {
		for range 3 {
			harness.Do(t, g.bob, "update", nil, nil)
		}
		g.Move(t, g.bob, g.b)
		harness.Do(t, g.bob, "update", nil, nil)
		return g.lost.Kill()
	})
	if alice := harness.State(t, g.alice); alice.DS != g.lost.Name || alice.Term != 1 {
		t.Fatalf("alice is at %s in term %d before she is back", alice.DS, alice.Term)
	}
	followed := errors.New("alice has not followed yet")
	err := harness.Poll(harness.Within(t), func(ctx context.Context) error {
		// Dendrite sends nothing to a server that was down, until that server sends something.
		if _, err := g.alice.User.Send(ctx, g.Room, "io.github.mimiport.test.back", struct{}{}); err != nil {
			return err
		}
		if st, err := g.alice.State(ctx); err != nil || st.Term != 2 {
			return errors.Join(err, followed)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	g.RequireAt(t, g.b, 2)
	g.requireGoesOn(t, g.a, 3)
}
