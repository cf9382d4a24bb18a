package proof_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof/prooftest"
)

func expectLineageError(t rapid.TB, err error, text string) {
	t.Helper()
	var e *mimiport.Error
	if !errors.As(err, &e) || e.Kind != mimiport.KindInvalid || e.Info.Rule != "lineage" ||
		!strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want an error about the lineage with %q", err, text)
	}
}

// TestDecision: a decision must name its offer's target, nonce and group.
func TestDecision(t *testing.T) {
	offer, decision := newChain("a.example").Offer("b.example", 3)
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

// TestLineageHolds: a chain verifies if each step is signed and leads on from the step before. The chain ends where the
// last step leads.
func TestLineageHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawChain(t)
		end, err := proof.Lineage(t.Context(), online(), c.ID, &c.Lineage, proof.Rules{})
		if err != nil || end.Server != c.Host || end.Term != c.Lineage.Term() || end.Epoch != c.Epoch {
			t.Fatalf("got %+v, %v, want %s at epoch %d", end, err, c.Host, c.Epoch)
		}
	})
}

// TestLineageWithoutSignature: a chain fails if a signature is missing or another server's.
func TestLineageWithoutSignature(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawChain(t)
		drawStep(t, c)
		step := &c.Lineage.Steps[rapid.IntRange(0, len(c.Lineage.Steps)-1).Draw(t, "step")]
		broken := step.Claim
		if step.Kind == mimiport.StepMigration {
			broken = rapid.SampledFrom([]*mimiport.SignedMessage{&step.Response, &step.Confirmation}).Draw(t, "message")
		}
		broken.Message[len(broken.Message)-1] ^= 1
		_, err := proof.Lineage(t.Context(), online(), c.ID, &c.Lineage, proof.Rules{})
		expectLineageError(t, err, "signature")
	})
}

