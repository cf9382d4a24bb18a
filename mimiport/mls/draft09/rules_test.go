package draft09_test

import (
	"errors"
	"slices"
	"testing"

	gomls "github.com/cisco/go-mls"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09/draft09test"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09/internal/framing"
)

// wantRule checks the kind and the rule of an error.
func wantRule(t testing.TB, err error, kind mimiport.Kind, rule string) {
	t.Helper()
	var e *mimiport.Error
	if !errors.As(err, &e) || e.Kind != kind || e.Info.Rule != rule || e.Op == "" {
		t.Errorf("error %v, want kind %d and rule %q", err, kind, rule)
	}
}

// plaintext decodes a handshake message.
func (m *members) plaintext(message []byte) *gomls.MLSPlaintext {
	m.Helper()
	return must(framing.Decode(slices.Clone(message)))(m).Plaintext // edits must not reach the message
}

// edit changes a handshake message of a member and signs it again.
func (m *members) edit(by uint32, message []byte, change func(*gomls.MLSPlaintext)) []byte {
	m.Helper()
	pt := m.plaintext(message)
	change(pt)
	return must(m.clients[by].SignPlaintext(pt))(m)
}

// path changes the path of a member's Commit, and renews its parent hash and signature.
func (m *members) path(by uint32, change func(*gomls.DirectPath)) func(*gomls.Commit) {
	return func(c *gomls.Commit) {
		m.Helper()
		change(c.Path)
		if err := m.clients[by].SignPath(c.Path); err != nil {
			m.Fatal(err)
		}
	}
}

// editKeyPackage changes a client's key package and signs it again.
func (m *members) editKeyPackage(c *draft09test.Client, change func(*gomls.KeyPackage)) []byte {
	m.Helper()
	k := must(framing.Decode(must(c.KeyPackage())(m)))(m).KeyPackage
	change(k)
	if err := c.SignKeyPackage(k); err != nil {
		m.Fatal(err)
	}
	return must(framing.Encode(k))(m)
}

// proposeAll gives proposals to a group.
func proposeAll(t testing.TB, g mls.Group, proposals ...[]byte) mls.Group {
	t.Helper()
	for _, message := range proposals {
		next, _, err := g.Propose(message)
		g = must(next, err)(t)
	}
	return g
}

// setExtension replaces or appends an extension.
func setExtension(k *gomls.KeyPackage, typ gomls.ExtensionType, data []byte) {
	k.Extensions.Entries = slices.DeleteFunc(
		k.Extensions.Entries, func(e gomls.Extension) bool { return e.ExtensionType == typ },
	)
	k.Extensions.Entries = append(k.Extensions.Entries, gomls.Extension{ExtensionType: typ, ExtensionData: data})
}

func TestHandshakeRules(t *testing.T) {
	m := newMembers(t, 1, []byte("group"), 3)
	g := proposeAll(t, m.open(), m.Remove(0, 2))
	update := m.Update(1)
	for _, c := range []struct {
		rule   string
		kind   mimiport.Kind
		change func(*gomls.MLSPlaintext)
	}{
		{"ValSem004", mimiport.KindInvalid, func(pt *gomls.MLSPlaintext) { pt.Sender.Sender = 3 }},
		{"ValSem004", mimiport.KindInvalid, func(pt *gomls.MLSPlaintext) { pt.Sender.Sender = 1 << 31 }},
		{"ValSem005", mimiport.KindInvalid, func(pt *gomls.MLSPlaintext) {
			pt.Content = gomls.MLSPlaintextContent{Application: &gomls.ApplicationData{Data: []byte("x")}}
		}},
		{
			"sender-type", mimiport.KindInvalid, func(pt *gomls.MLSPlaintext) { pt.Sender.Type = gomls.SenderTypePreconfigured },
		},
		{"sender-type", mimiport.KindInvalid, func(pt *gomls.MLSPlaintext) { pt.Sender.Type = gomls.SenderTypeNewMember }},
		{"ValSem010", mimiport.KindBadSignature, func(pt *gomls.MLSPlaintext) { pt.Sender.Sender = 0 }},
		{"ValSem108", mimiport.KindInvalid, func(pt *gomls.MLSPlaintext) {
			pt.Content.Proposal = &gomls.Proposal{Remove: &gomls.RemoveProposal{Removed: 3}}
		}},
		{"ValSem108", mimiport.KindInvalid, func(pt *gomls.MLSPlaintext) {
			pt.Content.Proposal = &gomls.Proposal{Remove: &gomls.RemoveProposal{Removed: 1<<32 - 1}}
		}},
		{"leaf-signature", mimiport.KindBadSignature, func(pt *gomls.MLSPlaintext) {
			pt.Content.Proposal.Update.KeyPackage.Credential.Basic.Identity = []byte("mallory")
		}},
		{"ValSem110", mimiport.KindInvalid, func(pt *gomls.MLSPlaintext) {
			pt.Content.Proposal.Update.KeyPackage = *must(framing.Decode(m.GroupInfo()))(t).GroupInfo.Tree.Nodes[2].Node.Leaf
		}},
	} {
		_, _, err := g.Propose(m.edit(1, update, c.change))
		wantRule(t, err, c.kind, c.rule)
	}
	sealed := must(framing.Encode(&gomls.MLSCiphertext{
		GroupID: []byte("group"), Epoch: 1, ContentType: gomls.ContentTypeCommit,
	}))(t)
	_, err := draft09.New().Parse(sealed)
	wantRule(t, err, mimiport.KindUnsupported, "")
	_, _, err = g.Propose(sealed)
	wantRule(t, err, mimiport.KindUnsupported, "")
	_, err = draft09.New().Parse(m.edit(1, update, func(pt *gomls.MLSPlaintext) {
		pt.Content = gomls.MLSPlaintextContent{Application: &gomls.ApplicationData{}}
	}))
	wantRule(t, err, mimiport.KindInvalid, "ValSem005")
}

