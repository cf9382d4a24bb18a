package proof

import (
	"bytes"
	"crypto/sha256"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// Hosts returns the servers that a lineage names as the group's hosts, by term. It verifies no signature. It returns a
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

// Parting returns the number of steps that two lineages of a group have in common. ok is false if they do not part,
// because one of them is the beginning of the other. Lineages of different creating servers part at 0.
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

// parts reports whether two lineages part.
func parts(a, b *mimiport.Lineage) bool {
	_, ok := Parting(a, b)
	return ok
}

// Before returns the steps of a lineage before the migration that began with an encoded MigrationResponse. It returns
// the whole lineage if the lineage has no such step.
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

// Word is the room's word on the server that has its group.
type Word struct {
	Claim      []byte   // SHA-256 of the claim that the pointer names, or nil
	Successors []string // the servers that the room lists as successors, the preferred one first
}

// Outranks compares the two steps with which two lineages part. It reports whether everybody prefers the first. The
// step that the room's pointer names comes first, then a migration, then a reclaim, then the recover of the successor
// listed first. Other recovers have no order: the room must name one.
func (w *Word) Outranks(a, b *mimiport.LineageStep) bool {
	if na, nb := Names(w.Claim, a), Names(w.Claim, b); na != nb {
		return na
	}
	if a.Kind != b.Kind {
		return a.Kind < b.Kind
	}
	return w.place(a) < w.place(b)
}

// Counts returns how many of the successive steps of a lineage count together: the steps up to the last claim that the
// pointer names, or only the first step if it names none. It returns 0 for no steps.
func (w *Word) Counts(steps []mimiport.LineageStep) int {
	for n := len(steps); n > 0; n-- {
		if Names(w.Claim, &steps[n-1]) {
			return n
		}
	}
	return min(1, len(steps))
}

// NamesAny reports whether the pointer names one of the steps.
func (w *Word) NamesAny(steps []mimiport.LineageStep) bool {
	return slices.ContainsFunc(steps, func(s mimiport.LineageStep) bool { return Names(w.Claim, &s) })
}

// Prefers compares two lineages that part: one goes on with the steps a, the other with the steps b. It reports whether
// everybody prefers the first. Everybody prefers the lineage in which the pointer names a claim. If it names none, the
// lineage whose first step Outranks the other is preferred. A migration counts only with its target's vote: an offer
// promises nothing.
func (w *Word) Prefers(a, b []mimiport.LineageStep) bool {
	if na, nb := w.NamesAny(a), w.NamesAny(b); na != nb || len(b) == 0 {
		return na
	}
	if a[0].Kind == mimiport.StepMigration && a[0].Vote.Message == nil {
		return false
	}
	return w.Outranks(&a[0], &b[0])
}

// Lists reports whether a step is the recover of a successor.
func (w *Word) Lists(step *mimiport.LineageStep) bool { return w.place(step) < len(w.Successors) }

// place returns the index of a recover's server in the list. It returns the length of the list for any other step or
// server.
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

// Names reports whether a hash is the SHA-256 of a step's claim. A room's pointer names a claim by this hash.
func Names(hash []byte, step *mimiport.LineageStep) bool {
	if step.Kind == mimiport.StepMigration {
		return false
	}
	sum := sha256.Sum256(step.Claim.Message)
	return bytes.Equal(hash, sum[:])
}
