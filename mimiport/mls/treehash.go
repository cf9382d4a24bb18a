package mls

import (
	"hash"
	"sort"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// hasher computes tree hashes and parent hashes in buffers that it uses again and again.
type hasher struct {
	suite *rfc9420.Suite
	h     hash.Hash
	buf   []byte
	raw   []byte          // a parent as it was
	list  rfc9420.Uint32s // its unmerged leaves
	pairs []*[2]digest    // by height
}

func newHasher(suite *rfc9420.Suite) *hasher {
	return &hasher{suite: suite, h: suite.Hash.New()}
}

// digest is a hash of any suite, as long as the suite's hash is.
type digest [maxHash]byte

// pair is the place for the hashes of the two children of the one node at a height that is being hashed.
func (h *hasher) pair(height uint) (left, right *digest) {
	for uint(len(h.pairs)) <= height {
		h.pairs = append(h.pairs, new([2]digest))
	}
	return &h.pairs[height][0], &h.pairs[height][1]
}

func (h *hasher) sum(out *digest, b *cryptobyte.Builder) []byte {
	h.buf = b.BytesOrPanic() // every vector in it came in a shorter one
	h.h.Reset()
	h.h.Write(h.buf)
	return h.h.Sum(out[:0])
}

// leafHash is the tree hash of a leaf, blank where raw is nil (RFC 9420, section 7.8).
func (h *hasher) leafHash(out *digest, leaf uint32, raw []byte) []byte {
	b := cryptobyte.NewBuilder(h.buf[:0])
	b.AddUint8(rfc9420.NodeTypeLeaf)
	b.AddUint32(leaf)
	addOptional(b, raw)
	return h.sum(out, b)
}

// innerHash is the tree hash of a parent, blank where raw is nil (RFC 9420, section 7.8).
func (h *hasher) innerHash(out *digest, raw, left, right []byte) []byte {
	b := cryptobyte.NewBuilder(h.buf[:0])
	b.AddUint8(rfc9420.NodeTypeParent)
	addOptional(b, raw)
	wire.AddOpaque(b, left)
	wire.AddOpaque(b, right)
	return h.sum(out, b)
}

func addOptional(b *cryptobyte.Builder, raw []byte) {
	if raw == nil {
		b.AddUint8(0)
		return
	}
	b.AddUint8(1)
	b.AddBytes(raw)
}

// parentHash is the parent hash that the node below p must carry (RFC 9420, section 7.9).
func (h *hasher) parentHash(out *digest, p *rfc9420.ParentNode, originalSibling []byte) []byte {
	b := cryptobyte.NewBuilder(h.buf[:0])
	wire.AddOpaque(b, p.EncryptionKey)
	wire.AddOpaque(b, p.ParentHash)
	wire.AddOpaque(b, originalSibling)
	return h.sum(out, b)
}

// treeHash is n's tree hash. It computes what is not yet known below n, and remembers it.
func (h *hasher) treeHash(n *node, at span) []byte {
	if n.hashed {
		return n.hash[:h.suite.Hash.Size()]
	}
	n.hashed = true
	switch {
	case at.height == 0:
		return h.leafHash(&n.hash, at.first, n.raw)
	case n.left == nil && n.right == nil && n.isBlank():
		return h.blankHash(&n.hash, at)
	}
	n.left, n.right = present(n.left), present(n.right)
	left := h.treeHash(n.left, at.left())
	right := h.treeHash(n.right, at.right())
	return h.innerHash(&n.hash, n.raw, left, right)
}

// present makes a node for a child that is not there, to remember its hash in.
func present(n *node) *node {
	if n == nil {
		return new(node)
	}
	return n
}

// blankHash is the tree hash of a node with nothing but blanks at and below it.
func (h *hasher) blankHash(out *digest, at span) []byte {
	if at.height == 0 {
		return h.leafHash(out, at.first, nil)
	}
	left, right := h.pair(at.height)
	return h.innerHash(out, nil, h.blankHash(left, at.left()), h.blankHash(right, at.right()))
}

// originalHash is what n's tree hash was before some leaves below n, a sorted list, were added to the tree unmerged
// (RFC 9420, section 7.9). Only the paths to them are hashed again.
func (h *hasher) originalHash(out *digest, n *node, at span, added rfc9420.Uint32s) []byte {
	switch {
	case len(added) == 0 || n.members == 0:
		return h.treeHash(n, at)
	case at.height == 0:
		return h.leafHash(out, at.first, nil)
	}
	left, right := h.pair(at.height)
	before, after := split(added, at.middle())
	leftHash := h.originalHash(left, n.left, at.left(), before)
	rightHash := h.originalHash(right, n.right, at.right(), after)
	raw := n.raw
	if raw != nil {
		raw = h.parentWithout(n.raw, added)
	}
	return h.innerHash(out, raw, leftHash, rightHash)
}

// split cuts a sorted list before the first number that is at least at.
func split(list rfc9420.Uint32s, at uint32) (before, after rfc9420.Uint32s) {
	i := sort.Search(list.Len(), func(i int) bool { return list.At(i) >= at })
	return list.Slice(0, i), list.Slice(i, list.Len())
}

// within is the part of a sorted list that is below a place.
func within(list rfc9420.Uint32s, at span) rfc9420.Uint32s {
	_, list = split(list, at.first)
	i := sort.Search(list.Len(), func(i int) bool { return !at.contains(list.At(i)) })
	return list.Slice(0, i)
}

// parentWithout is a parent without some of its unmerged leaves, until the next call.
func (h *hasher) parentWithout(raw []byte, leaves rfc9420.Uint32s) []byte {
	p := decodeParent(raw)
	h.list = appendWithout(h.list[:0], p.UnmergedLeaves, leaves)
	p.UnmergedLeaves = h.list
	b := cryptobyte.NewBuilder(h.raw[:0])
	p.Encode(b)
	h.raw = b.BytesOrPanic() // shorter than raw
	return h.raw
}

// appendWithout appends to out a sorted list without the numbers of another.
func appendWithout(out, list, remove rfc9420.Uint32s) rfc9420.Uint32s {
	for i, j := 0, 0; i < list.Len(); i++ {
		for j < remove.Len() && remove.At(j) < list.At(i) {
			j++
		}
		if j == remove.Len() || remove.At(j) != list.At(i) {
			out = append(out, list.Slice(i, i+1)...)
		}
	}
	return out
}
