// Package registry holds the groups that a Delivery Service has loaded. To load a group, it replays the log on the
// last snapshot. It loads a group once for all requests that wait for it, and keeps loaded groups in a bounded cache.
// Only one request at a time can change a group.
package registry

import (
	"context"
	"errors"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/slots"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Store is the part of the storage that a Registry reads.
type Store interface {
	storage.Groups
	storage.Log
}

// Registry holds loaded groups. It is safe for concurrent use.
type Registry struct {
	engines mls.Engines
	store   Store
	cache   cache
	kept    cache                // verified groups that no request has reached yet
	locks   *slots.Slots[string] // one slot for each group
}

// New makes a Registry that keeps loaded groups of at most cacheBytes bytes. A quarter of them is for the groups of
// Keep, so that groups that were only offered drive no other group out.
func New(engines mls.Engines, store Store, cacheBytes int) *Registry {
	quarter := cacheBytes / 4
	return &Registry{
		engines: engines, store: store, cache: newCache(cacheBytes - quarter), kept: newCache(quarter),
		locks: slots.New[string](1),
	}
}

// Held is proof that the caller holds a group's lock. With makes a Held; it is valid until the function that got it
// returns. A function that needs the lock takes a Held, so that nobody can call it without the lock.
type Held struct {
	registry *Registry
	id       []byte
}

// With calls f while it holds the group's lock. It calls f again when f returns storage.ErrConflict: another process
// has changed the group, so f must load everything anew. After eight conflicts, With returns a KindConflict error. The
// lock makes requests of this process queue, until their context ends, instead of losing races. Only the
// compare-and-set of the store makes them correct.
func (r *Registry) With(ctx context.Context, groupID []byte, f func(*Held) error) error {
	unlock, err := r.locks.Wait(ctx, string(groupID))
	if err != nil {
		return err
	}
	defer unlock()
	const attempts = 8
	for range attempts {
		if err = f(&Held{r, groupID}); !errors.Is(err, storage.ErrConflict) {
			return err
		}
	}
	return mimiport.Errorf("commit", mimiport.KindConflict, "%w", err)
}

// WithLive calls f with a group of one term in its state after the last log entry. It returns storage.ErrNotFound when
// the store does not have the row or its snapshot.
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
			Op: "load group", Kind: mimiport.KindUnknownGroup, Group: id, Err: errors.New("this server does not have the group"),
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

// Live returns the group's state after its last log entry. The caller must have loaded g from h: with an older row, the
// group would go back.
func (h *Held) Live(ctx context.Context, g *storage.Group) (*Live, error) {
	r, key := h.registry, keyOf(g)
	l, err := r.load(ctx, g, r.cache.get(key))
	if errors.Is(err, errNoInfo) { // another process has stored a Commit whose GroupInfo only a snapshot has
		l, err = r.load(ctx, g, nil)
	}
	if err != nil {
		r.cache.drop(key) // the replay may have stopped halfway
		return nil, err
	}
	l.seq = g.NextSeq
	r.cache.put(key, l)
	return l, nil
}

// load brings a live group to the state of its row g. When l is nil, it starts from the latest snapshot.
func (r *Registry) load(ctx context.Context, g *storage.Group, l *Live) (_ *Live, err error) {
	if l == nil {
		if l, err = r.open(ctx, g, g.Epoch); err != nil {
			return nil, err
		}
	}
	return l, r.follow(ctx, g, l, g.Epoch)
}

// Drop removes the group in a term from memory.
func (h *Held) Drop(term uint64) {
	key := cacheKey{string(h.id), term}
	h.registry.cache.drop(key)
	h.registry.kept.drop(key)
}

// StateAt returns the group's state in the present epoch or an earlier one. It returns storage.ErrNotFound for an epoch
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
