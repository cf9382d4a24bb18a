package memory

import (
	"context"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// UseNonce implements storage.Store.
func (s *Store) UseNonce(_ context.Context, n *storage.Nonce) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	tx, row := new(transaction), *n
	row.UsedAt = stamp(n.UsedAt)
	s.dropNonces(tx, s.noncesOf(n), row.UsedAt.Add(-storage.NonceLife))
	err := insert(tx, &s.nonces, &row)
	if err == nil && len(s.noncesOf(n)) > storage.MaxNonces {
		err = &storage.LimitError{Quota: storage.QuotaNonces}
	}
	if err != nil {
		tx.rollback()
	}
	return err
}

// noncesOf returns the nonces of the same device.
func (s *Store) noncesOf(n *storage.Nonce) []*storage.Nonce {
	from := s.nonces.from(used{user: n.UserID, device: n.DeviceID})
	end := slices.IndexFunc(from, func(m *storage.Nonce) bool { return m.UserID != n.UserID || m.DeviceID != n.DeviceID })
	if end < 0 {
		end = len(from)
	}
	return from[:end]
}

func (s *Store) dropNonces(tx *transaction, of []*storage.Nonce, usedBefore time.Time) {
	for _, n := range slices.Clone(of) {
		if n.UsedAt.Before(usedBefore) {
			put(tx, &s.nonces, s.nonces.key(n), nil)
		}
	}
}
