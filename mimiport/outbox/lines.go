package outbox

import "slices"

// lines has the spreads that have something for a server: a line of spreads for each server. Servers take turns.
type lines struct {
	of    map[string][]*spread
	order []string // the servers with a line
}

// push puts a spread at the end of a server's line.
func (l *lines) push(server string, sp *spread) {
	if l.of == nil {
		l.of = make(map[string][]*spread)
	}
	if len(l.of[server]) == 0 {
		l.order = append(l.order, server)
	}
	l.of[server] = append(l.of[server], sp)
}

// next takes the next spread that start accepts out of its line. It asks only for servers that have a place. It returns
// false if no spread can start.
func (l *lines) next(hasPlace func(server string) bool, start func(server string, sp *spread) bool) bool {
	for range len(l.order) {
		server := l.order[0]
		l.order = append(l.order[1:], server)
		if !hasPlace(server) {
			continue
		}
		for _, sp := range l.of[server] {
			if start(server, sp) {
				l.leave(server, sp)
				return true
			}
		}
	}
	return false
}

// remove removes a spread from all lines.
func (l *lines) remove(sp *spread) {
	for server := range sp.peers {
		l.leave(server, sp)
	}
}

// leave removes a spread from the line of a server, if it is there.
func (l *lines) leave(server string, sp *spread) {
	i := slices.Index(l.of[server], sp)
	if i < 0 {
		return
	}
	l.of[server] = slices.Delete(l.of[server], i, i+1)
	if len(l.of[server]) == 0 {
		delete(l.of, server)
		l.order = slices.DeleteFunc(l.order, func(other string) bool { return other == server })
	}
}
