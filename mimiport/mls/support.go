package mls

import (
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
)

// support lists what each of some members supports, and the credential types that any of them uses. Each node has the
// support of the leaves below it, so a rule about all members needs no walk over the tree.
type support struct {
	extensions  []uint16 // all four lists are sorted
	proposals   []uint16
	credentials []uint16
	used        []uint16 // credential types in use
}

// supports makes each distinct support once. Most groups have only a few.
type supports struct {
	common *support // of a whole group; a new leaf mostly has the same
	leaves map[supportKey]*support
	merged map[[2]*support]*support
}

type supportKey struct {
	credential   uint16
	capabilities string // encoded
}

func newSupports(common *support) *supports {
	return &supports{common, map[supportKey]*support{}, map[[2]*support]*support{}}
}

// supportOf returns the support of one leaf.
func (s *supports) supportOf(l *rfc9420.LeafNode) *support {
	c := &l.Capabilities
	if known, ok := s.leaves[supportKey{l.Credential.Type, string(c.Raw)}]; ok {
		return known
	}
	out := &support{
		extensions:  sorted(c.Extensions),
		proposals:   sorted(c.Proposals),
		credentials: sorted(c.Credentials),
		used:        []uint16{l.Credential.Type},
	}
	if s.common != nil && out.equal(s.common) {
		out = s.common
	}
	s.leaves[supportKey{l.Credential.Type, string(c.Raw)}] = out
	return out
}

func sorted(list rfc9420.Uint16s) []uint16 {
	return slices.Compact(slices.Sorted(list.All()))
}

// merge returns the support of the members of both. Nil stands for no members.
func (s *supports) merge(a, b *support) *support {
	switch {
	case a == nil || a == b:
		return b
	case b == nil:
		return a
	}
	key := [2]*support{a, b}
	if known, ok := s.merged[key]; ok {
		return known
	}
	out := &support{
		extensions:  intersection(a.extensions, b.extensions),
		proposals:   intersection(a.proposals, b.proposals),
		credentials: intersection(a.credentials, b.credentials),
		used:        union(a.used, b.used),
	}
	for _, same := range key {
		if out.equal(same) {
			out = same
		}
	}
	s.merged[key] = out
	return out
}

func (s *support) equal(o *support) bool {
	return slices.Equal(s.extensions, o.extensions) && slices.Equal(s.proposals, o.proposals) &&
		slices.Equal(s.credentials, o.credentials) && slices.Equal(s.used, o.used)
}

func intersection(a, b []uint16) (both []uint16) {
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0] < b[0]:
			a = a[1:]
		case a[0] > b[0]:
			b = b[1:]
		default:
			both = append(both, a[0])
			a, b = a[1:], b[1:]
		}
	}
	return both
}

func union(a, b []uint16) []uint16 {
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}

func has(sorted []uint16, v uint16) bool {
	_, found := slices.BinarySearch(sorted, v)
	return found
}

// proposal reports whether all members support a proposal type.
func (s *support) proposal(t rfc9420.ProposalType) bool {
	return rfc9420.DefaultProposal(t) || has(s.proposals, uint16(t))
}

// extension reports whether all members support an extension type.
func (s *support) extension(t uint16) bool {
	return rfc9420.DefaultExtension(t) || has(s.extensions, t)
}

// required reports whether all members support the capabilities that a group requires (RFC 9420, section 11.1).
func (s *support) required(r *rfc9420.RequiredCapabilities) bool {
	for t := range r.Extensions.All() {
		if !s.extension(t) {
			return false
		}
	}
	for t := range r.Proposals.All() {
		if !s.proposal(rfc9420.ProposalType(t)) {
			return false
		}
	}
	for t := range r.Credentials.All() {
		if !has(s.credentials, t) {
			return false
		}
	}
	return true
}

// credentialsInUse reports whether each member supports the credential types of all (RFC 9420, section 7.3).
func (s *support) credentialsInUse() bool {
	return len(intersection(s.used, s.credentials)) == len(s.used)
}
