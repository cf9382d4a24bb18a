package memory

import (
	"context"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

func (s *Store) applyFanOuts(tx *transaction, c *storage.Change) error {
	for _, p := range c.Settled {
		for _, f := range slices.Clone(s.fanOuts.from(numbered{string(p.ID), p.Term, 0})) {
			if !inTerm(f.ID, f.Term, p.GroupKey) || f.Seq > p.Seq {
				break
			}
			put(tx, &s.fanOuts, s.fanOuts.key(f), nil)
		}
	}
	for i := range c.FanOuts {
		if err := insert(tx, &s.fanOuts, cloneFanOut(&c.FanOuts[i])); err != nil {
			return err
		}
	}
	return nil
}

func cloneFanOut(f *storage.FanOut) *storage.FanOut {
	c := *f
	c.ID, c.At, c.Servers = clone(f.ID), stamp(f.At), append([]string(nil), f.Servers...)
	return &c
}

// Waiting implements storage.Store.
func (s *Store) Waiting(context.Context) (waiting []storage.Position, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.fanOuts.rows {
		if n := len(waiting); n > 0 && inTerm(f.ID, f.Term, waiting[n-1].GroupKey) {
			waiting[n-1].Seq = f.Seq
			continue
		}
		waiting = append(waiting, storage.Position{GroupKey: storage.GroupKey{ID: clone(f.ID), Term: f.Term}, Seq: f.Seq})
	}
	return waiting, nil
}

// FanOuts implements storage.Store.
func (s *Store) FanOuts(_ context.Context, from storage.Position, limit int) (found []storage.FanOut, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.fanOuts.from(numbered{string(from.ID), from.Term, from.Seq}) {
		if len(found) >= limit || !inTerm(f.ID, f.Term, from.GroupKey) {
			break
		}
		found = append(found, *cloneFanOut(f))
	}
	return found, nil
}

// Behind implements storage.Store.
func (s *Store) Behind(_ context.Context, key storage.GroupKey) (servers []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	queue := storage.FanOutQueue(key)
	for _, r := range s.rows.rows {
		if r.Queue == queue {
			servers = append(servers, r.Destination)
		}
	}
	return slices.Compact(servers), nil
}

// ClaimFanOuts implements storage.Store.
func (s *Store) ClaimFanOuts(context.Context, storage.GroupKey) (release func(), err error) {
	return func() {}, nil
}
