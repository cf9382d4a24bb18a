package explore

import (
	"slices"
)

// schedule is an order of the fair actions: the first one that changes something happens.
type schedule []uint8

// prompt has all fair actions in order: every message arrives before any time passes.
var prompt = func() (order schedule) {
	for n := range actions {
		if actions[n].fair {
			order = append(order, uint8(n))
		}
	}
	return order
}()

// tardy is the other extreme: all time passes before any message arrives.
var tardy = func() schedule {
	clocks := slices.Clone(prompt)
	rest := slices.DeleteFunc(slices.Clone(prompt), func(n uint8) bool { return actions[n].clock })
	clocks = slices.DeleteFunc(clocks, func(n uint8) bool { return !actions[n].clock })
	return append(clocks, rest...)
}()

// next returns the first fair event in a world and the world after it. It returns the same world if there is no fair
// event.
func (m *model) next(w *world, order schedule) (event, world) {
	for _, n := range order {
		a := &actions[n]
		for i := range slot(m.bounds.Terms * members) {
			if !a.can(m, w, i) || a.sends && m.inVain(a, w, i) {
				continue
			}
			next := *w
			next.moves[i].net &^= a.takes
			next.moves[i].net |= a.do(m, &next, i)
			if m.tidy(&next); next != *w {
				return event{action: n, slot: uint8(i)}, next
			}
		}
	}
	return event{}, *w
}

// inVain says whether the message that an action sends changes nothing when it arrives. A server sends such a message
// again and again, and nobody waits for it.
func (m *model) inVain(a *action, w *world, i slot) bool {
	after := *w
	sent := a.do(m, &after, i)
	for n := range actions {
		if take := &actions[n]; take.fair && take.takes&sent != 0 {
			return take.do(m, &after, i) == 0 && after == *w
		}
	}
	return false
}

// mostFair bounds the steps of a fair schedule. No fair schedule should need as many.
const mostFair = 100

// live follows each schedule from each state to its end. The search has numbered the state after each fair step: live
// therefore takes each step once.
func (s *search) live() {
	for _, order := range []schedule{prompt, tardy} {
		left := make([]uint8, s.states.Len()) // 1 + the steps to the end, 0 if not known yet
		for n := range uint32(s.states.Len()) {
			if !s.follow(order, n, left) {
				s.result.Violation = "fair delivery ends with the group active at one server"
				s.result.Trace = s.fairTrace(n, order)
				return
			}
			s.result.Fair = max(s.result.Fair, int(left[n])-1)
		}
	}
}

// follow goes on from a state until the schedule ends, or until a state whose end is known. It reports whether the end
// is settled.
func (s *search) follow(order schedule, n uint32, left []uint8) bool {
	var path []uint32
	for left[n] == 0 {
		w := s.world(n)
		_, next := s.next(w, order)
		switch {
		case next != *w:
			path = append(path, n)
			n = s.number(&next, node{})
		case w.settled():
			left[n] = 1
		}
		if next == *w && left[n] == 0 || len(path) > mostFair {
			return false
		}
	}
	for k, p := range slices.Backward(path) {
		left[p] = left[n] + uint8(len(path)-k)
	}
	return true
}

// fairTrace writes the way to a state, and then a fair schedule from that state.
func (s *search) fairTrace(n uint32, order schedule) string {
	out, w := s.trace(n), s.world(n)
	for k := range mostFair {
		e, next := s.next(w, order)
		if next == *w {
			break
		}
		writeStep(out, k+1, "fairly: "+e.String(), w, &next)
		w = &next
	}
	return out.String()
}