func TestKeyPackageRules(t *testing.T) {
	m := newMembers(t, 1, []byte("group"), 1)
	g := m.open()
	add := func(keyPackage []byte) error {
		_, _, err := g.Propose(must(m.clients[0].Add(keyPackage))(t))
		return err
	}
	for _, c := range []struct {
		rule   string
		change func(*gomls.KeyPackage)
	}{
		{"ValSem105", func(k *gomls.KeyPackage) { k.CipherSuite = 3 }},
		{"ValSem106", func(k *gomls.KeyPackage) { k.Extensions.Entries = k.Extensions.Entries[1:] }},
		{"ValSem106", func(k *gomls.KeyPackage) { k.Extensions.Entries = k.Extensions.Entries[:2] }},
		{"ValSem106", func(k *gomls.KeyPackage) { setExtension(k, gomls.ExtensionTypeSupportedVersions, []byte{1, 9}) }},
		{"ValSem106", func(k *gomls.KeyPackage) {
			setExtension(k, gomls.ExtensionTypeSupportedCipherSuites, []byte{2, 0, 3})
		}},
		{"extensions-unique", func(k *gomls.KeyPackage) {
			k.Extensions.Entries = append(k.Extensions.Entries, k.Extensions.Entries[0])
		}},
		{"extensions-unique", func(k *gomls.KeyPackage) {
			setExtension(k, gomls.ExtensionTypeSupportedCipherSuites, []byte{3, 0, 1, 0})
		}},
		{"extensions-unique", func(k *gomls.KeyPackage) { setExtension(k, gomls.ExtensionTypeLifetime, make([]byte, 15)) }},
		{"extensions-unique", func(k *gomls.KeyPackage) { setExtension(k, gomls.ExtensionTypeLifetime, make([]byte, 17)) }},
		{"extensions-unique", func(k *gomls.KeyPackage) { setExtension(k, gomls.ExtensionTypeParentHash, nil) }},
	} {
		wantRule(t, add(m.editKeyPackage(m.client(), c.change)), mimiport.KindInvalid, c.rule)
	}
	// The engine ignores an unknown extension.
	if err := add(m.editKeyPackage(m.client(), func(k *gomls.KeyPackage) { setExtension(k, 0x2a2a, nil) })); err != nil {
		t.Error(err)
	}
}

