package clientapi

import (
	"context"
	"log/slog"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
)

// Home acts for this homeserver's users: when they create or move a group at a Delivery Service, it announces this in
// the room, in the user's name (profile, section 7).
type Home struct {
	Rooms delivery.Rooms
	Moves Moves
	Keys  proof.Keys
	Now   func() time.Time
	Log   *slog.Logger
}

// Moves keeps the pointers that announce moves until they are in their rooms.
type Moves interface {
	// Announce sends a pointer to its room after the call, in the name of a local user, if the room's pointer then has the
	// group at one of the given places.
	Announce(ctx context.Context, userID string, p *api.Pointer, after ...proof.Place) error

	// Announcing returns the pointer with the highest term that waits to be sent for a group, or nil.
	Announcing(ctx context.Context, groupID []byte) (*api.Pointer, error)
}

// announcer is a Delivery Service that also announces the results of calls in rooms.
type announcer struct {
	api.API
	home   *Home
	server string
	local  bool
}

// ReserveGroup refuses a user who could not announce the new group: nobody would find a group that its room does not
// name.
func (a *announcer) ReserveGroup(
	ctx context.Context, c api.Caller, req *api.ReserveGroupRequest,
) (*api.ReserveGroupResponse, error) {
	if err := a.home.requireAnnouncer(ctx, c.UserID, req.RoomID); err != nil {
		return nil, err
	}
	res, err := a.API.ReserveGroup(ctx, c, req)
	if err != nil {
		return nil, err
	}
	return res, a.requireOwnID(res.GroupID, &res.Preimage, req.RoomID)
}

// BindGroup returns when the room names the group. A repeated call sends the events that are missing.
func (a *announcer) BindGroup(
	ctx context.Context, c api.Caller, id []byte, req *api.BindGroupRequest,
) (*api.GroupResponse, error) {
	g, err := a.API.BindGroup(ctx, c, id, req)
	if err != nil {
		return nil, err
	}
	if err := a.requireOwnID(id, g.Preimage, g.RoomID); err != nil {
		return nil, err
	}
	return g, a.home.announceGroup(ctx, c.UserID, id, g)
}

// requireOwnID returns a KindPeer error unless the Delivery Service made the id for a group in the room. Without this
// check, another server could make a user announce its group in any room of the user.
func (a *announcer) requireOwnID(id []byte, p *api.Preimage, roomID string) error {
	if p != nil && (a.local || a.server == p.CreatingServer && roomID == p.RoomID && p.HashesTo(id)) {
		return nil
	}
	return mimiport.Errorf("check group id", mimiport.KindPeer, "%s did not make this id for the room", a.server)
}

func (a *announcer) InitMigration(
	ctx context.Context, c api.Caller, id mimiport.MigrationID, req *api.MigrationInitRequest,
) (*api.MigrationStatus, error) {
	st, err := a.API.InitMigration(ctx, c, id, req)
	return a.told(ctx, c, id, st, err)
}

func (a *announcer) Migration(
	ctx context.Context, c api.Caller, id mimiport.MigrationID,
) (*api.MigrationStatus, error) {
	st, err := a.API.Migration(ctx, c, id)
	return a.told(ctx, c, id, st, err)
}

func (a *announcer) ConfirmMigration(
	ctx context.Context, c api.Caller, id mimiport.MigrationID, req *api.SignedRequest,
) (*api.MigrationStatus, error) {
	st, err := a.API.ConfirmMigration(ctx, c, id, req)
	return a.told(ctx, c, id, st, err)
}

// told returns the status of a migration. After success it has the room pointed to the target, in the name of the
// migrating user. A failure of this does not fail the call, because the pointer is advisory.
func (a *announcer) told(
	ctx context.Context, c api.Caller, id mimiport.MigrationID, st *api.MigrationStatus, err error,
) (*api.MigrationStatus, error) {
	if err != nil {
		return nil, err
	}
	if st.User == c.UserID && succeeded(st) {
		if err := a.announceMove(ctx, c, id, st); err != nil {
			log := a.home.Log.With("migration_id", id, "room_id", st.RoomID)
			log.WarnContext(ctx, "a migration was not announced in its room", "error", err)
		}
	}
	return st, nil
}

func succeeded(st *api.MigrationStatus) bool {
	switch migration.State(st.State) {
	case migration.Decided, migration.Moved, migration.Active:
		return st.MigrationResponse != nil && st.Confirmation != nil
	}
	return false
}
