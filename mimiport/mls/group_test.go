package mls

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

func identities(n int) (out [][]byte) {
	for i := range n {
		out = append(out, mlstest.Identity(fmt.Sprintf("@user%d:example.org", i), fmt.Sprintf("DEVICE%d", i)))
	}
	return out
}

// open opens a synthetic group.
func open(t testing.TB, g *mlstest.Group) Group {
	t.Helper()
	opened, err := RFC9420(DefaultLimits()).Open(g.GroupInfo(), g.RatchetTree())
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

// commit applies a synthetic Commit and checks that the engine computes the members' epoch.
func commit(t testing.TB, g Group, c *mlstest.Commit) (Group, *Effects) {
	t.Helper()
	next, effects, err := g.Commit(c.Message, c.GroupInfo)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(next.RatchetTree(), c.Next.RatchetTree()) {
		t.Fatal("the trees differ")
	}
	return next, effects
}

func propose(t testing.TB, g Group, message []byte) Group {
	t.Helper()
	next, _, err := g.Propose(message)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func TestLife(t *testing.T) {
	for suite := uint16(1); suite <= 7; suite++ {
		for _, populated := range []bool{false, true} {
			t.Run(fmt.Sprintf("suite%d/populated=%v", suite, populated), func(t *testing.T) {
				ds := mlstest.NewClient(99, suite, []byte("example.org"))
				m := mlstest.New(mlstest.Options{
					Seed: 1, CipherSuite: suite, GroupID: []byte("group"), Members: identities(5), Populated: populated,
					ExternalSenders: []*mlstest.Client{ds},
				})
				live(t, m, ds)
			})
		}
	}
}

// live takes a group of five members through every kind of change.
func live(t *testing.T, m *mlstest.Group, ds *mlstest.Client) {
	g := open(t, m)
	step := func(o mlstest.CommitOptions) *Effects {
		t.Helper()
		for _, message := range o.References {
			g = propose(t, g, message)
		}
		c := m.Commit(o)
		next, effects := commit(t, g, c)
		g, m = next, c.Next
		return effects
	}
	client := func(name string) *mlstest.Client { return m.NewClient(mlstest.Identity("@"+name+":example.org", "D")) }
	e := step(mlstest.CommitOptions{Sender: 1, AuthenticatedData: []byte("aad")})
	if !e.HasPath || !e.SameCredential || string(e.AuthenticatedData) != "aad" || e.Committer.Leaf != 1 {
		t.Errorf("effects of an empty Commit: %+v", e)
	}
	e = step(mlstest.CommitOptions{Sender: 2, Proposals: []*mlstest.Proposal{m.Add(client("a")), m.Add(client("b"))}})
	if e.HasPath || len(e.Added) != 2 || e.Added[0].Leaf != 5 {
		t.Errorf("effects of two Adds: %+v", e)
	}
	step(mlstest.CommitOptions{
		Sender:     0,
		References: [][]byte{m.Propose(3, m.Update(3)), m.ProposeExternal(0, ds, m.Remove(1)), m.ProposeSelf(client("c"))},
		Proposals:  []*mlstest.Proposal{m.Add(client("d")), m.Add(client("e")), m.Add(client("f")), m.PSK([]byte("psk"))},
	})
	step(mlstest.CommitOptions{Joiner: client("g")})
	e = step(mlstest.CommitOptions{Joiner: m.Client(2), Proposals: []*mlstest.Proposal{m.Remove(2)}})
	if len(e.Removed) != 1 || e.Committer.Leaf != 2 {
		t.Errorf("effects of a resync: %+v", e)
	}
	for _, leaf := range m.Leaves()[3:] {
		step(mlstest.CommitOptions{Sender: 0, Proposals: []*mlstest.Proposal{m.Remove(leaf)}})
	}
	if g.NumMembers() != 3 {
		t.Errorf("%d members at the end", g.NumMembers())
	}
	e = step(mlstest.CommitOptions{Sender: 0, Proposals: []*mlstest.Proposal{m.ReInit([]byte("new"))}})
	if len(e.Proposals) != 1 || e.Proposals[0].Type != ProposalReInit {
		t.Errorf("effects of a ReInit: %+v", e)
	}
	open(t, m)
}

// TestUnknownValues: a group accepts types that the engine does not know, in a Commit of a custom proposal, by value
// and by reference, and of a custom group extension.
func TestUnknownValues(t *testing.T) {
	m := mlstest.New(mlstest.Options{Seed: 1, GroupID: []byte("group"), Members: identities(4)})
	g := open(t, m)
	custom := &mlstest.Proposal{Type: grease, Custom: []byte("custom")}
	reference := m.Propose(1, custom)
	g = propose(t, g, reference)
	contents := extensions(grease, []byte("contents"))
	c := m.Commit(mlstest.CommitOptions{
		References: [][]byte{reference}, Proposals: []*mlstest.Proposal{custom, m.SetExtensions(contents)},
	})
	g, effects := commit(t, g, c)
	if len(effects.Proposals) != 3 || effects.Proposals[0].Type != grease || effects.Proposals[1].Type != grease {
		t.Errorf("proposals %+v", effects.Proposals)
	}
	if len(effects.ExtensionsBefore) != 1 || !bytes.HasSuffix(effects.ExtensionsAfter, contents) {
		t.Errorf("extensions from %x to %x", effects.ExtensionsBefore, effects.ExtensionsAfter)
	}
	if opened := open(t, c.Next); !bytes.Equal(opened.TreeHash(), g.TreeHash()) {
		t.Error("the group differs after it is opened again")
	}
}

// TestTreeInGroupInfo opens a group whose GroupInfo holds the tree.
func TestTreeInGroupInfo(t *testing.T) {
	c := fourClients()
	f := forgery{leaves: c}
	_, tree := f.make()
	f.editInfo = func(i *rfc9420.GroupInfo) { i.Extensions = extensions(int(rfc9420.ExtensionRatchetTree), tree) }
	info, _ := f.make()
	e := RFC9420(DefaultLimits())
	g, err := e.Open(info, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(g.RatchetTree(), tree) || !bytes.Equal(g.GroupInfo(), info) || g.NumMembers() != 4 {
		t.Error("the opened group is another one")
	}
	if again, err := e.Open(info, tree); err != nil || !bytes.Equal(again.RatchetTree(), tree) {
		t.Errorf("with the tree given twice: %v", err)
	}
	if _, err := e.Open(c[0].KeyPackage(), tree); mimiport.KindOf(err) != mimiport.KindBadMessage {
		t.Errorf("with another message for the GroupInfo: %v", err)
	}
}

// TestBatched: an engine that verifies leaves in batches opens groups of all suites, and finds the one bad leaf.
func TestBatched(t *testing.T) {
	e := RFC9420Batched(DefaultLimits(), rand.Reader)
	for suite := uint16(1); suite <= 7; suite++ {
		m := mlstest.New(mlstest.Options{CipherSuite: suite, Members: identities(5), Populated: true})
		if _, err := e.Open(m.GroupInfo(), m.RatchetTree()); err != nil {
			t.Errorf("suite %d: %v", suite, err)
		}
	}
	m := sized(2*leastBatch + 1)
	if _, err := e.Open(m.GroupInfo(), m.RatchetTree()); err != nil {
		t.Error(err)
	}
	tree := bytes.Clone(m.RatchetTree())
	member, _ := open(t, m).Member(leastBatch + 1)
	at := bytes.Index(tree, member.SignatureKey)
	tree[at] ^= 1
	masked := RFC9420Batched(DefaultLimits(), rand.Reader).(*engine)
	masked.masked = map[*rule]bool{ruleTreeHash: true, ruleParentHash: true}
	if _, err := masked.Open(m.GroupInfo(), tree); mimiport.KindOf(err) != mimiport.KindBadSignature {
		t.Errorf("a leaf with a bad signature: %v", err)
	}
}

// TestBatchInVain: a signature that no batch accepts, and that is good by itself, is good. The engine makes no second
// batch then, so that nobody makes it do the work twice.
func TestBatchInVain(t *testing.T) {
	key, content := ed25519.PublicKey(append(make([]byte, 31), 0x80)), []byte("content")
	signature := append(make([]byte, 31), 0x80) // R and the key are the point of order 4, and s is 0
	signature = append(signature, make([]byte, 32)...)
	for i := 0; !ed25519.Verify(key, content, signature); i++ {
		content = fmt.Append(nil, i)
	}
	crafted := []rfc9420.Signed{{Key: key, Content: content, Signature: signature}}
	draws := 0
	random := readerFunc(func(p []byte) (int, error) {
		draws++
		return len(p), nil
	})
	check := checker{random: random}.newLeafCheck(suite1, nil, leastBatch)
	for range 3 {
		if !check.verify(crafted) {
			t.Fatal("the signature is refused")
		}
	}
	if draws != 1 {
		t.Errorf("%d batches", draws)
	}
	crafted[0].Key = append(make([]byte, 31), 1)
	if check.verify(crafted) {
		t.Error("a bad signature is accepted")
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestSharing checks that a hundred epochs of a group take little more memory than one.
func TestSharing(t *testing.T) {
	const members = 2000
	m := mlstest.New(mlstest.Options{Seed: 1, GroupID: []byte("group"), Members: identities(members), Populated: true})
	var commits []*mlstest.Commit
	for i := range 100 {
		commits = append(commits, m.Commit(mlstest.CommitOptions{Sender: uint32(i * 17)}))
		m, commits[i].Next = commits[i].Next, nil
	}
	m = mlstest.New(mlstest.Options{Seed: 1, GroupID: []byte("group"), Members: identities(members), Populated: true})
	before := liveHeap()
	groups := []Group{open(t, m)}
	opened := liveHeap()
	for i, c := range commits {
		next, _, err := groups[i].Commit(c.Message, c.GroupInfo)
		if err != nil {
			t.Fatal(err)
		}
		groups = append(groups, next)
	}
	after := liveHeap()
	runtime.KeepAlive(groups)
	runtime.KeepAlive(m)
	runtime.KeepAlive(commits)
	if perMember := (opened - before) / members; perMember > 1000 {
		t.Errorf("%d bytes a member", perMember)
	}
	if after-opened > 2*(opened-before) {
		t.Errorf("100 epochs take %d bytes, the first %d", after-opened, opened-before)
	}
}

// TestSupports checks that support, which merges capabilities, lists what its definition says.
func TestSupports(t *testing.T) {
	random := mathrand.New(mathrand.NewPCG(1, 2))
	some := func() (out []uint16) {
		for range random.IntN(6) {
			out = append(out, uint16(random.IntN(8)))
		}
		return out
	}
	for range 200 {
		s := newSupports(nil)
		var all *support
		var leaves []rfc9420.LeafNode
		for range 1 + random.IntN(5) {
			l := reread(&rfc9420.LeafNode{
				Source:     rfc9420.SourceUpdate,
				Credential: rfc9420.Credential{Type: uint16(1 + random.IntN(3)), Contents: nil},
				Capabilities: rfc9420.Capabilities{
					Proposals:   rfc9420.MakeUint16s(some()...),
					Credentials: rfc9420.MakeUint16s(some()...),
					Extensions:  rfc9420.MakeUint16s(some()...),
				},
			})
			leaves = append(leaves, *l)
			all = s.merge(all, s.supportOf(l))
		}
		lists := func(list func(*rfc9420.Capabilities) rfc9420.Uint16s, v uint16) bool {
			for i := range leaves {
				if !slices.Contains(slices.Collect(list(&leaves[i].Capabilities).All()), v) {
					return false
				}
			}
			return true
		}
		for v := range uint16(8) {
			if has(all.proposals, v) != lists(func(c *rfc9420.Capabilities) rfc9420.Uint16s { return c.Proposals }, v) ||
				has(all.extensions, v) != lists(func(c *rfc9420.Capabilities) rfc9420.Uint16s { return c.Extensions }, v) ||
				has(all.credentials, v) != lists(func(c *rfc9420.Capabilities) rfc9420.Uint16s { return c.Credentials }, v) ||
				has(all.used, v) != slices.ContainsFunc(leaves, func(l rfc9420.LeafNode) bool { return l.Credential.Type == v }) {
				t.Fatalf("%+v of %+v", all, leaves)
			}
		}
	}
}
