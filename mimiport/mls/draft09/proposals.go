package draft09

import (
	"bytes"
	"maps"

	gomls "github.com/cisco/go-mls"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09/internal/framing"
)

// received is a proposal of this epoch. draft-09 has no proposals by value.
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
	if err := g.checkProposal(r); err != nil {
		return nil, nil, err
	}
	next := *g
	next.received = append(g.received[:len(g.received):len(g.received)], r)
	err = g.checkTogether(next.received)
	if err != nil && err != errNoCommitter {
		if err = g.checkTogether([]*received{r}); err == nil {
			err = errTogether
		}
	}
	return &next, r, err
}

// checkTogether checks that one Commit can have all proposals of a list, and that the list leaves a member who can
// commit it: one whose leaf it does not change.
func (g *group) checkTogether(list []*received) error {
	gone := make(map[uint32]bool)
	var added []*gomls.KeyPackage
	for _, r := range list {
		if leaf, changes := r.target(); changes {
			if gone[leaf] {
				return errTogether
			}
			gone[leaf] = true
		}
		switch p := r.proposal; {
		case p.Add != nil:
			added = append(added, &p.Add.KeyPackage)
		case p.Update != nil:
			added = append(added, &p.Update.KeyPackage)
		}
	}
	all := leaves(g.tree.Nodes)
	if len(gone) == len(all) {
		return errNoCommitter
	}
	k := keys{make(map[string]bool), maps.Clone(g.keys.encryption), make(map[string]int)}
	for _, leaf := range all {
		if l := g.leaf(leaf); !gone[leaf] {
			insert(k.signature, l.Credential.PublicKey().Data)
			k.devices[string(l.Credential.Identity())]++
		}
	}
	for _, a := range added {
		k.devices[string(a.Credential.Identity())]++
		switch {
		case !insert(k.signature, a.Credential.PublicKey().Data):
			return errSignatureKeyUnique
		case !insert(k.encryption, a.InitKey.Data):
			return errEncryptionKeyUnique
		case k.devices[string(a.Credential.Identity())] > 1:
			return errDevice
		}
	}
	if len(k.signature) > framing.MaxLeaves {
		return errLeaves
	}
	return nil
}

// checkProposal enforces the rules of a single proposal in the present group.
func (g *group) checkProposal(r *received) (err error) {
	switch p := r.proposal; p.Type() {
	case gomls.ProposalTypeAdd:
		if r.keyPackageRef, err = keyPackageRef(&p.Add.KeyPackage); err != nil {
			return err
		}
		return g.checkNew(&p.Add.KeyPackage)
	case gomls.ProposalTypeUpdate:
		if g.keys.encryption[string(p.Update.KeyPackage.InitKey.Data)] {
			return errUpdateKey
		}
		if err := g.checkNew(&p.Update.KeyPackage); err != nil {
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

// checkNew checks the key package of an Add or an Update.
func (g *group) checkNew(k *gomls.KeyPackage) error {
	if err := checkKeyPackage(k, g.suite); err != nil {
		return err
	}
	if m := memberOf(0, k); m.NotBefore >= m.NotAfter {
		return errLifetimeOrder
	}
	return nil
}

// target returns the leaf that a proposal updates or removes. It returns false for an Add.
func (r *received) target() (leaf uint32, changes bool) {
	switch {
	case r.proposal.Update != nil:
		return r.sender, true
	case r.proposal.Remove != nil:
		return uint32(r.proposal.Remove.Removed), true
	}
	return 0, false
}

// describe makes the Proposal that callers see. go-mls numbers the types as RFC 9420 does.
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
