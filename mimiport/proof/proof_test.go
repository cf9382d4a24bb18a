package proof_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
)

func expectLineageError(t rapid.TB, err error, text string) {
	t.Helper()
	var e *mimiport.Error
	if !errors.As(err, &e) || e.Kind != mimiport.KindInvalid || e.Info.Rule != "lineage" || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want an error about the lineage with %q", err, text)
	}
}

// TestDecision: a decision is for one offer's target, nonce and group.
func TestDecision(t *testing.T) {
	offer, decision := newChain("a.example").move("b.example", 3)
	if _, err := proof.Decision(offer, must(decision.Marshal())); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*mimiport.MigrationConfirmation){
		"another target": func(c *mimiport.MigrationConfirmation) { c.DomainName = "a.example" },
		"another nonce":  func(c *mimiport.MigrationConfirmation) { c.Nonce[31] ^= 1 },
		"another group":  func(c *mimiport.MigrationConfirmation) { c.GroupID = c.GroupID[1:] },
	} {
		other := *decision
		change(&other)
		if _, err := proof.Decision(offer, must(other.Marshal())); mimiport.KindOf(err) != mimiport.KindInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := proof.Decision(offer, []byte("none")); mimiport.KindOf(err) != mimiport.KindBadMessage {
		t.Errorf("not a decision: %v", err)
	}
}

// TestLineageHolds: a chain in which each step leads on from the one before and is signed holds, and ends where the last step leads.
func TestLineageHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawChain(t)
		end, err := proof.Lineage(t.Context(), &keys{}, c.id, nil, &c.lineage)
		if err != nil || end.Host != c.host || end.Epoch != c.epoch {
			t.Fatalf("got %+v, %v, want %s at epoch %d", end, err, c.host, c.epoch)
		}
	})
}

// TestLineageWithoutSignature: no signature of a chain may be missing or another server's.
func TestLineageWithoutSignature(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawChain(t)
		drawStep(t, c)
		step := &c.lineage.Steps[rapid.IntRange(0, len(c.lineage.Steps)-1).Draw(t, "step")]
		broken := step.Claim
		if step.Kind == mimiport.StepMigration {
			broken = rapid.SampledFrom([]*mimiport.SignedMessage{&step.Response, &step.Confirmation}).Draw(t, "message")
		}
		broken.Message[len(broken.Message)-1] ^= 1
		_, err := proof.Lineage(t.Context(), &keys{}, c.id, nil, &c.lineage)
		expectLineageError(t, err, "signature")
	})
}

// TestBrokenChains: whatever does not lead on, although it is signed, breaks a chain.
func TestBrokenChains(t *testing.T) {
	const a, b, c = "a.example", "b.example", "c.example:8448"
	// Each chain goes from a to b at epoch 5 before it breaks.
	for name, tt := range map[string]struct {
		breaks func(*chain)
		text   string
	}{
		"a step from another host":   {func(ch *chain) { ch.host = a; ch.migrates(c, 9) }, "does not start where"},
		"a step of an earlier epoch": {func(ch *chain) { ch.migrates(a, 4) }, "do not rise"},
		"a step of the same epoch":   {func(ch *chain) { ch.migrates(a, 4) }, "do not rise"},
		"a step of another group":    {func(ch *chain) { ch.id = []byte("other"); ch.migrates(a, 9) }, "another group"},
		"a decision on another offer": {func(ch *chain) {
			ch.migrates(a, 9)
			offer, _ := ch.move(c, 9)
			ch.lineage.Steps[1].Response = signed(c, offer)
		}, "another migration"},
		"a reclaim by a third": {func(ch *chain) { ch.claimed(mimiport.StepReclaim, c, 9) }, "only the host"},
		"a claim of another term": {func(ch *chain) {
			ch.claimed(mimiport.StepRecover, c, 9)
			ch.claimed(mimiport.StepRecover, c, 9)
			ch.lineage.Steps = append(ch.lineage.Steps[:1], ch.lineage.Steps[2])
		}, "another step"},
		"a claim of another kind": {func(ch *chain) {
			ch.claimed(mimiport.StepRecover, c, 9)
			ch.lineage.Steps[1].Kind = mimiport.StepReclaim
		}, "another step"},
		"a claim on another group":    {func(ch *chain) { ch.id = []byte("other"); ch.claimed(mimiport.StepRecover, c, 9) }, "another step"},
		"a claim of an earlier epoch": {func(ch *chain) { ch.claimed(mimiport.StepRecover, c, 5) }, "do not rise"},
		"a claim without a claim":     {func(ch *chain) { ch.claimed(mimiport.StepRecover, c, 9); ch.lineage.Steps[1].Claim.Message = nil }, "LineageClaim"},
		"an offer that is none":       {func(ch *chain) { ch.migrates(a, 9); ch.lineage.Steps[1].Response.Message = nil }, "MigrationResponse"},
		"a decision that is none":     {func(ch *chain) { ch.migrates(a, 9); ch.lineage.Steps[1].Confirmation.Message = nil }, "MigrationConfirmation"},
		"another creator":             {func(ch *chain) { ch.lineage.CreatingServer = c; ch.lineage.Preimage = nil }, "does not start where"},
		"another id's preimage":       {func(ch *chain) { ch.lineage.Preimage.Nonce[0] ^= 1 }, "preimage"},
	} {
		t.Run(name, func(t *testing.T) {
			ch := newChain(a)
			ch.migrates(b, 5)
			id := ch.id
			tt.breaks(ch)
			_, err := proof.Lineage(t.Context(), &keys{}, id, nil, &ch.lineage)
			expectLineageError(t, err, tt.text)
		})
	}
}

