package delivery

import (
	"container/list"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
)

// live is a group in memory: the engine's state after all log entries below seq. It belongs to the holder of the group's
// lock.
type live struct {
	mls    mls.Group
	seq    uint64
	roster roster
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

func (r roster) servers() []string {
	servers := make([]string, 0, len(r))
	for s := range r {
		servers = append(servers, s)
	}
	slices.Sort(servers)
	return servers
}

// live returns the group's state after its last entry. The caller holds the group's lock.
func (s *Service) live(ctx context.Context, g *Group) (*live, error) {
	key := cacheKey{string(g.ID), g.Term}
	l := s.cache.get(key)
	if l == nil {
		var err error
		if l, err = s.open(ctx, g, g.Epoch); err != nil {
			return nil, err
		}
	}
	if err := s.follow(ctx, g, l, func(*live) bool { return l.seq < g.NextSeq }); err != nil {
		s.cache.drop(key) // what is in memory may be half a step on
		return nil, err
	}
	s.cache.put(key, l)
	return l, nil
}

// at returns the group's state at an epoch in the past, apart from the cache.
func (s *Service) at(ctx context.Context, g *Group, epoch uint64) (*live, error) {
	l, err := s.open(ctx, g, epoch)
	if err != nil {
		return nil, err
	}
	return l, s.follow(ctx, g, l, func(l *live) bool { return l.mls.Epoch() < epoch && l.seq < g.NextSeq })
}

// open loads the latest snapshot at or before an epoch.
func (s *Service) open(ctx context.Context, g *Group, epoch uint64) (*live, error) {
	engine, err := s.engine(g.Protocol)
	if err != nil {
		return nil, err
	}
	snap, err := s.Store.Snapshot(ctx, GroupKey{g.ID, g.Term}, epoch)
	if err != nil {
		return nil, err
	}
	state, err := engine.Open(snap.GroupInfo, snap.RatchetTree)
	if err != nil {
		return nil, err
	}
	r, err := newRoster(state)
	return &live{mls: state, seq: snap.Seq, roster: r}, err
}

// follow replays the log while more says so.
func (s *Service) follow(ctx context.Context, g *Group, l *live, more func(*live) bool) error {
	const batch = 256
	for more(l) {
		entries, err := s.Store.Entries(ctx, GroupKey{g.ID, g.Term}, l.seq, batch)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			return errors.New("delivery: the log ends before the group's row says")
		}
		for i := range entries {
			if !more(l) {
				return nil
			}
			if err := l.replay(&entries[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// replay takes one accepted entry into account.
func (l *live) replay(e *Entry) error {
	switch e.Kind {
	case EntryProposal:
		next, _, err := l.mls.Propose(e.Message)
		if err != nil {
			return err
		}
		l.mls = next
	case EntryCommit:
		next, effects, err := l.mls.Commit(e.Message, e.GroupInfo)
		if err != nil {
			return err
		}
		if err := l.accept(next, effects); err != nil {
			return err
		}
	}
	l.seq = e.Seq + 1
	return nil
}

// accept takes a Commit's outcome into account.
func (l *live) accept(next mls.Group, effects *mls.Effects) error {
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
	l.mls = next
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
	entry := &cached{key, l, l.mls.Size()}
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
