package draft09

import (
	"crypto/ed25519"
	"math/bits"
	"slices"

	gomls "github.com/cisco/go-mls"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09/internal/framing"
)

// Trees are arrays in order: leaves at even places, and every parent between its children. They need not be full: the nodes past the
// last leaf do not exist (draft-ietf-mls-protocol-09, appendix A).

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

// step is a node of a direct path and its child beside the path.
type step struct{ node, sibling int }

// directPath is the direct path of a leaf that exists, from the root down.
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

// leafAt is the key package at a leaf, nil where there is none.
func leafAt(nodes []gomls.OptionalNode, leaf uint32) *gomls.KeyPackage {
	if uint64(leaf) > uint64(len(nodes)/2) {
		return nil
	}
	if n := nodes[2*leaf].Node; n != nil {
		return n.Leaf
	}
	return nil
}

// leaves lists the leaves that are not blank.
func leaves(nodes []gomls.OptionalNode) (out []uint32) {
	for x := 0; x < len(nodes); x += 2 {
		if nodes[x].Node != nil {
			out = append(out, uint32(x/2))
		}
	}
	return out
}

// resolutionSize is how many nodes the resolution of a node has.
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

// checkShape checks that a decoded tree is one that go-mls can work on.
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

// checkUnmerged checks that all unmerged leaves are in order and members, and that the nodes on the way to each list it too.
func checkUnmerged(nodes []gomls.OptionalNode) error {
	found := make([]int, len(nodes)) // how many members below each parent it lists
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

// keys are the public keys of a tree, and how many leaves each identity has.
type keys struct {
	signature, encryption map[string]bool
	devices               map[string]int
}

// keysOf checks that no two keys of a tree are the same, which go-mls does not.
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

// checkKeyPackage checks a key package by itself, as go-mls does when it is added, except that lifetimes are only reported.
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

// checkExtensions checks the extensions that mean something to go-mls (draft-ietf-mls-protocol-09, section 7).
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
	for _, e := range []gomls.ExtensionBody{&versions, &suites, new(gomls.LifetimeExtension), new(gomls.ParentHashExtension)} {
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

// verify checks a signature with the key of a leaf.
func verify(k *gomls.KeyPackage, content, sig []byte) bool {
	return ed25519.Verify(k.Credential.PublicKey().Data, content, sig)
}
