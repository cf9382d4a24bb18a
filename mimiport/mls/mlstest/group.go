// Package mlstest makes RFC 9420 groups for tests. Their members make valid signatures, trees, proposals, Commits and
// GroupInfos. Ciphertexts, membership tags and confirmation tags are random bytes, since a Delivery Service cannot
// check them.
//
// The same seed and the same calls give the same bytes. A Group is one epoch and never changes. A Commit makes another
// Group, so a test can branch. Groups of one seed share its random source and are not safe for concurrent use. Misuse,
// such as a Commit by a blank leaf, panics.
package mlstest

import (
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
)

// Proposal is a proposal to commit by value or to send.
type Proposal = rfc9420.Proposal

// Options describes a group to make.
type Options struct {
	Seed            uint64
	CipherSuite     uint16 // 1 if zero
	GroupID         []byte
	Epoch           uint64
	Members         [][]byte // the identities of the members' credentials; leaf 0 signs the GroupInfo
	ExternalSenders []*Client
	Extensions      []byte // the encoded contents of the GroupContext extensions; ExternalSenders adds one behind them
	Tree            bool   // the GroupInfo holds the tree
	Populated       bool   // all parent nodes have keys, as if each member had committed; otherwise they are blank
}

// Group is one epoch of a group, as its members see it.
type Group struct {
	random    random
	suite     *rfc9420.Suite
	tree      *tree
	clients   []*Client          // by leaf
	known     map[string]*Client // clients that may join, by signature key; all epochs share the map
	context   rfc9420.GroupContext
	interim   []byte
	tag       []byte
	groupInfo []byte
}

// Identity makes the identity of a member's credential in a Matrix group.
func Identity(userID, deviceID string) []byte {
	return must((&mimiport.LeafIdentity{UserID: userID, DeviceID: deviceID}).Marshal())
}

// New makes a group.
func New(o Options) *Group {
	if o.CipherSuite == 0 {
		o.CipherSuite = 1
	}
	g := &Group{random: newRandom(o.Seed), suite: suiteByID(o.CipherSuite), known: map[string]*Client{}}
	width := 1
	for width < len(o.Members) {
		width *= 2
	}
	g.tree = newTree(g.suite, width)
	g.clients = make([]*Client, len(o.Members))
	for i, identity := range o.Members {
		g.clients[i] = newMember(g.suite.ID, g.random, identity)
	}
	g.context = rfc9420.GroupContext{
		Version:                 rfc9420.VersionMLS10,
		CipherSuite:             o.CipherSuite,
		GroupID:                 o.GroupID,
		Epoch:                   o.Epoch,
		ConfirmedTranscriptHash: g.random.bytes(g.suite.Hash.Size()),
		Extensions:              withSenders(o.Extensions, o.ExternalSenders),
	}
	if o.Populated {
		g.populate(g.tree.root(), []byte{})
	} else {
		g.fill()
	}
	g.context.TreeHash = g.tree.treeHash(g.tree.root(), nil)
	g.seal(g.random.bytes(g.suite.Hash.Size()), 0, o.Tree, nil)
	return g
}

func withSenders(e rfc9420.Extensions, clients []*Client) rfc9420.Extensions {
	if len(clients) == 0 {
		return e
	}
	var senders rfc9420.ExternalSenders
	for _, c := range clients {
		senders = append(senders, rfc9420.ExternalSender{SignatureKey: c.key.Public, Credential: c.credential()})
	}
	return must(e.With(rfc9420.ExtensionExternalSenders, marshal(&senders)))
}

// fill makes leaves of source key_package. All parents stay blank.
func (g *Group) fill() {
	for i, c := range g.clients {
		g.tree.nodes[2*i].leaf = c.signLeaf(
			c.unsignedLeaf(rfc9420.SourceKeyPackage, g.random.encryptionKey(g.suite.ID)), nil, 0,
		)
	}
}