// TestLongChain: a chain of more than 1000 steps is not looked at.
func TestLongChain(t *testing.T) {
	c := newChain("a.example")
	for range 1001 {
		c.claimed(mimiport.StepRecover, "b.example", 1)
	}
	k := &keys{}
	_, err := proof.Lineage(t.Context(), k, c.id, nil, &c.lineage)
	expectLineageError(t, err, "more than 1000 steps")
	c.lineage.Steps = c.lineage.Steps[:1000]
	if k.asked > 0 {
		t.Errorf("%d signatures of it were verified", k.asked)
	}
	if _, err := proof.Lineage(t.Context(), k, c.id, nil, &c.lineage); err != nil {
		t.Error(err)
	}
}

// TestRecorded: only the steps beyond what is recorded are verified, and what is recorded is the beginning.
func TestRecorded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawChain(t)
		recorded := c.lineage
		steps := len(recorded.Steps)
		drawStep(t, c)
		k := &keys{}
		if _, err := proof.Lineage(t.Context(), k, c.id, &recorded, &c.lineage); err != nil {
			t.Fatal(err)
		}
		added := c.lineage.Steps[steps]
		if want := map[bool]int{true: 2, false: 1}[added.Kind == mimiport.StepMigration]; k.asked != want {
			t.Errorf("%d signatures verified for one new step, want %d", k.asked, want)
		}
		if !proof.Begins(&recorded, &c.lineage) || proof.Begins(&c.lineage, &recorded) {
			t.Error("the recorded lineage is not the beginning of the longer one, or the other way round")
		}
		if _, err := proof.Lineage(t.Context(), k, c.id, &c.lineage, &recorded); err != nil {
			t.Errorf("less than what is recorded: %v", err)
		}
	})
}

// TestAnotherBranch: a chain that parts from the recorded one is refused before any signature is looked at.
func TestAnotherBranch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		common := drawChain(t)
		branch := func() *chain {
			c := *common
			c.lineage.Steps = append([]mimiport.LineageStep(nil), common.lineage.Steps...)
			drawStep(t, &c)
			return &c
		}
		a, b := branch(), branch()
		last := len(common.lineage.Steps)
		if string(must(a.lineage.Steps[last].Marshal())) == string(must(b.lineage.Steps[last].Marshal())) {
			t.Skip("the same step")
		}
		k := &keys{}
		_, err := proof.Lineage(t.Context(), k, a.id, &a.lineage, &b.lineage)
		expectLineageError(t, err, "not the lineage known here")
		if k.asked > 0 {
			t.Error("its signatures were verified")
		}
	})
}

// TestSignedAgain: a signature that was made again with a newer key leaves the step the same, and is verified.
func TestSignedAgain(t *testing.T) {
	c := newChain("a.example")
	c.migrates("b.example", 3)
	again := copied(t, &c.lineage)
	again.Steps[0].Confirmation.KeyID = keyID + " again"
	k := &keys{}
	if _, err := proof.Lineage(t.Context(), k, c.id, &c.lineage, again); err != nil || k.asked != 1 {
		t.Errorf("%d signatures verified: %v", k.asked, err)
	}
	again.Steps[0].Confirmation.KeyID = "ed25519:invented"
	_, err := proof.Lineage(t.Context(), k, c.id, &c.lineage, again)
	expectLineageError(t, err, "no key")
}

// TestByOffer: a step is told by the offer that it began with.
func TestByOffer(t *testing.T) {
	c := newChain("a.example")
	c.migrates("b.example", 3)
	c.claimed(mimiport.StepRecover, "c.example:8448", 9)
	migration, claim := &c.lineage.Steps[0], &c.lineage.Steps[1]
	if !proof.ByOffer(migration, migration.Response.Message) || proof.ByOffer(migration, claim.Claim.Message) || proof.ByOffer(claim, nil) {
		t.Error("a step is taken for another")
	}
}
