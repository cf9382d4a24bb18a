package proof_test

import (
	"crypto/sha256"
	"testing"

	"pgregory.net/rapid"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
)

// drawRival draws a step of the first term by one of three servers.
func drawRival(t *rapid.T, name string) *mimiport.LineageStep {
	kinds := []mimiport.StepKind{mimiport.StepMigration, mimiport.StepReclaim, mimiport.StepRecover, mimiport.StepRecover}
	kind := rapid.SampledFrom(kinds).Draw(t, name)
	if kind == mimiport.StepMigration {
		return &mimiport.LineageStep{Kind: kind}
	}
	claim := &mimiport.LineageClaim{
		Kind: kind, DomainName: rapid.SampledFrom(servers[:3]).Draw(t, name+" by"), GroupID: []byte("group"), Term: 1,
	}
	signed := signed(claim.DomainName, claim)
	return &mimiport.LineageStep{Kind: kind, Claim: &signed}
}

// TestOutranks: of two steps at most one comes first, and the same one for everybody. The step that the pointer names
// comes first, whatever the list of successors says. Otherwise the kind decides. Of two recovers the list decides.
func TestOutranks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawRival(t, "a"), drawRival(t, "b")
		list := rapid.Permutation(servers[:3]).Draw(t, "list")
		w := &proof.Word{Successors: list[:rapid.IntRange(0, 2).Draw(t, "length")]}
		named := rapid.SampledFrom([]*mimiport.LineageStep{nil, a, b}).Draw(t, "named")
		if named != nil && named.Claim != nil {
			sum := sha256.Sum256(named.Claim.Message)
			w.Claim = sum[:]
		}
		if w.Outranks(a, b) && w.Outranks(b, a) {
			t.Fatal("each comes before the other")
		}
		na, nb := proof.Names(w.Claim, a), proof.Names(w.Claim, b)
		switch {
		case na != nb:
			if w.Outranks(a, b) != na {
				t.Fatal("the pointer does not decide")
			}
		case a.Kind != b.Kind:
			if w.Outranks(a, b) != (a.Kind < b.Kind) {
				t.Fatal("the kind does not decide")
			}
		case a.Kind == mimiport.StepRecover && w.Lists(a) && !w.Lists(b):
			if !w.Outranks(a, b) {
				t.Fatal("a successor does not come before another server")
			}
		case a.Kind != mimiport.StepRecover && (w.Outranks(a, b) || w.Outranks(b, a)):
			t.Fatal("the list ranks more than recovers")
		}
	})
}

// TestPrefers: of two lineages that part everybody prefers the one in which the pointer names a claim, at any place.
// Otherwise their first steps decide. A migration without its target's vote does not count.
func TestPrefers(t *testing.T) {
	claim := func(term uint64) mimiport.LineageStep {
		signed := signed(servers[1], &mimiport.LineageClaim{
			Kind: mimiport.StepRecover, DomainName: servers[1], GroupID: []byte("group"), Term: term,
		})
		return mimiport.LineageStep{Kind: mimiport.StepRecover, Claim: &signed}
	}
	offered := mimiport.LineageStep{Kind: mimiport.StepMigration}
	voted := mimiport.LineageStep{Kind: mimiport.StepMigration, Vote: mimiport.SignedMessage{Message: []byte("vote")}}
	claims := []mimiport.LineageStep{claim(1), claim(2), claim(3)}
	silent := new(proof.Word)
	for _, c := range []struct {
		first mimiport.LineageStep
		want  bool
	}{{offered, false}, {voted, true}} {
		if silent.Prefers([]mimiport.LineageStep{c.first}, claims) != c.want {
			t.Errorf("a migration is preferred to a recover: %v", !c.want)
		}
	}
	if silent.Counts(claims) != 1 || silent.Counts(nil) != 0 || silent.Prefers(claims, nil) {
		t.Error("something counts that the pointer does not name")
	}
	for n := range claims {
		sum := sha256.Sum256(claims[n].Claim.Message)
		word := &proof.Word{Claim: sum[:]}
		if word.Counts(claims) != n+1 || !word.Prefers(claims, []mimiport.LineageStep{voted}) || !word.Prefers(claims, nil) {
			t.Errorf("the claim of term %d does not count", n+1)
		}
		if word.Prefers([]mimiport.LineageStep{voted}, claims) {
			t.Error("a lineage is preferred against the pointer")
		}
	}
}
