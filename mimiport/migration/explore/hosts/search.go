package hosts

import (
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration/explore/space"
)

// Result is the result of a search.
type Result struct {
	States    int    // the number of distinct states
	Left      int    // states that the search has not expanded, 0 if it has ended
	Ends      int    // states in which every server has heard of everything
	Depth     int    // the most events from the first state to any state
	Violation string // the invariant that does not hold, "" if all hold
	Trace     string // the shortest way to the violation
}

// search is a search under way.
type search struct {
	*model
	worlds *space.Set[world]
	nodes  []node
	fair   []uint32 // pairs of states: a delivery or a remedy leads from the first to the second
	result Result
}

// node says how the search first reached a state.
type node struct {
	parent uint32
	depth  uint16
	event  event
}

// Explore searches all states of a scenario, breadth first.
func Explore(sc Scenario, bug Bug) Result {
	s := &search{model: &model{Scenario: sc.build(), bug: bug}, worlds: space.NewSet[world]()}
	s.number(s.start(), node{})
	done := 0
	for ; done < s.worlds.Len() && s.result.Violation == ""; done++ {
		s.expand(uint32(done))
	}
	s.result.States, s.result.Left = s.worlds.Len(), s.worlds.Len()-done
	if s.result.Violation == "" {
		s.live()
	}
	return s.result
}

func (s *search) expand(n uint32) {
	w := *s.worlds.At(n)
	depth := s.nodes[n].depth
	s.result.Depth = max(s.result.Depth, int(depth))
	heard := true
	s.events(&w, func(e event, next *world) {
		if s.result.Violation != "" {
			return
		}
		kind := actions[e.action].kind
		heard = heard && kind != delivery
		violation := s.check(&w, next, e)
		to := s.number(next, node{n, depth + 1, e})
		if kind != chance {
			s.fair = append(s.fair, n, to)
		}
		if violation != "" {
			out := s.trace(n)
			s.write(out, int(depth)+1, e, &w, next)
			s.fail(violation, out)
		}
	})
	if heard && s.result.Violation == "" {
		s.result.Ends++
		if violation := s.checkEnd(&w); violation != "" {
			s.fail(violation, s.trace(n))
		}
	}
}

func (s *search) fail(violation string, trace *strings.Builder) {
	s.result.Violation, s.result.Trace = violation, trace.String()
}

// number returns the number of a world, and notes how the search first reached it.
func (s *search) number(w *world, how node) uint32 {
	n := s.worlds.Number(w)
	if int(n) == len(s.nodes) {
		s.nodes = append(s.nodes, how)
	}
	return n
}

// live checks that deliveries and remedies can lead from each state to a settled or forsaken one. It searches backwards
// from these.
func (s *search) live() {
	from := make([]uint32, s.worlds.Len()+1) // the index in before at which the predecessors of each state begin
	for n := 1; n < len(s.fair); n += 2 {
		from[s.fair[n]+1]++
	}
	for n := range s.worlds.Len() {
		from[n+1] += from[n]
	}
	before, at := make([]uint32, len(s.fair)/2), slices.Clone(from)
	for n := 0; n < len(s.fair); n += 2 {
		to := s.fair[n+1]
		before[at[to]] = s.fair[n]
		at[to]++
	}
	good := make([]bool, s.worlds.Len())
	var queue []uint32
	for n := range s.worlds.Len() {
		if s.settled(s.worlds.At(uint32(n))) || s.forsaken(s.worlds.At(uint32(n))) {
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
func (s *search) trace(n uint32) *strings.Builder {
	var path []uint32
	for at := n; at != 0; at = s.nodes[at].parent {
		path = append(path, at)
	}
	slices.Reverse(path)
	out := new(strings.Builder)
	for k, at := range path {
		how := s.nodes[at]
		s.write(out, k+1, how.event, s.worlds.At(how.parent), s.worlds.At(at))
	}
	return out
}

func (s *search) write(out *strings.Builder, n int, e event, before, after *world) {
	space.WriteStep(out, n, s.say(e), s.facts(before), s.facts(after))
}
