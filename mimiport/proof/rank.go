package proof

import (
	"bytes"
	"crypto/sha256"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// Hosts are the servers that a lineage names as the group's hosts, by term. It looks at no signature. It returns a
// KindBadMessage error for a step that does not decode.
func Hosts(l *mimiport.Lineage) ([]string, error) {
	hosts := []string{l.CreatingServer}
	for i := range l.Steps {
		step := &l.Steps[i]
		if step.Kind != mimiport.StepMigration {
			claim, err := mimiport.UnmarshalLineageClaim(step.Claim.Message)
			if err != nil {
				return nil, err
			}
			hosts = append(hosts, claim.DomainName)
			continue
		}
		offer, err := mimiport.UnmarshalMigrationResponse(step.Response.Message)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, offer.Request.TargetDomain)
	}
	return hosts, nil
}

// Parting is the number of steps that two lineages of a group have in common, which is where they part; ok is false
// where they do not: one of them is the beginning of the other. Lineages of different creating servers part at 0.
func Parting(a, b *mimiport.Lineage) (at int, ok bool) {
	if a.CreatingServer != b.CreatingServer {
		return 0, true
	}
	for i := range min(len(a.Steps), len(b.Steps)) {
		if !sameStep(&a.Steps[i], &b.Steps[i]) {
			return i, true
		}
	}
	return 0, false
}

// parts says whether two lineages part.
func parts(a, b *mimiport.Lineage) bool {
	_, ok := Parting(a, b)
	return ok
}

// Before is the beginning of a lineage that leads to the migration which began with an encoded MigrationResponse: the
// whole lineage where it has no such step.
func Before(l *mimiport.Lineage, offer []byte) *mimiport.Lineage {
	before := *l
	for i := range l.Steps {
		if ByOffer(&l.Steps[i], offer) {
			before.Steps = l.Steps[:i]
			break
		}
	}
	return &before
}

// Word is the room's word on who has its group.
type Word struct {
	Claim      []byte   // SHA-256 of the claim that the pointer names, nil for none
	Successors []string // that the room has agreed on and that may have the group, the first before the others
}

// Outranks says whether everybody prefers a step to another one of the same term, where two lineages part: the step
// that the room's pointer names; else a migration; else a reclaim; else the recover of the successor listed first.
// Other recovers have no order of their own: the room must name one.
func (w *Word) Outranks(a, b *mimiport.LineageStep) bool {
	if na, nb := Names(w.Claim, a), Names(w.Claim, b); na != nb {
		return na
	}
	if a.Kind != b.Kind {
		return a.Kind < b.Kind
	}
	return w.place(a) < w.place(b)
}

// Counts is how many of the successive steps of a lineage count together: those up to the last claim that the pointer
// names, or else the first one. It is 0 for no steps.
func (w *Word) Counts(steps []mimiport.LineageStep) int {
	for n := len(steps); n > 0; n-- {
		if Names(w.Claim, &steps[n-1]) {
			return n
		}
	}
	return min(1, len(steps))
}

// NamesAny says whether the pointer names one of the steps.
func (w *Word) NamesAny(steps []mimiport.LineageStep) bool {
	return slices.ContainsFunc(steps, func(s mimiport.LineageStep) bool { return Names(w.Claim, &s) })
}

// Prefers says whether everybody prefers a lineage that goes on with the steps a, where it parts from another, to
// that one, which goes on with b: the lineage in which the pointer names a claim, or else that whose first step
// Outranks the other. A migration counts only with the vote of its target for it: an offer promises nothing.
func (w *Word) Prefers(a, b []mimiport.LineageStep) bool {
	if na, nb := w.NamesAny(a), w.NamesAny(b); na != nb || len(b) == 0 {
		return na
	}
	if a[0].Kind == mimiport.StepMigration && a[0].Vote.Message == nil {
		return false
	}
	return w.Outranks(&a[0], &b[0])
}

// Lists says whether a step is the recover of a successor.
func (w *Word) Lists(step *mimiport.LineageStep) bool { return w.place(step) < len(w.Successors) }

// place is where the list has the server that a recover is by; its end for any other step or server.
func (w *Word) place(step *mimiport.LineageStep) int {
	if step.Kind != mimiport.StepRecover {
		return len(w.Successors)
	}
	claim, err := mimiport.UnmarshalLineageClaim(step.Claim.Message)
	if err != nil {
		return len(w.Successors)
	}
	if i := slices.Index(w.Successors, claim.DomainName); i >= 0 {
		return i
	}
	return len(w.Successors)
}

// Names says whether a hash is the SHA-256 of a step's claim, by which a room's pointer names it.
func Names(hash []byte, step *mimiport.LineageStep) bool {
	if step.Kind == mimiport.StepMigration {
		return false
	}
	sum := sha256.Sum256(step.Claim.Message)
	return bytes.Equal(hash, sum[:])
}
