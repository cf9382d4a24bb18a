// Package slots limits how many operations run at a time for one key.
package slots

import "sync"

// Slots has the same number of slots for each key. It uses memory only for keys with taken slots. It is safe for
// concurrent use.
type Slots[K comparable] struct {
	perKey int
	mu     sync.Mutex
	taken  map[K]int
}

// New makes Slots with perKey slots for each key.
func New[K comparable](perKey int) *Slots[K] {
	return &Slots[K]{perKey: perKey, taken: make(map[K]int)}
}

// Take takes one of a key's slots. The caller must call free once to give the slot back. Take does not wait: when no
// slot is left, ok is false and free is nil.
func (s *Slots[K]) Take(key K) (free func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[key] == s.perKey {
		return nil, false
	}
	s.taken[key]++
	return func() { s.free(key) }, true
}

func (s *Slots[K]) free(key K) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[key]--; s.taken[key] == 0 {
		delete(s.taken, key)
	}
}
