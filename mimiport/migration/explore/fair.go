package explore

import "strings"

// schedule is an order in which to choose among the fair actions that change something.
type schedule []uint8

// schedules are the two extremes: everything arrives before any time passes, and all time passes before anything arrives.
var schedules = func() []schedule {
	var prompt, clocks, rest schedule
	for n := range actions {
		a := &actions[n]
		if !a.fair {
			continue
		}
		prompt = append(prompt, uint8(n))
		if a.clock {
			clocks = append(clocks, uint8(n))
		} else {
			rest = append(rest, uint8(n))
		}
	}
	return []schedule{prompt, append(clocks, rest...)}
}()

// next is the first fair step in a world, the world itself when there is none.
func (m *model) next(w *world, order schedule) (event, world) {
	for _, n := range order {
		a := &actions[n]
		for i := range slot(m.bounds.Terms * members) {
			if !a.can(m, w, i) {
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

// mostFair is more steps than any fair schedule should need.
const mostFair = 100

// live follows each schedule from each world to its end. A step of it is one of the search as well, so each is taken once.
func (m *model) live(s *space, res *Result) {
	for _, order := range schedules {
		left := make([]uint8, s.len()) // 1 + the steps to the end, 0 where not known yet
		var path []uint32
		for n := range uint32(s.len()) {
			path = path[:0]
			at := n
			for left[at] == 0 {
				w := decode(s.key(at), m.bounds.Terms)
				_, next := m.next(w, order)
				if next == *w && w.settled() {
					left[at] = 1
					break
				}
				path = append(path, at)
				if next == *w || len(path) > mostFair {
					res.Violation = "fair delivery ends with the group active at one server"
					res.Trace = m.trace(s, n, nil) + m.fairTrace(s, n, order)
					return
				}
				at = *s.place(next.key(nil, m.bounds.Terms)) - 1
			}
			for k := len(path) - 1; k >= 0; k-- {
				left[path[k]] = left[at] + 1
				at = path[k]
			}
			res.Fair = max(res.Fair, int(left[n])-1)
		}
	}
}

// fairTrace writes a fair schedule from the world of number n.
func (m *model) fairTrace(s *space, n uint32, order schedule) string {
	var out strings.Builder
	w := decode(s.key(n), m.bounds.Terms)
	for n := range mostFair {
		e, next := m.next(w, order)
		if next == *w {
			break
		}
		writeStep(&out, n+1, "fairly: "+e.String(), w, &next)
		w = &next
	}
	return out.String()
}
