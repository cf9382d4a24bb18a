package mls

import (
	"iter"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// maxHash is the size of the longest hash of any suite, in bytes.
const maxHash = 64

// node is one node of a ratchet tree together with the nodes below it. A node never changes once its tree is
// published, so trees share nodes: a Commit makes new nodes only on the paths to the leaves that it changes.
//
// A node keeps its encoding and decodes it on demand: hashes and signatures are over slices of the encoding.
type node struct {
	left, right *node  // nil for a leaf, and where all nodes below are blank
	raw         []byte // encoded LeafNode or ParentNode; nil for a blank
	support     *support
	members     uint32 // non-blank leaves at and below this node
	filled      uint32 // non-blank nodes at and below this node
	size        uint32 // bytes of the encodings of all these nodes
	resolution  uint32 // nodes in its resolution (RFC 9420, section 4.1.1)
	hashed      bool   // hash is set
	hash        digest // tree hash (RFC 9420, section 7.8)
}

// span is the place of a node: its height above the leaves, and the first of the 1<<height leaves at and below it.
type span struct {
	height uint
	first  uint32
}

func (s span) left() span  { return span{s.height - 1, s.first} }
func (s span) right() span { return span{s.height - 1, s.middle()} }

// middle is the first leaf of the right half.
func (s span) middle() uint32 { return s.first + 1<<(s.height-1) }

// contains reports whether a leaf is at or below the place. It computes in 64 bits, since a leaf number from the
// network may have any value.
func (s span) contains(leaf uint32) bool {
	return leaf >= s.first && uint64(leaf)-uint64(s.first) < 1<<s.height
}

// tree is a ratchet tree of 1<<height leaves (RFC 9420, section 4.1). The zero tree is one blank leaf.
type tree struct {
	root   *node
	height uint
}

func (t tree) span() span { return span{height: t.height} }

// blank stands for a nil child. It is never hashed: a blank's hash depends on its place.
var blank = &node{}

// child returns n, or blank for nil.
func child(n *node) *node {
	if n == nil {
		return blank
	}
	return n
}

func (n *node) isBlank() bool { return n.raw == nil }

// decodeLeaf decodes the encoding of a node, which decoded without error before.
func decodeLeaf(raw []byte) (l rfc9420.LeafNode) {
	rfc9420.Unmarshal(raw, &l)
	return l
}

// decodeParent decodes the encoding of a node, which decoded without error before.
func decodeParent(raw []byte) (p rfc9420.ParentNode) {
	rfc9420.Unmarshal(raw, &p)
	return p
}

// find returns the node of a leaf, nil when the leaf is blank or out of range.
func (t tree) find(leaf uint32) *node {
	if uint64(leaf) >= 1<<t.height {
		return nil
	}
	n := child(t.root)
	for at := t.span(); at.height > 0; {
		if leaf < at.middle() {
			n, at = child(n.left), at.left()
		} else {
			n, at = child(n.right), at.right()
		}
	}
	if n.isBlank() {
		return nil
	}
	return n
}

// leaves yields the non-blank leaves in order.
func (t tree) leaves() iter.Seq2[uint32, *node] {
	return func(yield func(uint32, *node) bool) { child(t.root).leaves(t.span(), yield) }
}

func (n *node) leaves(at span, yield func(uint32, *node) bool) bool {
	if n.members == 0 {
		return true
	}
	if at.height == 0 {
		return yield(at.first, n)
	}
	return child(n.left).leaves(at.left(), yield) && child(n.right).leaves(at.right(), yield)
}

// blanks yields the blank leaves in order, then the leaves that a larger tree would have.
func (t tree) blanks() iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		if !child(t.root).blanks(t.span(), yield) {
			return
		}
		for leaf := uint32(1) << t.height; yield(leaf); leaf++ {
		}
	}
}

func (n *node) blanks(at span, yield func(uint32) bool) bool {
	switch {
	case n.members == 1<<at.height:
		return true
	case at.height == 0:
		return yield(at.first)
	}
	return child(n.left).blanks(at.left(), yield) && child(n.right).blanks(at.right(), yield)
}

// leafChange replaces a leaf, or blanks it.
type leafChange struct {
	leaf uint32
	raw  []byte // nil to blank the leaf
	caps *support
}

// edit makes new trees from trees. One operation uses it, so its caches need no lock.
type edit struct {
	*hasher
	*supports
}

// newEdit makes an edit for trees of a suite. common is the support of all present members, nil when there are none.
func newEdit(suite *rfc9420.Suite, common *support) *edit {
	return &edit{newHasher(suite), newSupports(common)}
}

