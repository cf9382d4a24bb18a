package mls

import (
	"bytes"
	"iter"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// group is a Group of RFC 9420.
type group struct {
	*engine
	suite           *rfc9420.Suite
	context         rfc9420.GroupContext
	encodedContext  []byte
	interim         []byte // interim transcript hash (RFC 9420, section 8.2)
	confirmationTag []byte
	groupInfo       []byte // the whole message
	treeInside      bool   // groupInfo holds the tree
	required        rfc9420.RequiredCapabilities
	external        rfc9420.ExternalSenders
	tree            tree
	keys            keys
	received        []*received
	outlook         outlook // with all received proposals applied; unset before the first proposal
	closed          bool    // a ReInit ended the group
}

// setContext sets a group's epoch: its context, GroupInfo and confirmation tag, and the values that follow from them.
func (g *group) setContext(context *rfc9420.GroupContext, groupInfo, confirmationTag []byte) (err error) {
	if err := g.require(context.Epoch < 1<<63, ruleEpochRange); err != nil {
		return err
	}
	if g.encodedContext, err = rfc9420.Marshal(context); err != nil {
		return err
	}
	g.context = *context
	g.groupInfo = groupInfo
	g.confirmationTag = confirmationTag
	g.interim = interimHash(g.suite, context.ConfirmedTranscriptHash, confirmationTag)
	g.required, g.external, err = g.readExtensions(context.Extensions)
	return err
}

// readExtensions decodes the extensions of a group that the engine knows. It refuses a group of the post-quantum
// combiner.
func (c checker) readExtensions(
	e rfc9420.Extensions,
) (required rfc9420.RequiredCapabilities, external rfc9420.ExternalSenders, err error) {
	if err := c.require(uniqueTypes(e), ruleExtensionsUnique); err != nil {
		return required, nil, err
	}
	ok := true
	if data, found := e.Find(rfc9420.ExtensionRequiredCapabilities); found {
		ok = rfc9420.Unmarshal(data, &required)
	}
	if data, found := e.Find(rfc9420.ExtensionExternalSenders); found {
		ok = rfc9420.Unmarshal(data, &external) && ok
	}
	data, valid := appData(e)
	if _, found := data.Find(componentAPQInfo); found {
		if err := c.require(false, ruleCombiner); err != nil {
			return required, nil, err
		}
	}
	ok = ok && valid
	return required, external, c.require(ok, ruleExtensionEncoding)
}

// checkAll checks a new group as far as possible without its secrets (RFC 9420, section 12.4.3.1).
func (g *group) checkAll(e *edit, info *rfc9420.GroupInfo) error {
	return g.checkLeaves(g.suite, g.tree, g.context.GroupID, func() (err error) {
		hash := e.treeHash(g.tree.root, g.tree.span())
		if err := g.require(string(hash) == string(g.context.TreeHash), ruleTreeHash); err != nil {
			return err
		}
		if err := g.checkInfo(info); err != nil {
			return err
		}
		if err := g.checkTree(e.hasher, g.tree); err != nil {
			return err
		}
		if err := g.require(g.tree.root.support.required(&g.required), ruleLeafRequired); err != nil {
			return err
		}
		if err := g.checkSupport(g.tree.root.support, g.context.Extensions); err != nil {
			return err
		}
		g.keys, err = g.keysOf(g.suite, g.tree)
		return err
	})
}

// checkSupport checks that all members support the extensions of the group and each other's credentials (RFC 9420,
// section 7.3).
func (c checker) checkSupport(s *support, e rfc9420.Extensions) error {
	for t := range e.All() {
		if err := c.require(s.extension(t), ruleExtensionsSupport); err != nil {
			return err
		}
	}
	return c.require(s.credentialsInUse(), ruleLeafCredential)
}

// checkInfo checks the fields of a GroupInfo other than its context, and its signature.
func (g *group) checkInfo(info *rfc9420.GroupInfo) error {
	if err := g.require(len(info.ConfirmationTag) == g.suite.Hash.Size(), ruleConfirmationTag); err != nil {
		return err
	}
	if err := g.require(uniqueTypes(info.Extensions), ruleExtensionsUnique); err != nil {
		return err
	}
	if key, found, ok := info.ExternalPub(); found {
		if err := g.require(ok && g.suite.ValidEncryptionKey(key), ruleExternalPub); err != nil {
			return err
		}
	}
	signer := g.tree.find(info.Signer)
	if signer == nil {
		return refuse(ruleInfoSigner)
	}
	l := decodeLeaf(signer.raw)
	return g.require(g.suite.Verify(l.SignatureKey, info.SignContent(), info.Signature), ruleInfoSignature)
}

// interimHash computes the interim transcript hash (RFC 9420, section 8.2).
func interimHash(suite *rfc9420.Suite, confirmed, confirmationTag []byte) []byte {
	var b cryptobyte.Builder
	b.AddBytes(confirmed)
	wire.AddOpaque(&b, confirmationTag)
	return suite.Sum(b.BytesOrPanic()) // it cannot panic: the tag came in a vector
}

func (g *group) ID() []byte                      { return g.context.GroupID }
func (g *group) Epoch() uint64                   { return g.context.Epoch }
func (g *group) CipherSuite() uint16             { return g.suite.ID }
func (g *group) TreeHash() []byte                { return g.context.TreeHash }
func (g *group) ConfirmedTranscriptHash() []byte { return g.context.ConfirmedTranscriptHash }
func (g *group) ConfirmationTag() []byte         { return g.confirmationTag }
func (g *group) GroupInfo() []byte               { return g.groupInfo }
func (g *group) TreeInside() bool                { return g.treeInside }
func (g *group) RatchetTree() []byte             { return g.tree.encode() }
func (g *group) NumMembers() int                 { return int(g.tree.root.members) }
func (g *group) Hash(data []byte) []byte         { return g.suite.Sum(data) }

func (g *group) SafeAAD() bool {
	data, _ := appData(g.context.Extensions)
	_, found := data.Find(componentSafeAAD)
	return found
}

func (g *group) Members() iter.Seq[Member] {
	return func(yield func(Member) bool) {
		for leaf, n := range g.tree.leaves() {
			if !yield(memberAt(leaf, n.raw)) {
				return
			}
		}
	}
}

func (g *group) Duplicates() (out []Member) {
	seen := make(map[keyID]bool, g.NumMembers())
	for leaf, n := range g.tree.leaves() {
		l := decodeLeaf(n.raw)
		id := credentialID(&l.Credential)
		if seen[id] {
			out = append(out, memberOf(leaf, &l))
		}
		seen[id] = true
	}
	return out
}

func (g *group) Closed() bool { return g.closed }

func (g *group) Member(leaf uint32) (Member, bool) {
	n := g.tree.find(leaf)
	if n == nil {
		return Member{}, false
	}
	return memberAt(leaf, n.raw), true
}

func memberAt(leaf uint32, raw []byte) Member {
	l := decodeLeaf(raw)
	return memberOf(leaf, &l)
}

func memberOf(leaf uint32, l *rfc9420.LeafNode) Member {
	return Member{
		Leaf:         leaf,
		Identity:     l.Credential.Identity(),
		SignatureKey: l.SignatureKey,
		NotBefore:    l.Lifetime.NotBefore,
		NotAfter:     l.Lifetime.NotAfter,
	}
}

func (g *group) ExternalSenders() []ExternalSender { return externalSenders(g.external) }

func externalSenders(entries rfc9420.ExternalSenders) (out []ExternalSender) {
	for i := range entries {
		s := &entries[i]
		out = append(out, ExternalSender{SignatureKey: s.SignatureKey, Identity: s.Credential.Identity()})
	}
	return out
}

func (g *group) Proposals() []Proposal {
	var out []Proposal
	for _, r := range g.received {
		out = append(out, r.describe(g.suite, g.tree))
	}
	return out
}

func (g *group) VerifyMember(leaf uint32, label string, content, signature []byte) error {
	const op = "verify member"
	n := g.tree.find(leaf)
	if n == nil {
		return failed(op, g.ID(), refuse(ruleSender))
	}
	l := decodeLeaf(n.raw)
	if !g.suite.Verify(l.SignatureKey, rfc9420.SignContent(label, content), signature) {
		return failed(op, g.ID(), problem(mimiport.KindBadSignature, "the signature does not verify"))
	}
	return nil
}

func (g *group) VerifyGroupInfo(message []byte) (epoch uint64, signer Member, err error) {
	info, err := g.decodeInfo(message)
	if err == nil {
		err = g.checkInfo(info)
	}
	if err != nil {
		return 0, Member{}, failed("verify GroupInfo", g.ID(), err)
	}
	return info.Context.Epoch, memberAt(info.Signer, g.tree.find(info.Signer).raw), nil
}

// decodeInfo decodes a GroupInfo and checks that it is of this group and cipher suite.
func (g *group) decodeInfo(message []byte) (*rfc9420.GroupInfo, error) {
	info, err := g.readInfo(message)
	if err != nil {
		return nil, err
	}
	c := &info.Context
	if err := g.require(bytes.Equal(c.GroupID, g.context.GroupID), ruleGroupID); err != nil {
		return nil, err
	}
	if c.Version != g.context.Version || c.CipherSuite != g.context.CipherSuite {
		return nil, errSuite
	}
	return info, nil
}

// proposalSize estimates the memory of a proposal without its message, in bytes.
const proposalSize = 1 << 10

// memberSize estimates the memory of a member without the encodings of its nodes, in bytes: two nodes, three keys and a
// credential.
const memberSize = 2*128 + 4*32

func (g *group) Size() int {
	size := len(g.groupInfo) + int(g.tree.root.size) + g.NumMembers()*memberSize
	for _, r := range g.received {
		size += len(r.message) + proposalSize
	}
	return size
}

// requireEpoch fails for a message of another epoch. The error has the group's epoch.
func (g *group) requireEpoch(epoch uint64) error {
	err := g.require(epoch == g.context.Epoch, ruleEpoch)
	if e, ok := err.(*mimiport.Error); ok {
		e.Info.Epoch = &g.context.Epoch
	}
	return err
}
