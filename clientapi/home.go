package clientapi

import (
	"context"
	"log/slog"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// announceLevel is the power level that a room asks of whoever announces its group, once a group is bound (profile, section 8).
const announceLevel = 100

// Home is the homeserver of the users it acts for: what they do at a Delivery Service, it says in the room, as them
// (profile, section 7).
type Home struct {
	Rooms delivery.Rooms
	Keys  delivery.Keys
	Log   *slog.Logger
}

// At is a Delivery Service as this homeserver's users see it.
func (h *Home) At(api delivery.API) delivery.API { return &announcer{api, h} }

type announcer struct {
	delivery.API
	home *Home
}

// ReserveGroup refuses whoever could not announce the group to come: a group that its room does not name is lost.
func (a *announcer) ReserveGroup(ctx context.Context, c delivery.Caller, req *delivery.ReserveGroupRequest) (*delivery.ReserveGroupResponse, error) {
	if err := a.home.mayAnnounce(ctx, c.UserID, req.RoomID); err != nil {
		return nil, err
	}
	return a.API.ReserveGroup(ctx, c, req)
}

// BindGroup answers when the room names the group; repeating it repairs what is missing.
func (a *announcer) BindGroup(ctx context.Context, c delivery.Caller, id []byte, req *delivery.BindGroupRequest) (*delivery.GroupResponse, error) {
	g, err := a.API.BindGroup(ctx, c, id, req)
	if err != nil {
		return nil, err
	}
	return g, a.home.announceGroup(ctx, c.UserID, g)
}

func (a *announcer) InitMigration(ctx context.Context, c delivery.Caller, id mimiport.MigrationID, req *delivery.MigrationInitRequest) (*delivery.MigrationStatus, error) {
	st, err := a.API.InitMigration(ctx, c, id, req)
	return a.home.told(ctx, c, id, st, err)
}

func (a *announcer) Migration(ctx context.Context, c delivery.Caller, id mimiport.MigrationID) (*delivery.MigrationStatus, error) {
	st, err := a.API.Migration(ctx, c, id)
	return a.home.told(ctx, c, id, st, err)
}

func (a *announcer) ConfirmMigration(ctx context.Context, c delivery.Caller, id mimiport.MigrationID, req *delivery.SignedRequest) (*delivery.MigrationStatus, error) {
	st, err := a.API.ConfirmMigration(ctx, c, id, req)
	return a.home.told(ctx, c, id, st, err)
}

// told passes on how a migration stands. After success the migrating user points the room to the target; that this fails is
// no failure of the migration, because the pointer is advisory.
func (h *Home) told(ctx context.Context, c delivery.Caller, id mimiport.MigrationID, st *delivery.MigrationStatus, err error) (*delivery.MigrationStatus, error) {
	if err != nil {
		return nil, err
	}
	if st.User == c.UserID && succeeded(st) {
		if err := h.announceMove(ctx, c.UserID, id, st); err != nil {
			h.Log.WarnContext(ctx, "the room was not told of a migration", "migration", id, "room", st.RoomID, "err", err)
		}
	}
	return st, nil
}

func succeeded(st *delivery.MigrationStatus) bool {
	switch migration.State(st.State) {
	case migration.Decided, migration.Moved, migration.Active:
		return st.MigrationResponse != nil && st.Confirmation != nil
	}
	return false
}
