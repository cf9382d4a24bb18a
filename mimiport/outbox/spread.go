package outbox

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// The bounds of the FanOuts in memory. A slot is one server of one FanOut.
const (
	maxItems = 1024    // of a group
	maxSlots = 1 << 20 // of all groups: about 16 MiB
	share    = 1 << 17 // of one group
)

// A FanOut is settled when each server has it, has failed or is late. A server is late when it has got nothing for
// lateAfter, although there is something for it. While a group has no room for more FanOuts and some server waits for
// more, another server is late when a request to it takes longer than lateWhenFull.
const (
	lateAfter    = 10 * time.Second
	lateWhenFull = 2 * time.Second
)

// grace is the time for which nobody else does a row that this process still delivers. It is longer than a request.
const grace = 30 * time.Second

// spreads are the groups whose FanOuts are on their way.
type spreads struct {
	worker *Worker
	groups map[string]*spread   // by queue
	theirs map[string]time.Time // queues on which another process worked at that time
	ready  lines
	slots  int
	turn   int              // counts calls of load
	done   []storage.RowKey // delivered rows that settle deletes
}

func newSpreads(w *Worker) *spreads {
	return &spreads{worker: w, groups: make(map[string]*spread), theirs: make(map[string]time.Time)}
}

// spread sends the FanOuts of one group to their servers, without a row for each server. The FanOuts stay in the store
// until they are settled: then servers that have failed, or that are late, get rows. Such a server is behind: all that
// follows for it becomes a row too, until it has no rows left. So a server gets everything in order, and a slow server
// keeps up nobody. After a crash the worker sends FanOuts again that were not settled.
type spread struct {
	key     storage.GroupKey
	queue   string
	release func()
	last    uint64  // the number of the last FanOut that was read
	settled uint64  // the number of the last one that was settled
	waiting []*item // in order
	peers   map[string]*peer
	gone    bool // nobody has this spread any more, except for its parcels on their way
}

// item is a FanOut that is not settled.
type item struct {
	storage.FanOut
	left  int // the number of servers that it still goes to from here
	since time.Time
}

// peer is a server of a spread.
type peer struct {
	through uint64 // it has all entries up to this number
	open    int    // the number of waiting FanOuts for it, unless it is behind
	running bool
	inLine  bool
	since   time.Time // when it came into the line, or a request to it began

	behind   bool
	stuck    uint64 // the number of the entry with which it fell behind
	attempts int    // of that entry
	due      time.Time
}

// parcel is the entries of one spread that travel to a server together.
type parcel struct {
	spread *spread
	server string
	rows   []storage.Row
}

// idle returns the longest time until something may have to happen.
func (s *spreads) idle() time.Duration {
	if len(s.groups)+len(s.theirs) > 0 {
		return storePause
	}
	return lookAgain
}

// load reads new FanOuts while there is room.
func (s *spreads) load(ctx context.Context) error {
	waiting, err := s.worker.store.Waiting(ctx)
	if err != nil {
		return err
	}
	s.turn++
	for i := range waiting { // another group is first each time
		p := &waiting[(i+s.turn)%len(waiting)]
		sp, err := s.open(ctx, p.GroupKey)
		if err != nil {
			return err
		}
		if sp == nil || sp.last >= p.Seq || sp.full(s.slots) {
			continue
		}
		if err := s.extend(ctx, sp); err != nil {
			return err
		}
	}
	return nil
}

