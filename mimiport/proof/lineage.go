package proof

import (
	"bytes"
	"context"
	"errors"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// maxSteps bounds the chain of a group that has moved often.
const maxSteps = 1000

// Keys verifies what servers have signed.
type Keys interface {
	// VerifyArchived checks m's signature by a key that the server has, or has had. keyObject is the key object that came with m.
	VerifyArchived(ctx context.Context, server, keyID string, keyObject []byte, m mimiport.Signed) error
}

// End is where a chain leads.
type End struct {
	Host  string // at which server
	Epoch uint64 // that its term begins with
}

// Lineage checks a group's lineage (profile, section 3): it starts at the creating server, each step leads on from the one before and is
// signed, epochs rise. recorded is the lineage that this server has of the group, nil for none: where both have a step, it must be the
// same, and what is recorded is not verified again. Errors are KindInvalid, rule "lineage", but KindPeer where a
// server cannot be asked for a key that is needed.
func Lineage(ctx context.Context, keys Keys, groupID []byte, recorded, l *mimiport.Lineage) (*End, error) {
	switch {
	case l.Preimage != nil && !bytes.Equal(l.Preimage.GroupID(), groupID):
		return nil, Errorf(groupID, "the preimage is not the group id's")
	case len(l.Steps) > maxSteps:
		return nil, Errorf(groupID, "more than %d steps", maxSteps)
	case recorded == nil:
		recorded = &mimiport.Lineage{CreatingServer: l.CreatingServer}
	case !sameBeginning(recorded, l):
		return nil, Errorf(groupID, "it is not the lineage known here")
	}
	w := walk{groupID: groupID, host: l.CreatingServer}
	for i := range l.Steps {
		signatures, err := w.step(&l.Steps[i])
		if err != nil {
			return nil, Errorf(groupID, "step %d: %w", i+1, err)
		}
		for _, s := range signatures {
			if i < len(recorded.Steps) && s.in(&recorded.Steps[i]) {
				continue
			}
			err := keys.VerifyArchived(ctx, s.server, s.signed.KeyID, s.signed.KeyObject, s.message)
			switch {
			case mimiport.KindOf(err) == mimiport.KindPeer: // it may hold: the server cannot be asked
				return nil, err
			case err != nil:
				return nil, Errorf(groupID, "step %d: %w", i+1, err)
			}
		}
	}
	return &End{w.host, w.epoch}, nil
}

// walk is the way along a chain.
type walk struct {
	groupID []byte
	term    uint64
	host    string // of that term
	before  string // who was the host of the term before, if there is one
	epoch   uint64 // that the term begins with
}

// signature is one that must verify.
type signature struct {
	server  string // who must have signed
	signed  *mimiport.SignedMessage
	message mimiport.Signed // signed.Message, decoded
}

// in says whether a step holds the same signature.
func (s *signature) in(step *mimiport.LineageStep) bool {
	for _, own := range []*mimiport.SignedMessage{&step.Response, &step.Confirmation, step.Claim} {
		if own != nil && own.KeyID == s.signed.KeyID && bytes.Equal(own.Message, s.signed.Message) {
			return true
		}
	}
	return false
}

// step takes one step. It looks at no signature and returns those that must verify.
func (w *walk) step(step *mimiport.LineageStep) ([]signature, error) {
	take := w.migration
	if step.Kind != mimiport.StepMigration {
		take = w.claim
	}
	next, signatures, err := take(step)
	if err != nil {
		return nil, err
	}
	if next.epoch < w.epoch || next.epoch == w.epoch && step.Kind == mimiport.StepMigration {
		return nil, errors.New("epochs do not rise")
	}
	*w = next
	return signatures, nil
}

// migration follows a step by an offer and the decision on it.
func (w *walk) migration(step *mimiport.LineageStep) (next walk, signatures []signature, err error) {
	offer, err := mimiport.UnmarshalMigrationResponse(step.Response.Message)
	if err != nil {
		return next, nil, err
	}
	decision, err := Decision(offer, step.Confirmation.Message)
	if err != nil {
		return next, nil, err
	}
	r := &offer.Request
	switch {
	case r.SourceDomain != w.host:
		return next, nil, errors.New("it does not start where the one before ends")
	case !bytes.Equal(r.GroupID, w.groupID):
		return next, nil, errors.New("it is of another group")
	}
	return w.to(r.TargetDomain, r.Epoch+1), []signature{
		{r.TargetDomain, &step.Response, offer}, {r.SourceDomain, &step.Confirmation, decision},
	}, nil
}

// claim follows a reclaim or a recover.
func (w *walk) claim(step *mimiport.LineageStep) (next walk, signatures []signature, err error) {
	claim, err := mimiport.UnmarshalLineageClaim(step.Claim.Message)
	if err != nil {
		return next, nil, err
	}
	switch {
	case claim.Kind != step.Kind, claim.Term != w.term+1, !bytes.Equal(claim.GroupID, w.groupID):
		return next, nil, errors.New("the claim is for another step")
	case step.Kind == mimiport.StepReclaim && claim.DomainName != w.before && claim.DomainName != w.host:
		return next, nil, errors.New("only the host and the one before reclaim a group")
	}
	return w.to(claim.DomainName, claim.Epoch), []signature{{claim.DomainName, step.Claim, claim}}, nil
}

// to is the way on: the next term begins at a host, with an epoch.
func (w *walk) to(host string, epoch uint64) walk {
	return walk{groupID: w.groupID, term: w.term + 1, host: host, before: w.host, epoch: epoch}
}

// Begins says whether one lineage is the beginning of another.
func Begins(recorded, l *mimiport.Lineage) bool {
	return len(recorded.Steps) <= len(l.Steps) && sameBeginning(recorded, l)
}

// sameBeginning says whether two lineages agree as far as both go.
func sameBeginning(a, b *mimiport.Lineage) bool {
	if a.CreatingServer != b.CreatingServer {
		return false
	}
	for i := range min(len(a.Steps), len(b.Steps)) {
		if !sameStep(&a.Steps[i], &b.Steps[i]) {
			return false
		}
	}
	return true
}

// sameStep says whether two proofs are of one step. A signature that was made again with a newer key is no other step.
func sameStep(a, b *mimiport.LineageStep) bool {
	if a.Kind != b.Kind {
		return false
	}
	if a.Kind != mimiport.StepMigration {
		return bytes.Equal(a.Claim.Message, b.Claim.Message)
	}
	return ByOffer(b, a.Response.Message)
}

// ByOffer says whether a step is the migration that began with an encoded MigrationResponse.
func ByOffer(step *mimiport.LineageStep, offer []byte) bool {
	return step.Kind == mimiport.StepMigration && bytes.Equal(step.Response.Message, offer)
}
