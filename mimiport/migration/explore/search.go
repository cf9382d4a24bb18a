package explore

import (
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration/explore/space"
)

// Bounds limit a search. Within the bounds the search is complete.
type Bounds struct {
	Terms     int  // how often the group may move, 1 to 3: there, back, there again
	NoCommits bool // members make no Commits but those that move the group
	Alone     bool // in each term only one member asks for a move
}

// Result is the result of a search.
type Result struct {
	States    int    // the number of distinct states
	Left      int    // states that the search has not expanded, 0 if it has ended
	Depth     int    // the most events from the first state to any state
	Fair      int    // the most events of a fair schedule until its end
	Violation string // the invariant that does not hold, "" if all hold
	Trace     string // the shortest way to the violation
}

// first is the world in the beginning.
func first() *world {
	w := new(world)
	w.groups[0].state = groupActive
	return w
}

// search is a search under way.
type search struct {
	*model
	states *space.Set[key]
	nodes  []node // by number of state
	result Result
}

// node says how the search first reached a state.
type node struct {
	parent uint32
	depth  uint8
}

// Explore searches all states within the bounds, breadth first. Then it follows fair schedules from each state.
func Explore(b Bounds, bug Bug) Result {
	s := &search{model: &model{bounds: b, bug: bug}, states: space.NewSet[key]()}
	s.number(first(), node{})
	done := 0
	for ; done < s.states.Len() && s.result.Violation == ""; done++ {
		s.expand(uint32(done))
	}
	s.result.States, s.result.Left = s.states.Len(), s.states.Len()-done
	if s.result.Violation == "" {
		s.live()
	}
	return s.result
}

// expand takes each possible step from a state.
func (s *search) expand(n uint32) {
	w, depth := s.world(n), s.nodes[n].depth
	s.result.Depth = max(s.result.Depth, int(depth))
	s.events(w, func(e event, next *world) {
		if s.result.Violation != "" {
			return
		}
		violation := s.check(w, next, e)
		s.tidy(next)
		if violation == "" {
			s.number(next, node{n, depth + 1})
			return
		}
		out := s.trace(n)
		writeStep(out, int(depth)+1, e.String(), w, next)
		s.result.Violation, s.result.Trace = violation, out.String()
	})
}

// world is the state with a number.
func (s *search) world(n uint32) *world { return decode(s.states.At(n), s.bounds) }

// number returns the number of a world's state, and notes how the search first reached the state.
func (s *search) number(w *world, how node) uint32 {
	k := w.key(s.bounds)
	n := s.states.Number(&k)
	if int(n) == len(s.nodes) {
		s.nodes = append(s.nodes, how)
	}
	return n
}

// trace writes the events from the first world to a state.
func (s *search) trace(n uint32) *strings.Builder {
	var path []uint32
	for ; n != 0; n = s.nodes[n].parent {
		path = append(path, n)
	}
	slices.Reverse(path)
	out := new(strings.Builder)
	at := *first()
	m := &model{bounds: s.bounds, bug: s.bug} // the search's own model may be in use
	for k, to := range path {
		before, found := at, false
		m.events(&before, func(e event, next *world) {
			if m.tidy(next); !found && next.key(s.bounds) == *s.states.At(to) {
				found, at = true, *next
				writeStep(out, k+1, e.String(), &before, next)
			}
		})
	}
	return out
}

func writeStep(out *strings.Builder, n int, what string, before, after *world) {
	space.WriteStep(out, n, what, before.facts(), after.facts())
}