func TestCommitRules(t *testing.T) {
	m := newMembers(t, 1, []byte("group"), 4)
	add, update, remove := m.Add(0), m.Update(1), m.Remove(0, 2)
	again := m.edit(0, update, func(pt *gomls.MLSPlaintext) {
		pt.Sender.Sender = 0
		pt.Content.Proposal = m.plaintext(remove).Content.Proposal
		pt.AuthenticatedData = []byte("again")
	})
	ownUpdate, removeCommitter := m.Update(3), m.Remove(0, 3)
	g := proposeAll(t, m.open(), add, update, remove)
	_, _, err := g.Propose(again)
	wantRule(t, err, mimiport.KindInvalid, "proposals-together")
	commit := m.Commit(3, nil, add, update, remove)
	if _, _, err := g.Commit(commit.Message, commit.GroupInfo); err != nil {
		t.Fatal(err)
	}
	idOf := func(message []byte) gomls.ProposalID {
		return gomls.ProposalID{Hash: gomls.CipherSuite(1).Digest(message[1:])}
	}
	for rule, own := range map[string][]byte{"ValSem111": ownUpdate, "ValSem200": removeCommitter} {
		message := m.edit(3, commit.Message, func(pt *gomls.MLSPlaintext) {
			c := &pt.Content.Commit.Commit
			if rule == "ValSem111" {
				c.Updates = append(c.Updates, idOf(own))
			} else {
				c.Removes = append(c.Removes, idOf(own))
			}
		})
		_, _, err := proposeAll(t, g, own).Commit(message, commit.GroupInfo)
		wantRule(t, err, mimiport.KindInvalid, rule)
	}
	for _, c := range []struct {
		rule   string
		kind   mimiport.Kind
		change func(*gomls.Commit)
	}{
		{"proposal-reference", mimiport.KindInvalid, func(c *gomls.Commit) { c.Adds[0].Hash[0] ^= 1 }},
		{"proposal-reference", mimiport.KindInvalid, func(c *gomls.Commit) { c.Adds = append(c.Adds, c.Adds[0]) }},
		{"proposal-reference", mimiport.KindInvalid, func(c *gomls.Commit) { c.Adds, c.Updates = nil, c.Adds }},
		{"ValSem201", mimiport.KindInvalid, func(c *gomls.Commit) { c.Path = nil }},
		{"ValSem202", mimiport.KindInvalid, func(c *gomls.Commit) { c.Path.Steps = c.Path.Steps[1:] }},
		{"ValSem202", mimiport.KindInvalid, func(c *gomls.Commit) { c.Path.Steps = append(c.Path.Steps, c.Path.Steps[0]) }},
		{"ValSem202", mimiport.KindInvalid, func(c *gomls.Commit) { c.Path.Steps[1].EncryptedPathSecrets = nil }},
		{"ValSem202", mimiport.KindInvalid, func(c *gomls.Commit) { c.Adds = nil }},
		{"leaf-signature", mimiport.KindBadSignature, func(c *gomls.Commit) { c.Path.LeafKeyPackage.Signature.Data[0] ^= 1 }},
		{"path-parent-hash", mimiport.KindInvalid, func(c *gomls.Commit) { c.Path.Steps[1].PublicKey.Data[0] ^= 1 }},
		{"ValSem206", mimiport.KindInvalid, m.path(
			3, func(p *gomls.DirectPath) { p.Steps[0].PublicKey = p.LeafKeyPackage.InitKey },
		)},
		{"ValSem206", mimiport.KindInvalid, m.path(3, func(p *gomls.DirectPath) {
			p.LeafKeyPackage.InitKey = m.plaintext(update).Content.Proposal.Update.KeyPackage.InitKey
			p.Steps[0].PublicKey = must(framing.Decode(m.GroupInfo()))(t).GroupInfo.Tree.Nodes[0].Node.Leaf.InitKey
		})},
		{"ValSem103", mimiport.KindInvalid, m.path(3, func(p *gomls.DirectPath) {
			p.Steps[0].PublicKey = m.plaintext(update).Content.Proposal.Update.KeyPackage.InitKey
		})},
	} {
		message := m.edit(3, commit.Message, func(pt *gomls.MLSPlaintext) { c.change(&pt.Content.Commit.Commit) })
		_, _, err := g.Commit(message, commit.GroupInfo)
		wantRule(t, err, c.kind, c.rule)
	}
}

