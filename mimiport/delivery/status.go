package delivery

import (
	"context"
	"maps"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Migration implements API. The two servers, the migrating user and the room's members may call it.
func (s *Service) Migration(ctx context.Context, c api.Caller, id mimiport.MigrationID) (*api.MigrationStatus, error) {
	m, err := s.record(ctx, id)
	if err != nil {
		return nil, err
	}
	switch {
	case c.UserID == "" && (c.Server == m.Source || c.Server == m.Target):
	case c.UserID != "" && c.UserID == m.User:
	default:
		room, err := s.Rooms.Room(ctx, m.RoomID)
		if err != nil {
			return nil, err
		}
		st, err := standing(room, c)
		if err != nil {
			return nil, err
		}
		if err := requireStanding(room, c, st); err != nil {
			return nil, err
		}
	}
	st, err := s.statusOf(ctx, m)
	if err != nil {
		return nil, err
	}
	if m.State == migration.Offered {
		st.Limits = &api.TargetLimits{
			GroupStateBytes: s.Limits.GroupStateBytes, Protocols: slices.Sorted(maps.Keys(s.Engines)),
		}
	}
	return st, nil
}

// statusOf returns the status with the receipt of the migration Commit, if the Commit has one yet.
func (s *core) statusOf(ctx context.Context, m *migration.Migration) (*api.MigrationStatus, error) {
	st := status(m)
	var err error
	st.Receipt, err = s.migrationReceipt(ctx, m)
	return st, err
}

func status(m *migration.Migration) *api.MigrationStatus {
	st := &api.MigrationStatus{
		MigrationID: m.ID.String(), Role: string(m.Role), State: string(m.State), GroupID: m.GroupID, RoomID: m.RoomID,
		Source: m.Source, Target: m.Target, User: m.User, Term: m.Term, Epoch: m.Epoch, Reason: m.Reason,
		MigrationResponse: signedInfo(m.Response), Complete: signedInfo(m.Complete),
		Confirmation: signedInfo(m.Confirmation), Abort: signedInfo(m.Abort),
	}
	st.CreatedAt, st.UpdatedAt = storage.Millis(m.CreatedAt), storage.Millis(m.UpdatedAt)
	st.ExpiresAt, st.DecideBy = storage.Millis(m.ExpiresAt), storage.Millis(m.DecideBy)
	return st
}

func signedInfo(m migration.Signed) *api.SignedInfo {
	if m.Message == nil {
		return nil
	}
	return &api.SignedInfo{Message: m.Message, KeyID: m.KeyID}
}

// AdminEvidence lists the evidence about a group, oldest first, or returns a KindUnknownGroup error.
func (s *Service) AdminEvidence(ctx context.Context, id []byte) ([]storage.Evidence, error) {
	if _, err := s.groups.Group(ctx, id); err != nil {
		return nil, err
	}
	kept, err := s.Store.Evidence(ctx, id)
	return slices.DeleteFunc(kept, func(e storage.Evidence) bool { return e.Kind == storage.EvidenceReport }), err
}

// AdminMigrations lists migrations for an operator, by id.
func (s *Service) AdminMigrations(
	ctx context.Context, f storage.MigrationFilter, after mimiport.MigrationID, limit int,
) ([]*api.MigrationStatus, error) {
	found, err := s.Store.Migrations(ctx, f, after, limit)
	list := make([]*api.MigrationStatus, len(found))
	for i := range found {
		list[i] = status(&found[i])
	}
	return list, err
}

// AdminMigration returns one migration for an operator, or a KindUnknownMigration error.
func (s *Service) AdminMigration(ctx context.Context, id mimiport.MigrationID) (*api.MigrationStatus, error) {
	m, err := s.record(ctx, id)
	if err != nil {
		return nil, err
	}
	return status(m), nil
}
