package delivery

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// ReserveGroup implements API. Only the room's members who may create groups here are given an id.
func (s *Service) ReserveGroup(ctx context.Context, c api.Caller, req *api.ReserveGroupRequest) (*api.ReserveGroupResponse, error) {
	if err := s.member(ctx, c, req.RoomID); err != nil {
		return nil, err
	}
	if err := s.mayCreate(ctx, c); err != nil {
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
	if err := s.apply(ctx, &storage.Change{Group: g}); err != nil {
		return nil, err
	}
	return &api.ReserveGroupResponse{GroupID: g.ID, Preimage: *preimage(&lineage), ExternalSender: entry}, nil
}

// mayCreate fails unless the caller may create groups here, within the quota.
func (s *Service) mayCreate(ctx context.Context, c api.Caller) error {
	p, err := s.Policy(ctx)
	if err != nil {
		return err
	}
	local := false
	if s.IsLocal(c.Server) {
		if local, err = s.Rooms.LocalAccount(ctx, c.UserID); err != nil {
			return err
		}
	}
	if !p.MayCreate(local, c.Server) {
		return mimiport.Errorf("reserve group", mimiport.KindForbidden, "%s may not create groups on this server", c.UserID)
	}
	hosted, reserved, err := s.Store.CountGroups(ctx, c.UserID)
	if err != nil {
		return err
	}
	if p.Quotas.Groups > 0 && (hosted >= p.Quotas.Groups || reserved >= maxReserved) {
		return mimiport.Errorf("reserve group", mimiport.KindQuota, "too many groups")
	}
	return nil
}

// maxReserved bounds the ids that one user may hold without binding a group to them.
const maxReserved = 100

// serverFor is the local server name that acts for a caller: their own homeserver's where that is one of ours.
func (s *Service) serverFor(c api.Caller) string {
	if s.IsLocal(c.Server) {
		return c.Server
	}
	return s.Server
}

// BindGroup implements API.
func (s *Service) BindGroup(ctx context.Context, c api.Caller, id []byte, req *api.BindGroupRequest) (*api.GroupResponse, error) {
	defer s.locks.lock(id)()
	g, err := s.group(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := s.member(ctx, c, g.RoomID); err != nil {
		return nil, err
	}
	if g.Creator != c.UserID {
		return nil, &mimiport.Error{Op: "bind", Kind: mimiport.KindForbidden, Group: id, Err: errors.New("the id was given to another user")}
	}
	engine, err := s.engine(req.Protocol)
	if err != nil {
		return nil, err
	}
	state, err := engine.Open(req.GroupInfo, req.RatchetTree)
	if err != nil {
		return nil, err
	}
	if g.State != migration.GroupReserved {
		return s.rebind(ctx, g, state.Epoch(), req)
	}
	if string(state.ID()) != string(id) {
		return nil, mimiport.Errorf("bind", mimiport.KindInvalid, "the GroupInfo is of another group")
	}
	if err := s.checkOwnEntries(ctx, g.Server, state); err != nil {
		return nil, err
	}
	l := &live{mls: state, seq: g.NextSeq}
	if l.roster, err = newRoster(state); err != nil {
		return nil, err
	}
	if !l.roster.has(c.UserID) {
		return nil, mimiport.Errorf("bind", mimiport.KindForbidden, "%s is not in the group", c.UserID)
	}
	if err := s.rosterJoined(ctx, g.RoomID, l.roster); err != nil {
		return nil, err
	}
	next := *g
	next.State, next.Protocol, next.CipherSuite, next.Epoch = migration.GroupActive, req.Protocol, state.CipherSuite(), state.Epoch()
	change := &storage.Change{Group: &next, Snapshots: []storage.Snapshot{snapshotOf(&next, l)}}
	if err := s.apply(ctx, change); err != nil {
		return nil, err
	}
	return s.describe(&next, state)
}

// rebind answers a repeated bind: the first answer when it is the same group, as it is now.
func (s *Service) rebind(ctx context.Context, g *storage.Group, epoch uint64, req *api.BindGroupRequest) (*api.GroupResponse, error) {
	first, err := s.Store.Snapshot(ctx, g.Key(), epoch)
	if errors.Is(err, storage.ErrNotFound) {
		first, err = new(storage.Snapshot), nil // bound to a later epoch, or so long ago that it is not known any more
	}
	if err != nil {
		return nil, err
	}
	if g.Term != 0 || first.Seq != 1 || string(first.GroupInfo) != string(req.GroupInfo) {
		return nil, &mimiport.Error{Op: "bind", Kind: mimiport.KindConflict, Group: g.ID, Err: errors.New("the id is bound already")}
	}
	if err := s.here(ctx, g); err != nil {
		return nil, err
	}
	l, err := s.live(ctx, g)
	if err != nil {
		return nil, err
	}
	return s.describe(g, l.mls)
}

func (s *Service) rosterJoined(ctx context.Context, roomID string, r roster) error {
	return s.joined(ctx, roomID, r.users())
}

func snapshotOf(g *storage.Group, l *live) storage.Snapshot {
	return storage.Snapshot{
		GroupID: g.ID, Term: g.Term, Epoch: l.mls.Epoch(), Seq: l.seq,
		GroupInfo: l.mls.GroupInfo(), RatchetTree: l.mls.RatchetTree(),
	}
}

// here fails unless the group is hosted here: with the redirect when it has moved, with a time to try again while it is staged,
// as stopped when it is behind its members, and as unknown while nothing is bound to the id.
func (s *Service) here(ctx context.Context, g *storage.Group) error {
	switch g.State {
	case migration.GroupMoved:
		moved, err := s.moved(ctx, g)
		if err != nil {
			return err
		}
		return &mimiport.Error{
			Op: "find group", Kind: mimiport.KindMoved, Group: g.ID,
			Info: mimiport.Info{Moved: moved}, Err: fmt.Errorf("the group is at %s", moved.Server),
		}
	case migration.GroupStaged:
		return &mimiport.Error{
			Op: "find group", Kind: mimiport.KindInProgress, Group: g.ID,
			Info: mimiport.Info{RetryAfter: frozenRetry}, Err: errors.New("the group is being moved here"),
		}
	case migration.GroupStopped:
		return &mimiport.Error{Op: "find group", Kind: mimiport.KindStopped, Group: g.ID, Err: errors.New("members are in a later epoch than this server, whose operator has to decide")}
	case migration.GroupReserved:
		return &mimiport.Error{Op: "find group", Kind: mimiport.KindUnknownGroup, Group: g.ID, Err: errors.New("no group is bound to the id")}
	}
	return nil
}

// moved is the redirect of a group that has moved.
func (s *Service) moved(ctx context.Context, g *storage.Group) (*mimiport.Moved, error) {
	if g.Migration == (mimiport.MigrationID{}) {
		return movedByClaim(g)
	}
	m, err := s.record(ctx, g.Migration)
	if err != nil {
		return nil, err
	}
	return redirect(m), nil
}

// redirect is the redirect that a migration leaves, with the evidence for it.
func redirect(m *migration.Migration) *mimiport.Moved {
	return &mimiport.Moved{
		Server: m.Target, Term: m.Term, Response: m.Response.Message,
		Confirmation: m.Confirmation.Message, KeyID: m.Confirmation.KeyID,
	}
}

// movedByClaim is the redirect of a group that has yielded: the last step of its lineage is the claim.
func movedByClaim(g *storage.Group) (*mimiport.Moved, error) {
	l, err := mimiport.UnmarshalLineage(g.Lineage)
	if err != nil {
		return nil, err
	}
	if len(l.Steps) == 0 || l.Steps[len(l.Steps)-1].Claim == nil {
		return nil, errors.New("delivery: a group has moved nowhere")
	}
	signed := l.Steps[len(l.Steps)-1].Claim
	claim, err := mimiport.UnmarshalLineageClaim(signed.Message)
	if err != nil {
		return nil, err
	}
	return &mimiport.Moved{Server: claim.DomainName, Term: claim.Term, Claim: signed.Message, KeyID: signed.KeyID}, nil
}

// view loads a group for a member to read. A group that has moved can be read: what was accepted here is served.
func (s *Service) view(ctx context.Context, c api.Caller, id []byte) (*storage.Group, error) {
	g, err := s.group(ctx, id)
	if err != nil {
		return nil, err
	}
	return g, s.readable(ctx, c, g)
}

// readable fails unless the caller may read what was accepted here: also after the group has moved or was stopped.
func (s *Service) readable(ctx context.Context, c api.Caller, g *storage.Group) error {
	if err := s.member(ctx, c, g.RoomID); err != nil || g.State == migration.GroupMoved || g.State == migration.GroupStopped {
		return err
	}
	return s.here(ctx, g)
}

// viewTerm is view for a group in a term that may be over; nil is the present one.
func (s *Service) viewTerm(ctx context.Context, c api.Caller, id []byte, term *uint64) (*storage.Group, error) {
	if term == nil {
		return s.view(ctx, c, id)
	}
	g, err := s.Store.GroupAt(ctx, storage.GroupKey{ID: id, Term: *term})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, &mimiport.Error{Op: "find group", Kind: mimiport.KindUnknownGroup, Group: id, Err: fmt.Errorf("not here in term %d", *term)}
	}
	if err != nil {
		return nil, err
	}
	return g, s.readable(ctx, c, g)
}

// Group implements API. Of a group that has moved it is told only to where.
func (s *Service) Group(ctx context.Context, c api.Caller, id []byte) (*api.GroupResponse, error) {
	g, err := s.view(ctx, c, id)
	if err != nil {
		return nil, err
	}
	if err := s.here(ctx, g); err != nil {
		return nil, err
	}
	var res *api.GroupResponse
	err = s.locked(ctx, g.Key(), func(g *storage.Group, l *live) (err error) {
		if err := s.here(ctx, g); err != nil { // it may have moved meanwhile
			return err
		}
		res, err = s.describe(g, l.mls)
		return err
	})
	return res, err
}

func (s *Service) describe(g *storage.Group, state mls.Group) (*api.GroupResponse, error) {
	lineage, err := mimiport.UnmarshalLineage(g.Lineage)
	if err != nil {
		return nil, err
	}
	return &api.GroupResponse{
		GroupID: g.ID, RoomID: g.RoomID, Protocol: g.Protocol, CipherSuite: g.CipherSuite,
		Preimage: preimage(lineage), CreatingServer: lineage.CreatingServer, DeliveryService: g.Server,
		State: string(g.State), Term: g.Term, Epoch: state.Epoch(), NextSeq: g.NextSeq, GroupInfo: state.GroupInfo(),
		TreeHash: state.TreeHash(), ConfirmedTranscriptHash: state.ConfirmedTranscriptHash(), Members: state.NumMembers(),
	}, nil
}

func preimage(l *mimiport.Lineage) *api.Preimage {
	if l.Preimage == nil {
		return nil
	}
	return &api.Preimage{CreatingServer: l.Preimage.CreatingServer, RoomID: l.Preimage.RoomID, Nonce: l.Preimage.Nonce[:]}
}

// Host implements API.
func (s *Service) Host(ctx context.Context, c api.Caller, id []byte) (*api.HostResponse, error) {
	if _, err := s.view(ctx, c, id); err != nil {
		return nil, err
	}
	return s.host(ctx, id)
}

// host says where a group is, whoever asks.
func (s *Service) host(ctx context.Context, id []byte) (*api.HostResponse, error) {
	g, err := s.group(ctx, id)
	if err != nil {
		return nil, err
	}
	res := &api.HostResponse{GroupID: g.ID, DeliveryService: g.Server, Term: g.Term, Lineage: g.Lineage}
	if g.State == migration.GroupMoved {
		moved, err := s.moved(ctx, g)
		if err != nil {
			return nil, err
		}
		res.DeliveryService, res.Term, res.Moved = moved.Server, moved.Term, api.RedirectInfo(moved)
	}
	return res, nil
}

// RatchetTree implements API. Epochs before the oldest snapshot are KindWrongEpoch.
func (s *Service) RatchetTree(ctx context.Context, c api.Caller, id []byte, epoch uint64) ([]byte, error) {
	g, err := s.view(ctx, c, id)
	if err != nil {
		return nil, err
	}
	wrong := &mimiport.Error{
		Op: "read tree", Kind: mimiport.KindWrongEpoch, Group: id,
		Info: mimiport.Info{Epoch: &g.Epoch}, Err: fmt.Errorf("no tree of epoch %d", epoch),
	}
	if epoch > g.Epoch {
		return nil, wrong
	}
	state, err := s.stateAt(ctx, g, epoch)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, wrong
	}
	if err != nil {
		return nil, err
	}
	return state.RatchetTree(), nil
}

