package delivery

import (
	"cmp"
	"context"
	"errors"
	"io"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// ReserveGroup implements API. It gives an id only to a member of the room who may create groups here.
func (s *Service) ReserveGroup(
	ctx context.Context, c api.Caller, req *api.ReserveGroupRequest,
) (*api.ReserveGroupResponse, error) {
	if err := s.requireMemberAt(ctx, c, req.RoomID); err != nil {
		return nil, err
	}
	if err := s.requireCreator(ctx, c); err != nil {
		return nil, err
	}
	if err := s.requireOpen(ctx); err != nil {
		return nil, err
	}
	pre := mimiport.GroupIDPreimage{CreatingServer: s.serverFor(c), RoomID: req.RoomID}
	if _, err := io.ReadFull(s.Rand, pre.Nonce[:]); err != nil {
		return nil, err
	}
	entry, err := s.senderEntry(ctx, pre.CreatingServer, req.SuiteRequest)
	if err != nil {
		return nil, err
	}
	lineage := mimiport.Lineage{CreatingServer: pre.CreatingServer, Preimage: &pre, RoomID: req.RoomID}
	encoded, err := lineage.Marshal()
	if err != nil {
		return nil, err
	}
	g := &storage.Group{
		ID: pre.GroupID(), State: migration.GroupReserved, Server: pre.CreatingServer, RoomID: req.RoomID, Creator: c.UserID,
		NextSeq: 1, Lineage: encoded, CreatedAt: s.Now(),
	}
	limits, err := s.reserving(ctx, g)
	if err != nil {
		return nil, err
	}
	if err := s.apply(ctx, &storage.Change{Group: g, Limits: limits}); err != nil {
		return nil, err
	}
	return &api.ReserveGroupResponse{GroupID: g.ID, Preimage: *preimage(&lineage), ExternalSender: entry}, nil
}

// serverFor returns the local server name that acts for a caller: the caller's homeserver if it is local, else the name
// to which the request is addressed.
func (s *Service) serverFor(c api.Caller) string {
	if s.IsLocal(c.Server) {
		return c.Server
	}
	return cmp.Or(c.To, s.Server)
}

// RequireReserver implements API.
func (s *Service) RequireReserver(ctx context.Context, c api.Caller, id []byte) error {
	g, err := s.groups.Group(ctx, id)
	if err != nil {
		return err
	}
	room, err := s.Rooms.Room(ctx, g.RoomID)
	if err != nil {
		return err
	}
	return requireReserver(room, c, g)
}

func requireReserver(room Room, c api.Caller, g *storage.Group) error {
	if err := requireMember(room, c); err != nil {
		return err
	}
	if g.Creator != c.UserID {
		return &mimiport.Error{
			Op: "bind", Kind: mimiport.KindForbidden, Group: g.ID, Err: errors.New("the id was given to another user"),
		}
	}
	return nil
}

// BindGroup implements API.
func (s *Service) BindGroup(
	ctx context.Context, c api.Caller, id []byte, req *api.BindGroupRequest,
) (*api.GroupResponse, error) {
	g, err := s.groups.Group(ctx, id)
	if err != nil {
		return nil, err
	}
	var res *api.GroupResponse
	err = s.withKnown(ctx, id, g.RoomID, func(h *registry.Held, k *known) (err error) {
		res, err = s.bind(ctx, h, c, req, k)
		return err
	})
	if err != nil {
		return nil, err
	}
	res.Warnings, err = s.warnings(ctx, res.RoomID)
	return res, err
}

func (s *Service) bind(
	ctx context.Context, h *registry.Held, c api.Caller, req *api.BindGroupRequest, k *known,
) (*api.GroupResponse, error) {
	g, err := h.Group(ctx)
	if err != nil {
		return nil, err
	}
	room, err := k.of(g)
	if err != nil {
		return nil, err
	}
	if err := requireReserver(room, c, g); err != nil {
		return nil, err
	}
	engine, err := s.Engines.Find(req.Protocol)
	if err != nil {
		return nil, err
	}
	state, err := engine.Open(req.GroupInfo, req.RatchetTree)
	if err != nil {
		return nil, err
	}
	if g.State != migration.GroupReserved {
		return s.rebind(ctx, h, g, state.Epoch(), req)
	}
	if err := s.requireOpen(ctx); err != nil {
		return nil, err
	}
	if string(state.ID()) != string(g.ID) {
		return nil, mimiport.Errorf("bind", mimiport.KindInvalid, "the GroupInfo is of another group")
	}
	if twice := state.Duplicates(); len(twice) > 0 {
		return nil, broken(ruleDeviceUnique, "leaf %d is of a device that has another leaf", twice[0].Leaf)
	}
	if err := s.requireOwnKey(ctx, g.Server, state, state.ExternalSenders()); err != nil {
		return nil, err
	}
	l, err := registry.NewLive(state, g.NextSeq)
	if err != nil {
		return nil, err
	}
	if !l.Roster.Has(c.UserID) {
		return nil, mimiport.Errorf("bind", mimiport.KindForbidden, "%s is not in the group", c.UserID)
	}
	if err := s.requireAdmissible(ctx, room, l.Roster.Users()); err != nil {
		return nil, err
	}
	leaves, err := founders(c, state)
	if err != nil {
		return nil, err
	}
	if err := s.requireDeviceKeys(ctx, g, state, leaves, k.leaves); err != nil {
		return nil, err
	}
	next := *g
	next.State, next.Protocol = migration.GroupActive, req.Protocol
	next.CipherSuite, next.Epoch, next.Members = state.CipherSuite(), state.Epoch(), state.NumMembers()
	limits, err := s.hosting(ctx, &next)
	if err != nil {
		return nil, err
	}
	if err := k.requireCurrent(); err != nil {
		return nil, err
	}
	change := &storage.Change{Group: &next, Snapshots: []storage.Snapshot{l.Snapshot(&next)}, Limits: limits}
	if err := s.apply(ctx, change); err != nil {
		return nil, err
	}
	return describe(&next, state)
}

// rebind answers a repeated bind. If the request binds the same group, it gets the group's present description.
func (s *Service) rebind(
	ctx context.Context, h *registry.Held, g *storage.Group, epoch uint64, req *api.BindGroupRequest,
) (*api.GroupResponse, error) {
	first, err := s.Store.Snapshot(ctx, g.Key(), epoch)
	if errors.Is(err, storage.ErrNotFound) {
		first, err = new(storage.Snapshot), nil // the first snapshot is of a later epoch, or forgotten
	}
	if err != nil {
		return nil, err
	}
	if g.Term != 0 || first.Seq != 1 || string(first.GroupInfo) != string(req.GroupInfo) {
		return nil, &mimiport.Error{
			Op: "bind", Kind: mimiport.KindConflict, Group: g.ID, Err: errors.New("the id is bound already"),
		}
	}
	if err := s.requireHosted(ctx, g); err != nil {
		return nil, err
	}
	l, err := h.Live(ctx, g)
	if err != nil {
		return nil, err
	}
	return describe(g, l.MLS)
}
