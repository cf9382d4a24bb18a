package outbox

import (
	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// A running row takes a place until its handler returns. The rows of its queue that travel with it share its place. Own
// work, work in the background, announcements and work for other servers have separate places.
const (
	places    = ownPlaces + otherPlaces + backgroundPlaces + announcingPlaces
	ownPlaces = 16

	backgroundPlaces = 2 // for storage.Background
	announcingPlaces = 1 // for storage.Announcing

	otherPlaces    = 48
	silentPlaces   = 24 // of otherPlaces: the most that all silent servers together can have
	sparePlaces    = 8  // of otherPlaces: the last ones, only for servers without a running row
	perDestination = 8  // the most for one server that has answered; a silent server gets one
)

// listed is the number of rows of each lane that the worker asks for. It is enough to ask for as many rows as there
// are places. Let a place be free, and let a row be able to start. The rows before it in its lane are of its turn or
// of earlier turns, so at most perDestination of them belong to one server. Each of them is running, or its server may
// not run more rows. There are fewer such rows than places, so the list includes the row that can start.
const listed = places

// remembered is the number of servers of which the scheduler remembers that they answered. A server that it has
// forgotten is silent until it answers again. At 255 bytes for a name this takes less than 2 MiB.
const remembered = 4096

// news is what the result of a row shows about its destination.
type news int

const (
	nothing  news = iota
	answered      // the server has answered
	silent        // the server could not be reached, did not answer in time, or answered nonsense
)

// newsOf reads the result of a handler. An error of this server itself (KindInternal) shows nothing.
func newsOf(err error) news {
	switch {
	case err == nil:
		return answered
	case mimiport.KindOf(err) == mimiport.KindPeer:
		return silent
	case mimiport.KindOf(err) == mimiport.KindInternal:
		return nothing
	}
	return answered // the server refused
}

// queue names a queue. Its rows run in order.
type queue struct{ destination, name string }

func queueOf(row *storage.Row) queue { return queue{row.Destination, row.Queue} }

// scheduler decides which rows start. It knows the running rows and the servers that answer. It never waits and makes
// no calls. Its rules are:
//   - Own work has its own places, and so have work in the background and announcements. No other work can take them.
//   - A server is silent until it answers, and again when it stops answering. A silent server runs one row. All silent
//     servers together have half of the places for other servers.
//   - A server that answers runs up to perDestination rows. The last free places go to servers without a running row.
//   - A queue runs one row at a time, or the rows of one request. Of the rows that may start, the first in the order of
//     storage.Queue starts first. Rows and FanOuts take turns.
type scheduler struct {
	own     []string
	isOwn   map[string]bool
	heard   *simplelru.LRU[string, struct{}] // the servers that answer
	queues  map[queue]bool                   // the queues with a running row
	working map[string]int                   // the number of running rows by destination
}

func newScheduler(own []string) *scheduler {
	heard, _ := simplelru.NewLRU[string, struct{}](remembered, nil) // it fails only for a size below 1
	s := &scheduler{
		own: own, isOwn: make(map[string]bool), heard: heard, queues: make(map[queue]bool), working: make(map[string]int),
	}
	for _, name := range own {
		s.isOwn[name] = true
	}
	return s
}

// aside has the places of the destinations that are no servers.
var aside = map[string]int{storage.Background: backgroundPlaces, storage.Announcing: announcingPlaces}

// lanes returns the groups of destinations that storage.Queue lists separately: own work, work aside, and servers that
// answer. The destinations aside take turns, so each gets enough of the list.
func (s *scheduler) lanes() [][]string {
	return [][]string{s.own, {storage.Background, storage.Announcing}, s.heard.Keys()}
}

// usage is the number of taken places.
type usage struct{ own, others, silent int }

// usage counts the taken places. It counts anew each time, because a server that becomes silent changes the class of
// all its places.
func (s *scheduler) usage() (u usage) {
	for destination, n := range s.working {
		u.add(s, destination, n)
	}
	return u
}

func (u *usage) add(s *scheduler, destination string, n int) {
	switch {
	case s.isOwn[destination]:
		u.own += n
		return
	case aside[destination] > 0:
		return
	}
	u.others += n
	if !s.heard.Contains(destination) {
		u.silent += n
	}
}

// start starts a row of a queue, if it may start now, and counts it as running.
func (s *scheduler) start(q queue, used *usage) bool {
	if s.queues[q] || !s.hasPlace(q.destination, used) {
		return false
	}
	s.queues[q] = true
	s.working[q.destination]++
	used.add(s, q.destination, 1)
	return true
}

// hasPlace reports whether one more row for a destination may start.
func (s *scheduler) hasPlace(destination string, used *usage) bool {
	working, free := s.working[destination], otherPlaces-used.others
	switch {
	case s.isOwn[destination]:
		return used.own < ownPlaces
	case aside[destination] > 0:
		return working < aside[destination]
	case !s.heard.Contains(destination):
		return working == 0 && free > 0 && used.silent < silentPlaces
	case working == 0:
		return free > 0
	}
	return working < perDestination && free > sparePlaces
}

// finish frees the place of a queue's running row, and notes what its result shows about the destination.
func (s *scheduler) finish(q queue, n news) {
	delete(s.queues, q)
	if s.working[q.destination]--; s.working[q.destination] == 0 {
		delete(s.working, q.destination)
	}
	switch {
	case s.isOwn[q.destination], aside[q.destination] > 0:
	case n == answered:
		s.heard.Add(q.destination, struct{}{})
	case n == silent:
		s.heard.Remove(q.destination)
	}
}
