package draft09

import (
	"bytes"
	"iter"

	gomls "github.com/cisco/go-mls"
	syntax "github.com/cisco/go-tls-syntax"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09/internal/framing"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
)

// group is one epoch of a go-mls group.
type group struct {
	suite        gomls.CipherSuite
	id           []byte
	epoch        uint64
	tree         gomls.TreeKEMPublicKey // with all hashes set; nothing changes it
	confirmed    []byte                 // confirmed transcript hash
	interim      []byte                 // interim transcript hash
	confirmation []byte
	groupInfo    []byte
	received     []*received

	// The method complete computes these from the fields above.
	keys        keys
	treeHash    []byte
	encodedTree []byte
	context     []byte // encoded GroupContext
}

// checkTranscript checks the lengths of the transcript hashes. Both are empty before the first Commit.
func (g *group) checkTranscript() error {
	want := framing.HashSize
	if g.epoch == 0 {
		want = 0
	}
	if len(g.confirmed) != want || len(g.interim) != want {
		return errTranscript
	}
	return nil
}

// complete checks the rules of every epoch and computes the fields that follow from others. checkShape must have
// accepted the tree.
func (g *group) complete() (err error) {
	switch {
	case len(g.id) == 0:
		return errGroupIDLength
	case g.epoch >= 1<<63:
		return errEpochRange
	}
	if g.keys, err = keysOf(g.tree.Nodes); err != nil {
		return err
	}
	if g.encodedTree, err = syntax.Marshal(g.tree); err != nil {
		return err
	}
	g.treeHash = g.tree.RootHash()
	g.context, err = syntax.Marshal(gomls.GroupContext{
		GroupID: g.id, Epoch: gomls.Epoch(g.epoch), TreeHash: g.treeHash, ConfirmedTranscriptHash: g.confirmed,
	})
	return err
}

// checkLeaves checks the key package of every member.
func (g *group) checkLeaves() error {
	for _, leaf := range leaves(g.tree.Nodes) {
		if err := checkKeyPackage(g.leaf(leaf), g.suite); err != nil {
			return err
		}
	}
	return nil
}

// takeInfo checks that a GroupInfo is of this epoch, and keeps it.
func (g *group) takeInfo(message []byte, info *gomls.GroupInfo) error {
	if len(info.Extensions.Entries) > 0 {
		return errGroupExtensions
	}
	signer := g.leaf(uint32(info.SignerIndex))
	if signer == nil {
		return errInfoSigner
	}
	got, err := framing.GroupInfoContent(info)
	if err != nil {
		return err
	}
	want, err := framing.GroupInfoContent(&gomls.GroupInfo{
		GroupID: g.id, Epoch: gomls.Epoch(g.epoch), Tree: g.tree, ConfirmedTranscriptHash: g.confirmed,
		InterimTranscriptHash: g.interim, Confirmation: g.confirmation, SignerIndex: info.SignerIndex,
	})
	switch {
	case err != nil:
		return err
	case !bytes.Equal(got, want):
		return errInfoContext
	case !verify(signer, got, info.Signature):
		return errInfoSignature
	}
	g.groupInfo = message
	return nil
}

func (g *group) leaf(leaf uint32) *gomls.KeyPackage { return leafAt(g.tree.Nodes, leaf) }

func (g *group) Protocol() string                      { return Protocol }
func (g *group) ID() []byte                            { return g.id }
func (g *group) Epoch() uint64                         { return g.epoch }
func (g *group) CipherSuite() uint16                   { return uint16(g.suite) }
func (g *group) TreeHash() []byte                      { return g.treeHash }
func (g *group) ConfirmedTranscriptHash() []byte       { return g.confirmed }
func (g *group) ConfirmationTag() []byte               { return g.confirmation }
func (g *group) GroupInfo() []byte                     { return g.groupInfo }
func (g *group) TreeInside() bool                      { return true } // a GroupInfo of go-mls always holds the tree
func (g *group) RatchetTree() []byte                   { return g.encodedTree }
func (g *group) NumMembers() int                       { return len(g.keys.signature) }
func (g *group) Hash(data []byte) []byte               { return g.suite.Digest(data) }
func (g *group) ExternalSenders() []mls.ExternalSender { return nil } // draft-09 has no such extension