// TestTogether: pending proposals cannot add a client twice, or with a key or an identity that a member has or will
// have. They must leave a member who can commit all of them.
func TestTogether(t *testing.T) {
	m := newMembers(t, 1, []byte("group"), 3)
	client := m.client()
	addOf := func(c *draft09test.Client, change func(*gomls.KeyPackage)) []byte {
		return must(m.clients[0].Add(m.editKeyPackage(c, change)))(t)
	}
	same := func(*gomls.KeyPackage) {}
	named := func(name []byte) *draft09test.Client { return must(draft09test.NewClient(1, name))(t) }
	initKey := func(b byte) func(*gomls.KeyPackage) {
		return func(k *gomls.KeyPackage) { k.InitKey.Data = append(make([]byte, 31), b) }
	}
	second, _ := m.open().Member(1)
	first := addOf(client, same)
	renamed := m.edit(1, m.Update(1), func(pt *gomls.MLSPlaintext) {
		k := &pt.Content.Proposal.Update.KeyPackage
		k.Credential.Basic.Identity = []byte("another name")
		if err := m.clients[1].SignKeyPackage(k); err != nil {
			t.Fatal(err)
		}
	})
	for name, c := range map[string]struct {
		rule string
		list [][]byte
	}{
		"one client twice": {"proposals-together", [][]byte{first, addOf(client, initKey(1))}},
		"one name twice": {
			"proposals-together", [][]byte{addOf(named([]byte("a")), same), addOf(named([]byte("a")), same)},
		},
		"one encryption key twice": {
			"proposals-together", [][]byte{addOf(named([]byte("a")), initKey(2)), addOf(named([]byte("b")), initKey(2))},
		},
		"a member's name":           {"device-unique", [][]byte{addOf(named(second.Identity), same)}},
		"another name for a member": {"successor", [][]byte{renamed}},
		"two changes of a leaf":     {"proposals-together", [][]byte{m.Update(1), m.Remove(0, 1)}},
		"two Updates":               {"proposals-together", [][]byte{m.Update(1), m.Update(1)}},
		"no committer is left":      {"no-committer", [][]byte{m.Update(0), m.Update(1), m.Update(2)}},
		"an empty lifetime": {"lifetime-order", [][]byte{addOf(client, func(k *gomls.KeyPackage) {
			setExtension(k, gomls.ExtensionTypeLifetime, make([]byte, 16))
		})}},
	} {
		last := len(c.list) - 1
		_, _, err := proposeAll(t, m.open(), c.list[:last]...).Propose(c.list[last])
		t.Run(name, func(t *testing.T) { wantRule(t, err, mimiport.KindInvalid, c.rule) })
	}
	alone := newMembers(t, 1, []byte("alone"), 1)
	_, _, err := alone.open().Propose(alone.Update(0))
	wantRule(t, err, mimiport.KindInvalid, "no-committer")
}

// TestLargestGroup: in a full group, a member can still commit a path, and the group refuses one more member.
func TestLargestGroup(t *testing.T) {
	m := newMembers(t, 1, []byte("group"), 1)
	g := m.open()
	var adds [][]byte
	for range framing.MaxLeaves - 1 {
		adds = append(adds, m.Add(0))
	}
	g = proposeAll(t, g, adds...)
	full := m.Commit(0, nil, adds...)
	next, e, err := g.Commit(full.Message, full.GroupInfo)
	if must(next, err)(t); next.NumMembers() != framing.MaxLeaves || e.Added[126].Leaf != 127 {
		t.Errorf("%d members", next.NumMembers())
	}
	last := m.Add(0)
	_, _, err = g.Propose(last)
	wantRule(t, err, mimiport.KindInvalid, "proposals-together")
	m.Advance()
	_, _, err = next.Propose(m.Add(0))
	wantRule(t, err, mimiport.KindTooLarge, "")

	m = grow(t, framing.MaxLeaves)
	path := m.Commit(0, nil)
	after, e, err := m.open().Commit(path.Message, path.GroupInfo)
	if must(after, err)(t); !e.HasPath {
		t.Error("no path")
	}
}