// open returns the spread of a group, or nil while another process has it.
func (s *spreads) open(ctx context.Context, key storage.GroupKey) (*spread, error) {
	queue := storage.FanOutQueue(key)
	if sp := s.groups[queue]; sp != nil {
		return sp, nil
	}
	if at, ok := s.theirs[queue]; ok && time.Since(at) < storePause || s.slots >= maxSlots {
		return nil, nil
	}
	delete(s.theirs, queue)
	release, err := s.worker.store.ClaimFanOuts(ctx, key)
	if errors.Is(err, storage.ErrConflict) {
		s.theirs[queue] = time.Now()
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	sp := &spread{key: key, queue: queue, release: release, peers: make(map[string]*peer)}
	s.groups[queue] = sp
	return sp, nil
}

// full reports whether a spread has no room for another FanOut.
func (sp *spread) full(slots int) bool {
	if len(sp.waiting) == 0 {
		return slots >= maxSlots
	}
	own := len(sp.waiting) * len(sp.waiting[0].Servers)
	return len(sp.waiting) >= maxItems || own >= share || slots >= maxSlots
}

// extend reads the next FanOuts of a spread, and which servers have rows.
func (s *spreads) extend(ctx context.Context, sp *spread) error {
	behind, err := s.worker.store.Behind(ctx, sp.key)
	if err != nil {
		return err
	}
	found, err := s.worker.store.FanOuts(ctx, storage.Position{GroupKey: sp.key, Seq: sp.last + 1}, s.worker.batch)
	if err != nil {
		return err
	}
	s.note(sp, behind)
	for i := range found {
		s.slots += len(found[i].Servers)
		sp.add(&found[i])
	}
	for server := range sp.peers {
		s.enqueue(sp, server)
	}
	return nil
}

// note takes over which servers have rows. A server without rows is not behind any more, unless it is to get some.
func (s *spreads) note(sp *spread, behind []string) {
	for _, server := range behind {
		if p := sp.peer(server); !p.behind {
			s.fallBehind(sp, server, 0)
		}
	}
	for server, p := range sp.peers {
		if _, has := slices.BinarySearch(behind, server); p.behind && !has && !p.running && p.stuck <= sp.settled {
			p.behind, p.open = false, 0
			for _, it := range sp.of(server) {
				p.open++
				it.left++
			}
		}
	}
}

func (sp *spread) peer(server string) *peer {
	p := sp.peers[server]
	if p == nil {
		p = new(peer)
		sp.peers[server] = p
	}
	return p
}

// add appends a FanOut. Most have the same servers as the one before, and share the list with it.
func (sp *spread) add(f *storage.FanOut) {
	if n := len(sp.waiting); n > 0 && slices.Equal(sp.waiting[n-1].Servers, f.Servers) {
		f.Servers = sp.waiting[n-1].Servers
	}
	it := &item{FanOut: *f, since: time.Now()}
	for _, server := range f.Servers {
		if p := sp.peer(server); !p.behind {
			p.open++
			it.left++
		}
	}
	sp.waiting, sp.last = append(sp.waiting, it), f.Seq
}

// of lists the waiting FanOuts that a server does not have.
func (sp *spread) of(server string) (items []*item) {
	for _, it := range sp.after(sp.peers[server].through) {
		if it.isFor(server) {
			items = append(items, it)
		}
	}
	return items
}

// after lists the waiting FanOuts after a number.
func (sp *spread) after(seq uint64) []*item {
	i, _ := slices.BinarySearchFunc(sp.waiting, seq+1, func(it *item, seq uint64) int {
		return int(int64(it.Seq - seq))
	})
	return sp.waiting[i:]
}

func (it *item) isFor(server string) bool {
	_, ok := slices.BinarySearch(it.Servers, server)
	return ok
}

// enqueue puts a server into the line, if the spread has something for it.
func (s *spreads) enqueue(sp *spread, server string) {
	if p := sp.peers[server]; p.open > 0 && !p.behind && !p.running && !p.inLine && !sp.gone {
		p.inLine, p.since = true, time.Now()
		s.ready.push(server, sp)
	}
}

// pack makes the next parcel for a server, which is in the line and leaves it.
func (sp *spread) pack(server string, limit int) *parcel {
	p := sp.peers[server]
	p.running, p.inLine, p.since = true, false, time.Now()
	parcel := &parcel{spread: sp, server: server}
	for _, it := range sp.after(p.through) {
		if it.isFor(server) {
			parcel.rows = append(parcel.rows, it.Row(server))
		}
		if len(parcel.rows) == limit {
			break
		}
	}
	return parcel
}

// finish takes over what became of a parcel: some of its rows are done, and err tells what became of the next one.
func (s *spreads) finish(sent *parcel, done int, err error) {
	sp, p := sent.spread, sent.spread.peers[sent.server]
	p.running = false
	if p.behind {
		s.done = append(s.done, keysOf(sent.rows[:done])...)
	}
	for i := range done {
		p.through = sent.rows[i].Seq
		if !p.behind {
			it := sp.after(p.through - 1)[0]
			it.left--
			p.open--
		}
	}
	if err != nil && !p.behind && !errors.Is(err, context.Canceled) {
		s.fallBehind(sp, sent.server, sent.rows[done].Seq)
		p.attempts, p.due = 1, s.worker.now().Add(Backoff(0, err, s.worker.jitter()))
		s.worker.log.Info("outbox: put off", "kind", storage.RowFanOut, "server", sent.server, "queue", sp.queue,
			"order", sent.rows[done].Seq, "attempts", 1, "error", err)
		s.worker.noteFailure(sent.server, err)
	}
	s.enqueue(sp, sent.server)
}

// fallBehind stops sending to a server from here. Its entries from the number on become rows.
func (s *spreads) fallBehind(sp *spread, server string, stuck uint64) {
	p := sp.peers[server]
	p.behind, p.stuck = true, stuck
	if p.inLine {
		p.inLine = false
		s.ready.leave(server, sp)
	}
	for _, it := range sp.of(server) {
		it.left--
	}
}

// settle stores, in one transaction, which FanOuts are settled, and the rows for servers that are behind. If stopping,
// it settles everything that some server has.
func (s *spreads) settle(ctx context.Context, stopping bool) error {
	change, now := &storage.Change{Done: s.done}, s.worker.now()
	counts := make(map[*spread]int)
	for _, sp := range s.groups {
		s.dropLate(sp)
		if stopping {
			s.dropBegun(sp)
		}
		n := sp.ripe()
		if counts[sp] = n; n > 0 {
			change.Settled = append(change.Settled, storage.Position{GroupKey: sp.key, Seq: sp.waiting[n-1].Seq})
			change.Rows = append(change.Rows, sp.rows(n, now)...)
		}
	}
	if len(change.Settled)+len(change.Done) > 0 {
		err := s.worker.store.Apply(context.WithoutCancel(ctx), change)
		if errors.Is(err, storage.ErrConflict) {
			s.forget() // another process had the group, or an earlier try was stored: read everything again
			return nil
		}
		if err != nil {
			return err
		}
	}
	s.done = nil
	for sp, n := range counts {
		s.cut(sp, n)
	}
	return nil
}

// dropLate lets servers fall behind that are late.
func (s *spreads) dropLate(sp *spread) {
	if len(sp.waiting) == 0 || time.Since(sp.waiting[0].since) < lateWhenFull {
		return
	}
	held := false // some server waits for more FanOuts than there is room for
	if sp.full(s.slots) {
		for _, p := range sp.peers {
			held = held || !p.behind && p.open == 0
		}
	}
	for server, p := range sp.peers {
		took := time.Since(p.since)
		if p.open > 0 && !p.behind && (took >= lateAfter || held && p.running && took >= lateWhenFull) {
			s.fallBehind(sp, server, sp.of(server)[0].Seq)
		}
	}
}

// dropBegun lets servers fall behind that do not have a FanOut that another one has.
func (s *spreads) dropBegun(sp *spread) {
	for _, it := range sp.waiting {
		if it.left == 0 || it.left == len(it.Servers) {
			continue
		}
		for _, server := range it.Servers {
			if p := sp.peers[server]; !p.behind && p.through < it.Seq {
				s.fallBehind(sp, server, it.Seq)
			}
		}
	}
}

// ripe returns how many FanOuts, from the first, go to no further server from here.
func (sp *spread) ripe() int {
	n := slices.IndexFunc(sp.waiting, func(it *item) bool { return it.left > 0 })
	if n < 0 {
		return len(sp.waiting)
	}
	return n
}

// rows makes the rows for the servers that do not have the first n FanOuts. A row that is still on its way is due when
// it must have come back.
func (sp *spread) rows(n int, now time.Time) (rows []storage.Row) {
	first := make(map[*peer]bool)
	for _, it := range sp.waiting[:n] {
		for _, server := range it.Servers {
			p := sp.peers[server]
			if p.through >= it.Seq {
				continue
			}
			row := it.Row(server)
			if !first[p] && p.running {
				row.Due = now.Add(grace)
			}
			if it.Seq == p.stuck && p.attempts > 0 {
				row.Attempts, row.Due = p.attempts, p.due
			}
			first[p] = true
			rows = append(rows, row)
		}
	}
	return rows
}

// cut removes the first n FanOuts of a spread after they are settled, and the spread if it has no others.
func (s *spreads) cut(sp *spread, n int) {
	for _, it := range sp.waiting[:n] {
		s.slots -= len(it.Servers)
		sp.settled = it.Seq
	}
	sp.waiting = slices.Delete(sp.waiting, 0, n)
	if len(sp.waiting) == 0 {
		s.drop(sp)
	}
}

// drop forgets a spread.
func (s *spreads) drop(sp *spread) {
	for _, it := range sp.waiting {
		s.slots -= len(it.Servers)
	}
	sp.gone = true
	s.ready.remove(sp)
	delete(s.groups, sp.queue)
	sp.release()
}

// forget forgets all spreads.
func (s *spreads) forget() {
	for _, sp := range s.groups {
		s.drop(sp)
	}
	s.done = nil
}
