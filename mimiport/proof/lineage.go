package proof

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// Rules are the conditions that a caller sets for a lineage.
type Rules struct {
	// Recorded is the lineage that this server has of the group, or nil. The two lineages must agree as far as both go.
	// Lineage does not verify recorded steps again.
	Recorded *mimiport.Lineage

	// UpTo is the last term to verify, 0 for the last term of the lineage. Later steps must lead on, but Lineage does not
	// verify their signatures.
	UpTo uint64

	// Hashed says that the group's id is known to be the hash of a preimage. The lineage must then hold the preimage.
	Hashed bool

	// Source is the server that hands the group over, or empty. Its signatures need a live key.
	Source string

	// Named is the place that the room's pointer names, or nil. If the lineage ends there, signatures of all servers but
	// the source may rest on presented keys. Otherwise each signature needs a known or live key.
	Named *Place

	// Own reports whether a name is this server's. A nil Own means that none is. This server's own decision proves its
	// step: the target's offer may then rest on a presented key.
	Own func(server string) bool
}

// Place is a server that has a group in a term.
type Place struct {
	Server string
	Term   uint64
}

// Chain is a verified lineage.
type Chain struct {
	Place        // the place at the end
	Epoch uint64 // the first epoch of the last term

	// Lineage is the lineage to store. Its recorded steps are unchanged. Its other steps are without key objects and votes
	// that prove nothing.
	Lineage *mimiport.Lineage

	Presented []Use // the signatures that rest on keys that came with the lineage
}

// Use is a signature that rests on a presented key.
type Use struct {
	Term   uint64 // that the step begins
	Server string // the server that has signed
	KeyID  string
	Reason error // the reason why no known or live key counts
}

// Lineage checks a group's lineage (profile, section 3). It must start at the creating server, each step must be signed
// and lead on from the step before, epochs must rise, and the rules must hold. Lineage returns a KindPeer error if a
// server does not answer for a needed key. Any other error is KindInvalid, rule "lineage".
func Lineage(ctx context.Context, keys Keys, groupID []byte, l *mimiport.Lineage, rules Rules) (*Chain, error) {
	recorded := rules.Recorded
	if recorded == nil {
		recorded = &mimiport.Lineage{CreatingServer: l.CreatingServer}
	}
	if err := requireBeginning(groupID, recorded, l, rules.Hashed); err != nil {
		return nil, err
	}
	l = clone(l)
	end, signatures, err := follow(groupID, l)
	if rules.UpTo > 0 && err == nil {
		l.Steps = l.Steps[:min(l.Term(), rules.UpTo)]
		end, signatures, err = follow(groupID, l)
	}
	if err != nil {
		return nil, err
	}
	var open []*signature
	for _, s := range signatures {
		if s.term <= recorded.Term() && s.in(&recorded.Steps[s.term-1]) {
			continue
		}
		s.least = rules.least(s, end.Place)
		open = append(open, s)
	}
	if err := inquire(ctx, keys, time.Time{}, open); err != nil {
		return nil, err
	}
	chain := &Chain{Place: end.Place, Epoch: end.epoch, Lineage: l}
	for _, s := range open {
		if err := chain.settle(s); err != nil {
			return nil, badStep(groupID, s.term, err)
		}
		chain.clean(s)
	}
	copy(l.Steps, recorded.Steps)
	return chain, nil
}

// clone returns a copy of a lineage whose key objects and votes can be changed.
func clone(l *mimiport.Lineage) *mimiport.Lineage {
	c := *l
	c.Steps = slices.Clone(l.Steps)
	for i := range c.Steps {
		if claim := c.Steps[i].Claim; claim != nil {
			own := *claim
			c.Steps[i].Claim = &own
		}
	}
	return &c
}

// least returns the least origin that counts for the key of a signature in a lineage that ends at a place.
func (r *Rules) least(s *signature, end Place) Origin {
	switch {
	case s.server == r.Source:
		return Live
	case r.Named != nil && *r.Named == end, r.Own != nil && r.Own(s.decider):
		return Presented
	}
	return Known
}

// settle decides on a signature after the lookup of known and live keys. It tries the presented key if that counts.
func (c *Chain) settle(s *signature) error {
	if s.key != nil || s.refused || s.least != Presented {
		return s.err
	}
	reason := s.err
	presented, err := KeyObject(s.server, s.signed.KeyObject)
	if err != nil {
		return fmt.Errorf("%w, and the key object beside it: %v", reason, err)
	}
	if s.try(presented, Presented, time.Time{}); s.err != nil {
		return fmt.Errorf("%w, and by the key object beside it: %v", reason, s.err)
	}
	c.Presented = append(c.Presented, Use{s.term, s.server, s.signed.KeyID, reason})
	return nil
}

// clean removes key objects and votes that prove nothing. If the key object beside a signature does not hold the
// signature's key, clean replaces it with the object in which the key was found. A vote stays if it is for exactly this
// step and signed with the key of the offer.
func (c *Chain) clean(s *signature) {
	presented, err := KeyObject(s.server, s.signed.KeyObject)
	if err != nil || !s.key.Public.Equal(presented[s.signed.KeyID].Public) {
		s.signed.KeyObject = s.key.Object
	}
	step := &c.Lineage.Steps[s.term-1]
	if s.signed != &step.Response {
		return
	}
	if !voted(step, s) {
		step.Vote = mimiport.SignedMessage{}
		return
	}
	step.Vote.KeyObject = s.signed.KeyObject
}

// voted reports whether a step holds its target's vote for this migration in this term, with a valid signature by the
// key of the offer. A vote for another group or another offer does not count.
func voted(step *mimiport.LineageStep, offer *signature) bool {
	vote, err := mimiport.UnmarshalMigrationVote(step.Vote.Message)
	response, ok := offer.message.(*mimiport.MigrationResponse)
	return err == nil && ok && vote.MigrationID == response.ID() && vote.Term == offer.term &&
		step.Vote.KeyID == offer.signed.KeyID && mimiport.Verify(vote, offer.key.Public) == nil
}

// Stored checks a lineage that this server has stored. It asks no server. It checks each signature with the key object
// beside it. A signature passes if this object does not have its key.
func Stored(groupID []byte, l *mimiport.Lineage) (Place, error) {
	end, signatures, err := follow(groupID, l)
	if err != nil {
		return Place{}, err
	}
	for _, s := range signatures {
		if len(s.signed.KeyObject) == 0 {
			continue
		}
		keys, err := KeyObject(s.server, s.signed.KeyObject)
		if err == nil {
			if key, ok := keys[s.signed.KeyID]; ok {
				err = mimiport.Verify(s.message, key.Public)
			}
		}
		if err != nil {
			return Place{}, badStep(groupID, s.term, err)
		}
	}
	return end.Place, nil
}

// badStep returns an error about the step that begins a term.
func badStep(groupID []byte, term uint64, err error) error {
	if mimiport.KindOf(err) == mimiport.KindPeer {
		return &mimiport.Error{
			Op: "check lineage", Kind: mimiport.KindPeer, Group: groupID, Err: fmt.Errorf("step %d: %w", term, err),
		}
	}
	return Errorf(groupID, "step %d: %w", term, err)
}
