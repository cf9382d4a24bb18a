package delivery

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// row returns a row of a migration, or of its group. The rows to the target form one queue: the content first, then the
// outcome.
func (s *core) row(m *migration.Migration, g *storage.Group, r migration.Row) storage.Row {
	row := storage.Row{
		Destination: s.Server, Queue: string(r.Kind) + "/" + m.ID.String(), Order: 1, Kind: r.Kind,
		GroupID: m.GroupID, Migration: m.ID, Due: s.Now(),
	}
	if !r.Due.IsZero() { // the other server's clock may be ahead of ours
		row.Due = earlier(r.Due, s.Now().Add(storage.MaxWait))
	}
	switch r.Kind {
	case migration.RowContent:
		row.Destination, row.Queue = m.Target, "migration/"+m.ID.String()
	case migration.RowConfirmation, migration.RowAbort:
		row.Destination, row.Queue, row.Order = m.Target, "migration/"+m.ID.String(), 2
	case migration.RowAsk:
		row.Destination = m.Source
	case migration.RowLineage:
		row.Destination, row.Term = m.Target, m.Term+1
	case migration.RowPurge:
		row.Term, row.Due = g.Term, s.Now().Add(s.Limits.Retention)
	case migration.RowExpel:
		if m.Role == migration.Target { // the target does not know which leaves the source has checked
			return s.auditRow(g)
		}
		return s.expelRow(g, g.Version)
	case migration.RowEnd:
		return s.endRow(g)
	}
	return row
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// Do does the work of a row and deletes the row in the transaction that stores the outcome. After an error the row
// stays, and the outbox tries it again later. Doing a row twice does no harm. Deliver does several rows of kind
// RowFanOut at once.
func (s *Service) Do(ctx context.Context, row storage.Row) (err error) {
	ctx, end := s.traces.start(ctx, &row)
	defer func() { end(err) }()
	switch row.Kind {
	case storage.RowFanOut:
		return s.deliverOne(ctx, &row)
	case migration.RowContent:
		return s.sendContent(ctx, &row)
	case migration.RowConfirmation, migration.RowAbort:
		return s.sendDecision(ctx, &row)
	case migration.RowDeadline:
		return s.endOverdue(ctx, &row)
	case migration.RowAsk:
		return s.ask(ctx, &row)
	case migration.RowPurge:
		return s.purge(ctx, &row)
	case migration.RowExpel:
		return s.expelFrom(ctx, &row)
	case migration.RowEnd:
		return s.end(ctx, &row)
	case migration.RowLineage:
		return s.showLineage(ctx, &row)
	case storage.RowDevices:
		return s.followDevices(ctx, &row)
	case storage.RowAudit:
		return s.audit(ctx, &row)
	case storage.RowSweep:
		return s.sweep(ctx, &row)
	case storage.RowDrain:
		return s.step(ctx, &row)
	case storage.RowCompact:
		return s.compact(ctx, &row)
	case storage.RowAnnounce:
		return s.announce(ctx, &row)
	case storage.RowPointer:
		return s.followPointer(ctx, &row)
	}
	return fmt.Errorf("delivery: unknown kind of row %q", row.Kind)
}

// purge deletes the log and the trees of a group that has moved away or was dropped. The redirect stays for good.
func (s *Service) purge(ctx context.Context, row *storage.Row) error {
	m, err := s.record(ctx, row.Migration)
	if err != nil {
		return err
	}
	if m.State == migration.Decided {
		return mimiport.Errorf("purge", mimiport.KindInProgress, "the target has not taken the group yet")
	}
	e := storage.AuditEntry{Actor: s.Server, Action: storage.AuditPurge, GroupID: row.GroupID, Migration: m.ID}
	return s.Record(ctx, e, func() (any, error) {
		err := s.takeEvent(ctx, m.ID, migration.RetentionOver{}, row)
		return map[string]uint64{"term": row.Term}, err
	})
}

// endOverdue ends a migration whose deadline is over.
func (s *Service) endOverdue(ctx context.Context, row *storage.Row) error {
	m, err := s.record(ctx, row.Migration)
	if err != nil {
		return err
	}
	at := s.Now()
	if left := m.Left(at); left > 0 {
		return &mimiport.Error{
			Op: "keep deadline", Kind: mimiport.KindInProgress, Info: mimiport.Info{RetryAfter: left}, Err: errors.New(
				"the clock has gone back",
			),
		}
	}
	return s.takeEvent(ctx, m.ID, migration.Deadline{At: at}, row)
}

func add(to registry.Roster, identities []mimiport.LeafIdentity) {
	for i := range identities {
		to.Add(&identities[i])
	}
}

// compact stores a snapshot of the beginning of the present epoch. A later load need not replay the log before the
// snapshot.
func (s *Service) compact(ctx context.Context, row *storage.Row) error {
	key := storage.GroupKey{ID: row.GroupID, Term: row.Term}
	g, err := s.Store.GroupAt(ctx, key)
	if err != nil {
		return err
	}
	change := &storage.Change{Done: []storage.RowKey{row.Key()}}
	if !hosted(g) {
		return s.apply(ctx, change) // the group will be purged
	}
	snap, last, err := s.groups.Compact(ctx, key)
	if err != nil {
		return err
	}
	if snap == nil {
		return s.apply(ctx, change)
	}
	if last, err = s.keptFor(ctx, key, last); err != nil {
		return err
	}
	change.Snapshots, change.DropBefore = []storage.Snapshot{*snap}, &storage.Epoch{GroupKey: key, Epoch: last}
	if err := s.apply(ctx, change); err != nil {
		return err
	}
	return s.groups.Compacted(ctx, snap)
}