func (s *Service) stateAt(ctx context.Context, g *storage.Group, epoch uint64) (state mls.Group, err error) {
	err = s.locked(ctx, g.Key(), func(_ *storage.Group, l *live) error {
		switch {
		case l.mls.Epoch() == epoch:
			state = l.mls
		case l.before != nil && l.before.Epoch() == epoch:
			state = l.before
		}
		return nil
	})
	if err != nil || state != nil {
		return state, err
	}
	return s.at(ctx, g, epoch)
}

// The sizes of a piece of the log.
const (
	defaultMessages = 100
	maxMessages     = 500
	maxMessageBytes = 4 << 20
)

// Messages implements API. Welcomes are shown to those they are for.
func (s *Service) Messages(ctx context.Context, c api.Caller, id []byte, q api.MessagesQuery) (*api.MessagesResponse, error) {
	g, err := s.viewTerm(ctx, c, id, q.Term)
	if err != nil {
		return nil, err
	}
	if q.Limit <= 0 {
		q.Limit = defaultMessages
	}
	entries, err := s.Store.Entries(ctx, storage.GroupKey{ID: id, Term: g.Term}, max(q.From, 1), min(q.Limit, maxMessages))
	if err != nil {
		return nil, err
	}
	res := &api.MessagesResponse{Term: g.Term, Messages: []api.LogMessage{}, Next: max(q.From, 1)}
	size := 0
	for i := range entries {
		e := &entries[i]
		if size += len(e.Message); size > maxMessageBytes && i > 0 {
			break
		}
		res.Next = e.Seq + 1
		if visibleTo(e, c.UserID) {
			m, err := s.logMessage(ctx, e)
			if err != nil {
				return nil, err
			}
			res.Messages = append(res.Messages, *m)
		}
	}
	if res.End = len(entries) == 0 || res.Next >= g.NextSeq; res.End && g.State == migration.GroupMoved {
		moved, err := s.moved(ctx, g)
		if err != nil {
			return nil, err
		}
		res.Moved = api.RedirectInfo(moved)
	}
	return res, nil
}

func visibleTo(e *storage.Entry, userID string) bool {
	if e.Kind != storage.EntryWelcome {
		return true
	}
	for _, r := range e.Recipients {
		if r.UserID == userID {
			return true
		}
	}
	return false
}

// logMessage is an entry as members see it. With a migration Commit goes the evidence for it.
func (s *Service) logMessage(ctx context.Context, e *storage.Entry) (*api.LogMessage, error) {
	m := &api.LogMessage{Seq: e.Seq, Epoch: e.Epoch, Kind: string(e.Kind), Sender: e.Sender, Message: e.Message}
	if e.Migration == nil {
		return m, nil
	}
	rec, err := s.record(ctx, *e.Migration)
	if err != nil {
		return nil, err
	}
	m.Migration = api.RedirectInfo(redirect(rec))
	return m, nil
}
