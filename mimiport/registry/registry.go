// Package registry holds the groups that a Delivery Service has loaded. It loads a group once for all who wait for it,
// lets one request at a time change a group, replays the log on the last snapshot, and keeps what it has loaded in a
// bounded cache.
package registry

import (
	"context"
	"errors"
	"sync"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Store is what a Registry reads.
type Store interface {
	storage.Groups
	storage.Log
}

// Registry holds loaded groups. It is safe for concurrent use.
type Registry struct {
	engines mls.Engines
	store   Store
	cache   cache

	mu    sync.Mutex
	locks map[string]*lock // of the groups that somebody wants
}

// New makes a Registry that keeps loaded groups of at most cacheBytes bytes.
func New(engines mls.Engines, store Store, cacheBytes int) *Registry {
	return &Registry{engines: engines, store: store, cache: newCache(cacheBytes), locks: make(map[string]*lock)}
}

// lock is one group's lock.
type lock struct {
	sync.Mutex
	wanted int // by how many, the holder included
}

// Held is a group that nobody else in this process reads or changes through the Registry: With hands it out and takes
// it back. A function that needs the group's lock takes a Held, so that it cannot be called without.
type Held struct {
	registry *Registry
	id       []byte
}

// With calls f while it holds the group, and again as long as f ends with storage.ErrConflict: another process was
// faster, so f must load everything anew. After eight conflicts it returns a KindConflict error. Requests for one group
// queue up here rather than lose races; the store's compare-and-set is what makes them correct.
func (r *Registry) With(ctx context.Context, groupID []byte, f func(*Held) error) error {
	defer r.lock(string(groupID))()
	const attempts = 8
	var err error
	for range attempts {
		if err = f(&Held{r, groupID}); !errors.Is(err, storage.ErrConflict) {
			return err
		}
	}
	return mimiport.Errorf("commit", mimiport.KindConflict, "%w", err)
}

func (r *Registry) lock(id string) (unlock func()) {
	r.mu.Lock()
	l := r.locks[id]
	if l == nil {
		l = new(lock)
		r.locks[id] = l
	}
	l.wanted++
	r.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		r.mu.Lock()
		defer r.mu.Unlock()
		if l.wanted--; l.wanted == 0 {
			delete(r.locks, id)
		}
	}
}

// WithLive calls f with a group in one term, as it is after its last log entry. It returns storage.ErrNotFound where
// the row or its snapshot is not here.
func (r *Registry) WithLive(ctx context.Context, key storage.GroupKey, f func(*storage.Group, *Live) error) error {
	return r.With(ctx, key.ID, func(h *Held) error {
		g, err := h.GroupAt(ctx, key.Term)
		if err != nil {
			return err
		}
		l, err := h.Live(ctx, g)
		if err != nil {
			return err
		}
		return f(g, l)
	})
}

// Group loads the row of the highest term, or returns a KindUnknownGroup error.
func (r *Registry) Group(ctx context.Context, id []byte) (*storage.Group, error) {
	g, err := r.store.Group(ctx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, &mimiport.Error{
			Op: "load group", Kind: mimiport.KindUnknownGroup, Group: id, Err: errors.New("no such group here"),
		}
	}
	return g, err
}

// Group loads the row of the highest term, or returns a KindUnknownGroup error.
func (h *Held) Group(ctx context.Context) (*storage.Group, error) { return h.registry.Group(ctx, h.id) }

// GroupAt loads the row of a term, or returns storage.ErrNotFound.
func (h *Held) GroupAt(ctx context.Context, term uint64) (*storage.Group, error) {
	return h.registry.store.GroupAt(ctx, storage.GroupKey{ID: h.id, Term: term})
}

// Live returns the group as it is after its last log entry. g must have been loaded from h: an older row would take the
// group back.
func (h *Held) Live(ctx context.Context, g *storage.Group) (*Live, error) {
	r, key := h.registry, keyOf(g)
	l, err := r.load(ctx, g, r.cache.get(key))
	if errors.Is(err, errNoInfo) { // another process has gone on: its snapshot has what the log does not
		l, err = r.load(ctx, g, nil)
	}
	if err != nil {
		r.cache.drop(key) // what is in memory may be half a step on
		return nil, err
	}
	l.seq = g.NextSeq
	r.cache.put(key, l)
	return l, nil
}

// load brings a group to where its row is: what is in memory, or, if that is nil, the latest snapshot.
func (r *Registry) load(ctx context.Context, g *storage.Group, l *Live) (_ *Live, err error) {
	if l == nil {
		if l, err = r.open(ctx, g, g.Epoch); err != nil {
			return nil, err
		}
	}
	return l, r.follow(ctx, g, l, g.Epoch)
}

// Drop forgets what is loaded of the group in a term.
func (h *Held) Drop(term uint64) { h.registry.cache.drop(cacheKey{string(h.id), term}) }

// StateAt returns the group's state at an epoch of the present or the past. It returns storage.ErrNotFound for an epoch
// before the oldest snapshot.
func (r *Registry) StateAt(ctx context.Context, key storage.GroupKey, epoch uint64) (mls.Group, error) {
	var state mls.Group
	var row *storage.Group
	err := r.WithLive(ctx, key, func(g *storage.Group, l *Live) error {
		row = g
		switch {
		case l.MLS.Epoch() == epoch:
			state = l.MLS
		case l.before != nil && l.before.Epoch() == epoch:
			state = l.before
		}
		return nil
	})
	if err != nil || state != nil {
		return state, err
	}
	l, err := r.open(ctx, row, epoch)
	if err != nil {
		return nil, err
	}
	return l.MLS, r.follow(ctx, row, l, epoch)
}