func (g *group) Members() iter.Seq[mls.Member] {
	return func(yield func(mls.Member) bool) {
		for _, leaf := range leaves(g.tree.Nodes) {
			if !yield(memberOf(leaf, g.leaf(leaf))) {
				return
			}
		}
	}
}

func (g *group) Duplicates() (out []mls.Member) {
	seen := make(map[string]bool)
	for m := range g.Members() {
		if !insert(seen, m.Identity) {
			out = append(out, m)
		}
	}
	return out
}

// SafeAAD is false: groups here have no extensions.
func (g *group) SafeAAD() bool { return false }

// Closed is false: draft-09 has no ReInit.
func (g *group) Closed() bool { return false }

func (g *group) Member(leaf uint32) (mls.Member, bool) {
	k := g.leaf(leaf)
	if k == nil {
		return mls.Member{}, false
	}
	return memberOf(leaf, k), true
}

// memberOf describes a leaf. A leaf with a parent hash comes from a Commit, so its lifetime is left out.
func memberOf(leaf uint32, k *gomls.KeyPackage) mls.Member {
	m := mls.Member{Leaf: leaf, Identity: k.Credential.Identity(), SignatureKey: k.Credential.PublicKey().Data}
	var lifetime gomls.LifetimeExtension
	if _, err := k.Extensions.Find(&lifetime); err == nil && !k.Extensions.Has(gomls.ExtensionTypeParentHash) {
		m.NotBefore, m.NotAfter = lifetime.NotBefore, lifetime.NotAfter
	}
	return m
}

func (g *group) VerifyGroupInfo(message []byte) (epoch uint64, signer mls.Member, err error) {
	defer guard("verify GroupInfo", g.id, &err)
	m, err := framing.Decode(message)
	if err != nil {
		return 0, mls.Member{}, err
	}
	info := m.GroupInfo
	switch {
	case info == nil:
		return 0, mls.Member{}, framing.ErrMessage
	case !bytes.Equal(info.GroupID, g.id):
		return 0, mls.Member{}, errGroupID
	}
	leaf := uint32(info.SignerIndex)
	k := g.leaf(leaf)
	if k == nil {
		return 0, mls.Member{}, errInfoSigner
	}
	content, err := framing.GroupInfoContent(info)
	switch {
	case err != nil:
		return 0, mls.Member{}, err
	case !verify(k, content, info.Signature):
		return 0, mls.Member{}, errInfoSignature
	}
	return uint64(info.Epoch), memberOf(leaf, k), nil
}

// VerifyMember verifies a signature over the SignContent of RFC 9420, section 5.1.2. draft-09 has no labelled
// signatures.
func (g *group) VerifyMember(leaf uint32, label string, content, signature []byte) (err error) {
	defer guard("verify member", g.id, &err)
	k := g.leaf(leaf)
	switch {
	case k == nil:
		return errSender
	case !verify(k, rfc9420.SignContent(label, content), signature):
		return errMemberSignature
	}
	return nil
}

// decodedTree estimates how many times more memory a tree takes than its encoding.
const decodedTree = 4

func (g *group) Size() int {
	size := len(g.groupInfo) + (1+decodedTree)*len(g.encodedTree)
	for _, r := range g.received {
		size += len(r.message)
	}
	return size
}

// handshake decodes a handshake message of this group and epoch and checks its signature.
func (g *group) handshake(message []byte) (*framing.Message, error) {
	m, err := framing.Decode(message)
	if err != nil {
		return nil, err
	}
	pt := m.Plaintext
	switch {
	case m.Ciphertext != nil:
		return nil, errPrivate
	case pt == nil:
		return nil, framing.ErrMessage
	case !bytes.Equal(pt.GroupID, g.id):
		return nil, errGroupID
	case uint64(pt.Epoch) != g.epoch:
		info := mimiport.Info{Rule: errEpoch.Info.Rule, Epoch: &g.epoch}
		return nil, &mimiport.Error{Kind: errEpoch.Kind, Info: info, Err: errEpoch.Err}
	case pt.Content.Application != nil:
		return nil, errApplication
	case pt.Sender.Type != gomls.SenderTypeMember:
		return nil, errSenderType
	}
	sender := g.leaf(pt.Sender.Sender)
	if sender == nil {
		return nil, errSender
	}
	if !verify(sender, framing.PlaintextContent(g.context, m.Body), pt.Signature.Data) {
		return nil, errSignature
	}
	return m, nil
}
