package memory

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// FillDrain implements storage.Store.
func (s *Store) FillDrain(_ context.Context, due time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.latest(nil) {
		if slices.Contains(storage.DrainedStates, g.State) {
			_ = insert(new(transaction), &s.drain, &storage.DrainGroup{
				ID: clone(g.ID), State: storage.DrainWaiting, Due: stamp(due),
			}) // an earlier one stays
		}
	}
	return nil
}

// HastenDrain implements storage.Store.
func (s *Store) HastenDrain(_ context.Context, id []byte, due time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range slices.Clone(s.drain.rows) {
		chosen := id == nil && g.State != storage.DrainAsked || id != nil && string(id) == string(g.ID)
		if chosen && g.Due.After(due) {
			c := *g
			c.Due = stamp(due)
			put(new(transaction), &s.drain, string(g.ID), &c)
		}
	}
	return nil
}

// ClearDrain implements storage.Store.
func (s *Store) ClearDrain(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drain.rows = nil
	return nil
}

// PutDrain implements storage.Store.
func (s *Store) PutDrain(_ context.Context, groups []storage.DrainGroup) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range groups {
		c := cloneDrain(&groups[i])
		put(new(transaction), &s.drain, string(c.ID), &c)
	}
	return nil
}

// DueDrain implements storage.Store.
func (s *Store) DueDrain(
	_ context.Context, now time.Time, limit int,
) (groups []storage.DrainGroup, next time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now = stamp(now)
	for _, g := range s.drained() {
		switch {
		case g.state != migration.GroupActive && g.state != migration.GroupStopped:
		case g.Due.After(now):
			next = earlier(next, g.Due)
		default:
			groups = append(groups, cloneDrain(g.DrainGroup))
		}
	}
	slices.SortStableFunc(groups, func(a, b storage.DrainGroup) int { return a.Due.Compare(b.Due) })
	return groups[:min(limit, len(groups))], next, nil
}

// DrainGroups implements storage.Store.
func (s *Store) DrainGroups(
	_ context.Context, states []storage.DrainState, after []byte, limit int,
) (groups []storage.DrainGroup, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.drained() {
		c := cloneDrain(g.DrainGroup)
		c.State = g.StateIn(g.state)
		wanted := len(states) == 0 || slices.Contains(states, c.State)
		if wanted && cmp.Compare(string(c.ID), string(after)) > 0 && len(groups) < limit {
			groups = append(groups, c)
		}
	}
	return groups, nil
}

// CountDrain implements storage.Store.
func (s *Store) CountDrain(context.Context) (map[storage.DrainState]int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	counted := make(map[storage.DrainState]int)
	for _, g := range s.drained() {
		counted[g.StateIn(g.state)]++
	}
	return counted, nil
}

// CountAsked implements storage.Store.
func (s *Store) CountAsked(_ context.Context, user string) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.drained() {
		if g.User == user && g.StateIn(g.state) == storage.DrainAsked {
			n++
		}
	}
	return n, nil
}

// drained is a group of the drain with its state, which is empty for no group.
type drained struct {
	*storage.DrainGroup
	state migration.GroupState
}

func (s *Store) drained() (all []drained) {
	states := make(map[string]migration.GroupState)
	for _, g := range s.latest(nil) {
		states[string(g.ID)] = g.State
	}
	for _, g := range s.drain.rows {
		all = append(all, drained{g, states[string(g.ID)]})
	}
	return all
}

func cloneDrain(g *storage.DrainGroup) storage.DrainGroup {
	c := *g
	c.ID, c.Why, c.Due, c.Asked = clone(g.ID), clone(g.Why), stamp(g.Due), stamp(g.Asked)
	return c
}
