package mls

import (
	"bytes"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
)

// received is a proposal, in a message of its own or by value in a Commit.
type received struct {
	ref      []byte // nil for a proposal by value
	message  []byte // nil for a proposal by value
	sender   rfc9420.Sender
	proposal *rfc9420.Proposal
}

// describe makes the Proposal that callers see.
func (r *received) describe(suite *rfc9420.Suite, t tree) Proposal {
	out := Proposal{Ref: r.ref, Message: r.message, Type: r.proposal.Type, Sender: r.sender}
	switch r.proposal.Type {
	case ProposalAdd:
		m := memberOf(0, &r.proposal.Add.Leaf)
		out.Add = &m
		out.KeyPackageRef = suite.Ref(rfc9420.LabelKeyPackageRef, r.proposal.Add.Raw)
	case ProposalUpdate:
		m := memberOf(r.sender.Index, r.proposal.Update)
		out.Update = &m
	case ProposalRemove, ProposalSelfRemove, rfc9420.ProposalPrivateSelfRemove:
		leaf, _ := r.target()
		if n := t.find(leaf); n != nil {
			m := memberAt(leaf, n.raw)
			out.Remove = &m
		}
	case ProposalGroupContextExtensions:
		_, external, _ := checker{}.readExtensions(r.proposal.Extensions) // checkProposal has checked them
		out.ExternalSenders = externalSenders(external)
	}
	return out
}

func (g *group) Propose(message []byte) (Group, *Proposal, error) {
	next, r, err := g.propose(message)
	if err != nil {
		return nil, nil, failed("propose", g.ID(), err)
	}
	p := r.describe(g.suite, g.tree)
	return next, &p, nil
}

func (g *group) propose(message []byte) (*group, *received, error) {
	m, err := g.handshake(message, rfc9420.ContentProposal)
	if err != nil {
		return nil, nil, err
	}
	r := &received{
		ref:      g.suite.Ref(rfc9420.LabelProposalRef, m.Raw),
		message:  message,
		sender:   m.Content.Sender,
		proposal: m.Content.Proposal,
	}
	for _, known := range g.received {
		if bytes.Equal(known.ref, r.ref) {
			return g, known, nil
		}
	}
	if len(g.received) >= g.mostPending(r.sender) {
		return nil, nil, errMany
	}
	if err := g.checkProposer(r); err != nil {
		return nil, nil, err
	}
	if err := g.verifySender(m); err != nil {
		return nil, nil, err
	}
	s := newSupports(g.tree.root.support)
	if err := g.checkProposal(s, r); err != nil {
		return nil, nil, err
	}
	next, err := g.admit(s, r)
	if err != nil {
		return nil, nil, err
	}
	return next, r, nil
}

// mostPending returns how many proposals may be pending when a sender has sent the last of them. Members may fill half
// of the limit, so that external senders can always propose.
func (g *group) mostPending(by rfc9420.Sender) int {
	if by.Type == SenderExternal {
		return g.limits.Proposals
	}
	return g.limits.Proposals / 2
}

// handshake decodes a public handshake message of this group and epoch.
func (g *group) handshake(message []byte, content rfc9420.ContentType) (*rfc9420.PublicMessage, error) {
	if err := g.require(!g.closed, ruleClosed); err != nil {
		return nil, err
	}
	decoded, err := g.decode(message, g.limits.Message)
	if err != nil {
		return nil, err
	}
	m := decoded.Public
	switch {
	case decoded.Private != nil:
		return nil, errPrivate
	case m == nil:
		return nil, errMessage
	}
	c := &m.Content
	if err := g.require(bytes.Equal(c.GroupID, g.context.GroupID), ruleGroupID); err != nil {
		return nil, err
	}
	if err := g.requireEpoch(c.Epoch); err != nil {
		return nil, err
	}
	switch c.ContentType {
	case content:
	case rfc9420.ContentApplication:
		return nil, refuse(ruleApplication)
	default:
		return nil, errMessage
	}
	if g.SafeAAD() {
		_, ok := readSafeAAD(c.AuthenticatedData)
		if err := g.require(ok, ruleSafeAAD); err != nil {
			return nil, err
		}
	}
	size := g.suite.Hash.Size()
	if err := g.require(c.Sender.Type != SenderMember || len(m.MembershipTag) == size, ruleMembershipTag); err != nil {
		return nil, err
	}
	return m, g.require(content != rfc9420.ContentCommit || len(m.ConfirmationTag) == size, ruleConfirmationTag)
}

// verifySender verifies a message's signature with the key of its sender.
func (g *group) verifySender(m *rfc9420.PublicMessage) error {
	key, broken, err := g.senderKey(&m.Content)
	if err != nil {
		return err
	}
	return g.require(g.suite.Verify(key, m.SignContent(g.encodedContext), m.Signature), broken)
}

// senderKey returns the key that must have signed a message, and the rule that a wrong signature breaks (RFC 9420,
// section 6.1).
func (g *group) senderKey(c *rfc9420.FramedContent) (key []byte, broken *rule, err error) {
	switch c.Sender.Type {
	case SenderMember:
		n := g.tree.find(c.Sender.Index)
		if n == nil {
			return nil, nil, refuse(ruleSender)
		}
		return decodeLeaf(n.raw).SignatureKey, ruleSignature, nil
	case SenderExternal:
		if uint64(c.Sender.Index) >= uint64(len(g.external)) {
			return nil, nil, refuse(ruleExternalSender)
		}
		return g.external[c.Sender.Index].SignatureKey, ruleSignature, nil
	case SenderNewMemberProposal:
		return c.Proposal.Add.Leaf.SignatureKey, ruleNewMemberAddSignature, nil
	default:
		return c.Commit.Path.Leaf.SignatureKey, ruleExternalSignature, nil
	}
}

