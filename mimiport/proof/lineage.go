package proof

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// Rules are what a lineage must keep to besides its own.
type Rules struct {
	// Recorded is the lineage that this server has of the group, nil for none. As far as both go they must agree. What is
	// recorded is not verified again.
	Recorded *mimiport.Lineage

	// UpTo is the term with which the lineage ends for now, 0 for its own last one. Later steps must lead on, and are not
	// verified.
	UpTo uint64

	// Hashed says that the group's id is known to be the hash of a preimage: the lineage must hold it.
	Hashed bool

	// Source is the server that hands the group over, empty for none. Its own signatures need a live key.
	Source string

	// Named is where the room says that the group is, nil for nowhere. Where the lineage ends there, signatures of other
	// servers than the source may rest on presented keys. Else each needs a key that is known or live.
	Named *Place

	// Own says whether a name is this server's, nil for none. This server's decision proves the step that it made: the
	// target's offer may rest on a presented key.
	Own func(server string) bool
}

// Place is a server that has a group in a term.
type Place struct {
	Server string
	Term   uint64
}

// Chain is a lineage that holds.
type Chain struct {
	Place        // where it ends
	Epoch uint64 // that the last term begins with

	// Lineage is to be stored: with what was recorded as it was, and without key objects and votes that prove nothing.
	Lineage *mimiport.Lineage

	Presented []Use // the signatures that rest on keys that came with the lineage
}

// Use is a signature that rests on a presented key.
type Use struct {
	Term   uint64 // that the step begins
	Server string // in whose name it is
	KeyID  string
	Reason error // why no known or live key serves
}

// Lineage checks a group's lineage (profile, section 3): it starts at the creating server, each step leads on from the
// one before and is signed, epochs rise, and the rules are kept. Errors are KindInvalid, rule "lineage", but KindPeer
// where a server cannot be asked for a key that is needed.
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

// clone is a lineage whose key objects and votes can be changed.
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

// least is the least origin of the key of a signature in a lineage that ends at a place.
func (r *Rules) least(s *signature, end Place) Origin {
	switch {
	case s.server == r.Source:
		return Live
	case r.Named != nil && *r.Named == end, r.Own != nil && r.Own(s.decider):
		return Presented
	}
	return Known
}

// settle takes a signature for which keys have been looked up. It looks at the presented one where that counts.
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

// clean takes from beside a signature what proves nothing. The key object stays if it holds the signature's key, else
// the one takes its place that the key was found in. A vote stays if it is for this very step, under the key of the
// offer.
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

// voted says whether a step holds its target's vote for this migration in this term, under the key of the offer, whose
// signature verifies. A vote for another group or another offer is none.
func voted(step *mimiport.LineageStep, offer *signature) bool {
	vote, err := mimiport.UnmarshalMigrationVote(step.Vote.Message)
	response, ok := offer.message.(*mimiport.MigrationResponse)
	return err == nil && ok && vote.MigrationID == response.ID() && vote.Term == offer.term &&
		step.Vote.KeyID == offer.signed.KeyID && mimiport.Verify(vote, offer.key.Public) == nil
}

// Stored checks a lineage that this server has stored, and asks nobody. A signature is checked by the key object beside
// it, and passes where that has not its key.
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

// badStep is an error about the step that begins a term.
func badStep(groupID []byte, term uint64, err error) error {
	if mimiport.KindOf(err) == mimiport.KindPeer {
		return &mimiport.Error{
			Op: "check lineage", Kind: mimiport.KindPeer, Group: groupID, Err: fmt.Errorf("step %d: %w", term, err),
		}
	}
	return Errorf(groupID, "step %d: %w", term, err)
}
