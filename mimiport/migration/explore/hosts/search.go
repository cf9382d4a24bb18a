package hosts

import (
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
)

// Result is what a search has found.
type Result struct {
	States    int    // distinct ones
	Events    int    // how often something happened
	Ends      int    // states in which everybody has heard of everything
	Depth     int    // the most events that a state is away from the first
	Violation string // the invariant that does not hold, empty when all do
	Trace     string // the shortest way to the violation
	More      string
}

// search is a search under way.
type search struct {
	*model
	worlds []world
	nodes  []node
	table  []uint32 // open addressing: numbers + 1
	seed   maphash.Seed
	fair   []uint32 // pairs of states: the second comes after the first by what happens in the end
	result Result
}

// node is how a state was reached first.
type node struct {
	parent uint32
	depth  uint16
	event  event
}

// Explore searches all states of a scenario, breadth first.
func Explore(sc Scenario, bug Bug) Result {
	s := &search{model: &model{Scenario: sc.build(), bug: bug}, seed: maphash.MakeSeed(), table: make([]uint32, 1<<12)}
	s.number(s.start(), node{})
	for n := 0; n < len(s.worlds) && s.result.Violation == ""; n++ {
		s.expand(uint32(n))
	}
	s.result.States = len(s.worlds)
	if s.result.Violation == "" {
		s.live()
	}
	return s.result
}

func (s *search) expand(n uint32) {
	w := s.worlds[n]
	depth := s.nodes[n].depth
	s.result.Depth = max(s.result.Depth, int(depth))
	heard := true
	s.events(&w, func(e event, next *world) {
		if s.result.Violation != "" {
			return
		}
		kind := actions[e.action].kind
		heard = heard && kind != delivery
		s.result.Events++
		violation := s.check(&w, next, e)
		to := s.number(next, node{n, depth + 1, e})
		if kind != chance {
			s.fair = append(s.fair, n, to)
		}
		if violation != "" {
			s.fail(violation, s.trace(n)+s.line(&w, next, e, int(depth)+1))
		}
	})
	if heard && s.result.Violation == "" {
		s.result.Ends++
		if violation := s.checkEnd(&w); violation != "" {
			s.fail(violation, s.trace(n))
		}
	}
}

func (s *search) fail(violation, trace string) { s.result.Violation, s.result.Trace = violation, trace }

// place is where the number of a world is, or belongs, in the table.
func (s *search) place(w *world) *uint32 {
	mask := uint64(len(s.table) - 1)
	for at := maphash.Comparable(s.seed, *w) & mask; ; at = (at + 1) & mask {
		if n := s.table[at]; n == 0 || s.worlds[n-1] == *w {
			return &s.table[at]
		}
	}
}

// number gives the number of a world: the next one, if it is new.
func (s *search) number(w *world, how node) uint32 {
	p := s.place(w)
	if *p != 0 {
		return *p - 1
	}
	s.worlds, s.nodes = append(s.worlds, *w), append(s.nodes, how)
	*p = uint32(len(s.worlds))
	if 2*len(s.worlds) > len(s.table) {
		s.table = make([]uint32, 2*len(s.table))
		for n := range s.worlds {
			*s.place(&s.worlds[n]) = uint32(n + 1)
		}
	}
	return uint32(len(s.worlds) - 1)
}

// live looks from which states what happens in the end can lead to where all is over: backwards, from there.
func (s *search) live() {
	from := make([]uint32, len(s.worlds)+1) // where in before the states before each one begin
	for n := 1; n < len(s.fair); n += 2 {
		from[s.fair[n]+1]++
	}
	for n := range s.worlds {
		from[n+1] += from[n]
	}
	before, at := make([]uint32, len(s.fair)/2), slices.Clone(from)
	for n := 0; n < len(s.fair); n += 2 {
		to := s.fair[n+1]
		before[at[to]] = s.fair[n]
		at[to]++
	}
	good := make([]bool, len(s.worlds))
	var queue []uint32
	for n := range s.worlds {
		if s.settled(&s.worlds[n]) || s.forsaken(&s.worlds[n]) {
			good[n] = true
			queue = append(queue, uint32(n))
		}
	}
	for len(queue) > 0 {
		n := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		for _, b := range before[from[n]:from[n+1]] {
			if !good[b] {
				good[b] = true
				queue = append(queue, b)
			}
		}
	}
	if n := slices.Index(good, false); n >= 0 {
		s.fail("no honest server is stuck for good", s.trace(uint32(n)))
	}
}

// trace writes the events from the first world to a state.
func (s *search) trace(n uint32) string {
	var path []uint32
	for at := n; at != 0; at = s.nodes[at].parent {
		path = append(path, at)
	}
	slices.Reverse(path)
	var out strings.Builder
	for k, at := range path {
		how := s.nodes[at]
		out.WriteString(s.line(&s.worlds[how.parent], &s.worlds[at], how.event, k+1))
	}
	return out.String()
}

func (s *search) line(before, after *world, e event, n int) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%3d %s\n", n, s.say(e))
	for _, d := range s.differences(before, after) {
		fmt.Fprintf(&out, "      %s\n", d)
	}
	return out.String()
}