// checkProposer checks that the type of the sender may send the type of the proposal (RFC 9420, sections 12.1.2 and
// 12.1.8).
func (c checker) checkProposer(r *received) error {
	typ, sender := r.proposal.Type, r.sender.Type
	if err := c.require(typ != ProposalUpdate || sender == SenderMember, ruleUpdateSender); err != nil {
		return err
	}
	if err := c.require(typ != ProposalExternalInit, ruleExternalInit); err != nil {
		return err
	}
	if err := c.require(typ != ProposalPSK, rulePSKReference); err != nil {
		return err
	}
	if typ.IsSelfRemove() && sender != SenderMember {
		return refuse(ruleSenderType)
	}
	if sender == SenderNewMemberCommit || sender == SenderNewMemberProposal && typ != ProposalAdd {
		return refuse(ruleSenderType)
	}
	return nil
}

// checkProposal enforces the rules of a single proposal in the present group (RFC 9420, section 12.1). The Commit
// enforces the rules that depend on other proposals.
func (g *group) checkProposal(s *supports, r *received) error {
	p := r.proposal
	switch p.Type {
	case ProposalAdd:
		return g.checkKeyPackage(s, p.Add)
	case ProposalUpdate:
		return g.checkUpdate(s, p.Update, r.sender.Index)
	case ProposalRemove:
		if g.tree.find(p.Remove) == nil {
			return refuse(ruleRemoveMember)
		}
	case ProposalPSK:
		if err := g.require(len(p.PSK.Nonce) == g.suite.Hash.Size(), rulePSKNonce); err != nil {
			return err
		}
		usable := p.PSK.Type != rfc9420.PSKResumption || p.PSK.Usage == rfc9420.UsageApplication
		return g.require(usable, rulePSKUsage)
	case ProposalReInit:
		if err := g.require(p.ReInit.Version >= g.context.Version, ruleReInitVersion); err != nil {
			return err
		}
		return g.require(uniqueTypes(p.ReInit.Extensions), ruleExtensionsUnique)
	case ProposalGroupContextExtensions:
		if _, _, err := g.readExtensions(p.Extensions); err != nil {
			return err
		}
		byUpdate := slices.Contains(slices.Collect(g.required.Proposals.All()), uint16(ProposalAppDataUpdate))
		return g.require(!byUpdate || !g.changesAppData(p.Extensions), ruleAppDataExtensions)
	case ProposalAppDataUpdate:
		if err := g.require(p.AppDataUpdate.Component != componentAPQInfo, ruleCombiner); err != nil {
			return err
		}
		data, _ := appData(g.context.Extensions)
		_, found := data.Find(p.AppDataUpdate.Component)
		return g.require(found || p.AppDataUpdate.Operation != rfc9420.AppDataRemove, ruleAppDataRemove)
	}
	return nil
}

// checkKeyPackage checks the key package of an Add (RFC 9420, section 10.1).
func (g *group) checkKeyPackage(s *supports, k *rfc9420.KeyPackage) error {
	if err := g.require(k.Version == g.context.Version && k.CipherSuite == g.suite.ID, ruleKeyPackageSuite); err != nil {
		return err
	}
	if err := g.require(!bytes.Equal(k.InitKey, k.Leaf.EncryptionKey), ruleInitKeyDistinct); err != nil {
		return err
	}
	if err := g.require(g.suite.ValidEncryptionKey(k.InitKey), ruleEncryptionKey); err != nil {
		return err
	}
	if err := g.require(uniqueTypes(k.Extensions), ruleExtensionsUnique); err != nil {
		return err
	}
	if err := g.require(k.Leaf.Source == rfc9420.SourceKeyPackage, ruleLeafSource); err != nil {
		return err
	}
	ordered := k.Leaf.Source != rfc9420.SourceKeyPackage || k.Leaf.Lifetime.NotBefore < k.Leaf.Lifetime.NotAfter
	if err := g.require(ordered, ruleLifetimeOrder); err != nil {
		return err
	}
	if err := g.checkLeaf(g.suite, &k.Leaf, s.supportOf(&k.Leaf)); err != nil {
		return err
	}
	verified := g.suite.Verify(k.Leaf.SignatureKey, k.SignContent(), k.Signature)
	if err := g.require(verified, ruleKeyPackageSignature); err != nil {
		return err
	}
	return g.verifyLeaf(g.suite, &k.Leaf, nil, 0)
}

// checkUpdate checks the new leaf of an Update (RFC 9420, section 12.1.2).
func (g *group) checkUpdate(s *supports, l *rfc9420.LeafNode, leaf uint32) error {
	if err := g.require(l.Source == rfc9420.SourceUpdate, ruleLeafSource); err != nil {
		return err
	}
	if err := g.checkLeaf(g.suite, l, s.supportOf(l)); err != nil {
		return err
	}
	if err := g.require(!g.keys.encryption.has(idOf(l.EncryptionKey)), ruleUpdateKeyUnique); err != nil {
		return err
	}
	if err := g.requireSuccessor(l, leaf); err != nil {
		return err
	}
	return g.verifyLeaf(g.suite, l, g.context.GroupID, leaf)
}

// requireSuccessor fails for a leaf that would replace a member's leaf and has another credential (profile, section 7).
func (g *group) requireSuccessor(l *rfc9420.LeafNode, leaf uint32) error {
	before := decodeLeaf(g.tree.find(leaf).raw)
	return g.require(credentialID(&l.Credential) == credentialID(&before.Credential), ruleSuccessor)
}
