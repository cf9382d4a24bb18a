package outbox

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

const self = "self"

func TestNews(t *testing.T) {
	for _, test := range []struct {
		err  error
		want news
	}{
		{nil, answered},
		{errors.New("the database is down"), nothing},
		{mimiport.Errorf("send", mimiport.KindInternal, "a fault"), nothing},
		{mimiport.Errorf("send", mimiport.KindPeer, "a time-out"), silent},
		{fmt.Errorf("sending: %w", mimiport.Errorf("send", mimiport.KindPeer, "a time-out")), silent},
		{mimiport.Errorf("send", mimiport.KindUnknownGroup, "a refusal"), answered},
		{mimiport.Errorf("send", mimiport.KindQuota, "a refusal"), answered},
	} {
		if got := newsOf(test.err); got != test.want {
			t.Errorf("newsOf(%v) = %d, want %d", test.err, got, test.want)
		}
	}
}

// The scheduler remembers a bounded number of servers: those that answered last.
func TestRemembered(t *testing.T) {
	s := newScheduler(nil)
	learn := func(server string, n news) {
		q := queue{server, "q"}
		used := s.usage()
		s.start(q, &used)
		s.finish(q, n)
	}
	for i := range 2 * remembered {
		learn(fmt.Sprint("silent", i), silent)
		learn(fmt.Sprint("answers", i), answered)
		learn("often", answered)
	}
	if got := s.heard.Len(); got != remembered || !s.heard.Contains("often") || len(s.working)+len(s.queues) > 0 {
		t.Errorf("%d servers are remembered, want the last %d", got, remembered)
	}
}

// town is a scheduler with destinations and a store that holds at most one row for each queue.
type town struct {
	*rapid.T
	*scheduler
	clock   int // counts steps
	puts    int
	waiting map[queue]visit
	atWork  []storage.Row // running rows, in the order of their start
}

// aside counts the running rows of the destinations that are no servers.
func (w *town) aside() (n int) {
	for destination, places := range aside {
		if w.working[destination] > places {
			w.Fatalf("%d rows of %s are at work", w.working[destination], destination)
		}
		n += w.working[destination]
	}
	return n
}

// visit is the step at which a row came, and the most steps that it may wait.
type visit struct{ number, clock, most int }

// due lists rows as storage.Queue.Due does. A row is due as soon as it is put.
func (w *town) due() (rows []storage.Row) {
	lanes := make(map[string]int)
	for i, names := range w.lanes() {
		for _, name := range names {
			lanes[name] = 3 - i
		}
	}
	for q, v := range w.waiting {
		rows = append(rows, storage.Row{Destination: q.destination, Queue: q.name, Seq: uint64(v.number)})
	}
	rows = append(rows, w.atWork...) // running rows are still due
	slices.SortFunc(rows, func(a, b storage.Row) int { return cmp.Compare(a.Seq, b.Seq) })
	turns := make(map[string]uint64)
	for i := range rows {
		turns[rows[i].Destination]++
		rows[i].Order = turns[rows[i].Destination]
	}
	slices.SortStableFunc(rows, func(a, b storage.Row) int { return cmp.Compare(a.Order, b.Order) })
	var shown [4]int
	return slices.DeleteFunc(rows, func(row storage.Row) bool {
		lane := lanes[row.Destination]
		shown[lane]++
		return shown[lane] > listed
	})
}

