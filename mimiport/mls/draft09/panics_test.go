package draft09_test

import (
	"slices"
	"testing"

	gomls "github.com/cisco/go-mls"
	syntax "github.com/cisco/go-tls-syntax"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09/internal/framing"
)

// panics reports whether f panics.
func panics(f func()) (did bool) {
	defer func() { did = recover() != nil }()
	f()
	return false
}

// hostile is input on which go-mls panics. The engine must refuse it before go-mls sees it.
type hostile struct {
	name   string
	gomls  func()       // gives the input to go-mls
	engine func() error // gives the input to the engine
}

// TestPanicsOfGoMLS: go-mls panics on each hostile input, and the engine refuses it with a typed error.
func TestPanicsOfGoMLS(t *testing.T) {
	m := newMembers(t, 1, []byte("group"), 4)
	m.Commit(3, nil)
	m.Advance()
	for _, cases := range [][]hostile{m.hostileMessages(), m.hostileKeyPackages(), m.hostileTrees()} {
		for _, c := range cases {
			if !panics(c.gomls) {
				t.Errorf("%s: go-mls does not panic", c.name)
			}
			if err := c.engine(); err == nil || mimiport.KindOf(err) == mimiport.KindInternal {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
}

func parse(message []byte) error {
	_, err := draft09.New().Parse(message)
	return err
}

func open(message []byte) error {
	_, err := draft09.New().Open(message, nil)
	return err
}

func (m *members) hostileMessages() []hostile {
	g, committed := m.open(), m.Commit(0, nil)
	truncated := committed.Message[:1+1+len("group")+8+1+4+4+1+3*2] // up to the path, which is optional
	outside := m.edit(1, m.Update(1), func(pt *gomls.MLSPlaintext) { pt.Sender.Sender = 99 })
	removal := m.edit(1, m.Remove(1, 2), func(pt *gomls.MLSPlaintext) { pt.Content.Proposal.Remove.Removed = 99 })
	otherSuite := m.edit(
		1, m.Update(1), func(pt *gomls.MLSPlaintext) { pt.Content.Proposal.Update.KeyPackage.CipherSuite = 3 },
	)
	return []hostile{
		{
			"an optional value cut off", func() { syntax.Unmarshal(truncated[1:], new(gomls.MLSPlaintext)) },
			func() error { return parse(truncated) },
		},
		{"a sender out of range", func() { m.clients[0].Handle(outside) }, func() error { return refusal(g, outside) }},
		{
			"a removed leaf out of range", func() { m.clients[0].Commit(nil, removal) },
			func() error { return refusal(g, removal) },
		},
		{
			"an update for another suite", func() { m.clients[0].Commit(nil, otherSuite) },
			func() error { return refusal(g, otherSuite) },
		},
	}
}

// refusal returns the error of a group for a proposal.
func refusal(g mls.Group, message []byte) error {
	_, _, err := g.Propose(message)
	return err
}

func (m *members) hostileKeyPackages() (out []hostile) {
	for name, change := range map[string]func(*gomls.KeyPackage){
		"a signature key of 31 bytes": func(k *gomls.KeyPackage) { k.Credential.Basic.PublicKey.Data = make([]byte, 31) },
		"an unknown cipher suite":     func(k *gomls.KeyPackage) { k.CipherSuite = 99 },
		"an unimplemented suite":      func(k *gomls.KeyPackage) { k.CipherSuite = gomls.X448_AES256GCM_SHA512_Ed448 },
		"an empty certificate chain": func(k *gomls.KeyPackage) {
			k.Credential = gomls.Credential{X509: new(gomls.X509Credential)}
		},
		"an ECDSA key off the curve": notOnTheCurve,
	} {
		k := must(framing.Decode(slices.Clone(m.KeyPackage())))(m).KeyPackage
		change(k)
		message := must(framing.Encode(k))(m)
		out = append(out, hostile{name, func() { k.Verify() }, func() error { return parse(message) }})
	}
	return out
}

func notOnTheCurve(k *gomls.KeyPackage) {
	k.CipherSuite = gomls.P256_AES128GCM_SHA256_P256
	k.Credential.Basic.SignatureScheme = gomls.ECDSA_SECP256R1_SHA256
	k.Credential.Basic.PublicKey.Data = make([]byte, 65)
	k.Signature.Data = []byte{0x30, 6, 2, 1, 1, 2, 1, 1}
}

func (m *members) hostileTrees() (out []hostile) {
	for _, c := range []struct {
		name   string
		change func(*gomls.GroupInfo)
		gomls  func(*gomls.TreeKEMPublicKey)
	}{
		{
			"an empty tree", func(i *gomls.GroupInfo) { i.Tree.Nodes = nil },
			func(tree *gomls.TreeKEMPublicKey) { tree.RootHash() },
		},
		{
			"a signer out of range", func(i *gomls.GroupInfo) { i.SignerIndex = 99 },
			func(tree *gomls.TreeKEMPublicKey) { tree.KeyPackage(99) },
		},
		{
			"a parent in the place of a leaf", func(i *gomls.GroupInfo) { i.Tree.Nodes[0] = i.Tree.Nodes[5] },
			func(tree *gomls.TreeKEMPublicKey) { tree.KeyPackage(0) },
		},
		{
			"a leaf in the place of a parent", func(i *gomls.GroupInfo) {
				i.Tree.Nodes[6].Node = nil
				i.Tree.Nodes[3] = i.Tree.Nodes[2]
			},
			func(tree *gomls.TreeKEMPublicKey) { tree.AddLeaf(gomls.KeyPackage{}) },
		},
		{"an unmerged leaf out of range", unmerged(5, 99), encap},
		{
			"a blank unmerged leaf", func(i *gomls.GroupInfo) {
				i.Tree.Nodes[4].Node = nil
				unmerged(5, 2)(i)
			}, encap,
		},
	} {
		info := must(framing.Decode(slices.Clone(m.GroupInfo())))(m).GroupInfo
		info.Tree.Suite = 1
		c.change(info)
		message := must(m.clients[0].SignGroupInfo(info))(m)
		out = append(out, hostile{c.name, func() { c.gomls(&info.Tree) }, func() error { return open(message) }})
	}
	return out
}

// encap has go-mls make a path for the first leaf.
func encap(tree *gomls.TreeKEMPublicKey) {
	tree.Encap(0, nil, make([]byte, 32), gomls.SignaturePrivateKey{}, nil)
}
