package mlstest

import (
	"bytes"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
)

// Spoilt has edits that each make one part of a Commit wrong, by the name of the part. The sender signs the result.
var Spoilt = map[string]Edit{
	"tag":         {Info: func(i *rfc9420.GroupInfo) { i.ConfirmationTag = flipped(i.ConfirmationTag) }},
	"tree hash":   {Info: func(i *rfc9420.GroupInfo) { i.Context.TreeHash = flipped(i.Context.TreeHash) }},
	"transcript":  {Info: func(i *rfc9420.GroupInfo) { spoilTranscript(&i.Context) }},
	"extensions":  {Info: func(i *rfc9420.GroupInfo) { i.Context.Extensions = nil }},
	"epoch":       {Info: func(i *rfc9420.GroupInfo) { i.Context.Epoch++ }},
	"parent hash": {Leaf: func(l *rfc9420.LeafNode) { l.ParentHash = flipped(l.ParentHash) }},
	"path":        {Path: func(p *rfc9420.UpdatePath) { p.Nodes = p.Nodes[1:] }},
	"no path":     {NoPath: true},
}

func spoilTranscript(c *rfc9420.GroupContext) {
	c.ConfirmedTranscriptHash = flipped(c.ConfirmedTranscriptHash)
}

func flipped(b []byte) []byte {
	out := bytes.Clone(b)
	out[0] ^= 1
	return out
}

// SpoilLeaf makes the same epoch with a leaf whose signature does not verify. Tree hash and GroupInfo fit the changed
// tree.
func (g *Group) SpoilLeaf(leaf uint32) *Group {
	next := *g
	next.tree = g.tree.clone()
	l := *g.tree.leaf(leaf)
	l.Signature = flipped(l.Signature)
	next.tree.set(2*int(leaf), node{leaf: reread(&l)})
	next.context.TreeHash = next.tree.treeHash(next.tree.root(), nil)
	next.seal(g.tag, leaf, false, nil)
	return &next
}