// look starts the rows that may start, and checks the rules.
func (w *town) look() {
	before := w.usage()
	starting := before
	for _, row := range w.due() {
		q := queueOf(&row)
		if !w.start(q, &starting) {
			continue
		}
		mayBeSilent := !w.isOwn[q.destination] && aside[q.destination] == 0
		if mayBeSilent && !w.heard.Contains(q.destination) && w.working[q.destination] != 1 {
			w.Fatalf("%s is silent and has %d rows at work", q.destination, w.working[q.destination])
		}
		if v := w.waiting[q]; w.clock-v.clock > v.most {
			w.Fatalf("%v waited for %d steps, at most %d are fair", q, w.clock-v.clock, v.most)
		}
		delete(w.waiting, q)
		w.atWork = append(w.atWork, row)
	}
	used := w.usage()
	switch {
	case used.own > ownPlaces, used.others > otherPlaces:
		w.Fatalf("too much is at work: %+v", used)
	case used.silent > silentPlaces && used.silent > before.silent:
		w.Fatalf("too much is at work for silent servers: %+v, %+v before", used, before)
	case len(w.queues) != len(w.atWork) || used.own+used.others+w.aside() != len(w.atWork):
		w.Fatalf("%d rows are at work, the scheduler knows of %+v in %d queues", len(w.atWork), used, len(w.queues))
	}
	for q := range w.waiting { // no row waits that may start, although due cuts the list
		if w.hasPlace(q.destination, &used) {
			w.Fatalf("%v waits and has a place: %+v", q, used)
		}
	}
	for destination, n := range w.working {
		if !w.isOwn[destination] && n > perDestination {
			w.Fatalf("%s has %d rows at work", destination, n)
		}
	}
}

// put adds a row, unless its queue has one. Each place becomes free within as many steps as there are places. The row
// may wait a few times that long for each present row of its destination, and once more for each silentPlaces rows.
func (w *town) put(q queue) {
	if _, ok := w.waiting[q]; ok || w.queues[q] {
		return
	}
	same := w.working[q.destination] + 1
	for other := range w.waiting {
		if other.destination == q.destination {
			same++
		}
	}
	w.puts++
	w.waiting[q] = visit{w.puts, w.clock, same * places * (2 + (len(w.waiting)+len(w.atWork))/silentPlaces)}
}

// giveBack ends the i-th running row.
func (w *town) giveBack(i int, n news) {
	row := w.atWork[i]
	w.atWork = slices.Delete(w.atWork, i, i+1)
	w.finish(queueOf(&row), n)
}

// TestNobodyStarves puts rows at random, and chooses at random which server answers and which row returns first. Every
// running row returns in the end. Then each row starts within a bound, and no rule is ever broken.
func TestNobodyStarves(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := &town{T: rt, scheduler: newScheduler([]string{self}), waiting: make(map[queue]visit)}
		destinations, mute := rapid.IntRange(1, 100).Draw(rt, "destinations"), rapid.IntRange(0, 10).Draw(rt, "mute of ten")
		rows, busy := rapid.IntRange(0, 200).Draw(rt, "rows at first"), rapid.IntRange(0, 4).Draw(rt, "rows at each step")
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		put := func() {
			name := self
			switch d := random.IntN(destinations + 3); {
			case d < destinations:
				name = fmt.Sprint("server", d)
			case d == destinations:
				name = storage.Background
			case d == destinations+1:
				name = storage.Announcing
			}
			w.put(queue{name, fmt.Sprint(random.IntN(20))})
		}
		outcome := func() news {
			switch n := random.IntN(11); {
			case n < mute:
				return silent
			case n == 10:
				return nothing
			}
			return answered
		}
		for range rows {
			put()
		}
		for w.clock = range 400 {
			w.look()
			for range busy {
				put()
			}
			if len(w.atWork) > 0 {
				w.giveBack(0, outcome()) // the oldest
			}
			if len(w.atWork) > 0 {
				w.giveBack(random.IntN(len(w.atWork)), outcome())
			}
		}
	})
}

func BenchmarkScheduler(b *testing.B) {
	s := newScheduler([]string{self})
	var rows []storage.Row
	for i := range 2 * listed {
		rows = append(rows, storage.Row{Destination: fmt.Sprint("server", i%100), Queue: fmt.Sprint(i)})
	}
	for i := range 1000 {
		s.heard.Add(fmt.Sprint("server", i), struct{}{})
	}
	b.ReportAllocs()
	for b.Loop() {
		s.lanes()
		used, started := s.usage(), []queue(nil)
		for i := range rows {
			if q := queueOf(&rows[i]); s.start(q, &used) {
				started = append(started, q)
			}
		}
		for _, q := range started {
			s.finish(q, answered)
		}
	}
}
