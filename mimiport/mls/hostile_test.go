package mls

import (
	"bytes"
	"hash"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// counter is a hash that counts its input in bytes.
type counter struct {
	hash.Hash
	bytes int
}

func (c *counter) Write(p []byte) (int, error) {
	c.bytes += len(p)
	return c.Hash.Write(p)
}

// allocated returns how many bytes f allocates.
func allocated(f func()) int {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int(after.TotalAlloc - before.TotalAlloc)
}

// encodeNodes encodes a tree of nodes. Nil stands for a blank.
func encodeNodes(nodes []rfc9420.Value) []byte {
	var b cryptobyte.Builder
	wire.AddVector(&b, func(b *cryptobyte.Builder) {
		for i, n := range nodes {
			if n == nil {
				b.AddUint8(0)
				continue
			}
			b.AddUint8(1)
			b.AddUint8(uint8(1 + i%2))
			n.Encode(b)
		}
	})
	return b.BytesOrPanic()
}

// unmergedTree makes a full tree. list returns the unmerged leaves of each parent.
func unmergedTree(height uint, list func(at span) rfc9420.Uint32s) []rfc9420.Value {
	nodes := make([]rfc9420.Value, 2<<height-1)
	var fill func(span)
	fill = func(at span) {
		if at.height == 0 {
			nodes[at.index()] = &rfc9420.LeafNode{Source: rfc9420.SourceCommit, ParentHash: make([]byte, 32)}
			return
		}
		nodes[at.index()] = &rfc9420.ParentNode{
			EncryptionKey: make([]byte, 32), ParentHash: make([]byte, 32), UnmergedLeaves: list(at),
		}
		fill(at.left())
		fill(at.right())
	}
	fill(span{height: height})
	return nodes
}

func TestHostileUnmergedLeaves(t *testing.T) {
	allButLast := func(at span) rfc9420.Uint32s {
		var list []uint32
		for leaf := at.first; leaf < at.first+1<<at.height-1; leaf++ {
			list = append(list, leaf)
		}
		return numbers(list...)
	}
	sparse := func(at span) rfc9420.Uint32s { return numbers(at.first) }
	for name, list := range map[string]func(span) rfc9420.Uint32s{"all but the last": allButLast, "sparse": sparse} {
		const height = 11
		data := encodeNodes(unmergedTree(height, list))
		suite := rfc9420.SuiteByID(1)
		c := unsigned()
		c.masked[ruleUnmergedBetween] = true
		counted := &counter{Hash: suite.Hash.New()}
		memory := allocated(func() {
			contents, nodes, err := c.scanTree(data, 1<<height)
			if err != nil {
				t.Fatal(err)
			}
			e := newEdit(suite, nil)
			e.h = counted
			tree := e.build(contents, nodes)
			e.treeHash(tree.root, tree.span())
			if err := c.checkTree(e.hasher, tree); err != nil {
				t.Fatal(err)
			}
		})
		t.Logf("%s: %d bytes of tree, %d bytes hashed, %d allocated", name, len(data), counted.bytes, memory)
		if counted.bytes > 4*height*len(data) {
			t.Errorf("%s: hashed %d bytes for a tree of %d", name, counted.bytes, len(data))
		}
		if memory > 4*height*len(data) {
			t.Errorf("%s: allocated %d bytes for a tree of %d", name, memory, len(data))
		}
	}
}

func TestHostileBlanks(t *testing.T) {
	suite := rfc9420.SuiteByID(1)
	nodes := make([]rfc9420.Value, 1<<17-1)
	nodes[len(nodes)-1] = &rfc9420.LeafNode{Source: rfc9420.SourceUpdate}
	data := encodeNodes(nodes)
	memory := allocated(func() {
		tree, err := openTree(suite, data)
		if err != nil {
			t.Fatal(err)
		}
		newHasher(suite).treeHash(tree.root, tree.span())
	})
	if memory > len(data) {
		t.Errorf("allocated %d bytes for %d", memory, len(data))
	}
}

func TestHostileSizes(t *testing.T) {
	m := mlstest.New(mlstest.Options{Seed: 1, GroupID: []byte("group"), Members: identities(4)})
	g := open(t, m)
	limits := DefaultLimits()
	var vector cryptobyte.Builder
	wire.AddOpaque(&vector, make([]byte, 4<<20))
	long := append(bytes.Clone(m.Propose(0, m.Remove(1))), make([]byte, limits.Message)...)
	exact := DefaultLimits()
	exact.Tree = len(m.RatchetTree())
	tight, err := RFC9420(exact).Open(m.GroupInfo(), m.RatchetTree())
	if err != nil {
		t.Fatal(err)
	}
	four := DefaultLimits()
	four.Leaves = map[uint16]int{1: 4}
	full, err := RFC9420(four).Open(m.GroupInfo(), m.RatchetTree())
	if err != nil {
		t.Fatal(err)
	}
	enters := m.Commit(mlstest.CommitOptions{Joiner: m.NewClient([]byte("b"))})
	// credentials; the 2 begins a certificate, which is missing
	basic, x509 := []byte{0, 1, 3, 1, 'c', 2}, []byte{0, 2, 3, 1, 'c', 2}
	chain := bytes.Replace(m.NewClient(basic[3:]).KeyPackage(), basic, x509, 1)
	adds := m.Commit(mlstest.CommitOptions{Proposals: []*mlstest.Proposal{m.Add(m.NewClient([]byte("a")))}})
	small := DefaultLimits()
	small.Leaves = map[uint16]int{1: 3}
	for name, c := range map[string]struct {
		kind mimiport.Kind
		do   func() error
	}{
		"blanks beyond the limit": {mimiport.KindTooLarge, func() error {
			_, err := RFC9420(limits).Open(m.GroupInfo(), vector.BytesOrPanic())
			return err
		}},
		"a tree beyond its suite's limit": {mimiport.KindTooLarge, func() error {
			_, err := RFC9420(small).Open(m.GroupInfo(), m.RatchetTree())
			return err
		}},
		"a tree beyond the limit in bytes": {mimiport.KindTooLarge, func() error {
			_, err := RFC9420(limits).Open(m.GroupInfo(), make([]byte, limits.Tree+1))
			return err
		}},
		"an Add beyond the suite's limit": {mimiport.KindTooLarge, func() error {
			_, _, err := full.Commit(adds.Message, adds.GroupInfo)
			return err
		}},
		"an external Commit beyond the suite's limit": {mimiport.KindTooLarge, func() error {
			_, _, err := full.Commit(enters.Message, enters.GroupInfo)
			return err
		}},
		"a broken certificate chain": {mimiport.KindBadMessage, func() error {
			_, err := RFC9420(limits).Parse(chain)
			return err
		}},
		"a Commit that makes the tree too long": {mimiport.KindTooLarge, func() error {
			_, _, err := tight.Commit(adds.Message, adds.GroupInfo)
			return err
		}},
		"a message beyond the limit": {mimiport.KindTooLarge, func() error {
			_, _, err := g.Propose(long)
			return err
		}},
		"a vector that claims 2^30-1 bytes": {mimiport.KindBadMessage, func() error {
			_, err := RFC9420(limits).Parse([]byte{0, 1, 0, 1, 0xbf, 0xff, 0xff, 0xff})
			return err
		}},
		"a tree that claims 2^30-1 bytes": {mimiport.KindBadMessage, func() error {
			_, err := RFC9420(limits).Open(m.GroupInfo(), []byte{0xbf, 0xff, 0xff, 0xff, 0})
			return err
		}},
		"an unlisted suite": {mimiport.KindUnsupported, func() error {
			_, err := RFC9420(Limits{Tree: 1 << 20, Message: 1 << 20}).Open(m.GroupInfo(), m.RatchetTree())
			return err
		}},
	} {
		memory := allocated(func() {
			if err := c.do(); mimiport.KindOf(err) != c.kind {
				t.Errorf("%s: %v", name, err)
			}
		})
		if memory > 64<<10 && name != "a tree beyond the limit in bytes" { // there, the test itself allocates the tree
			t.Errorf("%s: allocated %d bytes", name, memory)
		}
	}
}

func TestHostileProposals(t *testing.T) {
	limits := DefaultLimits()
	limits.Proposals = 1000
	ds := mlstest.NewClient(99, 1, []byte("example.org"))
	m := mlstest.New(mlstest.Options{
		Seed: 1, GroupID: []byte("group"), Members: identities(1200), ExternalSenders: []*mlstest.Client{ds},
	})
	g, err := RFC9420(limits).Open(m.GroupInfo(), m.RatchetTree())
	if err != nil {
		t.Fatal(err)
	}
	var removes []*mlstest.Proposal
	for leaf := range uint32(1001) {
		removes = append(removes, m.Remove(leaf+1))
	}
	slices.Reverse(removes)
	c := m.Commit(mlstest.CommitOptions{Proposals: removes})
	if _, _, err := g.Commit(c.Message, c.GroupInfo); mimiport.KindOf(err) != mimiport.KindTooLarge {
		t.Errorf("1,001 proposals: %v", err)
	}
	c = m.Commit(mlstest.CommitOptions{Proposals: removes[1:]})
	memory := allocated(func() { g, _ = commit(t, g, c) })
	if g.NumMembers() != 200 {
		t.Errorf("%d members left", g.NumMembers())
	}
	if limit := 4000 * len(removes); memory > limit {
		t.Errorf("allocated %d bytes for %d proposals", memory, len(removes))
	}
	ephemeral := func(i int) *mlstest.Proposal { return c.Next.AppEphemeral(uint16(i), nil) }
	for i := range limits.Proposals / 2 {
		g = propose(t, g, c.Next.Propose(uint32(1001+i%190), ephemeral(i)))
	}
	if _, _, err := g.Propose(c.Next.Propose(0, ephemeral(0))); mimiport.KindOf(err) != mimiport.KindTooLarge {
		t.Errorf("a proposal too many: %v", err)
	}
	propose(t, g, c.Next.ProposeExternal(0, ds, c.Next.Remove(0))) // an external sender still has a place
}

// TestHostileBytes cuts every message at every place, and puts the largest length at every place. The engine may accept
// only a message that would encode identically, and may allocate for a length only when the bytes are there.
func TestHostileBytes(t *testing.T) {
	m, messages := fuzzGroup()
	client := m.NewClient([]byte("client"))
	messages = append(messages, m.GroupInfo(), m.Application(nil, 50), client.KeyPackage(), m.Welcome(client))
	e := RFC9420(DefaultLimits())
	for i, message := range messages {
		for at := range message {
			if _, err := e.Parse(message[:at]); mimiport.KindOf(err) != mimiport.KindBadMessage {
				t.Fatalf("message %d cut at %d: %v", i, at, err)
			}
			long := slices.Concat(message[:at], []byte{0xbf, 0xff, 0xff, 0xff}, message[at:])
			memory := allocated(func() {
				var decoded rfc9420.Message
				if rfc9420.Unmarshal(long, &decoded) {
					checkSame(t, long, &decoded)
				}
			})
			if memory > 16*len(long)+16<<10 {
				t.Fatalf("message %d with a length at %d: allocated %d bytes for %d", i, at, memory, len(long))
			}
		}
	}
	tree := m.RatchetTree()
	for at := range tree {
		if _, err := openTree(rfc9420.SuiteByID(1), tree[:at]); mimiport.KindOf(err) != mimiport.KindBadMessage {
			t.Fatalf("the tree cut at %d: %v", at, err)
		}
	}
}

// TestCommitCost checks that the allocations of a Commit grow with the height of the tree, not with its size.
func TestCommitCost(t *testing.T) {
	cost := func(members int) int {
		m := mlstest.New(mlstest.Options{Seed: 1, GroupID: []byte("group"), Members: identities(members), Populated: true})
		g, c := open(t, m), m.Commit(mlstest.CommitOptions{Sender: uint32(members / 3)})
		return allocated(func() {
			if _, _, err := g.Commit(c.Message, c.GroupInfo); err != nil {
				t.Fatal(err)
			}
		})
	}
	small, large := cost(1<<6), cost(1<<12)
	t.Logf("a Commit allocates %d bytes among 64 members, %d among 4096", small, large)
	if large > 3*small { // the height is twice as much
		t.Errorf("a Commit allocates %d bytes among 64 members, %d among 4096", small, large)
	}
}
