package proof

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// maxSteps is the largest number of steps of a lineage.
const maxSteps = 1000

// requireBeginning fails unless the recorded and the shown lineage of a group agree as far as both go. It also fails if
// the shown lineage lacks the preimage of an id that is known to have one. If two lineages part, the recorded lineage
// stands, unless Prefers says otherwise.
func requireBeginning(groupID []byte, recorded, l *mimiport.Lineage, hashed bool) error {
	switch {
	case l.Preimage == nil && (hashed || recorded.Preimage != nil):
		return Errorf(groupID, "the preimage of the group id is missing")
	case parts(recorded, l):
		return Errorf(groupID, "it is not the lineage known here")
	}
	return nil
}

// Begins reports whether one lineage is the beginning of another.
func Begins(recorded, l *mimiport.Lineage) bool {
	return len(recorded.Steps) <= len(l.Steps) && !parts(recorded, l)
}

// sameStep reports whether two proofs are of the same step, byte for byte. If the source signs its decision again with
// a newer key, the step stays the same.
func sameStep(a, b *mimiport.LineageStep) bool {
	if a.Kind != b.Kind {
		return false
	}
	if a.Kind != mimiport.StepMigration {
		return bytes.Equal(a.Claim.Message, b.Claim.Message)
	}
	return ByOffer(b, a.Response.Message)
}

// ByOffer reports whether a step is the migration that began with an encoded MigrationResponse.
func ByOffer(step *mimiport.LineageStep, offer []byte) bool {
	return step.Kind == mimiport.StepMigration && bytes.Equal(step.Response.Message, offer)
}

// follow checks the steps of a lineage without their signatures. It returns the signatures that must verify.
func follow(groupID []byte, l *mimiport.Lineage) (*walk, []*signature, error) {
	if len(l.Steps) > maxSteps {
		return nil, nil, Errorf(groupID, "more than %d steps", maxSteps)
	}
	if l.Preimage != nil && !bytes.Equal(l.Preimage.GroupID(), groupID) {
		return nil, nil, Errorf(groupID, "the preimage is not the group id's")
	}
	if err := mimiport.ValidateServerName(l.CreatingServer); err != nil {
		return nil, nil, Errorf(groupID, "the creating server: %w", err)
	}
	w := &walk{groupID: groupID, Place: Place{Server: l.CreatingServer}, nonces: make(map[mimiport.Nonce]bool)}
	for i := range l.Steps {
		if err := w.step(&l.Steps[i]); err != nil {
			return nil, nil, Errorf(groupID, "step %d: %w", i+1, err)
		}
	}
	return w, w.signatures, nil
}

// walk is the state of a check along a lineage.
type walk struct {
	groupID    []byte
	Place             // the present host and term
	before     string // the host of the term before, if there is one
	epoch      uint64 // the first epoch of the term
	nonces     map[mimiport.Nonce]bool
	signatures []*signature
}

// step takes one step.
func (w *walk) step(step *mimiport.LineageStep) error {
	if step.Kind == mimiport.StepMigration {
		return w.migration(step)
	}
	return w.claim(step)
}

// migration takes the step of an offer and the decision on it.
func (w *walk) migration(step *mimiport.LineageStep) error {
	offer, err := mimiport.UnmarshalMigrationResponse(step.Response.Message)
	if err != nil {
		return err
	}
	r := &offer.Request
	if err := r.Validate(); err != nil {
		return err
	}
	decision, err := Decision(offer, step.Confirmation.Message)
	if err != nil {
		return err
	}
	switch {
	case r.SourceDomain != w.Server:
		return errors.New("it does not start where the one before ends")
	case !bytes.Equal(r.GroupID, w.groupID):
		return errors.New("it is of another group")
	case w.nonces[offer.Nonce]:
		return errors.New("an earlier step has its nonce")
	case r.Epoch < w.epoch:
		return errNotRising
	}
	w.nonces[offer.Nonce] = true
	w.to(r.TargetDomain, r.Epoch+1,
		&signature{server: r.TargetDomain, signed: &step.Response, message: offer, decider: r.SourceDomain},
		&signature{server: r.SourceDomain, signed: &step.Confirmation, message: decision})
	return nil
}

// claim takes a reclaim or a recover. Only the present host or the host before can reclaim a group. A claim to term 1
// has no host before.
func (w *walk) claim(step *mimiport.LineageStep) error {
	claim, err := mimiport.UnmarshalLineageClaim(step.Claim.Message)
	if err != nil {
		return err
	}
	if err := mimiport.ValidateServerName(claim.DomainName); err != nil {
		return err
	}
	switch {
	case claim.Kind != step.Kind, claim.Term != w.Term+1, !bytes.Equal(claim.GroupID, w.groupID):
		return errors.New("the claim is for another step")
	case step.Kind == mimiport.StepReclaim && claim.DomainName != w.before && claim.DomainName != w.Server:
		return fmt.Errorf("only the host and the host before reclaim a group, %s is neither", claim.DomainName)
	case claim.Epoch < w.epoch:
		return errNotRising
	}
	w.to(claim.DomainName, claim.Epoch, &signature{server: claim.DomainName, signed: step.Claim, message: claim})
	return nil
}

var errNotRising = errors.New("epochs do not rise")

// to makes a server the host of the next term.
func (w *walk) to(host string, epoch uint64, signatures ...*signature) {
	w.before, w.Place, w.epoch = w.Server, Place{host, w.Term + 1}, epoch
	for _, s := range signatures {
		s.term = w.Term
		w.signatures = append(w.signatures, s)
	}
}
