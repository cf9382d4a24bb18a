package sqlstore

import (
	"context"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// PutAudit implements storage.Store.
func (s *Store) PutAudit(ctx context.Context, e *storage.AuditEntry) error {
	return s.transact(ctx, "put audit", func(tx *tx) error {
		return insert(ctx, tx, &audit, []storage.AuditEntry{*e},
			" ON CONFLICT (audit_id) DO UPDATE SET state_after = excluded.state_after")
	})
}

// AuditEntries implements storage.Store.
func (s *Store) AuditEntries(ctx context.Context, before storage.AuditID, limit int) ([]storage.AuditEntry, error) {
	w := new(where)
	if before != (storage.AuditID{}) {
		w.and("audit_id < ?", (*auditID)(&before))
	}
	return list(ctx, s, &audit, w.with("ORDER BY audit_id DESC LIMIT ?", limit), w.args...)
}
