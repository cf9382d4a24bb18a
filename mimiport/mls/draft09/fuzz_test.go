package draft09_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	gomls "github.com/cisco/go-mls"
	syntax "github.com/cisco/go-tls-syntax"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09/draft09test"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09/internal/framing"
)

// fuzzGroup makes a small group with a blank leaf, an unmerged leaf and parents. The engine's group has some
// proposals. The messages are these proposals and some Commits.
func fuzzGroup(t testing.TB) (f *forger, g mls.Group, messages [][]byte) {
	m := newMembers(t, 1, []byte("group"), 5)
	m.Commit(3, nil, m.Remove(0, 1), m.Remove(0, 2))
	m.Advance()
	m.Commit(3, nil, m.Add(0))
	m.Advance()
	add, update, remove := m.Add(0), m.Update(1), m.Remove(0, 4)
	g = proposeAll(t, m.open(), update, remove, add)
	f = &forger{members: m, proposals: g.Proposals(), outside: m.client()}
	return f, g, [][]byte{
		add, update, remove, m.Commit(0, nil, add).Message, m.Commit(0, nil, add, update, remove).Message,
		m.Commit(3, []byte("aad")).Message,
	}
}

// checkTyped fails for an error of a kind that bad input cannot cause.
func checkTyped(t *testing.T, err error) {
	t.Helper()
	var typed *mimiport.Error
	if err != nil && (!errors.As(err, &typed) || typed.Kind == mimiport.KindInternal) {
		t.Fatalf("an error without a kind: %v", err)
	}
}

// FuzzMessage decodes any message. A message that decodes must encode identically.
func FuzzMessage(f *testing.F) {
	m, _, messages := fuzzGroup(f)
	welcome := m.Commit(0, nil, messages[0]).Welcome
	for _, seed := range append(messages, m.GroupInfo(), m.KeyPackage(), m.Application(0), welcome) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_, parseErr := draft09.New().Parse(data)
		checkTyped(t, parseErr)
		decoded, err := framing.Decode(data)
		if err != nil {
			if parseErr == nil {
				t.Fatal("Parse reads a message that does not decode")
			}
			return
		}
		if again, err := framing.Encode(value(decoded)); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("encodes to %x, not %x: %v", again, data, err)
		}
	})
}

// value returns the structure in a message.
func value(m *framing.Message) any {
	switch {
	case m.Plaintext != nil:
		return m.Plaintext
	case m.Ciphertext != nil:
		return m.Ciphertext
	case m.Welcome != nil:
		return m.Welcome
	case m.GroupInfo != nil:
		return m.GroupInfo
	}
	return m.KeyPackage
}

// forger repairs a message that a fuzzer has changed, as a member could: its keys, signatures, parent hashes and
// references. Each process of a fuzzer has members with other keys, so a forger also replaces the keys that it finds.
type forger struct {
	*members
	proposals []mls.Proposal // an Update, a Remove and an Add
	outside   *draft09test.Client
}

// forge returns the message as a member could have sent it. It returns an undecodable message as it is.
func (m *forger) forge(message []byte) []byte {
	decoded, err := framing.Decode(slices.Clone(message))
	if err != nil {
		return message
	}
	var forged []byte
	switch {
	case decoded.Plaintext != nil:
		forged, err = m.forgePlaintext(decoded.Plaintext)
	case decoded.GroupInfo != nil:
		forged, err = m.forgeGroupInfo(decoded.GroupInfo)
	}
	if err != nil || forged == nil {
		return message
	}
	return forged
}

// member returns the client at a leaf, or another client when that leaf has none.
func (m *forger) member(leaf uint32) (uint32, *draft09test.Client) {
	if uint64(leaf) >= uint64(len(m.clients)) || m.clients[leaf] == nil {
		leaf = 0
	}
	return leaf, m.clients[leaf]
}