// join makes a parent of two children from its encoding. It does not compute the hash.
func (e *edit) join(left, right *node, raw []byte, unmerged int) *node {
	n := &node{left: left, right: right, raw: raw}
	n.members = child(left).members + child(right).members
	n.filled = child(left).filled + child(right).filled
	n.size = child(left).size + child(right).size
	n.support = e.merge(child(left).support, child(right).support)
	if raw != nil {
		n.filled++
		n.size += uint32(len(raw))
		n.resolution = 1 + uint32(unmerged)
	} else {
		n.resolution = child(left).resolution + child(right).resolution
	}
	return n
}

func makeLeaf(raw []byte, caps *support) *node {
	if raw == nil {
		return &node{}
	}
	return &node{raw: raw, support: caps, members: 1, filled: 1, size: uint32(len(raw)), resolution: 1}
}

// replace applies changes, which are sorted by leaf and within the tree. Of several changes of one leaf, the last
// counts. For each node above a changed leaf, parent returns the new encoding and its number of unmerged leaves; below
// are the changes below that node.
func (e *edit) replace(
	t tree, changes []leafChange, parent func(n *node, below []leafChange) (raw []byte, unmerged int),
) tree {
	var walk func(*node, span, []leafChange) *node
	walk = func(n *node, at span, below []leafChange) *node {
		switch {
		case len(below) == 0:
			return n
		case at.height == 0:
			last := below[len(below)-1]
			return makeLeaf(last.raw, last.caps)
		}
		n = child(n)
		split := 0
		for split < len(below) && below[split].leaf < at.middle() {
			split++
		}
		left := walk(n.left, at.left(), below[:split])
		right := walk(n.right, at.right(), below[split:])
		raw, unmerged := parent(n, below)
		return e.join(left, right, raw, unmerged)
	}
	return tree{walk(t.root, t.span(), changes), t.height}
}

// set replaces leaves and blanks the parents above them, as Update and Remove do (RFC 9420, sections 12.1.2 and
// 12.1.3). It calls blanked with each parent before.
func (e *edit) set(t tree, changes []leafChange, blanked func(*node)) tree {
	return e.replace(t, changes, func(n *node, _ []leafChange) ([]byte, int) {
		blanked(n)
		return nil, 0
	})
}

// add fills blank leaves and lists them as unmerged in the parents above (RFC 9420, section 12.1.1).
func (e *edit) add(t tree, changes []leafChange) tree {
	if len(changes) > 0 {
		t = e.extend(t, changes[len(changes)-1].leaf)
	}
	return e.replace(t, changes, func(n *node, below []leafChange) ([]byte, int) {
		if n.isBlank() {
			return nil, 0
		}
		p := decodeParent(n.raw)
		p.UnmergedLeaves = insertLeaves(p.UnmergedLeaves, below)
		return encode(&p), p.UnmergedLeaves.Len()
	})
}

// encode encodes a parent.
func encode(p *rfc9420.ParentNode) []byte {
	var b cryptobyte.Builder
	p.Encode(&b)
	return b.BytesOrPanic() // it cannot panic: its parts came in messages, and the number of leaves is limited
}

// insertLeaves merges leaves into a sorted list that has none of them.
func insertLeaves(list rfc9420.Uint32s, add []leafChange) rfc9420.Uint32s {
	b := cryptobyte.NewBuilder(make([]byte, 0, len(list)+4*len(add)))
	i := 0
	for _, c := range add {
		for i < list.Len() && list.At(i) < c.leaf {
			b.AddUint32(list.At(i))
			i++
		}
		b.AddUint32(c.leaf)
	}
	b.AddBytes(list.Slice(i, list.Len()))
	return b.BytesOrPanic()
}

// extend doubles the tree until it has the leaf (RFC 9420, section 7.7).
func (e *edit) extend(t tree, leaf uint32) tree {
	for uint64(leaf) >= 1<<t.height {
		t = tree{e.join(t.root, nil, nil, 0), t.height + 1}
	}
	return t
}

// truncate halves the tree while its right half is empty (RFC 9420, section 7.7).
func truncate(t tree) tree {
	for t.height > 0 && child(child(t.root).right).members == 0 {
		t = tree{child(t.root).left, t.height - 1}
	}
	return t
}

// nodeReader walks the contents of an encoded ratchet tree (RFC 9420, section 12.4.3.3).
type nodeReader struct {
	rest   cryptobyte.String
	parent bool // the next node is a parent; leaves and parents alternate
	leaf   rfc9420.LeafNode
	inner  rfc9420.ParentNode
}

