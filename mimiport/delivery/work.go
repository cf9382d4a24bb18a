package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Do does what a row asks for and deletes it in the transaction that stores the outcome. With an error the row stays and is
// to be tried again later. Doing a row twice does no harm.
func (s *Service) Do(ctx context.Context, row storage.Row) error {
	switch row.Kind {
	case storage.RowFanOut:
		return s.fanOut(ctx, &row)
	case migration.RowContent:
		return s.sendContent(ctx, &row)
	case migration.RowConfirmation, migration.RowAbort:
		return s.sendDecision(ctx, &row)
	case migration.RowDeadline:
		return s.deadlineCame(ctx, &row)
	case migration.RowAsk:
		return s.ask(ctx, &row)
	case migration.RowPurge:
		return s.purge(ctx, &row)
	case migration.RowExpel:
		return s.followRoom(ctx, &row)
	case migration.RowLineage:
		return s.showLineage(ctx, &row)
	case storage.RowCompact:
		return s.compact(ctx, &row)
	}
	return fmt.Errorf("delivery: unknown kind of row %q", row.Kind)
}

// done deletes a row.
func (s *Service) done(ctx context.Context, row *storage.Row) error {
	return s.apply(ctx, &storage.Change{Done: []storage.RowKey{row.Key()}})
}

// purge forgets the log and the trees of a group that has moved away or was dropped. The redirect stays, for good.
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

// deadlineCame ends what has waited too long.
func (s *Service) deadlineCame(ctx context.Context, row *storage.Row) error {
	m, err := s.record(ctx, row.Migration)
	if err != nil {
		return err
	}
	at := s.Now()
	if left := m.Left(at); left > 0 {
		return &mimiport.Error{
			Op: "keep deadline", Kind: mimiport.KindInProgress, Info: mimiport.Info{RetryAfter: left}, Err: errors.New("the clock has gone back"),
		}
	}
	return s.takeEvent(ctx, m.ID, migration.Deadline{At: at}, row)
}

// maxInline is the largest message that travels inside its fan-out event; a larger one is fetched from the log (profile, section 7).
const maxInline = 32 << 10