func (m *forger) forgePlaintext(pt *gomls.MLSPlaintext) ([]byte, error) {
	leaf, sender := m.member(pt.Sender.Sender)
	pt.Sender.Sender = leaf
	switch p, c := pt.Content.Proposal, pt.Content.Commit; {
	case p != nil && p.Add != nil:
		m.forgeKeyPackage(m.outside, &p.Add.KeyPackage)
	case p != nil && p.Update != nil:
		m.forgeKeyPackage(sender, &p.Update.KeyPackage)
	case c != nil:
		for i, ids := range [][]gomls.ProposalID{c.Commit.Updates, c.Commit.Removes, c.Commit.Adds} {
			for _, id := range ids {
				copy(id.Hash, m.proposals[i].Ref)
			}
		}
		if path := c.Commit.Path; path != nil {
			path.LeafKeyPackage.Credential.Basic.PublicKey.Data = sender.SignatureKey()
			sender.SignPath(path)
		}
	}
	return sender.SignPlaintext(pt)
}

func (m *forger) forgeGroupInfo(info *gomls.GroupInfo) ([]byte, error) {
	for x, n := range info.Tree.Nodes {
		if n.Node != nil && n.Node.Leaf != nil {
			_, owner := m.member(uint32(x / 2))
			m.forgeKeyPackage(owner, n.Node.Leaf)
		}
	}
	leaf, signer := m.member(uint32(info.SignerIndex))
	info.SignerIndex = gomls.LeafIndex(leaf)
	return signer.SignGroupInfo(info)
}

func (m *forger) forgeKeyPackage(owner *draft09test.Client, k *gomls.KeyPackage) {
	k.Credential.Basic.PublicKey.Data = owner.SignatureKey()
	owner.SignKeyPackage(k)
}

// FuzzHandshake gives messages that a member could sign to a group. If the group accepts one, the engine must open the
// new tree again.
func FuzzHandshake(f *testing.F) {
	m, g, messages := fuzzGroup(f)
	for _, seed := range messages {
		f.Add(seed)
	}
	groupInfo, seen := m.GroupInfo(), g.RatchetTree()
	f.Fuzz(func(t *testing.T, data []byte) {
		message := m.forge(data)
		_, _, err := g.Propose(message)
		checkTyped(t, err)
		next, _, err := g.(mls.Follower).Follow(message)
		checkTyped(t, err)
		if !bytes.Equal(g.RatchetTree(), seen) {
			t.Fatal("the group has changed")
		}
		if err == nil {
			m.checkAgain(t, groupInfo, next)
		}
	})
}

// checkAgain checks that the tree of a group opens again: no key package may have become invalid, nor the shape. It
// does so only when one of the first members is still there to sign a GroupInfo.
func (m *forger) checkAgain(t *testing.T, groupInfo []byte, g mls.Group) {
	info := must(framing.Decode(groupInfo))(t).GroupInfo
	must(syntax.Unmarshal(g.RatchetTree(), &info.Tree))(t)
	if _, ok := g.Member(uint32(info.SignerIndex)); !ok {
		return
	}
	message := must(m.clients[info.SignerIndex].SignGroupInfo(info))(t)
	again := must(draft09.New().Open(message, nil))(t)
	if !bytes.Equal(again.TreeHash(), g.TreeHash()) {
		t.Fatal("the tree opens again with another hash")
	}
}

// FuzzOpen opens GroupInfos that a member could sign. A group that opens must export the same tree and GroupInfo.
func FuzzOpen(f *testing.F) {
	m, _, _ := fuzzGroup(f)
	f.Add(m.GroupInfo())
	f.Fuzz(func(t *testing.T, data []byte) {
		message := m.forge(data)
		g, err := draft09.New().Open(message, nil)
		checkTyped(t, err)
		if err != nil {
			return
		}
		again := must(draft09.New().Open(g.GroupInfo(), g.RatchetTree()))(t)
		if !bytes.Equal(again.GroupInfo(), message) || !bytes.Equal(again.TreeHash(), g.TreeHash()) {
			t.Fatal("the group opens again as another")
		}
	})
}