// next reads one node into leaf or inner. For a blank node, Raw of both is nil.
func (r *nodeReader) next() bool {
	var present, typ uint8
	if !r.rest.ReadUint8(&present) || present > 1 {
		return false
	}
	isParent := r.parent
	r.parent = !isParent
	r.leaf, r.inner = rfc9420.LeafNode{}, rfc9420.ParentNode{}
	if present == 0 {
		return true
	}
	if !r.rest.ReadUint8(&typ) {
		return false
	}
	if isParent {
		return typ == rfc9420.NodeTypeParent && r.inner.Decode(&r.rest)
	}
	return typ == rfc9420.NodeTypeLeaf && r.leaf.Decode(&r.rest)
}

// treeHeight returns the height of the smallest tree that has at least that many nodes (RFC 9420, section 12.4.3.3).
func treeHeight(nodes int) (height uint) {
	for uint64(nodes) > 2<<height-1 {
		height++
	}
	return height
}

// scanTree checks the encoding of a tree without allocating. It returns the contents and the number of encoded nodes.
func (c checker) scanTree(encoded []byte, maxLeaves int) (contents cryptobyte.String, nodes int, err error) {
	s := cryptobyte.String(encoded)
	if !wire.ReadVector(&s, &contents) || !s.Empty() || contents.Empty() {
		return nil, 0, errTree
	}
	var r nodeReader
	for r.rest = contents; !r.rest.Empty(); nodes++ {
		if nodes/2 >= maxLeaves {
			return nil, 0, errLeaves
		}
		if !r.next() {
			return nil, 0, errTree
		}
	}
	return contents, nodes, c.require(r.leaf.Raw != nil || r.inner.Raw != nil, ruleTrailingBlank)
}

// build makes a tree from contents that scanTree has checked.
func (e *edit) build(contents cryptobyte.String, nodes int) tree {
	r := nodeReader{rest: contents}
	var walk func(height uint) *node
	walk = func(height uint) *node {
		if r.rest.Empty() {
			return nil
		}
		if height == 0 {
			r.next()
			if r.leaf.Raw == nil {
				return nil
			}
			return makeLeaf(r.leaf.Raw, e.supportOf(&r.leaf))
		}
		left := walk(height - 1)
		var inner rfc9420.ParentNode
		if !r.rest.Empty() {
			r.next()
			inner = r.inner
		}
		right := walk(height - 1)
		if left == nil && right == nil && inner.Raw == nil {
			return nil
		}
		return e.join(left, right, inner.Raw, inner.UnmergedLeaves.Len())
	}
	height := treeHeight(nodes)
	return tree{walk(height), height}
}

// encode writes the tree without its trailing blanks (RFC 9420, section 12.4.3.3).
func (t tree) encode() []byte {
	root := child(t.root)
	size, trailing := t.encodedSize()
	b := cryptobyte.NewBuilder(make([]byte, 0, 4+size+trailing))
	wire.AddVarint(b, size)
	header := b.BytesOrPanic() // it cannot panic: Open and Commit limit the size of a tree
	end := len(header) + size
	return root.append(header, t.height)[:end:end]
}

// encodedSize returns the size of the encoded tree's contents in bytes, and the number of trailing blanks left out.
func (t tree) encodedSize() (size, trailing int) {
	root := child(t.root)
	trailing = root.trailing(t.height)
	return 2<<t.height - 1 - trailing + int(root.filled) + int(root.size), trailing
}

// trailing counts the blank nodes after the last non-blank node, at and below n.
func (n *node) trailing(height uint) int {
	switch {
	case n.filled == 0:
		return 2<<height - 1
	case child(n.right).filled > 0:
		return n.right.trailing(height - 1)
	case height == 0:
		return 0
	}
	blanks := 1<<height - 1 // the whole right half
	if n.isBlank() {
		blanks += 1 + child(n.left).trailing(height-1)
	}
	return blanks
}

// append writes the nodes at and below n in the order of the array form (RFC 9420, appendix C).
func (n *node) append(out []byte, height uint) []byte {
	if n.filled == 0 {
		return append(out, make([]byte, 2<<height-1)...)
	}
	if height == 0 {
		return append(append(out, 1, rfc9420.NodeTypeLeaf), n.raw...)
	}
	out = child(n.left).append(out, height-1)
	if n.isBlank() {
		out = append(out, 0)
	} else {
		out = append(append(out, 1, rfc9420.NodeTypeParent), n.raw...)
	}
	return child(n.right).append(out, height-1)
}

// each calls f with the encoding and the type of each non-blank node.
func (t tree) each(f func(raw []byte, typ uint8)) {
	var walk func(*node, uint)
	walk = func(n *node, height uint) {
		switch {
		case n == nil:
			return
		case height == 0 && !n.isBlank():
			f(n.raw, rfc9420.NodeTypeLeaf)
		case !n.isBlank():
			f(n.raw, rfc9420.NodeTypeParent)
		}
		if height > 0 {
			walk(n.left, height-1)
			walk(n.right, height-1)
		}
	}
	walk(t.root, t.height)
}
