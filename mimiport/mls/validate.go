package mls

import (
	"encoding/binary"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
)

// checkTree enforces the rules of a whole tree except those about signatures (RFC 9420, sections 7.9 and 12.4.3.1). The
// tree must be hashed.
func (c checker) checkTree(h *hasher, t tree) error {
	if err := c.require(t.height == 0 || child(t.root.right).members > 0, ruleTreeSize); err != nil {
		return err
	}
	var walk func(*node, span) error
	walk = func(n *node, at span) error {
		if at.height == 0 {
			return nil
		}
		if !n.isBlank() {
			p := decodeParent(n.raw)
			if err := c.checkUnmerged(n, at, p.UnmergedLeaves); err != nil {
				return err
			}
			if err := c.require(h.parentHashValid(n, at, &p), ruleParentHash); err != nil {
				return err
			}
		}
		if n.left == nil && n.right == nil {
			return nil
		}
		if err := walk(n.left, at.left()); err != nil {
			return err
		}
		return walk(n.right, at.right())
	}
	return walk(t.root, t.span())
}

// checkUnmerged checks the list of unmerged leaves of one node.
func (c checker) checkUnmerged(n *node, at span, list rfc9420.Uint32s) error {
	for i := range list.Len() {
		if err := c.require(i == 0 || list.At(i-1) < list.At(i), ruleUnmergedOrder); err != nil {
			return err
		}
		if err := c.require(at.contains(list.At(i)), ruleUnmergedRange); err != nil {
			return err
		}
	}
	return c.checkUnmergedBelow(n, at, list)
}

// checkUnmergedBelow checks that the nearest non-blank node on the way to each leaf of a list also lists that leaf. The
// nodes further down need no check here: checkUnmerged checks the nearest node in turn.
func (c checker) checkUnmergedBelow(n *node, at span, list rfc9420.Uint32s) error {
	if list.Len() == 0 {
		return nil
	}
	if n.members == 0 {
		return c.require(false, ruleUnmergedBlank)
	}
	if at.height == 0 {
		return nil
	}
	before, after := split(list, at.middle())
	if err := c.checkUnmergedHalf(n.left, at.left(), before); err != nil {
		return err
	}
	return c.checkUnmergedHalf(n.right, at.right(), after)
}

func (c checker) checkUnmergedHalf(n *node, at span, list rfc9420.Uint32s) error {
	if at.height == 0 || n.isBlank() {
		return c.checkUnmergedBelow(n, at, list)
	}
	p := decodeParent(n.raw)
	return c.require(subset(list, p.UnmergedLeaves), ruleUnmergedBetween)
}

// subset reports whether all numbers of a sorted list are in another.
func subset(list, of rfc9420.Uint32s) bool {
	j := 0
	for i := range list.Len() {
		for j < of.Len() && of.At(j) < list.At(i) {
			j++
		}
		if j == of.Len() || of.At(j) != list.At(i) {
			return false
		}
	}
	return true
}

// parentHashValid reports whether one of the nodes below n has p's parent hash: p and that node were set by one path
// (RFC 9420, section 7.9.2).
func (h *hasher) parentHashValid(n *node, at span, p *rfc9420.ParentNode) bool {
	if n.left == nil && n.right == nil {
		return false
	}
	return h.linked(n.left, at.left(), n.right, at.right(), p) || h.linked(n.right, at.right(), n.left, at.left(), p)
}

// linked reports whether the node with p's parent hash is at or below side.
func (h *hasher) linked(side *node, place span, sibling *node, siblingPlace span, p *rfc9420.ParentNode) bool {
	below, ok := descendant(side, place, within(p.UnmergedLeaves, place))
	if !ok {
		return false
	}
	original, want := h.pair(place.height + 1)
	sum := h.originalHash(original, sibling, siblingPlace, within(p.UnmergedLeaves, siblingPlace))
	return string(below) == string(h.parentHash(want, p, sum))
}

// descendant returns the parent hash of the one node in n's resolution that is not among the unmerged leaves of an
// ancestor. checkUnmerged has shown that all these leaves are in the resolution, so it is enough to count.
func descendant(n *node, at span, unmerged rfc9420.Uint32s) (parentHash []byte, ok bool) {
	for {
		if uint64(n.resolution) != uint64(unmerged.Len())+1 {
			return nil, false
		}
		if at.height == 0 {
			l := decodeLeaf(n.raw)
			return l.ParentHash, l.Source == rfc9420.SourceCommit
		}
		if !n.isBlank() {
			return decodeParent(n.raw).ParentHash, true
		}
		before, after := split(unmerged, at.middle())
		if uint64(n.left.resolution) > uint64(before.Len()) {
			n, at, unmerged = n.left, at.left(), before
		} else {
			n, at, unmerged = n.right, at.right(), after
		}
	}
}

// keys holds the public keys of a group and the credentials of its leaves, for the rules that require them to be
// unique.
type keys struct {
	signature, encryption *keySet
	credentials           keyBag // a group that Open takes may have a credential twice
}

// credentialID makes the id of a credential.
func credentialID(c *rfc9420.Credential) keyID {
	return idOf(append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(c.Contents)), c.Type), c.Contents...))
}

