package memory

import (
	"context"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// LastResorts implements storage.Store.
func (s *Store) LastResorts(_ context.Context, userID string) ([]storage.LastResort, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastResorts(userID), nil
}

func (s *Store) lastResorts(userID string) (found []storage.LastResort) {
	for _, l := range s.resorts.from(device{user: userID}) {
		if l.UserID != userID {
			break
		}
		c := *l
		c.Value = clone(l.Value)
		found = append(found, c)
	}
	return found
}

// PutLastResort implements storage.Store.
func (s *Store) PutLastResort(_ context.Context, l *storage.LastResort) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	tx, c := new(transaction), *l
	c.Value = clone(l.Value)
	put(tx, &s.resorts, s.resorts.key(&c), &c)
	if len(s.lastResorts(l.UserID)) > storage.MaxLastResorts {
		tx.rollback()
		return &storage.LimitError{Quota: storage.QuotaLastResorts}
	}
	return nil
}

// DropLastResort implements storage.Store.
func (s *Store) DropLastResort(_ context.Context, userID, deviceID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	put(new(transaction), &s.resorts, device{userID, deviceID}, nil)
	return nil
}
