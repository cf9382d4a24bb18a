package mls

import (
	"bytes"
	"errors"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// unsigned masks the rules about signatures and hashes, which a fuzzer cannot satisfy by guessing.
func unsigned() checker {
	masked := make(map[*rule]bool)
	for _, r := range []*rule{
		ruleSignature, ruleExternalSignature, ruleNewMemberAddSignature, ruleLeafSignature, ruleKeyPackageSignature,
		ruleInfoSignature, ruleInfoContext, ruleInfoConfirmationTag, ruleTreeHash, ruleParentHash, rulePathParentHash,
	} {
		masked[r] = true
	}
	return checker{masked: masked}
}

// smallLimits keeps a fuzzer from spending its time on size.
func smallLimits() Limits {
	limits := DefaultLimits()
	limits.Leaves = map[uint16]int{1: 64, 2: 64, 3: 64, 4: 64, 5: 64, 6: 64, 7: 64}
	return limits
}

// fuzzGroup is a small group with parents, blanks and unmerged leaves, and a Commit and proposals for it.
func fuzzGroup() (m *mlstest.Group, messages [][]byte) {
	ds := mlstest.NewClient(99, 1, []byte("example.org"))
	m = mlstest.New(mlstest.Options{
		Seed: 1, GroupID: []byte("group"), Members: identities(6), Populated: true, ExternalSenders: []*mlstest.Client{ds},
	})
	m = m.Commit(mlstest.CommitOptions{Sender: 3, Proposals: []*mlstest.Proposal{m.Remove(1)}}).Next
	a, b := m.NewClient([]byte("a")), m.NewClient([]byte("b"))
	m = m.Commit(mlstest.CommitOptions{Sender: 3, Proposals: []*mlstest.Proposal{m.Add(a), m.Add(b)}}).Next
	add := m.Add(m.NewClient([]byte("c")))
	messages = [][]byte{
		m.Propose(0, m.Update(0)), m.Propose(0, m.Remove(5)), m.ProposeExternal(0, ds, m.Remove(2)),
		m.ProposeSelf(m.NewClient([]byte("d"))),
		m.Commit(mlstest.CommitOptions{}).Message,
		m.Commit(mlstest.CommitOptions{
			Proposals: []*mlstest.Proposal{add, m.Remove(4), m.PSK([]byte("psk")), m.SetExtensions(nil)},
		}).Message,
		m.Commit(mlstest.CommitOptions{
			Joiner: m.NewClient([]byte("e")), Proposals: []*mlstest.Proposal{m.Remove(4)},
		}).Message,
		m.Commit(mlstest.CommitOptions{Proposals: []*mlstest.Proposal{m.ReInit([]byte("f"))}}).Message,
		m.Propose(6, m.SelfRemove()), m.Propose(0, m.SetAppData(11, []byte("data"))), m.Propose(0, m.AppEphemeral(12, nil)),
		m.Propose(0, &mlstest.Proposal{Type: 0xf004, Number: 7}),
	}
	return m, messages
}

// FuzzMessage decodes any message. A message that decodes must encode identically, and Parse must read its framing.
func FuzzMessage(f *testing.F) {
	m, messages := fuzzGroup()
	client := m.NewClient([]byte("client"))
	seeds := append(messages, m.GroupInfo(), m.Application([]byte("aad"), 100), client.KeyPackage(), m.Welcome(client))
	for _, seed := range seeds {
		f.Add(seed)
	}
	e := RFC9420(DefaultLimits())
	f.Fuzz(func(t *testing.T, data []byte) {
		_, parseErr := e.Parse(data)
		_, decodeErr := Decode(data)
		var m rfc9420.Message
		if !rfc9420.Unmarshal(data, &m) {
			if parseErr == nil || decodeErr == nil {
				t.Fatal("Parse reads a message that does not decode")
			}
			return
		}
		if decodeErr != nil {
			t.Fatal(decodeErr)
		}
		checkSame(t, data, &m)
	})
}

func checkSame(t *testing.T, data []byte, v rfc9420.Value) {
	t.Helper()
	if again, err := rfc9420.Marshal(v); err != nil || !bytes.Equal(again, data) {
		t.Fatalf("%T encodes to %x, not %x: %v", v, again, data, err)
	}
}

// FuzzExtension decodes the contents of the extensions that the engine reads.
func FuzzExtension(f *testing.F) {
	ds := mlstest.NewClient(99, 1, []byte("example.org"))
	senders, err := rfc9420.Marshal(&rfc9420.ExternalSenders{{SignatureKey: ds.SignatureKey()}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(senders)
	f.Add([]byte{2, 0, 1, 0, 0})
	f.Add([]byte{7, 0, 11, 0, 0, 12, 1, 'b'})
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, v := range []rfc9420.Value{
			new(rfc9420.ExternalSenders), new(rfc9420.RequiredCapabilities), new(rfc9420.ComponentList),
		} {
			if rfc9420.Unmarshal(data, v) {
				checkSame(t, data, v)
			}
		}
	})
}

// FuzzTree decodes and checks any ratchet tree. A tree that decodes must encode identically.
func FuzzTree(f *testing.F) {
	m, _ := fuzzGroup()
	f.Add(m.RatchetTree(), uint8(1))
	for suite := uint16(2); suite <= 7; suite++ {
		f.Add(mlstest.New(mlstest.Options{
			CipherSuite: suite, Members: identities(3), Populated: true,
		}).RatchetTree(), uint8(suite))
	}
	f.Fuzz(func(t *testing.T, data []byte, id uint8) {
		suite := rfc9420.SuiteByID(uint16(id))
		if suite == nil {
			return
		}
		c := unsigned()
		contents, nodes, err := c.scanTree(data, 64)
		if err != nil {
			return
		}
		e := newEdit(suite, nil)
		tree := e.build(contents, nodes)
		if again := tree.encode(); !bytes.Equal(again, data) {
			t.Fatalf("encodes to %x, not %x", again, data)
		}
		if tree.root == nil {
			t.Fatal("an empty tree is accepted, and does not end in a blank")
		}
		e.treeHash(tree.root, tree.span())
		err = c.checkLeaves(suite, tree, []byte("group"), func() error { return c.checkTree(e.hasher, tree) })
		if err != nil && mimiport.KindOf(err) == mimiport.KindInternal {
			t.Fatal(err)
		}
	})
}

// FuzzApply gives any message to a group. If the group accepts it, the new tree must open again with the same hash. If
// the group refuses it, the error must have a kind.
func FuzzApply(f *testing.F) {
	m, messages := fuzzGroup()
	for _, seed := range messages {
		f.Add(seed)
	}
	e := &engine{checker: unsigned(), limits: smallLimits()}
	g, err := e.Open(m.GroupInfo(), m.RatchetTree())
	if err != nil {
		f.Fatal(err)
	}
	for _, message := range messages {
		if next, _, err := g.Propose(message); err == nil {
			g = next
		}
	}
	tree := g.RatchetTree()
	f.Fuzz(func(t *testing.T, message []byte) {
		_, _, err := g.Propose(message)
		checkTyped(t, err)
		next, _, err := g.Commit(message, m.GroupInfo())
		checkTyped(t, err)
		if !bytes.Equal(g.RatchetTree(), tree) {
			t.Fatal("the group has changed")
		}
		if err != nil {
			return
		}
		again, err := openTree(g.(*group).suite, next.RatchetTree())
		if err != nil {
			t.Fatal(err)
		}
		if hash := newHasher(g.(*group).suite).treeHash(again.root, again.span()); !bytes.Equal(hash, next.TreeHash()) {
			t.Fatal("the tree opens again with another hash")
		}
	})
}

func checkTyped(t *testing.T, err error) {
	t.Helper()
	var typed *mimiport.Error
	if err != nil && (!errors.As(err, &typed) || typed.Kind == mimiport.KindInternal) {
		t.Fatalf("an error without a kind: %v", err)
	}
}
