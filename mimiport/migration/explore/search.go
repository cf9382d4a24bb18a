package explore

import (
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
)

// Bounds say how much is searched; within them the search is complete.
type Bounds struct {
	Terms      int  // how often the group may move, 1 to 3: there, back, there again
	Crashes    int  // of either server, at most 3
	Losses     int  // of messages, at most 3
	Duplicates int  // of messages, at most 3
	NoCommits  bool // members make no Commits but those that move the group
}

// Result is what a search has found.
type Result struct {
	States    int    // distinct ones
	Depth     int    // the most events that a state is away from the first
	Fair      int    // the most events of a fair schedule to the end
	Violation string // the invariant that does not hold, empty when all do
	Trace     string // the shortest way to the violation
}

// first is the world in which all begins.
func (m *model) first() *world {
	w := &world{left: faults{uint8(m.bounds.Crashes), uint8(m.bounds.Losses), uint8(m.bounds.Duplicates)}}
	w.groups[0].state = groupActive
	return w
}

// space holds the keys of all worlds found, in order, and how each was reached.
type space struct {
	size    int // of a key
	keys    []byte
	parents []uint32
	table   []uint32 // open addressing: numbers + 1
	seed    maphash.Seed
}

func newSpace(size int) *space {
	return &space{size: size, table: make([]uint32, 1<<16), seed: maphash.MakeSeed()}
}

func (s *space) len() int { return len(s.parents) }

func (s *space) key(n uint32) []byte { return s.keys[int(n)*s.size:][:s.size] }

// place is where the number of a key is, or belongs, in the table.
func (s *space) place(k []byte) *uint32 {
	mask := uint64(len(s.table) - 1)
	for at := maphash.Bytes(s.seed, k) & mask; ; at = (at + 1) & mask {
		if n := s.table[at]; n == 0 || string(s.key(n-1)) == string(k) {
			return &s.table[at]
		}
	}
}

// add reports whether a key is new.
func (s *space) add(k []byte, parent uint32) bool {
	p := s.place(k)
	if *p != 0 {
		return false
	}
	s.keys = append(s.keys, k...)
	s.parents = append(s.parents, parent)
	*p = uint32(s.len())
	if 2*s.len() > len(s.table) {
		s.grow()
	}
	return true
}

func (s *space) grow() {
	s.table = make([]uint32, 2*len(s.table))
	for n := range uint32(s.len()) {
		*s.place(s.key(n)) = n + 1
	}
}

// Explore searches all worlds within the bounds, breadth first, and then follows fair schedules from each.
func Explore(b Bounds, bug Bug) Result {
	m := &model{b, bug}
	s := newSpace(keySize(b.Terms))
	var res Result
	s.add(m.first().key(nil, b.Terms), 0)
	var buf []byte
	for n, level := uint32(0), uint32(1); n < uint32(s.len()); n++ {
		if n == level {
			level = uint32(s.len())
			res.Depth++
		}
		w := decode(s.key(n), b.Terms)
		m.events(w, func(_ event, next *world) {
			if res.Violation != "" {
				return
			}
			res.Violation = m.check(w, next)
			m.tidy(next)
			buf = next.key(buf[:0], b.Terms)
			s.add(buf, n)
			if res.Violation != "" {
				res.Trace = m.trace(s, n, buf)
			}
		})
		if res.Violation != "" {
			break
		}
	}
	if res.States = s.len(); res.Violation == "" {
		m.live(s, &res)
	}
	return res
}

// path lists the keys from the first world to one.
func (s *space) path(n uint32) [][]byte {
	path := [][]byte{s.key(n)}
	for n != 0 {
		n = s.parents[n]
		path = append(path, s.key(n))
	}
	slices.Reverse(path)
	return path
}

// trace writes the events from the first world to that of number n, and on to the one with key last, if any.
func (m *model) trace(s *space, n uint32, last []byte) string {
	path := s.path(n)
	if last != nil {
		path = append(path, last)
	}
	var out strings.Builder
	w := m.first()
	for n, k := range path[1:] {
		found := false
		at := *w
		m.events(&at, func(e event, next *world) {
			m.tidy(next)
			if !found && string(next.key(nil, m.bounds.Terms)) == string(k) {
				found = true
				writeStep(&out, n+1, e.String(), &at, next)
				w = next
			}
		})
	}
	return out.String()
}

func writeStep(out *strings.Builder, n int, what string, before, after *world) {
	fmt.Fprintf(out, "%3d %s\n", n, what)
	for _, line := range differences(before, after) {
		fmt.Fprintf(out, "      %s\n", line)
	}
}
