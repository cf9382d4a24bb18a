package draft09

import (
	"crypto/ed25519"
	"math/bits"
	"slices"

	gomls "github.com/cisco/go-mls"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09/internal/framing"
)

// A tree is an array with leaves at even places and each parent between its children. It need not be full: there are no
// nodes after the last leaf (draft-ietf-mls-protocol-09, appendix A).

func level(x int) int { return bits.TrailingZeros(^uint(x)) }

func root(width int) int { return 1<<(bits.Len(uint(width))-1) - 1 }

func left(x int) int { return x ^ 1<<(level(x)-1) }

func right(x, width int) int {
	r := x ^ 3<<(level(x)-1)
	for r >= width {
		r = left(r)
	}
	return r
}

// step is a node of a direct path and its child on the copath.
type step struct{ node, sibling int }

// directPath returns the direct path of a leaf from the root down. The leaf must be in the tree.
func directPath(leaf uint32, width int) (steps []step) {
	for x := root(width); x != 2*int(leaf); {
		l, r := left(x), right(x, width)
		if 2*int(leaf) < x {
			steps = append(steps, step{x, r})
			x = l
		} else {
			steps = append(steps, step{x, l})
			x = r
		}
	}
	return steps
}

// leafAt returns the key package at a leaf, nil when the leaf is blank or out of range.
func leafAt(nodes []gomls.OptionalNode, leaf uint32) *gomls.KeyPackage {
	if uint64(leaf) > uint64(len(nodes)/2) {
		return nil
	}
	if n := nodes[2*leaf].Node; n != nil {
		return n.Leaf
	}
	return nil
}

// leaves lists the non-blank leaves.
func leaves(nodes []gomls.OptionalNode) (out []uint32) {
	for x := 0; x < len(nodes); x += 2 {
		if nodes[x].Node != nil {
			out = append(out, uint32(x/2))
		}
	}
	return out
}

// resolutionSize counts the nodes in the resolution of a node.
func resolutionSize(nodes []gomls.OptionalNode, x int) int {
	switch n := nodes[x].Node; {
	case n != nil && n.Leaf != nil:
		return 1
	case n != nil:
		return 1 + len(n.Parent.UnmergedLeaves)
	case level(x) == 0:
		return 0
	}
	return resolutionSize(nodes, left(x)) + resolutionSize(nodes, right(x, len(nodes)))
}

// checkShape checks that go-mls can use a decoded tree without a panic.
func checkShape(nodes []gomls.OptionalNode) error {
	if len(nodes)%2 == 0 {
		return errTree
	}
	for x, n := range nodes {
		if n.Node != nil && (n.Node.Leaf != nil) != (x%2 == 0) {
			return errTree
		}
	}
	return checkUnmerged(nodes)
}

// checkUnmerged checks that each list of unmerged leaves is sorted and has only members below its node. Each non-blank
// node on the way to an unmerged leaf must list the leaf too.
func checkUnmerged(nodes []gomls.OptionalNode) error {
	found := make([]int, len(nodes)) // of each parent: how many members below it are in its list
	for _, leaf := range leaves(nodes) {
		listed := false
		for _, s := range directPath(leaf, len(nodes)) {
			n := nodes[s.node].Node
			if n == nil {
				continue
			}
			_, here := slices.BinarySearch(n.Parent.UnmergedLeaves, gomls.LeafIndex(leaf))
			switch {
			case here:
				listed = true
				found[s.node]++
			case listed:
				return errUnmerged
			}
		}
	}
	for x := 1; x < len(nodes); x += 2 {
		n := nodes[x].Node
		if n == nil {
			continue
		}
		list := n.Parent.UnmergedLeaves
		if !slices.IsSorted(list) || len(slices.Compact(slices.Clone(list))) != len(list) || found[x] != len(list) {
			return errUnmerged
		}
	}
	return nil
}

// keys holds the public keys of a tree, and the number of leaves of each identity.
type keys struct {
	signature, encryption map[string]bool
	devices               map[string]int
}

// keysOf collects the keys of a tree and checks that no key is there twice. go-mls does not check this.
func keysOf(nodes []gomls.OptionalNode) (keys, error) {
	k := keys{make(map[string]bool), make(map[string]bool), make(map[string]int)}
	for _, n := range nodes {
		if n.Node == nil {
			continue
		}
		if !insert(k.encryption, n.Node.PublicKey().Data) {
			return k, errEncryptionKeyUnique
		}
		if n.Node.Leaf != nil {
			k.devices[string(n.Node.Leaf.Credential.Identity())]++
		}
		if n.Node.Leaf != nil && !insert(k.signature, n.Node.Leaf.Credential.PublicKey().Data) {
			return k, errSignatureKeyUnique
		}
	}
	return k, nil
}

// insert puts a key into a set and reports whether it is new.
func insert(set map[string]bool, key []byte) bool {
	is := set[string(key)]
	set[string(key)] = true
	return !is
}

// checkKeyPackage checks a single key package as go-mls does when it adds a member, except for the lifetime.
func checkKeyPackage(k *gomls.KeyPackage, suite gomls.CipherSuite) error {
	if k.CipherSuite != suite {
		return errSuite
	}
	if err := checkExtensions(k); err != nil {
		return err
	}
	content, err := framing.KeyPackageContent(k)
	if err != nil {
		return err
	}
	if !verify(k, content, k.Signature.Data) {
		return errLeafSignature
	}
	return nil
}

// checkExtensions checks the extensions that go-mls knows (draft-ietf-mls-protocol-09, section 7).
func checkExtensions(k *gomls.KeyPackage) error {
	types := make(map[gomls.ExtensionType]bool)
	for _, e := range k.Extensions.Entries {
		if types[e.ExtensionType] {
			return errExtensions
		}
		types[e.ExtensionType] = true
	}
	var versions gomls.SupportedVersionsExtension
	var suites gomls.SupportedCipherSuitesExtension
	lifetime, parentHash := new(gomls.LifetimeExtension), new(gomls.ParentHashExtension)
	for _, e := range []gomls.ExtensionBody{&versions, &suites, lifetime, parentHash} {
		if _, err := k.Extensions.Find(e); err != nil {
			return errExtensions
		}
	}
	if !types[gomls.ExtensionTypeLifetime] || !slices.Contains(versions.SupportedVersions, k.Version) ||
		!slices.Contains(suites.SupportedCipherSuites, k.CipherSuite) {
		return errRequired
	}
	return nil
}

// verify verifies a signature with the key of a leaf.
func verify(k *gomls.KeyPackage, content, sig []byte) bool {
	return ed25519.Verify(k.Credential.PublicKey().Data, content, sig)
}
