package memory

import (
	"context"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// PutAudit implements storage.Store.
func (s *Store) PutAudit(_ context.Context, e *storage.AuditEntry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := cloneAudit(e)
	if before, err := s.audit.get(e.ID); err == nil {
		after := c.After
		c = cloneAudit(before)
		c.After = after
	}
	put(new(transaction), &s.audit, e.ID, c)
	return nil
}

// AuditEntries implements storage.Store.
func (s *Store) AuditEntries(
	_ context.Context, before storage.AuditID, limit int,
) (entries []storage.AuditEntry, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	end := len(s.audit.rows)
	if before != (storage.AuditID{}) {
		end, _ = s.audit.find(before)
	}
	for _, e := range slices.Backward(s.audit.rows[:end]) {
		if len(entries) < limit {
			entries = append(entries, *cloneAudit(e))
		}
	}
	return entries, nil
}

func cloneAudit(e *storage.AuditEntry) *storage.AuditEntry {
	c := *e
	c.GroupID, c.Before, c.After, c.At = clone(e.GroupID), clone(e.Before), clone(e.After), stamp(e.At)
	return &c
}
