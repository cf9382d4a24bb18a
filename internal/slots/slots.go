// Package slots limits how many operations run at a time for one key.
package slots

import (
	"context"
	"sync"
)

// Slots has the same number of slots for each key. It uses memory only for keys with slots that are taken or awaited.
// It is safe for concurrent use.
type Slots[K comparable] struct {
	perKey int
	mu     sync.Mutex
	keys   map[K]*queue
}

// queue has the operations of one key.
type queue struct {
	taken  chan struct{} // holds one element for each taken slot
	wanted int           // the number of operations that have a slot or wait for one
}

// New makes Slots with perKey slots for each key.
func New[K comparable](perKey int) *Slots[K] {
	return &Slots[K]{perKey: perKey, keys: make(map[K]*queue)}
}

// Take takes one of a key's slots. The caller must call free once to give the slot back. Take does not wait: when no
// slot is left, ok is false and free is nil.
func (s *Slots[K]) Take(key K) (free func(), ok bool) {
	q := s.enter(key)
	select {
	case q.taken <- struct{}{}:
		return func() { s.free(key, q) }, true
	default:
		s.leave(key, q)
		return nil, false
	}
}

// Wait takes one of a key's slots, and waits until one is left. The caller must call free once to give the slot back.
// Wait returns the context's error when the context ends first.
func (s *Slots[K]) Wait(ctx context.Context, key K) (free func(), err error) {
	q := s.enter(key)
	select {
	case q.taken <- struct{}{}:
		return func() { s.free(key, q) }, nil
	case <-ctx.Done():
		s.leave(key, q)
		return nil, ctx.Err()
	}
}

// Len returns the number of keys with slots that are taken or awaited.
func (s *Slots[K]) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.keys)
}

func (s *Slots[K]) free(key K, q *queue) {
	<-q.taken
	s.leave(key, q)
}

func (s *Slots[K]) enter(key K) *queue {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.keys[key]
	if q == nil {
		q = &queue{taken: make(chan struct{}, s.perKey)}
		s.keys[key] = q
	}
	q.wanted++
	return q
}

func (s *Slots[K]) leave(key K, q *queue) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.wanted--; q.wanted == 0 {
		delete(s.keys, key)
	}
}