// TestBrokenChains: a signed step that does not lead on breaks a chain.
func TestBrokenChains(t *testing.T) {
	const a, b, c = "a.example", "b.example", "c.example:8448"
	// Each chain goes from a to b at epoch 5 before it breaks.
	for name, tt := range map[string]struct {
		breaks func(*chain)
		text   string
	}{
		"a step from another host":   {func(ch *chain) { ch.Host = a; ch.Migrate(c, 9) }, "does not start where"},
		"a step of an earlier epoch": {func(ch *chain) { ch.Migrate(a, 4) }, "do not rise"},
		"a step of the same epoch":   {func(ch *chain) { ch.Migrate(a, 4) }, "do not rise"},
		"a step of another group":    {func(ch *chain) { ch.ID = []byte("other"); ch.Migrate(a, 9) }, "another group"},
		"a decision on another offer": {func(ch *chain) {
			ch.Migrate(a, 9)
			offer, _ := ch.Offer(c, 9)
			ch.Lineage.Steps[1].Response = signed(c, offer)
		}, "another migration"},
		"a reclaim by a third": {func(ch *chain) { ch.Claim(mimiport.StepReclaim, c, 9) }, "only the host"},
		"a claim of another term": {func(ch *chain) {
			ch.Claim(mimiport.StepRecover, c, 9)
			ch.Claim(mimiport.StepRecover, c, 9)
			ch.Lineage.Steps = append(ch.Lineage.Steps[:1], ch.Lineage.Steps[2])
		}, "another step"},
		"a claim of another kind": {func(ch *chain) {
			ch.Claim(mimiport.StepRecover, c, 9)
			ch.Lineage.Steps[1].Kind = mimiport.StepReclaim
		}, "another step"},
		"a claim on another group": {func(ch *chain) {
			ch.ID = []byte("other")
			ch.Claim(mimiport.StepRecover, c, 9)
		}, "another step"},
		"a claim of an earlier epoch": {func(ch *chain) { ch.Claim(mimiport.StepRecover, c, 5) }, "do not rise"},
		"a reclaim by nobody":         {func(ch *chain) { ch.Claim(mimiport.StepReclaim, "", 9) }, "server name"},
		"a recover by no server": {func(ch *chain) { ch.Claim(mimiport.StepRecover, "user@c.example", 9) },
			"server name"},
		"a move to no server": {func(ch *chain) { ch.Migrate("", 9) }, "target_domain_name"},
		"a move to itself":    {func(ch *chain) { ch.Migrate(b, 9) }, "the source is the target"},
		"an earlier step's nonce": {func(ch *chain) {
			ch.Migrate(a, 9)
			offer, decision := ch.Offer(b, 20)
			offer.Nonce = must(mimiport.UnmarshalMigrationResponse(ch.Lineage.Steps[0].Response.Message)).Nonce
			decision.Nonce = offer.Nonce
			ch.Lineage.Steps = append(ch.Lineage.Steps, mimiport.LineageStep{
				Kind: mimiport.StepMigration, Response: signed(b, offer), Confirmation: signed(a, decision),
			})
		}, "nonce"},
		"a creator that is no server": {func(ch *chain) {
			ch.Lineage.CreatingServer, ch.Lineage.Preimage = "", nil
		}, "creating server"},
		"a claim without a claim": {func(ch *chain) {
			ch.Claim(mimiport.StepRecover, c, 9)
			ch.Lineage.Steps[1].Claim.Message = nil
		}, "LineageClaim"},
		"an offer that is none": {func(ch *chain) {
			ch.Migrate(a, 9)
			ch.Lineage.Steps[1].Response.Message = nil
		}, "MigrationResponse"},
		"a decision that is none": {func(ch *chain) {
			ch.Migrate(a, 9)
			ch.Lineage.Steps[1].Confirmation.Message = nil
		}, "MigrationConfirmation"},
		"another creator": {func(ch *chain) {
			ch.Lineage.CreatingServer, ch.Lineage.Preimage = c, nil
		}, "does not start where"},
		"another id's preimage": {func(ch *chain) { ch.Lineage.Preimage.Nonce[0] ^= 1 }, "preimage"},
	} {
		t.Run(name, func(t *testing.T) {
			ch := newChain(a)
			ch.Migrate(b, 5)
			id := ch.ID
			tt.breaks(ch)
			_, err := proof.Lineage(t.Context(), online(), id, &ch.Lineage, proof.Rules{})
			expectLineageError(t, err, tt.text)
		})
	}
}

// TestFirstReclaim: a group has no former host in terms 0 and 1. The host itself reclaims a stopped group.
func TestFirstReclaim(t *testing.T) {
	for server, text := range map[string]string{"": "server name", "b.example": "only the host"} {
		c := newChain("a.example")
		c.Claim(mimiport.StepReclaim, server, 3)
		_, err := proof.Lineage(t.Context(), online(), c.ID, &c.Lineage, proof.Rules{})
		expectLineageError(t, err, text)
	}
	c := newChain("a.example")
	c.Claim(mimiport.StepReclaim, "a.example", 3)
	if _, err := proof.Lineage(t.Context(), online(), c.ID, &c.Lineage, proof.Rules{}); err != nil {
		t.Error(err)
	}
}

// TestLongChain: Lineage refuses a chain of more than 1000 steps without looking at it.
func TestLongChain(t *testing.T) {
	c := newChain("a.example")
	for range 1001 {
		c.Claim(mimiport.StepRecover, "b.example", 1)
	}
	k := online()
	_, err := proof.Lineage(t.Context(), k, c.ID, &c.Lineage, proof.Rules{})
	expectLineageError(t, err, "more than 1000 steps")
	if asked := k.Asked(); len(asked) > 0 {
		t.Errorf("%v were asked for keys", asked)
	}
	c.Lineage.Steps = c.Lineage.Steps[:1000]
	if _, err := proof.Lineage(t.Context(), k, c.ID, &c.Lineage, proof.Rules{}); err != nil {
		t.Error(err)
	}
	if asked := k.Asked(); len(asked) != 1 {
		t.Errorf("%v were asked for keys", asked)
	}
}

