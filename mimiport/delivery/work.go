package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
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
// stays, and the outbox tries it again later. Doing a row twice does no harm.
func (s *Service) Do(ctx context.Context, row storage.Row) error {
	switch row.Kind {
	case storage.RowFanOut:
		return s.fanOut(ctx, &row)
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
		return s.followRoom(ctx, &row)
	case migration.RowEnd:
		return s.end(ctx, &row)
	case migration.RowLineage:
		return s.showLineage(ctx, &row)
	case storage.RowDevices:
		return s.followDevices(ctx, &row)
	case storage.RowAudit:
		return s.audit(ctx, &row)
	case storage.RowCompact:
		return s.compact(ctx, &row)
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
	return s.takeEvent(ctx, m.ID, migration.RetentionOver{}, row)
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

// courier delivers the log to members.
type courier struct{ *core }

// maxInline is the size in bytes of the largest message inside a fan-out event. Clients fetch a larger message from the
// log (profile, section 7).
const maxInline = 32 << 10

// fanOut delivers one log entry to the members on one server.
func (s courier) fanOut(ctx context.Context, row *storage.Row) error {
	g, err := s.Store.GroupAt(ctx, storage.GroupKey{ID: row.GroupID, Term: row.Term})
	if err != nil {
		return err
	}
	entries, err := s.Store.Entries(ctx, g.Key(), row.Seq, 1)
	if err != nil {
		return err
	}
	if len(entries) == 0 || entries[0].Seq != row.Seq {
		return s.done(ctx, row) // the log no longer has the entry: it is too late to deliver
	}
	devices, err := s.recipients(ctx, g, &entries[0], row.Destination)
	if err != nil {
		return err
	}
	if len(devices) > 0 {
		content, err := s.fanOutContent(ctx, g, &entries[0])
		if err != nil {
			return err
		}
		txn := fmt.Sprintf("%s/%d", row.Queue, row.Order)
		if err := s.Sender.ToDevice(ctx, g.Server, row.Destination, txn, devices, content); err != nil {
			return err
		}
	}
	return s.done(ctx, row)
}

func (s courier) fanOutContent(ctx context.Context, g *storage.Group, e *storage.Entry) (json.RawMessage, error) {
	receipts, err := s.receipts(ctx, []storage.Entry{*e})
	if err != nil {
		return nil, err
	}
	m, err := s.logMessage(ctx, e, receipts[e.Seq])
	if err != nil {
		return nil, err
	}
	if len(m.Message) > maxInline {
		m.Message = nil
	}
	return json.Marshal(&api.FanOut{GroupID: g.ID, RoomID: g.RoomID, Protocol: g.Protocol, Term: g.Term, LogMessage: *m})
}

// recipients lists the devices of a server that get an entry. A Welcome goes to its recipients. Any other entry goes to
// the present members and to the members that the entry itself removes. A user who has left the room gets only the
// Commit that removes them. A server that the room's ACL denies gets nothing.
func (s courier) recipients(
	ctx context.Context, g *storage.Group, e *storage.Entry, server string,
) (map[string][]string, error) {
	if denied, err := s.Rooms.Denied(ctx, g.RoomID, []string{server}); err != nil || len(denied) > 0 {
		return nil, err
	}
	to := make(registry.Roster)
	if e.Kind == storage.EntryWelcome {
		add(to, e.Recipients)
	} else {
		err := s.groups.WithLive(ctx, g.Key(), func(_ *storage.Group, l *registry.Live) error {
			to[server] = l.Roster.At(server)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	var users []string
	for user := range to[server] {
		users = append(users, user)
	}
	gone, err := s.absent(ctx, g.RoomID, users)
	if err != nil {
		return nil, err
	}
	for _, user := range gone {
		delete(to[server], user)
	}
	if e.Kind != storage.EntryWelcome {
		add(to, e.Recipients)
	}
	devices := make(map[string][]string, len(to[server]))
	for user, ids := range to[server] {
		for id := range ids {
			devices[user] = append(devices[user], id)
		}
	}
	return devices, nil
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