func TestGroupInfoRules(t *testing.T) {
	m := newMembers(t, 1, []byte("group"), 4)
	m.Commit(1, nil)
	m.Advance()
	m.Commit(0, nil, m.Add(0))
	m.Advance()
	for _, c := range []struct {
		rule   string
		kind   mimiport.Kind
		change func(*gomls.GroupInfo)
	}{
		{"tree-shape", mimiport.KindBadMessage, func(i *gomls.GroupInfo) { i.Tree.Nodes = nil }},
		{"tree-shape", mimiport.KindBadMessage, func(i *gomls.GroupInfo) {
			i.Tree.Nodes = append(i.Tree.Nodes, gomls.OptionalNode{})
		}},
		{"tree-shape", mimiport.KindBadMessage, func(i *gomls.GroupInfo) { i.Tree.Nodes[0] = i.Tree.Nodes[1] }},
		{"tree-shape", mimiport.KindBadMessage, func(i *gomls.GroupInfo) { i.Tree.Nodes[1] = i.Tree.Nodes[0] }},
		{"unmerged-leaves", mimiport.KindInvalid, unmerged(3, 3, 2)},
		{"unmerged-leaves", mimiport.KindInvalid, unmerged(3, 2, 2)},
		{"unmerged-leaves", mimiport.KindInvalid, unmerged(3, 4)},
		{"unmerged-leaves", mimiport.KindInvalid, unmerged(3, 1<<32-1)},
		{"unmerged-leaves", mimiport.KindInvalid, unmerged(3, 0)},
		{"unmerged-leaves", mimiport.KindInvalid, func(i *gomls.GroupInfo) {
			i.Tree.Nodes[6].Node = nil
			unmerged(3, 3)(i)
		}},
		{"ValSem103", mimiport.KindInvalid, func(i *gomls.GroupInfo) {
			i.Tree.Nodes[3].Node.Parent.PublicKey = i.Tree.Nodes[1].Node.Parent.PublicKey
		}},
		{"ValSem103", mimiport.KindInvalid, func(i *gomls.GroupInfo) { i.Tree.Nodes[6] = i.Tree.Nodes[4] }},
		{"group-info-signer", mimiport.KindInvalid, func(i *gomls.GroupInfo) { i.Tree.Nodes[0].Node = nil }},
		{"leaf-signature", mimiport.KindBadSignature, func(i *gomls.GroupInfo) {
			i.Tree.Nodes[2].Node.Leaf.Signature.Data[0] ^= 1
		}},
		{"group-id", mimiport.KindInvalid, func(i *gomls.GroupInfo) { i.GroupID = nil }},
		{"epoch-range", mimiport.KindUnsupported, func(i *gomls.GroupInfo) { i.Epoch = 1 << 63 }},
		{"transcript-hash", mimiport.KindInvalid, func(i *gomls.GroupInfo) { i.Epoch = 0 }},
		{"transcript-hash", mimiport.KindInvalid, func(i *gomls.GroupInfo) {
			i.ConfirmedTranscriptHash = i.ConfirmedTranscriptHash[1:]
		}},
		{"transcript-hash", mimiport.KindInvalid, func(i *gomls.GroupInfo) { i.InterimTranscriptHash = nil }},
		{"group-extensions", mimiport.KindUnsupported, func(i *gomls.GroupInfo) {
			i.Extensions.Entries = make([]gomls.Extension, 1)
		}},
	} {
		info := must(framing.Decode(m.GroupInfo()))(t).GroupInfo
		c.change(info)
		_, err := draft09.New().Open(must(m.clients[0].SignGroupInfo(info))(t), nil)
		wantRule(t, err, c.kind, c.rule)
	}
	for _, c := range []struct {
		rule   string
		kind   mimiport.Kind
		change func(*gomls.GroupInfo)
	}{
		{"group-info-signer", mimiport.KindInvalid, func(i *gomls.GroupInfo) { i.SignerIndex = 1 << 31 }},
		{"group-info-signature", mimiport.KindBadSignature, func(i *gomls.GroupInfo) { i.SignerIndex = 1 }},
		{"group-info-signature", mimiport.KindBadSignature, func(i *gomls.GroupInfo) { i.Signature[0] ^= 1 }},
	} {
		info := must(framing.Decode(m.GroupInfo()))(t).GroupInfo
		c.change(info)
		_, err := draft09.New().Open(must(framing.Encode(info))(t), nil)
		wantRule(t, err, c.kind, c.rule)
	}
	_, err := draft09.New().Open(m.GroupInfo(), newMembers(t, 1, []byte("other"), 2).RatchetTree())
	wantRule(t, err, mimiport.KindInvalid, "ratchet-tree")
}

// unmerged sets the unmerged leaves of a parent.
func unmerged(node int, list ...gomls.LeafIndex) func(*gomls.GroupInfo) {
	return func(i *gomls.GroupInfo) { i.Tree.Nodes[node].Node.Parent.UnmergedLeaves = list }
}
