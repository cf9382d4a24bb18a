package mls

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sort"
)

// keyID stands for one public key or credential: the first 16 bytes of its SHA-256. An attacker needs about 2^64
// hashes to find two with one id.
type keyID [16]byte

func idOf(key []byte) keyID {
	sum := sha256.Sum256(key)
	return keyID(sum[:])
}

// keySet is an immutable set of key ids. with and without return another set, which shares most of the structure. It
// is a trie over the half-bytes of the ids; each end of the trie holds up to maxEnd ids. Nil is the empty set.
type keySet struct {
	children *[16]*keySet
	ids      []keyID // sorted; only at an end
}

// maxEnd is the number of ids that an end of the trie holds before it is split.
const maxEnd = 16

// half returns the half-byte of an id at a depth.
func (id keyID) half(depth int) byte {
	return id[depth/2] >> (4 * (1 - depth%2)) & 15
}

// newKeySet makes a set of ids, which are sorted and distinct and have the same first depth half-bytes.
func newKeySet(ids []keyID, depth int) *keySet {
	switch {
	case len(ids) == 0:
		return nil
	case len(ids) <= maxEnd:
		return &keySet{ids: slices.Clone(ids)}
	}
	s := &keySet{children: new([16]*keySet)}
	for len(ids) > 0 {
		h := ids[0].half(depth)
		n := slices.IndexFunc(ids, func(id keyID) bool { return id.half(depth) != h })
		if n < 0 {
			n = len(ids)
		}
		s.children[h] = newKeySet(ids[:n], depth+1)
		ids = ids[n:]
	}
	return s
}

func (id keyID) compare(o keyID) int { return bytes.Compare(id[:], o[:]) }

// makeKeySet makes a set of ids and reports whether they are distinct. It sorts ids.
func makeKeySet(ids []keyID) (s *keySet, distinct bool) {
	slices.SortFunc(ids, keyID.compare)
	once := slices.Compact(ids)
	return newKeySet(once, 0), len(once) == len(ids)
}

// has reports whether the set has an id.
func (s *keySet) has(id keyID) bool {
	for depth := 0; s != nil && s.children != nil; depth++ {
		s = s.children[id.half(depth)]
	}
	if s == nil {
		return false
	}
	_, found := slices.BinarySearchFunc(s.ids, id, keyID.compare)
	return found
}

// keyBag is an immutable multiset of ids. Its set holds one id for each copy.
type keyBag struct{ set *keySet }

// copy returns the id that stands for copy n of an id. Copy 0 is the id itself.
func (id keyID) copy(n int) keyID {
	if n == 0 {
		return id
	}
	return idOf(binary.BigEndian.AppendUint32(id[:], uint32(n)))
}

// makeKeyBag makes a bag of ids. It sorts ids.
func makeKeyBag(ids []keyID) keyBag {
	slices.SortFunc(ids, keyID.compare)
	var more []keyID
	for i, n := 1, 0; i < len(ids); i++ {
		if ids[i] != ids[i-1] {
			n = 0
			continue
		}
		n++
		more = append(more, ids[i].copy(n))
	}
	set, _ := makeKeySet(append(ids, more...))
	return keyBag{set}
}

// count returns how often the bag has an id. The copies are numbered without gaps, so it searches for the first missing
// copy.
func (b keyBag) count(id keyID) int {
	limit := 1
	for b.set.has(id.copy(limit - 1)) {
		limit *= 2
	}
	return sort.Search(limit-1, func(n int) bool { return !b.set.has(id.copy(n)) })
}

// with returns the bag with one more copy of an id.
func (b keyBag) with(id keyID) keyBag { return keyBag{b.set.with(id.copy(b.count(id)))} }

// without returns the bag with one copy less of an id. The bag must have the id.
func (b keyBag) without(id keyID) keyBag { return keyBag{b.set.without(id.copy(b.count(id) - 1))} }

// with returns the set with an id.
func (s *keySet) with(id keyID) *keySet { return s.change(id, 0, insertID) }

// without returns the set without an id.
func (s *keySet) without(id keyID) *keySet { return s.change(id, 0, removeID) }

func (s *keySet) change(id keyID, depth int, f func([]keyID, keyID) []keyID) *keySet {
	if s == nil {
		s = &keySet{}
	}
	if s.children == nil {
		return newKeySet(f(s.ids, id), depth)
	}
	children := *s.children
	h := id.half(depth)
	children[h] = children[h].change(id, depth+1, f)
	return &keySet{children: &children}
}

func insertID(ids []keyID, id keyID) []keyID {
	i, found := slices.BinarySearchFunc(ids, id, keyID.compare)
	if found {
		return ids
	}
	return slices.Insert(slices.Clone(ids), i, id)
}

func removeID(ids []keyID, id keyID) []keyID {
	return slices.DeleteFunc(slices.Clone(ids), func(o keyID) bool { return o == id })
}