// populate fills all nodes at and below x, as if the rightmost member below each node had committed last. The chain of
// parent hashes runs down to the right.
func (g *Group) populate(x int, parentHash []byte) {
	t := g.tree
	if level(x) == 0 {
		if x/2 < len(g.clients) {
			c := g.clients[x/2]
			l := c.unsignedLeaf(rfc9420.SourceCommit, g.random.encryptionKey(g.suite.ID))
			l.ParentHash = parentHash
			t.nodes[x].leaf = c.signLeaf(l, &g.context, uint32(x/2))
		}
		return
	}
	if (x+1)/2 >= len(g.clients) { // no member on the right: the node is not in the filtered direct path
		g.populate(left(x), parentHash)
		return
	}
	p := &parent{key: g.random.encryptionKey(g.suite.ID), parentHash: parentHash}
	g.populate(left(x), g.random.bytes(g.suite.Hash.Size()))
	g.populate(right(x), t.parentHash(p, left(x)))
	t.nodes[x].parent = p
}

// seal completes an epoch with its confirmation tag and GroupInfo.
func (g *Group) seal(tag []byte, signer uint32, withTree bool, edit func(*rfc9420.GroupInfo)) {
	g.tag = tag
	g.interim = g.suite.Sum(g.context.ConfirmedTranscriptHash, vector(tag))
	info := &rfc9420.GroupInfo{Context: g.context, ConfirmationTag: tag, Signer: signer}
	if withTree {
		info.Extensions = must(info.Extensions.With(rfc9420.ExtensionRatchetTree, g.tree.encode()))
	}
	if edit != nil {
		edit(info)
	}
	info.Signature = g.clients[info.Signer].SignContent(reread(info).SignContent())
	g.groupInfo = marshal(&rfc9420.Message{
		Version: rfc9420.VersionMLS10, WireFormat: rfc9420.WireGroupInfo, GroupInfo: info,
	})
}

// ID returns the group ID.
func (g *Group) ID() []byte { return g.context.GroupID }

// Epoch returns the number of the epoch.
func (g *Group) Epoch() uint64 { return g.context.Epoch }

// GroupInfo returns the GroupInfo message of the epoch. It holds the tree only if the options asked for it.
func (g *Group) GroupInfo() []byte { return g.groupInfo }

// Context encodes the GroupContext.
func (g *Group) Context() []byte { return marshal(&g.context) }

// RatchetTree encodes the tree.
func (g *Group) RatchetTree() []byte { return g.tree.encode() }

// Leaves lists the leaves of the members.
func (g *Group) Leaves() (leaves []uint32) {
	for i, c := range g.clients {
		if c != nil {
			leaves = append(leaves, uint32(i))
		}
	}
	return leaves
}

// NewClient makes a client that is not in the group.
func (g *Group) NewClient(identity []byte) *Client {
	return newClient(g.suite.ID, g.random, identity)
}

// Client returns the member at a leaf, nil for a blank leaf.
func (g *Group) Client(leaf uint32) *Client { return g.clients[leaf] }

// Sign computes SignWithLabel with a member's key. A MigrationInit needs it.
func (g *Group) Sign(leaf uint32, label string, content []byte) []byte {
	return g.clients[leaf].Sign(label, content)
}

// Application makes an encrypted application message with size bytes of random ciphertext.
func (g *Group) Application(authenticatedData []byte, size int) []byte {
	return marshal(&rfc9420.Message{
		Version:    rfc9420.VersionMLS10,
		WireFormat: rfc9420.WirePrivateMessage,
		Private: &rfc9420.PrivateMessage{
			GroupID:             g.context.GroupID,
			Epoch:               g.context.Epoch,
			ContentType:         rfc9420.ContentApplication,
			AuthenticatedData:   authenticatedData,
			EncryptedSenderData: g.random.bytes(28),
			Ciphertext:          g.random.bytes(size),
		},
	})
}

// Follow makes one epoch of a group that other clients have made, so that its members can propose. It has the encoded
// GroupContext and the members at some leaves, and no tree.
func Follow(seed uint64, context []byte, members map[uint32]*Client) *Group {
	g := &Group{random: newRandom(seed), known: map[string]*Client{}}
	if !rfc9420.Unmarshal(context, &g.context) {
		panic("mlstest: not a GroupContext")
	}
	g.suite = suiteByID(g.context.CipherSuite)
	for leaf, c := range members {
		g.place(leaf, c)
	}
	return g
}
