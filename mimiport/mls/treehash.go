package mls

import (
	"hash"
	"sort"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// hasher computes tree hashes and parent hashes. It reuses its buffers.
type hasher struct {
	suite *rfc9420.Suite
	h     hash.Hash
	buf   []byte
	raw   []byte          // for parentWithout: the encoding of the parent
	list  rfc9420.Uint32s // for parentWithout: its unmerged leaves
	pairs []*[2]digest    // for pair: by height
}

func newHasher(suite *rfc9420.Suite) *hasher {
	return &hasher{suite: suite, h: suite.Hash.New()}
}

// digest holds a hash of any suite. Bytes beyond the length of the suite's hash are unused.
type digest [maxHash]byte

// pair returns two buffers for the hashes of the children of a node at a height. At most one node of each height is
// being hashed at a time.
func (h *hasher) pair(height uint) (left, right *digest) {
	for uint(len(h.pairs)) <= height {
		h.pairs = append(h.pairs, new([2]digest))
	}
	return &h.pairs[height][0], &h.pairs[height][1]
}

func (h *hasher) sum(out *digest, b *cryptobyte.Builder) []byte {
	h.buf = b.BytesOrPanic() // it cannot panic: each part was once a vector of the same length
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

// parentHash returns the parent hash that the node below p must have (RFC 9420, section 7.9).
func (h *hasher) parentHash(out *digest, p *rfc9420.ParentNode, originalSibling []byte) []byte {
	b := cryptobyte.NewBuilder(h.buf[:0])
	wire.AddOpaque(b, p.EncryptionKey)
	wire.AddOpaque(b, p.ParentHash)
	wire.AddOpaque(b, originalSibling)
	return h.sum(out, b)
}

// treeHash returns n's tree hash. It computes the hashes that are missing at and below n, and stores them in the nodes.
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

// present returns n, or a new blank node for nil, which can store a hash.
func present(n *node) *node {
	if n == nil {
		return new(node)
	}
	return n
}

// blankHash returns the tree hash of a place where every node at and below it is blank.
func (h *hasher) blankHash(out *digest, at span) []byte {
	if at.height == 0 {
		return h.leafHash(out, at.first, nil)
	}
	left, right := h.pair(at.height)
	return h.innerHash(out, nil, h.blankHash(left, at.left()), h.blankHash(right, at.right()))
}

// originalHash returns the tree hash that n had before the leaves of the sorted list added were added below n, as
// unmerged leaves (RFC 9420, section 7.9). It hashes only the paths to these leaves again.
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

// split cuts a sorted list before its first number that is not less than at.
func split(list rfc9420.Uint32s, at uint32) (before, after rfc9420.Uint32s) {
	i := sort.Search(list.Len(), func(i int) bool { return list.At(i) >= at })
	return list.Slice(0, i), list.Slice(i, list.Len())
}

// within returns the leaves of a sorted list that are at or below a place.
func within(list rfc9420.Uint32s, at span) rfc9420.Uint32s {
	_, list = split(list, at.first)
	i := sort.Search(list.Len(), func(i int) bool { return !at.contains(list.At(i)) })
	return list.Slice(0, i)
}

// parentWithout encodes a parent without some of its unmerged leaves. The result is valid until the next call.
func (h *hasher) parentWithout(raw []byte, leaves rfc9420.Uint32s) []byte {
	p := decodeParent(raw)
	h.list = appendWithout(h.list[:0], p.UnmergedLeaves, leaves)
	p.UnmergedLeaves = h.list
	b := cryptobyte.NewBuilder(h.raw[:0])
	p.Encode(b)
	h.raw = b.BytesOrPanic() // it cannot panic: the result is shorter than raw
	return h.raw
}

// appendWithout appends to out the numbers of a sorted list that are not in the sorted list remove.
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
