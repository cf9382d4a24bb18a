package hooks

import (
	"maps"
	"sync"
	"time"
)

const (
	silence   = time.Minute // the time for which nobody asks an unreachable server again
	maxSilent = 1024        // the most unreachable servers in memory
)

// silences remembers the unreachable servers.
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

// fell records that a server is unreachable.
func (s *silences) fell(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.since, func(_ string, since time.Time) bool { return !s.now().Before(since.Add(silence)) })
	if s.since == nil || len(s.since) >= maxSilent {
		s.since = make(map[string]time.Time)
	}
	s.since[server] = s.now()
}

// spoke records that a server sent a request, so that others may ask it again.
func (s *silences) spoke(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.since, server)
}
