package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// view loads a group for a member to read. A member can also read the log of a group that has moved away.
func (s *Service) view(ctx context.Context, c api.Caller, id []byte) (*storage.Group, error) {
	g, err := s.groups.Group(ctx, id)
	if err != nil {
		return nil, err
	}
	return g, s.requireReadable(ctx, c, g)
}

// requireReadable fails unless the caller may read the log. The log stays readable after the group has moved, was
// stopped or was closed.
func (s *Service) requireReadable(ctx context.Context, c api.Caller, g *storage.Group) error {
	if err := s.requireReader(ctx, c, g); err != nil {
		return err
	}
	switch g.State {
	case migration.GroupMoved, migration.GroupStopped, migration.GroupClosed:
		return nil
	}
	return s.requireHosted(ctx, g)
}

// termRow returns the row whose log has the asked term: the term's own row, or the present row if the log of that term
// came here with the group.
func (s *Service) termRow(ctx context.Context, id []byte, q api.MessagesQuery) (*storage.Group, error) {
	g, err := s.groups.Group(ctx, id)
	if err != nil {
		return nil, err
	}
	if q.Term != nil && *q.Term > g.Term {
		return nil, notInTerm(id, *q.Term)
	}
	if q.Term != nil && *q.Term < g.Term {
		own, err := s.ownTerm(ctx, g, q)
		if err != nil {
			return nil, err
		}
		if own != nil {
			g = own
		}
	}
	return g, nil
}

func notInTerm(id []byte, term uint64) error {
	return &mimiport.Error{
		Op: "find group", Kind: mimiport.KindUnknownGroup, Group: id, Err: fmt.Errorf("not here in term %d", term),
	}
}

// ownTerm returns the row of a former term that the group g had here. It returns nil if the log of that row no longer
// has the asked messages, or if the term is not in the group's lineage.
func (s logs) ownTerm(ctx context.Context, g *storage.Group, q api.MessagesQuery) (*storage.Group, error) {
	own, err := s.Store.GroupAt(ctx, storage.GroupKey{ID: g.ID, Term: *q.Term})
	if errors.Is(err, storage.ErrNotFound) || err == nil && own.State == migration.GroupDropped {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	lineage, err := mimiport.UnmarshalLineage(g.Lineage)
	if err != nil {
		return nil, err
	}
	hosts, err := proof.Hosts(lineage)
	if err != nil || *q.Term > lineage.Term() || hosts[*q.Term] != own.Server {
		return nil, err
	}
	entries, err := s.Store.Entries(ctx, own.Key(), q.From, 1)
	if err != nil || len(entries) == 0 {
		return nil, err
	}
	return own, nil
}

// Group implements API. For a group that has moved it returns only the redirect.
func (s *Service) Group(ctx context.Context, c api.Caller, id []byte) (*api.GroupResponse, error) {
	g, err := s.view(ctx, c, id)
	if err != nil {
		return nil, err
	}
	if err := s.requireShown(ctx, g); err != nil {
		return nil, err
	}
	var res *api.GroupResponse
	err = s.groups.WithLive(ctx, g.Key(), func(g *storage.Group, l *registry.Live) (err error) {
		if err := s.requireShown(ctx, g); err != nil { // the group may have moved meanwhile
			return err
		}
		res, err = describe(g, l.MLS)
		return err
	})
	return res, err
}

func describe(g *storage.Group, state mls.Group) (*api.GroupResponse, error) {
	lineage, err := mimiport.UnmarshalLineage(g.Lineage)
	if err != nil {
		return nil, err
	}
	return &api.GroupResponse{
		GroupID: g.ID, RoomID: g.RoomID, Protocol: g.Protocol, CipherSuite: g.CipherSuite,
		Preimage: preimage(lineage), CreatingServer: lineage.CreatingServer, DeliveryService: g.Server,
		State: string(g.State), Term: g.Term, Epoch: state.Epoch(), NextSeq: g.NextSeq, GroupInfo: state.GroupInfo(),
		TreeHash: state.TreeHash(), ConfirmedTranscriptHash: state.ConfirmedTranscriptHash(), Members: state.NumMembers(),
		SelfRemoves: selfRemoves(state),
	}, nil
}

// selfRemoves returns the pending SelfRemoves. A client needs them beside the GroupInfo to join by an external Commit.
func selfRemoves(state mls.Group) (messages []spec.Base64Bytes) {
	for _, p := range state.Proposals() {
		if p.Remove != nil && p.Type != mls.ProposalRemove {
			messages = append(messages, p.Message)
		}
	}
	return messages
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

// RatchetTree implements API. It returns a KindWrongEpoch error for an epoch before the oldest snapshot.
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
	state, err := s.groups.StateAt(ctx, g.Key(), epoch)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, wrong
	}
	if err != nil {
		return nil, err
	}
	return state.RatchetTree(), nil
}

// The sizes of a piece of the log.
const (
	defaultMessages = 100
	maxMessages     = 500
	maxMessageBytes = 4 << 20
)

