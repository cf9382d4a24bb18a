package delivery

import (
	"container/list"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// live is a group in memory: the engine's state after all log entries below seq. It belongs to the holder of the group's
// lock.
type live struct {
	mls    mls.Group
	seq    uint64
	roster roster
	before mls.Group // the epoch before as it ended; nil until a Commit has been followed
	begun  mls.Group // this epoch as it began, which was before the log entry begunSeq
	stored stored
	ahead  string // a user who has shown to be in a later epoch

	begunSeq uint64
}

// roster counts the leaves of each device, by server and user: who gets the fan-out.
type roster map[string]map[string]map[string]int

func newRoster(g mls.Group) (roster, error) {
	r := make(roster)
	for m := range g.Members() {
		id, err := identity(m)
		if err != nil {
			return nil, err
		}
		r.add(id)
	}
	return r, nil
}

func (r roster) add(id *mimiport.LeafIdentity) {
	server := serverOf(id.UserID)
	if r[server] == nil {
		r[server] = make(map[string]map[string]int)
	}
	if r[server][id.UserID] == nil {
		r[server][id.UserID] = make(map[string]int)
	}
	r[server][id.UserID][id.DeviceID]++
}

func (r roster) remove(id *mimiport.LeafIdentity) {
	server := serverOf(id.UserID)
	devices := r[server][id.UserID]
	if devices[id.DeviceID]--; devices[id.DeviceID] > 0 {
		return
	}
	delete(devices, id.DeviceID)
	if len(devices) == 0 {
		delete(r[server], id.UserID)
	}
	if len(r[server]) == 0 {
		delete(r, server)
	}
}

func (r roster) has(userID string) bool { return len(r[serverOf(userID)][userID]) > 0 }

func (r roster) users() (users []string) {
	for _, byUser := range r {
		for user := range byUser {
			users = append(users, user)
		}
	}
	return users
}

func (r roster) servers() []string {
	servers := make([]string, 0, len(r))
	for s := range r {
		servers = append(servers, s)
	}
	slices.Sort(servers)
	return servers
}

// rosterSize is what the roster takes of memory for each member, in bytes, as measured.
const rosterSize = 400

// size is roughly how many bytes of memory the group takes.
func (l *live) size() int { return l.mls.Size() + l.mls.NumMembers()*rosterSize }

// live returns the group's state after its last entry. The caller has held the group's lock since before it loaded g: an older row
// would take the group back.
func (s *Service) live(ctx context.Context, g *storage.Group) (*live, error) {
	key := cacheKey{string(g.ID), g.Term}
	l := s.cache.get(key)
	if l == nil {
		var err error
		if l, err = s.open(ctx, g, g.Epoch); err != nil {
			return nil, err
		}
	}
	if err := s.follow(ctx, g, l, g.Epoch); err != nil {
		s.cache.drop(key) // what is in memory may be half a step on
		return nil, err
	}
	l.seq = g.NextSeq
	s.cache.put(key, l)
	return l, nil
}

// locked gives f the group as it is while its lock is held.
func (s *Service) locked(ctx context.Context, key storage.GroupKey, f func(*storage.Group, *live) error) error {
	defer s.locks.lock(key.ID)()
	g, err := s.Store.GroupAt(ctx, key)
	if err != nil {
		return err
	}
	l, err := s.live(ctx, g)
	if err != nil {
		return err
	}
	return f(g, l)
}

// at returns the group's state at an epoch in the past, apart from the cache.
func (s *Service) at(ctx context.Context, g *storage.Group, epoch uint64) (mls.Group, error) {
	l, err := s.open(ctx, g, epoch)
	if err != nil {
		return nil, err
	}
	return l.mls, s.follow(ctx, g, l, epoch)
}

// open loads the latest snapshot at or before an epoch.
func (s *Service) open(ctx context.Context, g *storage.Group, epoch uint64) (*live, error) {
	engine, err := s.engine(g.Protocol)
	if err != nil {
		return nil, err
	}
	snap, err := s.Store.Snapshot(ctx, g.Key(), epoch)
	if err != nil {
		return nil, err
	}
	state, err := engine.Open(snap.GroupInfo, snap.RatchetTree)
	if err != nil {
		return nil, err
	}
	r, err := newRoster(state)
	return &live{mls: state, seq: snap.Seq, roster: r, begun: state, begunSeq: snap.Seq, stored: storedAs(snap)}, err
}

// follow replays the handshakes up to an epoch: all of them to that of the group's row, else to where it begins.
func (s *Service) follow(ctx context.Context, g *storage.Group, l *live, epoch uint64) error {
	const batch = 256
	for more := true; more && l.seq < g.NextSeq; {
		entries, err := s.Store.Handshakes(ctx, g.Key(), l.seq, batch)
		if err != nil {
			return err
		}
		for i := range entries {
			if entries[i].Seq >= g.NextSeq || l.mls.Epoch() == epoch && epoch < g.Epoch {
				return nil
			}
			if err := l.replay(&entries[i]); err != nil {
				return err
			}
		}
		more = len(entries) > 0
	}
	if l.mls.Epoch() != epoch {
		return fmt.Errorf("delivery: the log ends at epoch %d before epoch %d", l.mls.Epoch(), epoch)
	}
	return nil
}

// replay takes one accepted handshake into account.
func (l *live) replay(e *storage.Entry) error {
	if e.Kind == storage.EntryProposal {
		next, _, err := l.mls.Propose(e.Message)
		if err != nil {
			return err
		}
		l.mls = next
	} else {
		next, effects, err := l.mls.Commit(e.Message, e.GroupInfo)
		if err != nil {
			return err
		}
		if err := l.accept(next, effects, e.Seq+1); err != nil {
			return err
		}
	}
	l.seq = e.Seq + 1
	l.stored.log += replayedBytes(e)
	return nil
}

// accept takes a Commit's outcome into account: the group as it is before a log entry.
func (l *live) accept(next mls.Group, effects *mls.Effects, seq uint64) error {
	removed, err := identities(effects.Removed)
	if err != nil {
		return err
	}
	joined := effects.Added
	if effects.Sender.Type == mls.SenderNewMemberCommit {
		joined = append(joined[:len(joined):len(joined)], effects.Committer)
	}
	added, err := identities(joined)
	if err != nil {
		return err
	}
	for i := range removed {
		l.roster.remove(&removed[i])
	}
	for i := range added {
		l.roster.add(&added[i])
	}
	l.before, l.mls, l.begun, l.begunSeq = l.mls, next, next, seq
	return nil
}

func identities(members []mls.Member) ([]mimiport.LeafIdentity, error) {
	ids := make([]mimiport.LeafIdentity, len(members))
	for i, m := range members {
		id, err := identity(m)
		if err != nil {
			return nil, err
		}
		ids[i] = *id
	}
	return ids, nil
}

// cache holds loaded groups, the least recently used leaving first. An entry may be stale: live brings it up to date.
type cache struct {
	mu    sync.Mutex
	max   int // bytes
	used  int
	order list.List // of *cached, most recently used first
	byKey map[cacheKey]*list.Element
}

type cacheKey struct {
	groupID string
	term    uint64
}

type cached struct {
	key  cacheKey
	live *live
	size int
}

func (c *cache) get(key cacheKey) *live {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byKey[key]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*cached).live
}

func (c *cache) put(key cacheKey, l *live) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(key)
	if c.byKey == nil {
		c.byKey = make(map[cacheKey]*list.Element)
	}
	entry := &cached{key, l, l.size()}
	c.byKey[key] = c.order.PushFront(entry)
	c.used += entry.size
	for c.used > c.max && c.order.Len() > 1 {
		c.remove(c.order.Back().Value.(*cached).key)
	}
}

func (c *cache) drop(key cacheKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(key)
}

func (c *cache) remove(key cacheKey) {
	e := c.byKey[key]
	if e == nil {
		return
	}
	c.used -= e.Value.(*cached).size
	c.order.Remove(e)
	delete(c.byKey, key)
}
