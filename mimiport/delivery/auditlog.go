package delivery

import (
	"context"
	"encoding/json"
	"io"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Record keeps an act in the audit log. It stores the entry before the act and the end after it, so that no act is
// without an entry. An entry without an end means that this server stopped in between. The end of an act that failed is
// {"error": …}.
func (s overviews) Record(ctx context.Context, e storage.AuditEntry, act func() (after any, err error)) error {
	var random [8]byte
	if _, err := io.ReadFull(s.Rand, random[:]); err != nil {
		return err
	}
	e.At = s.Now()
	e.ID = storage.NewAuditID(e.At, random)
	if err := s.Store.PutAudit(ctx, &e); err != nil {
		return err
	}
	after, failure := act()
	if failure != nil {
		after = map[string]string{"error": mimiport.Clip(failure.Error())}
	}
	var err error
	if e.After, err = json.Marshal(after); err == nil {
		err = s.Store.PutAudit(context.WithoutCancel(ctx), &e)
	}
	if err != nil {
		s.Log.ErrorContext(ctx, "the audit log misses the end of an act", "action", e.Action, "error", err)
	}
	return failure
}

// AuditLog lists at most limit entries of the audit log, the latest first, from the one before an id on.
func (s overviews) AuditLog(ctx context.Context, before storage.AuditID, limit int) ([]api.AuditEntry, error) {
	entries, err := s.Store.AuditEntries(ctx, before, limit)
	list := make([]api.AuditEntry, len(entries))
	for i := range entries {
		e := &entries[i]
		list[i] = api.AuditEntry{
			ID: e.ID.String(), At: e.At.UnixMilli(), Actor: e.Actor, Action: string(e.Action), GroupID: e.GroupID,
			Before: e.Before, After: e.After,
		}
		if e.Migration != (mimiport.MigrationID{}) {
			list[i].MigrationID = e.Migration.String()
		}
	}
	return list, err
}
