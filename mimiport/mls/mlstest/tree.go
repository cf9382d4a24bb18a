package mlstest

import (
	"math/bits"
	"slices"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// tree is a ratchet tree in the array form of RFC 9420, appendix C. It follows the text of the RFC and shares no code
// with the engine, so that each can check the other.
type tree struct {
	suite  *rfc9420.Suite
	nodes  []node
	hashes [][]byte // tree hashes; nil for one that is not computed yet
}

// node is a leaf, a parent or, with neither, a blank. The leaf or parent that it points to never changes.
type node struct {
	leaf   *rfc9420.LeafNode
	parent *parent
}

type parent struct {
	key, parentHash []byte
	unmerged        []uint32 // sorted
}

func (n node) blank() bool { return n.leaf == nil && n.parent == nil }

func (p *parent) node() *rfc9420.ParentNode {
	var b cryptobyte.Builder
	for _, leaf := range p.unmerged {
		b.AddUint32(leaf)
	}
	return &rfc9420.ParentNode{EncryptionKey: p.key, ParentHash: p.parentHash, UnmergedLeaves: b.BytesOrPanic()}
}

func newTree(suite *rfc9420.Suite, width int) *tree {
	return &tree{suite, make([]node, 2*width-1), make([][]byte, 2*width-1)}
}

func (t *tree) clone() *tree {
	return &tree{t.suite, slices.Clone(t.nodes), slices.Clone(t.hashes)}
}

func (t *tree) width() int { return (len(t.nodes) + 1) / 2 }
func (t *tree) root() int  { return len(t.nodes) / 2 }

func level(x int) int  { return bits.TrailingZeros(^uint(x)) }
func left(x int) int   { return x ^ 1<<(level(x)-1) }
func right(x int) int  { return x ^ 3<<(level(x)-1) }
func up(x int) int     { k := level(x); return (x | 1<<k) &^ (2 << k) }
func beside(x int) int { return left(up(x)) ^ right(up(x)) ^ x }

// set replaces a node.
func (t *tree) set(x int, n node) {
	t.nodes[x] = n
	for t.hashes[x] = nil; x != t.root(); t.hashes[x] = nil {
		x = up(x)
	}
}

func (t *tree) leaf(leaf uint32) *rfc9420.LeafNode { return t.nodes[2*leaf].leaf }

// replace sets a leaf, or blanks it for nil, and blanks its direct path.
func (t *tree) replace(leaf uint32, l *rfc9420.LeafNode) {
	x := 2 * int(leaf)
	t.set(x, node{leaf: l})
	for x != t.root() {
		x = up(x)
		t.nodes[x] = node{}
	}
}

// truncate halves the tree while its right half has no member.
func (t *tree) truncate() {
	member := func(n node) bool { return n.leaf != nil }
	for len(t.nodes) > 1 && !slices.ContainsFunc(t.nodes[t.root()+1:], member) {
		t.nodes, t.hashes = t.nodes[:t.root():t.root()], t.hashes[:t.root():t.root()]
	}
}

// free returns the leftmost blank leaf. It doubles a full tree first.
func (t *tree) free() uint32 {
	for x := 0; x < len(t.nodes); x += 2 {
		if t.nodes[x].leaf == nil {
			return uint32(x / 2)
		}
	}
	leaf := uint32(t.width())
	t.nodes = append(t.nodes, make([]node, len(t.nodes)+1)...)
	t.hashes = append(t.hashes, make([][]byte, len(t.hashes)+1)...)
	return leaf
}

// add puts a leaf into the leftmost blank place and lists it as unmerged in the parents above.
func (t *tree) add(l *rfc9420.LeafNode) uint32 {
	leaf := t.free()
	x := 2 * int(leaf)
	t.set(x, node{leaf: l})
	for x != t.root() {
		x = up(x)
		if p := t.nodes[x].parent; p != nil {
			i, _ := slices.BinarySearch(p.unmerged, leaf)
			t.nodes[x].parent = &parent{p.key, p.parentHash, slices.Insert(slices.Clone(p.unmerged), i, leaf)}
		}
	}
	return leaf
}

func (t *tree) resolution(x int) []int {
	n := t.nodes[x]
	switch {
	case n.leaf != nil:
		return []int{x}
	case n.parent != nil:
		out := []int{x}
		for _, leaf := range n.parent.unmerged {
			out = append(out, 2*int(leaf))
		}
		return out
	case level(x) == 0:
		return nil
	}
	return append(t.resolution(left(x)), t.resolution(right(x))...)
}

// treeHash computes the hash that a node would have without some leaves.
func (t *tree) treeHash(x int, except []uint32) []byte {
	if len(except) == 0 && t.hashes[x] != nil {
		return t.hashes[x]
	}
	n := t.nodes[x]
	var b cryptobyte.Builder
	if level(x) == 0 {
		b.AddUint8(rfc9420.NodeTypeLeaf)
		b.AddUint32(uint32(x / 2))
		if n.leaf == nil || slices.Contains(except, uint32(x/2)) {
			b.AddUint8(0)
		} else {
			b.AddUint8(1)
			b.AddBytes(n.leaf.Raw)
		}
	} else {
		b.AddUint8(rfc9420.NodeTypeParent)
		if n.parent == nil {
			b.AddUint8(0)
		} else {
			b.AddUint8(1)
			p := *n.parent
			if len(except) > 0 {
				p.unmerged = slices.DeleteFunc(
					slices.Clone(p.unmerged), func(leaf uint32) bool { return slices.Contains(except, leaf) },
				)
			}
			p.node().Encode(&b)
		}
		wire.AddOpaque(&b, t.treeHash(left(x), except))
		wire.AddOpaque(&b, t.treeHash(right(x), except))
	}
	sum := t.suite.Sum(b.BytesOrPanic())
	if len(except) == 0 {
		t.hashes[x] = sum
	}
	return sum
}

// parentHash computes the parent hash for the node below p. sibling is p's other child.
func (t *tree) parentHash(p *parent, sibling int) []byte {
	var b cryptobyte.Builder
	wire.AddOpaque(&b, p.key)
	wire.AddOpaque(&b, p.parentHash)
	wire.AddOpaque(&b, t.treeHash(sibling, p.unmerged))
	return t.suite.Sum(b.BytesOrPanic())
}

// filteredPath returns the filtered direct path of a leaf, from its parent up, and the copath node of each.
func (t *tree) filteredPath(leaf uint32) (path, copath []int) {
	for x := 2 * int(leaf); x != t.root(); x = up(x) {
		if sibling := beside(x); len(t.resolution(sibling)) > 0 {
			path, copath = append(path, up(x)), append(copath, sibling)
		}
	}
	return path, copath
}

// setPath sets the filtered direct path of a leaf and returns the parent hash for the leaf. nodes run from the leaf's
// parent up.
func (t *tree) setPath(leaf uint32, nodes []rfc9420.UpdatePathNode) (parentHash []byte) {
	path, copath := t.filteredPath(leaf)
	t.replace(leaf, t.leaf(leaf))
	parentHash = []byte{}
	for surplus, i := len(nodes)-len(path), len(path)-1; i >= 0 && i+surplus >= 0; i-- {
		p := &parent{key: nodes[i+surplus].EncryptionKey, parentHash: parentHash}
		t.nodes[path[i]].parent = p
		parentHash = t.parentHash(p, copath[i])
	}
	return parentHash
}

func (t *tree) encode() []byte {
	end := len(t.nodes)
	for end > 0 && t.nodes[end-1].blank() {
		end--
	}
	var b cryptobyte.Builder
	wire.AddVector(&b, func(b *cryptobyte.Builder) {
		for _, n := range t.nodes[:end] {
			switch {
			case n.leaf != nil:
				b.AddUint8(1)
				b.AddUint8(rfc9420.NodeTypeLeaf)
				b.AddBytes(n.leaf.Raw)
			case n.parent != nil:
				b.AddUint8(1)
				b.AddUint8(rfc9420.NodeTypeParent)
				n.parent.node().Encode(b)
			default:
				b.AddUint8(0)
			}
		}
	})
	return b.BytesOrPanic()
}
