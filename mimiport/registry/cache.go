package registry

import (
	"container/list"
	"sync"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// cache holds loaded groups. When it is full, it drops the least recently used group. An entry may be stale: Held.Live
// brings it up to date.
type cache struct {
	mu    sync.Mutex
	max   int // bytes
	used  int
	order *list.List // of *cached, most recently used first
	byKey map[cacheKey]*list.Element

	hits, misses uint64
}

// CacheFigures says how a cache does.
type CacheFigures struct {
	Groups, Bytes int
	Hits, Misses  uint64 // of the uses of groups
}

// Cache says how the cache of loaded groups does.
func (r *Registry) Cache() CacheFigures {
	c := &r.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	return CacheFigures{Groups: c.order.Len(), Bytes: c.used, Hits: c.hits, Misses: c.misses}
}

func newCache(max int) cache {
	return cache{max: max, order: list.New(), byKey: make(map[cacheKey]*list.Element)}
}

type cacheKey struct {
	groupID string
	term    uint64
}

func keyOf(g *storage.Group) cacheKey { return cacheKey{string(g.ID), g.Term} }

type cached struct {
	key  cacheKey
	live *Live
	size int
}

func (c *cache) get(key cacheKey) *Live {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byKey[key]
	if e == nil {
		c.misses++
		return nil
	}
	c.hits++
	c.order.MoveToFront(e)
	return e.Value.(*cached).live
}

func (c *cache) put(key cacheKey, l *Live) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(key)
	entry := &cached{key, l, l.size()}
	c.byKey[key] = c.order.PushFront(entry)
	c.used += entry.size
	for c.used > c.max && c.order.Len() > 1 {
		c.remove(c.order.Back().Value.(*cached).key)
	}
}

// take returns a group and removes it from the cache.
func (c *cache) take(key cacheKey) *Live {
	l := c.get(key)
	c.drop(key)
	return l
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
