package outbox

import (
	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// A row that is at work takes a place until its handler returns. Own work and work for other servers have places of
// their own.
const (
	places         = ownPlaces + otherPlaces
	ownPlaces      = 16
	otherPlaces    = 48
	silentPlaces   = 24 // of otherPlaces, the most for all servers together that are silent
	sparePlaces    = 8  // of otherPlaces, those that only a server with nothing at work gets
	perDestination = 8  // the most for a server that has answered; a silent one gets one
)

// listed is how many rows of each lane are asked for at a time. As many as there are places are enough: while one of
// them is free, a row that can start is among them. The rows before it in its lane are those of its turn and of earlier
// turns, at most perDestination from one server, and each of them either is at work or belongs to a server that may not
// have more at work. There are fewer such rows than places.
const listed = places

// remembered is for how many servers the scheduler knows that they answered. A server that it has forgotten is silent
// until it answers again. At 255 bytes for a name this takes less than 2 MiB.
const remembered = 4096

// news is what the outcome of a row tells about the server that it is for.
type news int

const (
	nothing  news = iota
	answered      // the server has answered
	silent        // the server could not be reached, did not answer in time, or answered nonsense
)

// newsOf reads a handler's outcome. An error of this server's own (KindInternal) tells nothing.
func newsOf(err error) news {
	switch {
	case err == nil:
		return answered
	case mimiport.KindOf(err) == mimiport.KindPeer:
		return silent
	case mimiport.KindOf(err) == mimiport.KindInternal:
		return nothing
	}
	return answered // with a refusal
}

// queue is what is done in order.
type queue struct{ destination, name string }

// scheduler decides which rows start. It knows what is at work and which servers answer, and neither waits nor asks
// anybody:
//   - Own work has its own places. Work for other servers cannot take them.
//   - A server is silent until it answers, and again from when it does not answer. It has one row at work then, and all
//     silent servers together have half of the places for other servers.
//   - A server that answers has up to perDestination rows at work. The last free places go to servers with nothing at
//     work.
//   - One row of a queue is at work at a time. Of the rows that may start, the first in the order of storage.Queue
//     starts first.
type scheduler struct {
	own     []string
	isOwn   map[string]bool
	heard   *simplelru.LRU[string, struct{}] // the servers that answer
	queues  map[queue]bool                   // at work
	working map[string]int                   // how many rows of each destination are at work
}

func newScheduler(own []string) *scheduler {
	heard, _ := simplelru.NewLRU[string, struct{}](remembered, nil) // fails for a size below 1
	s := &scheduler{
		own: own, isOwn: make(map[string]bool), heard: heard, queues: make(map[queue]bool), working: make(map[string]int),
	}
	for _, name := range own {
		s.isOwn[name] = true
	}
	return s
}

// lanes are the destinations that storage.Queue is to list apart from each other: own work, and servers that answer.
func (s *scheduler) lanes() [][]string { return [][]string{s.own, s.heard.Keys()} }

// usage counts the places taken.
type usage struct{ own, others, silent int }

// usage counts anew: a server that falls silent takes all its places with it.
func (s *scheduler) usage() (u usage) {
	for destination, n := range s.working {
		u.add(s, destination, n)
	}
	return u
}

func (u *usage) add(s *scheduler, destination string, n int) {
	if s.isOwn[destination] {
		u.own += n
		return
	}
	u.others += n
	if !s.heard.Contains(destination) {
		u.silent += n
	}
}

// start picks the rows that start now from the listed ones, and counts them as at work.
func (s *scheduler) start(rows []storage.Row) (started []storage.Row) {
	used := s.usage()
	for i := range rows {
		q := queue{rows[i].Destination, rows[i].Queue}
		if s.queues[q] || !s.hasPlace(q.destination, &used) {
			continue
		}
		s.queues[q] = true
		s.working[q.destination]++
		used.add(s, q.destination, 1)
		started = append(started, rows[i])
	}
	return started
}

// hasPlace says whether one more row for a destination may start.
func (s *scheduler) hasPlace(destination string, used *usage) bool {
	working, free := s.working[destination], otherPlaces-used.others
	switch {
	case s.isOwn[destination]:
		return used.own < ownPlaces
	case !s.heard.Contains(destination):
		return working == 0 && free > 0 && used.silent < silentPlaces
	case working == 0:
		return free > 0
	}
	return working < perDestination && free > sparePlaces
}

// finish frees the place of a row, and takes note of what its outcome tells.
func (s *scheduler) finish(row *storage.Row, n news) {
	delete(s.queues, queue{row.Destination, row.Queue})
	if s.working[row.Destination]--; s.working[row.Destination] == 0 {
		delete(s.working, row.Destination)
	}
	switch {
	case s.isOwn[row.Destination]:
	case n == answered:
		s.heard.Add(row.Destination, struct{}{})
	case n == silent:
		s.heard.Remove(row.Destination)
	}
}
