package mls

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sort"
)

// keyID stands for one public key: the front of a SHA-256, long enough that nobody finds two keys with one id.
type keyID [16]byte

func idOf(key []byte) keyID {
	sum := sha256.Sum256(key)
	return keyID(sum[:])
}

// keySet is a set of key ids that never changes: with and without return another that shares nearly all of its structure. It
// is a trie over the ids' halves of bytes, whose ends hold a few ids each. Nil is the empty set.
type keySet struct {
	children *[16]*keySet
	ids      []keyID // sorted; of a trie's end
}

// maxEnd is how many ids an end holds before it is split.
const maxEnd = 16

// half is the half-byte of an id at a depth.
func (id keyID) half(depth int) byte {
	return id[depth/2] >> (4 * (1 - depth%2)) & 15
}

// newKeySet makes a set of sorted, distinct ids that agree before a depth.
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

// makeKeySet makes a set of ids, which it sorts, and reports whether no two are the same.
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

// keyBag holds ids as often as they were put in, as a set of the ids of all copies. Like a set it never changes.
type keyBag struct{ set *keySet }

// copy is the id of one more copy of an id that is in a bag n times: the first is the id itself.
func (id keyID) copy(n int) keyID {
	if n == 0 {
		return id
	}
	return idOf(binary.BigEndian.AppendUint32(id[:], uint32(n)))
}

// makeKeyBag makes a bag of ids, which it sorts.
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

// count is how often the bag has an id. Copies have no gaps, so it looks for the first that is not there.
func (b keyBag) count(id keyID) int {
	limit := 1
	for b.set.has(id.copy(limit - 1)) {
		limit *= 2
	}
	return sort.Search(limit-1, func(n int) bool { return !b.set.has(id.copy(n)) })
}

// with is the bag and one more of an id.
func (b keyBag) with(id keyID) keyBag { return keyBag{b.set.with(id.copy(b.count(id)))} }

// without is the bag less one of an id that it has.
func (b keyBag) without(id keyID) keyBag { return keyBag{b.set.without(id.copy(b.count(id) - 1))} }

// with is the set and an id that it does not have.
func (s *keySet) with(id keyID) *keySet { return s.change(id, 0, insertID) }

// without is the set less an id.
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
