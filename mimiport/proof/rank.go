package proof

import (
	"bytes"
	"crypto/sha256"

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

// Outranks says whether everybody prefers a step to another one of the same term, where two lineages part: the step
// that the room's pointer names; else a migration; else a reclaim. Two recovers have no order of their own: the room
// must name one. named says whether the pointer names a step.
func Outranks(a, b *mimiport.LineageStep, named func(*mimiport.LineageStep) bool) bool {
	if na, nb := named(a), named(b); na != nb {
		return na
	}
	return a.Kind < b.Kind
}

// Names says whether a hash is the SHA-256 of a step's claim, by which a room's pointer names it.
func Names(hash []byte, step *mimiport.LineageStep) bool {
	if step.Kind == mimiport.StepMigration {
		return false
	}
	sum := sha256.Sum256(step.Claim.Message)
	return bytes.Equal(hash, sum[:])
}
