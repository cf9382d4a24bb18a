package hooks

import (
	"maps"
	"sync"
	"time"
)

const (
	silence   = time.Minute // a server that could not be asked is not asked again for so long
	maxSilent = 1024        // servers that are remembered as such
)

// silences remembers which servers could not be asked.
type silences struct {
	now func() time.Time

	mu    sync.Mutex
	since map[string]time.Time
}

func (s *silences) isSilent(server string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	since, ok := s.since[server]
	return ok && s.now().Before(since.Add(silence))
}

// fell remembers that a server could not be asked.
func (s *silences) fell(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.since, func(_ string, since time.Time) bool { return !s.now().Before(since.Add(silence)) })
	if s.since == nil || len(s.since) >= maxSilent {
		s.since = make(map[string]time.Time)
	}
	s.since[server] = s.now()
}

// spoke says that a server has spoken to this one: it may be asked.
func (s *silences) spoke(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.since, server)
}