// fanOut delivers one log entry to the members on one server.
func (s *Service) fanOut(ctx context.Context, row *storage.Row) error {
	g, err := s.Store.GroupAt(ctx, storage.GroupKey{ID: row.GroupID, Term: row.Term})
	if err != nil {
		return err
	}
	entries, err := s.Store.Entries(ctx, g.Key(), row.Seq, 1)
	if err != nil {
		return err
	}
	if len(entries) == 0 || entries[0].Seq != row.Seq {
		return s.done(ctx, row) // dropped from the log: too late to deliver
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

func (s *Service) fanOutContent(ctx context.Context, g *storage.Group, e *storage.Entry) (json.RawMessage, error) {
	m, err := s.logMessage(ctx, e)
	if err != nil {
		return nil, err
	}
	if len(m.Message) > maxInline {
		m.Message = nil
	}
	return json.Marshal(&api.FanOut{GroupID: g.ID, RoomID: g.RoomID, Protocol: g.Protocol, Term: g.Term, LogMessage: *m})
}

// recipients lists the devices at a server that an entry goes to: those a Welcome is for; else the members there as they are
// now, and those whom the entry itself removes. Whoever has left the room gets nothing.
func (s *Service) recipients(ctx context.Context, g *storage.Group, e *storage.Entry, server string) (map[string][]string, error) {
	to := make(roster)
	if e.Kind != storage.EntryWelcome {
		members, err := s.membersAt(ctx, g, server)
		if err != nil {
			return nil, err
		}
		to[server] = members
	}
	for i := range e.Recipients {
		to.add(&e.Recipients[i])
	}
	var users []string
	for user := range to[server] {
		users = append(users, user)
	}
	gone, err := s.Rooms.NotJoined(ctx, g.RoomID, users)
	if err != nil {
		return nil, err
	}
	for _, user := range gone {
		delete(to[server], user)
	}
	devices := make(map[string][]string, len(to[server]))
	for user, ids := range to[server] {
		for id := range ids {
			devices[user] = append(devices[user], id)
		}
	}
	return devices, nil
}

// membersAt is a copy of the group's roster for one server.
func (s *Service) membersAt(ctx context.Context, g *storage.Group, server string) (members map[string]map[string]int, err error) {
	err = s.locked(ctx, g.Key(), func(_ *storage.Group, l *live) error {
		members = make(map[string]map[string]int, len(l.roster[server]))
		for user, devices := range l.roster[server] {
			members[user] = maps.Clone(devices)
		}
		return nil
	})
	return members, err
}

// Migration implements API: for the two servers, the migrating user and the room's members.
func (s *Service) Migration(ctx context.Context, c api.Caller, id mimiport.MigrationID) (*api.MigrationStatus, error) {
	m, err := s.record(ctx, id)
	if err != nil {
		return nil, err
	}
	switch {
	case c.UserID == "" && (c.Server == m.Source || c.Server == m.Target):
	case c.UserID != "" && c.UserID == m.User:
	default:
		if err := s.member(ctx, c, m.RoomID); err != nil {
			return nil, err
		}
	}
	st := status(m)
	if m.State == migration.Offered {
		st.Limits = &api.TargetLimits{GroupStateBytes: s.Limits.GroupStateBytes, Protocols: slices.Sorted(maps.Keys(s.Engines))}
	}
	return st, nil
}

func status(m *migration.Migration) *api.MigrationStatus {
	st := &api.MigrationStatus{
		MigrationID: m.ID.String(), Role: string(m.Role), State: string(m.State), GroupID: m.GroupID, RoomID: m.RoomID,
		Source: m.Source, Target: m.Target, User: m.User, Term: m.Term, Epoch: m.Epoch, Reason: m.Reason,
		MigrationResponse: signedInfo(m.Response), Complete: signedInfo(m.Complete),
		Confirmation: signedInfo(m.Confirmation), Abort: signedInfo(m.Abort),
	}
	if !m.ExpiresAt.IsZero() {
		st.ExpiresAt = m.ExpiresAt.UnixMilli()
	}
	if !m.DecideBy.IsZero() {
		st.DecideBy = m.DecideBy.UnixMilli()
	}
	return st
}

func signedInfo(m migration.Signed) *api.SignedInfo {
	if m.Message == nil {
		return nil
	}
	return &api.SignedInfo{Message: m.Message, KeyID: m.KeyID}
}

// AdminGroups lists groups for an operator, by id.
func (s *Service) AdminGroups(ctx context.Context, after []byte, limit int) ([]storage.Group, error) {
	return s.Store.Groups(ctx, after, limit)
}

// AdminGroup is one group for an operator, or a KindUnknownGroup error.
func (s *Service) AdminGroup(ctx context.Context, id []byte) (*storage.Group, error) {
	return s.group(ctx, id)
}

// AdminEvidence lists the evidence kept about a group, oldest first, or returns a KindUnknownGroup error.
func (s *Service) AdminEvidence(ctx context.Context, id []byte) ([]storage.Evidence, error) {
	if _, err := s.group(ctx, id); err != nil {
		return nil, err
	}
	return s.Store.Evidence(ctx, id)
}

// AdminMigrations lists migrations for an operator, by id.
func (s *Service) AdminMigrations(ctx context.Context, f storage.MigrationFilter, after mimiport.MigrationID, limit int) ([]*api.MigrationStatus, error) {
	found, err := s.Store.Migrations(ctx, f, after, limit)
	list := make([]*api.MigrationStatus, len(found))
	for i := range found {
		list[i] = status(&found[i])
	}
	return list, err
}

// AdminMigration is one migration for an operator, or a KindUnknownMigration error.
func (s *Service) AdminMigration(ctx context.Context, id mimiport.MigrationID) (*api.MigrationStatus, error) {
	m, err := s.record(ctx, id)
	if err != nil {
		return nil, err
	}
	return status(m), nil
}
