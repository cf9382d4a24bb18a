package explore

import (
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration/explore/space"
)

// Bounds say how much is searched; within them the search is complete.
type Bounds struct {
	Terms      int  // how often the group may move, 1 to 3: there, back, there again
	Crashes    int  // of either server, at most 3
	Losses     int  // of messages, at most 3
	Duplicates int  // of messages, at most 3
	NoCommits  bool // members make no Commits but those that move the group
	Alone      bool // of each term only one member asks to be moved on
}

// Result is what a search has found.
type Result struct {
	States    int    // distinct ones
	Left      int    // nodes to go on from, 0 if the search has ended
	Depth     int    // the most events that a state is away from the first
	Fair      int    // the most events of a fair schedule to the end
	Violation string // the invariant that does not hold, empty when all do
	Trace     string // the shortest way to the violation
}

// first is the world in which all begins.
func first() *world {
	w := new(world)
	w.groups[0].state = groupActive
	return w
}

// search is a search under way.
type search struct {
	*model
	states  *space.Set[key]
	covered []uint64 // of each state: the budgets with which, or with more, it has been reached
	nodes   []node
	queues  [][]uint32 // nodes to go on from, by the number of faults on the way
	result  Result
}

// node is a state reached with a budget that no other way to it has had.
type node struct {
	state, parent uint32
	left          budget
	depth         uint8
}

// Explore searches all states within the bounds, those with the fewest faults on the way first, breadth first among these; then it follows
// fair schedules from each.
func Explore(b Bounds, bug Bug) Result {
	s := &search{model: &model{bounds: b, bug: bug}, states: space.NewSet[key](), queues: make([][]uint32, b.Crashes+b.Losses+b.Duplicates+1)}
	s.reach(node{state: s.number(first()), left: budget{int8(b.Crashes), int8(b.Losses), int8(b.Duplicates)}})
	for used := range s.queues {
		n := 0
		for ; n < len(s.queues[used]) && s.result.Violation == ""; n++ {
			s.expand(s.queues[used][n])
		}
		s.result.Left += len(s.queues[used]) - n
		s.queues[used] = nil
	}
	if s.result.States = s.states.Len(); s.result.Violation == "" {
		s.live()
	}
	return s.result
}

// expand goes one step on from a node in all ways that its budget allows.
func (s *search) expand(n uint32) {
	from := s.nodes[n]
	w := decode(s.states.At(from.state), s.bounds)
	s.events(w, func(e event, next *world) {
		left, ok := from.left.after(e.fate)
		if !ok || s.result.Violation != "" {
			return
		}
		violation := s.check(w, next, e)
		s.tidy(next)
		to := node{s.number(next), n, left, from.depth + 1}
		if violation == "" {
			s.reach(to)
			return
		}
		s.nodes = append(s.nodes, to)
		s.result.Violation, s.result.Trace = violation, s.trace(uint32(len(s.nodes)-1))
	})
}

// number gives the number of a world's state.
func (s *search) number(w *world) uint32 {
	k := w.key(s.bounds)
	n := s.states.Number(&k)
	if int(n) == len(s.covered) {
		s.covered = append(s.covered, 0)
	}
	return n
}

// reach notes a node to go on from, unless its state has been reached with as large a budget.
func (s *search) reach(n node) {
	if s.covered[n.state]&n.left.bit() != 0 {
		return
	}
	s.covered[n.state] |= n.left.below()
	used := len(s.queues) - 1 - n.left.sum()
	s.queues[used] = append(s.queues[used], uint32(len(s.nodes)))
	s.nodes = append(s.nodes, n)
	s.result.Depth = max(s.result.Depth, int(n.depth))
}

// trace writes the events from the first world to a node.
func (s *search) trace(n uint32) string {
	var path []node
	for ; n != 0; n = s.nodes[n].parent {
		path = append(path, s.nodes[n])
	}
	slices.Reverse(path)
	var out strings.Builder
	at, left := *first(), s.nodes[0].left
	for n, to := range path {
		before, found := at, false
		s.events(&before, func(e event, next *world) {
			after, _ := left.after(e.fate)
			if s.tidy(next); !found && after == to.left && s.number(next) == to.state {
				found, at = true, *next
				writeStep(&out, n+1, e.String(), &before, next)
			}
		})
		left = to.left
	}
	return out.String()
}

func writeStep(out *strings.Builder, n int, what string, before, after *world) {
	space.WriteStep(out, n, what, before.facts(), after.facts())
}
