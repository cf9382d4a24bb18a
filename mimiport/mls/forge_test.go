package mls

import (
	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// forgery describes a tree of up to four leaves, in which a test can choose every node. Leaf 0 holds the parent hash
// of the left parent when that is set, else the root's.
type forgery struct {
	leaves    []*mlstest.Client // nil for a blank
	left      *rfc9420.ParentNode
	root      *rfc9420.ParentNode
	right     *rfc9420.ParentNode
	editLeaf  func(leaf int, l *rfc9420.LeafNode) // called before the leaf is signed
	spoilLeaf func(leaf int, l *rfc9420.LeafNode) // called after the leaf is signed
	editInfo  func(*rfc9420.GroupInfo)            // called before the GroupInfo is signed
	context   rfc9420.Extensions
	tail      []byte // after the last node
}

func key(n byte) []byte { return append(make([]byte, 31), n) }

func fourClients() (out []*mlstest.Client) {
	for i, identity := range identities(4) {
		out = append(out, mlstest.NewClient(uint64(10+i), 1, identity))
	}
	return out
}

// make makes the GroupInfo and the encoded tree.
func (f forgery) make() (groupInfo, encoded []byte) {
	leaves := make([][]byte, len(f.leaves))
	for i := len(leaves) - 1; i >= 0; i-- { // leaf 0 last: it depends on the others
		if f.leaves[i] != nil {
			leaves[i] = f.leaf(i, f.parentHash(i, leaves))
		}
	}
	encoded = f.encode(leaves)
	suite := rfc9420.SuiteByID(1)
	t, err := openTree(suite, encoded)
	if err != nil {
		panic(err)
	}
	info := &rfc9420.GroupInfo{
		Context: rfc9420.GroupContext{
			Version: rfc9420.VersionMLS10, CipherSuite: 1, GroupID: []byte("group"),
			TreeHash:   newHasher(suite).treeHash(t.root, t.span()),
			Extensions: f.context,
		},
		ConfirmationTag: key(0),
	}
	if f.editInfo != nil {
		f.editInfo(info)
	}
	info.Signature = resign(f.leaves[0], info, (*rfc9420.GroupInfo).SignContent)
	groupInfo, _ = rfc9420.Marshal(&rfc9420.Message{
		Version: rfc9420.VersionMLS10, WireFormat: rfc9420.WireGroupInfo, GroupInfo: info,
	})
	return groupInfo, append(encoded, f.tail...)
}

// leaf makes a leaf, of source commit when it has a parent hash.
func (f forgery) leaf(i int, parentHash []byte) []byte {
	l := &rfc9420.LeafNode{
		EncryptionKey: key(byte(100 + i)),
		SignatureKey:  f.leaves[i].SignatureKey(),
		Credential:    rfc9420.Credential{Type: rfc9420.CredentialBasic, Contents: []byte{byte(i)}},
		Capabilities:  rfc9420.Capabilities{Credentials: rfc9420.MakeUint16s(rfc9420.CredentialBasic)},
		Source:        rfc9420.SourceKeyPackage,
	}
	if parentHash != nil {
		l.Source, l.ParentHash = rfc9420.SourceCommit, parentHash
	}
	if f.editLeaf != nil {
		f.editLeaf(i, l)
	}
	l = signLeaf(f.leaves[i], l, []byte("group"), uint32(i))
	if f.spoilLeaf != nil {
		f.spoilLeaf(i, l)
	}
	raw, _ := rfc9420.Marshal(l)
	return raw
}

// parentHash returns the parent hash of leaf i: for leaf 0 the root's, for leaf 2 the right parent's.
func (f forgery) parentHash(i int, leaves [][]byte) []byte {
	suite := rfc9420.SuiteByID(1)
	h := newHasher(suite)
	var sibling, out digest
	switch {
	case i == 2 && f.right != nil:
		return h.parentHash(&out, f.right, h.leafHash(&sibling, 3, leaves[3]))
	case i != 0 || f.root == nil:
		return nil
	case len(leaves) == 2:
		return h.parentHash(&out, f.root, h.leafHash(&sibling, 1, leaves[1]))
	}
	t, err := openTree(suite, f.encode(leaves))
	if err != nil {
		panic(err)
	}
	h.treeHash(t.root, t.span())
	at := span{height: 1, first: 2}
	return h.parentHash(&out, f.root, h.originalHash(&sibling, t.root.right, at, within(f.root.UnmergedLeaves, at)))
}

func (f forgery) encode(leaves [][]byte) []byte {
	nodes := [7]func(*cryptobyte.Builder){}
	for i, raw := range leaves {
		if raw != nil {
			nodes[2*i] = func(b *cryptobyte.Builder) {
				b.AddUint8(rfc9420.NodeTypeLeaf)
				b.AddBytes(raw)
			}
		}
	}
	parents := [3]*rfc9420.ParentNode{f.left, f.root, f.right}
	if len(leaves) == 2 {
		parents = [3]*rfc9420.ParentNode{f.root}
	}
	for i, p := range parents {
		if p != nil {
			nodes[2*i+1] = func(b *cryptobyte.Builder) {
				b.AddUint8(rfc9420.NodeTypeParent)
				p.Encode(b)
			}
		}
	}
	end := len(nodes)
	for nodes[end-1] == nil {
		end--
	}
	var b cryptobyte.Builder
	wire.AddVector(&b, func(b *cryptobyte.Builder) {
		for _, n := range nodes[:end] {
			if n == nil {
				b.AddUint8(0)
				continue
			}
			b.AddUint8(1)
			n(b)
		}
	})
	return b.BytesOrPanic()
}

func numbers(list ...uint32) rfc9420.Uint32s {
	var b cryptobyte.Builder
	for _, v := range list {
		b.AddUint32(v)
	}
	return b.BytesOrPanic()
}

func parent(unmerged ...uint32) *rfc9420.ParentNode {
	return &rfc9420.ParentNode{EncryptionKey: key(byte(200 + len(unmerged))), UnmergedLeaves: numbers(unmerged...)}
}

func (f forgery) breaks(r *rule) offence {
	info, tree := f.make()
	return opens(r, info, tree)
}

func treeOffences(s scene) []offence {
	c := fourClients()
	twoOnRight := []*mlstest.Client{c[0], nil, c[2], c[3]}
	leafEdit := func(leaf int, edit func(*rfc9420.LeafNode)) func(int, *rfc9420.LeafNode) {
		return func(i int, l *rfc9420.LeafNode) {
			if i == leaf {
				edit(l)
			}
		}
	}
	info, tree := forgery{leaves: []*mlstest.Client{c[0], c[1], c[2]}}.make()
	contents := cryptobyte.String(tree)
	var nodes cryptobyte.String
	wire.ReadVector(&contents, &nodes)
	var trailing cryptobyte.Builder
	wire.AddOpaque(&trailing, append(nodes[:len(nodes):len(nodes)], 0))
	const wants = int(rfc9420.ExtensionRequiredCapabilities)
	twice := extensions(int(rfc9420.ExtensionApplicationID), []byte{}, int(rfc9420.ExtensionApplicationID), []byte{})
	between := parent()
	between.EncryptionKey = key(240)
	return []offence{
		opens(ruleTrailingBlank, info, trailing.BytesOrPanic()),
		forgery{leaves: []*mlstest.Client{c[0], nil}, root: parent()}.breaks(ruleTreeSize),
		forgery{
			leaves: c, editInfo: func(i *rfc9420.GroupInfo) { i.Context.TreeHash = flip(i.Context.TreeHash) },
		}.breaks(ruleTreeHash),
		forgery{leaves: twoOnRight, root: parent(3, 2)}.breaks(ruleUnmergedOrder),
		forgery{leaves: twoOnRight, root: parent(9)}.breaks(ruleUnmergedRange),
		forgery{leaves: twoOnRight, root: parent(1<<32 - 1)}.breaks(ruleUnmergedRange),
		forgery{leaves: []*mlstest.Client{c[0], nil, c[2], nil}, root: parent(3)}.breaks(ruleUnmergedBlank),
		forgery{leaves: twoOnRight, root: parent(3), right: between}.breaks(ruleUnmergedBetween),
		forgery{leaves: twoOnRight, root: parent(), editLeaf: leafEdit(0, func(l *rfc9420.LeafNode) {
			l.ParentHash = flip(l.ParentHash)
		})}.breaks(ruleParentHash),
		forgery{leaves: c, root: parent()}.breaks(ruleParentHash),
		forgery{
			leaves: c, editLeaf: leafEdit(1, func(l *rfc9420.LeafNode) { l.EncryptionKey = key(100) }),
		}.breaks(ruleTreeKeyUnique),
		forgery{leaves: []*mlstest.Client{c[0], c[0], c[2]}}.breaks(ruleTreeSigKeyUnique),
		forgery{
			leaves: c, editLeaf: leafEdit(1, func(l *rfc9420.LeafNode) { l.EncryptionKey = key(1)[1:] }),
		}.breaks(ruleEncryptionKey),
		forgery{
			leaves: c, spoilLeaf: leafEdit(3, func(l *rfc9420.LeafNode) { l.Signature = flip(l.Signature) }),
		}.breaks(ruleLeafSignature),
		forgery{leaves: c, editLeaf: leafEdit(2, func(l *rfc9420.LeafNode) {
			l.Extensions = extensions(unknownExtension, []byte{})
		})}.breaks(ruleLeafExtensions),
		forgery{
			leaves: c, editLeaf: leafEdit(2, func(l *rfc9420.LeafNode) { l.Credential.Type = unknownCredential }),
		}.breaks(ruleLeafCredential),
		forgery{leaves: c, context: extensions(wants, required(unknownExtension))}.breaks(ruleLeafRequired),
		forgery{leaves: c, context: extensions(wants, requires(rfc9420.RequiredCapabilities{
			Proposals: rfc9420.MakeUint16s(unknownProposal),
		}))}.breaks(ruleLeafRequired),
		forgery{leaves: c, context: extensions(wants, requires(rfc9420.RequiredCapabilities{
			Credentials: rfc9420.MakeUint16s(unknownCredential),
		}))}.breaks(ruleLeafRequired),
		forgery{leaves: c, context: extensions(unknownExtension, []byte{})}.breaks(ruleExtensionsSupport),
		forgery{leaves: c, context: twice}.breaks(ruleExtensionsUnique),
	}
}