// piece is a piece of the log of a term.
type piece struct {
	term     uint64
	messages []pieceMessage  // all, or as many as the query allows
	next     uint64          // the number after the last one of the term so far
	moved    *mimiport.Moved // where the group went when the term ended; nil while it goes on
}

// pieceMessage is a message of the log. A Welcome has its recipients.
type pieceMessage struct {
	api.LogMessage
	recipients []mimiport.LeafIdentity
}

// Messages implements API. Only its recipients get a Welcome.
func (s *Service) Messages(
	ctx context.Context, c api.Caller, id []byte, q api.MessagesQuery,
) (*api.MessagesResponse, error) {
	if q.Limit <= 0 {
		q.Limit = defaultMessages
	}
	q.From, q.Limit = max(q.From, 1), min(q.Limit, maxMessages)
	g, err := s.termRow(ctx, id, q)
	if err != nil {
		return nil, err
	}
	p, err := s.readable(ctx, c, g, q)
	if err != nil {
		return nil, err
	}
	res := &api.MessagesResponse{Term: p.term, Messages: []api.LogMessage{}, Next: q.From}
	size := 0
	for i := range p.messages {
		m := &p.messages[i]
		if size += len(m.Message); size > maxMessageBytes && i > 0 {
			break
		}
		res.Next = m.Seq + 1
		if m.visibleTo(c.UserID) {
			res.Messages = append(res.Messages, m.LogMessage)
		}
	}
	if res.End = len(p.messages) == 0 || res.Next >= p.next; res.End {
		res.Moved = api.RedirectInfo(p.moved)
	}
	return res, nil
}

// readable returns the piece of a log that the caller may read.
func (s *Service) readable(
	ctx context.Context, c api.Caller, g *storage.Group, q api.MessagesQuery,
) (*piece, error) {
	err := s.requireReadable(ctx, c, g)
	former := q.Term != nil && *q.Term < g.Term
	switch {
	case mimiport.KindOf(err) == mimiport.KindForbidden && !former:
		return s.lastPiece(ctx, c, g, q, err)
	case err != nil:
		return nil, err
	case former:
		return s.formerPiece(ctx, g, q)
	}
	return s.ownPiece(ctx, g, q)
}

// lastPiece returns the piece of the log for a user who has left the room: the proposals and Commits up to the last
// Commit that removes a leaf of this user. If the log has no such Commit, lastPiece returns the error refused.
func (s *Service) lastPiece(
	ctx context.Context, c api.Caller, g *storage.Group, q api.MessagesQuery, refused error,
) (*piece, error) {
	room, err := s.Rooms.Room(ctx, g.RoomID)
	if err != nil {
		return nil, err
	}
	if err := requireAllowed(room, []string{registry.ServerOf(c.UserID)}); err != nil {
		return nil, err
	}
	entries, err := s.Store.Handshakes(ctx, g.Key(), q.From, maxMessages)
	if err != nil {
		return nil, err
	}
	for i := range slices.Backward(entries) {
		if e := &entries[i]; e.Kind == storage.EntryCommit && isFor(e.Recipients, c.UserID) {
			p, err := s.pieceOf(ctx, g, entries[:min(i+1, q.Limit)])
			if err != nil {
				return nil, err
			}
			p.next = e.Seq + 1
			return p, nil
		}
	}
	return nil, refused
}

// ownPiece returns a piece of the log of a present or former term here.
func (s logs) ownPiece(ctx context.Context, g *storage.Group, q api.MessagesQuery) (*piece, error) {
	entries, err := s.Store.Entries(ctx, g.Key(), q.From, q.Limit)
	if err != nil {
		return nil, err
	}
	p, err := s.pieceOf(ctx, g, entries)
	if err == nil && g.State == migration.GroupMoved {
		p.moved, err = s.moved(ctx, g)
	}
	return p, err
}

// pieceOf returns log entries in the form that members read.
func (s logs) pieceOf(ctx context.Context, g *storage.Group, entries []storage.Entry) (*piece, error) {
	receipts, err := s.receipts(ctx, entries)
	if err != nil {
		return nil, err
	}
	p := &piece{term: g.Term, next: g.NextSeq}
	for i := range entries {
		e := &entries[i]
		m, err := s.logMessage(ctx, e, receipts[e.Seq])
		if err != nil {
			return nil, err
		}
		p.messages = append(p.messages, pieceMessage{*m, e.Recipients})
	}
	return p, nil
}

func (m *pieceMessage) visibleTo(userID string) bool {
	return m.Kind != string(storage.EntryWelcome) || isFor(m.recipients, userID)
}

func isFor(recipients []mimiport.LeafIdentity, userID string) bool {
	return slices.ContainsFunc(recipients, func(r mimiport.LeafIdentity) bool { return r.UserID == userID })
}

// logMessage returns an entry in the form that members read. A Commit carries its receipt. A migration Commit also
// carries the evidence for the move.
func (s *core) logMessage(ctx context.Context, e *storage.Entry, receipt *api.SignedInfo) (*api.LogMessage, error) {
	m := &api.LogMessage{
		Seq: e.Seq, Epoch: e.Epoch, Kind: string(e.Kind), Sender: e.Sender, Message: e.Message, Receipt: receipt,
	}
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
