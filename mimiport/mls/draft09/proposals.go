package draft09

import (
	"bytes"

	gomls "github.com/cisco/go-mls"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09/internal/framing"
)

// received is a proposal of this epoch. By value there are none in draft-09.
type received struct {
	ref           []byte // the hash of the encoding of go-mls
	message       []byte
	sender        uint32
	proposal      *gomls.Proposal
	keyPackageRef []byte // of an Add
}

func (g *group) Propose(message []byte) (_ mls.Group, _ *mls.Proposal, err error) {
	defer guard("propose", g.id, &err)
	next, r, err := g.propose(message)
	if err != nil {
		return nil, nil, err
	}
	p := r.describe(g)
	return next, &p, nil
}

func (g *group) propose(message []byte) (*group, *received, error) {
	m, err := g.handshake(message)
	if err != nil {
		return nil, nil, err
	}
	p := m.Plaintext.Content.Proposal
	if p == nil {
		return nil, nil, framing.ErrMessage
	}
	r := &received{ref: g.suite.Digest(m.Body), message: message, sender: m.Plaintext.Sender.Sender, proposal: p}
	for _, known := range g.received {
		if bytes.Equal(known.ref, r.ref) {
			return g, known, nil
		}
	}
	if len(g.received) == framing.MaxProposals {
		return nil, nil, errMany
	}
	if err := g.checkProposal(r); err != nil {
		return nil, nil, err
	}
	next := *g
	next.received = append(g.received[:len(g.received):len(g.received)], r)
	return &next, r, nil
}

// checkProposal checks a proposal by itself, in the group as it is.
func (g *group) checkProposal(r *received) (err error) {
	switch p := r.proposal; p.Type() {
	case gomls.ProposalTypeAdd:
		if r.keyPackageRef, err = keyPackageRef(&p.Add.KeyPackage); err != nil {
			return err
		}
		return checkKeyPackage(&p.Add.KeyPackage, g.suite)
	case gomls.ProposalTypeUpdate:
		if g.keys.encryption[string(p.Update.KeyPackage.InitKey.Data)] {
			return errUpdateKey
		}
		if err := checkKeyPackage(&p.Update.KeyPackage, g.suite); err != nil {
			return err
		}
		if !sameIdentity(g.leaf(r.sender), &p.Update.KeyPackage) {
			return errSuccessor
		}
		return nil
	}
	if g.leaf(uint32(r.proposal.Remove.Removed)) == nil {
		return errRemove
	}
	return nil
}

// target is the leaf that a proposal changes; false for an Add.
func (r *received) target() (leaf uint32, changes bool) {
	switch {
	case r.proposal.Update != nil:
		return r.sender, true
	case r.proposal.Remove != nil:
		return uint32(r.proposal.Remove.Removed), true
	}
	return 0, false
}

// describe is what callers may know of a proposal to a group. The numbers of the types are those of RFC 9420.
func (r *received) describe(g *group) mls.Proposal {
	out := mls.Proposal{
		Ref: r.ref, Message: r.message, Type: mls.ProposalType(r.proposal.Type()),
		Sender:        mls.Sender{Type: mls.SenderMember, Index: r.sender},
		KeyPackageRef: r.keyPackageRef,
	}
	switch p := r.proposal; {
	case p.Add != nil:
		m := memberOf(0, &p.Add.KeyPackage)
		out.Add = &m
	case p.Update != nil:
		m := memberOf(r.sender, &p.Update.KeyPackage)
		out.Update = &m
	case p.Remove != nil:
		m, _ := g.Member(uint32(p.Remove.Removed))
		out.Remove = &m
	}
	return out
}

func (g *group) Proposals() (out []mls.Proposal) {
	for _, r := range g.received {
		out = append(out, r.describe(g))
	}
	return out
}