// keysOf collects the keys of a whole tree and checks that no key is there twice.
func (c checker) keysOf(suite *rfc9420.Suite, t tree) (k keys, err error) {
	signature := make([]keyID, 0, child(t.root).members)
	credentials := make([]keyID, 0, cap(signature))
	encryption := make([]keyID, 0, 2*cap(signature))
	t.each(func(raw []byte, typ uint8) {
		switch {
		case err != nil:
			return
		case typ == rfc9420.NodeTypeLeaf:
			l := decodeLeaf(raw)
			signature = append(signature, idOf(l.SignatureKey))
			credentials = append(credentials, credentialID(&l.Credential))
			encryption = append(encryption, idOf(l.EncryptionKey))
			err = c.require(suite.ValidEncryptionKey(l.EncryptionKey), ruleEncryptionKey)
		default:
			p := decodeParent(raw)
			encryption = append(encryption, idOf(p.EncryptionKey))
			err = c.require(suite.ValidEncryptionKey(p.EncryptionKey), ruleEncryptionKey)
		}
	})
	if err != nil {
		return keys{}, err
	}
	k.credentials = makeKeyBag(credentials)
	var distinct bool
	if k.signature, distinct = makeKeySet(signature); !distinct {
		if err := c.require(false, ruleTreeSigKeyUnique); err != nil {
			return keys{}, err
		}
	}
	if k.encryption, distinct = makeKeySet(encryption); !distinct {
		err = c.require(false, ruleTreeKeyUnique)
	}
	return k, err
}

// checkLeaf enforces the rules of a single leaf of any source (RFC 9420, section 7.3).
func (c checker) checkLeaf(suite *rfc9420.Suite, l *rfc9420.LeafNode, caps *support) error {
	if err := c.require(suite.ValidEncryptionKey(l.EncryptionKey), ruleEncryptionKey); err != nil {
		return err
	}
	for t := range l.Extensions.All() {
		if err := c.require(caps.extension(t), ruleLeafExtensions); err != nil {
			return err
		}
	}
	return c.require(uniqueTypes(l.Extensions), ruleExtensionsUnique)
}

// uniqueTypes reports whether no two extensions of a list have one type (RFC 9420, section 13.4).
func uniqueTypes(e rfc9420.Extensions) bool {
	var types []uint16
	for t := range e.All() {
		types = append(types, t)
	}
	slices.Sort(types)
	return len(slices.Compact(types)) == len(types)
}

// verifyLeaf verifies the signature of a leaf, which covers the group's ID and the leaf's index unless the leaf comes
// from a key package.
func (c checker) verifyLeaf(suite *rfc9420.Suite, l *rfc9420.LeafNode, groupID []byte, leaf uint32) error {
	content := l.SignContent(groupID, leaf)
	return c.require(suite.Verify(l.SignatureKey, content, l.Signature), ruleLeafSignature)
}

// place is a leaf and its index.
type place struct {
	leaf uint32
	node *node
}

// The number of leaves that a worker takes at a time. A batch has an eighth of the tree's leaves within these bounds: a
// large batch costs less for each leaf, and a batch in vain costs little of the whole.
const (
	singleLeaves  = 32
	leastBatch    = 256
	greatestBatch = 2048
)

// leafCheck is the check of all leaves of a tree. It is safe for concurrent use.
type leafCheck struct {
	checker
	suite   *rfc9420.Suite
	groupID []byte
	some    int         // leaves that a worker takes at a time
	singly  atomic.Bool // verify signatures one by one
}

func (c checker) newLeafCheck(suite *rfc9420.Suite, groupID []byte, leaves int) *leafCheck {
	check := &leafCheck{checker: c, suite: suite, groupID: groupID, some: singleLeaves}
	if c.random != nil && suite.Batches() && leaves >= leastBatch {
		check.some = min(max(leaves/8, leastBatch), greatestBatch)
	} else {
		check.singly.Store(true)
	}
	return check
}

// leaves checks some leaves and their signatures.
func (c *leafCheck) leaves(some []place) error {
	list := make([]rfc9420.Signed, len(some))
	for i, p := range some {
		l := decodeLeaf(p.node.raw)
		if err := c.checkLeaf(c.suite, &l, p.node.support); err != nil {
			return err
		}
		list[i] = rfc9420.Signed{Key: l.SignatureKey, Content: l.SignContent(c.groupID, p.leaf), Signature: l.Signature}
	}
	return c.require(c.verify(list), ruleLeafSignature)
}

// verify reports whether each signature is good by itself. If a batch fails although each signature is good, it makes
// no further batch: somebody has crafted keys or signatures.
func (c *leafCheck) verify(list []rfc9420.Signed) bool {
	if !c.singly.Load() && c.suite.VerifyBatch(list, c.random) {
		return true
	}
	if !c.suite.VerifyAll(list) {
		return false
	}
	c.singly.Store(true)
	return true
}

// checkLeaves checks every leaf of a tree on all cores. The calling goroutine runs first before it joins the workers.
// An error of first takes precedence over the error of a leaf.
func (c checker) checkLeaves(suite *rfc9420.Suite, t tree, groupID []byte, first func() error) error {
	places := make([]place, 0, child(t.root).members)
	for leaf, n := range t.leaves() {
		places = append(places, place{leaf, n})
	}
	check := c.newLeafCheck(suite, groupID, len(places))
	some := check.some
	var next atomic.Int64
	var failed atomic.Pointer[error]
	work := func() {
		for failed.Load() == nil {
			end := int(next.Add(int64(some)))
			if end-some >= len(places) {
				return
			}
			if err := check.leaves(places[end-some : min(end, len(places))]); err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		}
	}
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), 1+len(places)/some) - 1 {
		workers.Go(work)
	}
	err := first()
	if err != nil {
		failed.Store(&err)
	}
	work()
	workers.Wait()
	if err == nil && failed.Load() != nil {
		err = *failed.Load()
	}
	return err
}