// TestRecorded: Lineage verifies only the steps after the recorded ones. The recorded steps must be the beginning.
func TestRecorded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawChain(t)
		recorded := c.Lineage
		steps := len(recorded.Steps)
		drawStep(t, c)
		k := online()
		if _, err := proof.Lineage(t.Context(), k, c.ID, &c.Lineage, proof.Rules{Recorded: &recorded}); err != nil {
			t.Fatal(err)
		}
		want := []string{c.Host}
		if c.Lineage.Steps[steps].Kind == mimiport.StepMigration {
			want = append(want, c.Before)
		}
		if asked := k.Asked(); !slices.Equal(slices.Sorted(slices.Values(asked)), slices.Sorted(slices.Values(want))) {
			t.Errorf("%v were asked for keys, want %v", asked, want)
		}
		if !proof.Begins(&recorded, &c.Lineage) || proof.Begins(&c.Lineage, &recorded) {
			t.Error("the recorded lineage is not the beginning of the longer one, or the other way round")
		}
		k = &prooftest.Keys{}
		if _, err := proof.Lineage(t.Context(), k, c.ID, &recorded, proof.Rules{Recorded: &c.Lineage}); err != nil {
			t.Errorf("less than what is recorded: %v", err)
		}
	})
}

// TestAnotherBranch: Lineage refuses a chain that parts from the recorded one before it asks any server for keys.
func TestAnotherBranch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		common := drawChain(t)
		branch := func() *chain {
			c := *common
			c.Lineage.Steps = slices.Clone(common.Lineage.Steps)
			drawStep(t, &c)
			return &c
		}
		a, b := branch(), branch()
		last := len(common.Lineage.Steps)
		if string(must(a.Lineage.Steps[last].Marshal())) == string(must(b.Lineage.Steps[last].Marshal())) {
			t.Skip("the same step")
		}
		k := online()
		_, err := proof.Lineage(t.Context(), k, a.ID, &b.Lineage, proof.Rules{Recorded: &a.Lineage})
		expectLineageError(t, err, "not the lineage known here")
		if asked := k.Asked(); len(asked) > 0 {
			t.Errorf("%v were asked for keys", asked)
		}
	})
}

// TestSignedAgain: a decision that was signed again with a newer key leaves the step the same. Lineage verifies the new
// signature and keeps the recorded one.
func TestSignedAgain(t *testing.T) {
	c := newChain("a.example")
	c.Migrate("b.example", 3)
	again := copied(t, &c.Lineage)
	newer := prooftest.Pair{ID: "ed25519:2", Key: keyOf("a newer key"), Until: time.UnixMilli(1e12)}
	_, decision := newChain("a.example").Offer("b.example", 3)
	if err := mimiport.Sign(decision, newer.Key); err != nil {
		t.Fatal(err)
	}
	again.Steps[0].Confirmation = mimiport.SignedMessage{Message: must(decision.Marshal()), KeyID: newer.ID}
	k := online()
	_, err := proof.Lineage(t.Context(), k, c.ID, again, proof.Rules{Recorded: &c.Lineage})
	expectLineageError(t, err, "no key")
	k.Published["a.example"] = prooftest.KeyObject("a.example", newer)
	got, err := proof.Lineage(t.Context(), k, c.ID, again, proof.Rules{Recorded: &c.Lineage})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(must(got.Lineage.Marshal()), must(c.Lineage.Marshal())) {
		t.Error("what was recorded is not what is to be stored")
	}
}

// TestByOffer: the offer that a step began with identifies the step.
func TestByOffer(t *testing.T) {
	c := newChain("a.example")
	c.Migrate("b.example", 3)
	c.Claim(mimiport.StepRecover, "c.example:8448", 9)
	migration, claim := &c.Lineage.Steps[0], &c.Lineage.Steps[1]
	if !proof.ByOffer(migration, migration.Response.Message) || proof.ByOffer(migration, claim.Claim.Message) ||
		proof.ByOffer(claim, nil) {
		t.Error("a step is taken for another")
	}
}
