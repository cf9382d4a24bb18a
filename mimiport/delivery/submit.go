package delivery

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// frozenRetry is the time after which a client may repeat a request that a frozen or staged group refused.
const frozenRetry = time.Second

// Submit implements API.
func (s *Service) Submit(
	ctx context.Context, c api.Caller, id []byte, req *api.SubmitRequest,
) (*api.SubmitResponse, error) {
	if err := s.requireSize("submit", req); err != nil {
		return nil, err
	}
	g, err := s.groups.Group(ctx, id)
	if err != nil {
		return nil, err
	}
	var res *api.SubmitResponse
	err = s.withKnown(ctx, id, g.RoomID, func(h *registry.Held, k *known) (err error) {
		res, err = s.submit(ctx, h, c, req, k)
		return err
	})
	return res, err
}

// intake accepts messages into the log.
type intake struct{ *core }

// submission is one message with the held group that it is for.
type submission struct {
	caller api.Caller
	held   *registry.Held
	group  *storage.Group
	live   *registry.Live
	req    *api.SubmitRequest
	msg    *mls.Message
	known  *known
	room   Room // of the group
}

// requireSize fails if a message with its GroupInfo and Welcome is larger than this server accepts.
func (s intake) requireSize(op string, req *api.SubmitRequest) error {
	if n := len(req.Message) + len(req.GroupInfo) + len(req.Welcome); int64(n) > s.Limits.MessageBytes {
		return mimiport.Errorf(op, mimiport.KindTooLarge, "%d bytes, %d are allowed", n, s.Limits.MessageBytes)
	}
	return nil
}

// submit accepts one message into the log by a compare-and-set on the group's row.
func (s intake) submit(
	ctx context.Context, h *registry.Held, c api.Caller, req *api.SubmitRequest, k *known,
) (*api.SubmitResponse, error) {
	g, err := h.Group(ctx)
	if err != nil {
		return nil, err
	}
	room, err := k.of(g)
	if err != nil {
		return nil, err
	}
	if err := s.requireMemberOf(ctx, h, room, c, g); err != nil {
		return nil, err
	}
	if first, err := s.earlierAnswer(ctx, c, g, req.Message); first != nil || err != nil {
		return first, err
	}
	if err := s.requireHosted(ctx, g); err != nil {
		return nil, err
	}
	engine, err := s.Engines.Find(g.Protocol)
	if err != nil {
		return nil, err
	}
	sub := &submission{caller: c, held: h, group: g, req: req, known: k, room: room}
	if sub.msg, err = engine.Parse(req.Message); err != nil {
		return nil, err
	}
	if err := requireAdmissible(g, sub.msg); err != nil {
		if failed := s.noticeLaterEpoch(ctx, sub); failed != nil {
			err = failed
		}
		return nil, err
	}
	if err := s.requireKnown(ctx, g, req.Known); err != nil {
		return nil, err
	}
	if sub.live, err = h.Live(ctx, g); err != nil {
		return nil, err
	}
	a, err := s.accept(ctx, sub)
	if err != nil {
		return nil, err
	}
	return s.append(ctx, sub, a)
}

// earlierAnswer returns the answer that the same message of the same user got before.
func (s intake) earlierAnswer(
	ctx context.Context, c api.Caller, g *storage.Group, message []byte,
) (*api.SubmitResponse, error) {
	e, err := s.Store.EntryByHash(ctx, g.Key(), hash(message))
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if e.Sender != c.UserID {
		return nil, mimiport.Errorf("submit", mimiport.KindConflict, "the message was submitted by another user")
	}
	receipts, err := s.receipts(ctx, []storage.Entry{*e})
	return &api.SubmitResponse{Term: g.Term, Seq: e.Seq, Epoch: epochAfter(e), Receipt: receipts[e.Seq]}, err
}

func epochAfter(e *storage.Entry) uint64 {
	if e.Kind == storage.EntryCommit {
		return e.Epoch + 1
	}
	return e.Epoch
}

// requireAdmissible fails unless the group's state and epoch allow the message.
func requireAdmissible(g *storage.Group, msg *mls.Message) error {
	fail := func(kind mimiport.Kind, info mimiport.Info, format string, args ...any) error {
		return &mimiport.Error{Op: "submit", Kind: kind, Group: g.ID, Info: info, Err: fmt.Errorf(format, args...)}
	}
	switch msg.Kind {
	case mls.KindProposal, mls.KindCommit, mls.KindApplication:
	default:
		return fail(mimiport.KindInvalid, mimiport.Info{}, "not a message for a group")
	}
	switch {
	case string(msg.GroupID) != string(g.ID):
		return fail(mimiport.KindInvalid, mimiport.Info{}, "the message is for another group")
	case g.State == migration.GroupFrozen && msg.Kind != mls.KindApplication:
		return fail(mimiport.KindInProgress, mimiport.Info{RetryAfter: frozenRetry}, "the group is being moved")
	case msg.Epoch != g.Epoch:
		return fail(
			mimiport.KindWrongEpoch, mimiport.Info{Epoch: &g.Epoch}, "the group is at epoch %d, the message at %d", g.Epoch,
			msg.Epoch,
		)
	}
	return nil
}

// accept checks one message that the group's state and epoch allow.
func (s intake) accept(ctx context.Context, sub *submission) (*registry.Accepted, error) {
	entry := storage.Entry{Epoch: sub.msg.Epoch, Sender: sub.caller.UserID, Message: sub.req.Message}
	switch sub.msg.Kind {
	case mls.KindProposal:
		entry.Kind = storage.EntryProposal
		next, err := s.propose(ctx, sub)
		return &registry.Accepted{Next: next, Entries: []storage.Entry{entry}}, err
	case mls.KindCommit:
		return s.plainCommit(ctx, sub)
	}
	entry.Kind = storage.EntryApplication
	if !sub.live.Roster.Has(sub.caller.UserID) {
		return nil, mimiport.Errorf("submit", mimiport.KindForbidden, "%s is not in the group", sub.caller.UserID)
	}
	return &registry.Accepted{Entries: []storage.Entry{entry}}, nil
}

// propose checks a proposal of the calling member, or of a user who asks to be added.
func (s intake) propose(ctx context.Context, sub *submission) (mls.Group, error) {
	next, p, err := sub.live.MLS.Propose(sub.req.Message)
	if err != nil {
		return nil, err
	}
	if next == sub.live.MLS {
		return nil, broken(ruleProposalPending, "the proposal is pending, in a message with another tag")
	}
	var sender mls.Member
	switch {
	case p.Sender.Type == mls.SenderMember:
		sender, _ = sub.live.MLS.Member(p.Sender.Index)
	case p.Sender.Type == mls.SenderNewMemberProposal && p.Add != nil:
		sender = *p.Add
	default:
		return nil, mimiport.Errorf("submit", mimiport.KindForbidden, "external senders do not submit here")
	}
	if err := requireOwnLeaf(sub.caller, sender); err != nil {
		return nil, err
	}
	if err := s.requireProposable(ctx, sub, p); err != nil {
		return nil, err
	}
	if err := s.requireMay(ctx, sub, []mls.Proposal{*p}); err != nil {
		return nil, err
	}
	return next, s.requireDeviceKeys(ctx, sub.group, next, proposed(sub.live.MLS, p), sub.known.leaves)
}

// requireOwnLeaf fails unless the member's leaf is one of the caller's.
func requireOwnLeaf(c api.Caller, m mls.Member) error {
	id, err := registry.Identity(m)
	if err != nil {
		return err
	}
	if id.UserID != c.UserID {
		return mimiport.Errorf("submit", mimiport.KindForbidden, "the message is from a leaf of %s", id.UserID)
	}
	return nil
}

// plainCommit checks a Commit that does not move the group.
func (s intake) plainCommit(ctx context.Context, sub *submission) (*registry.Accepted, error) {
	if err := requirePlain(sub.live.MLS, sub.msg); err != nil {
		return nil, err
	}
	a, err := s.commit(ctx, sub)
	if err != nil {
		return nil, err
	}
	if err := s.requirePendingRemoves(ctx, sub.room, sub.group.Server, sub.live.MLS, a.Effects); err != nil {
		return nil, err
	}
	if err := s.requireOwnEntries(ctx, sub.group.Server, sub.live.MLS, a.Next.ExternalSenders()); err != nil {
		return nil, err
	}
	own := byValue(a.Effects)
	if err := s.requireLifetimes(own); err != nil {
		return nil, err
	}
	if err := s.requireMay(ctx, sub, own); err != nil {
		return nil, err
	}
	return a, s.requireDeviceKeys(ctx, sub.group, a.Next, sub.incomers(a.Effects), sub.known.leaves)
}

// commit checks a Commit with its GroupInfo and Welcome, whether it moves the group or not.
func (s intake) commit(ctx context.Context, sub *submission) (*registry.Accepted, error) {
	end := s.Metrics.checking()
	next, effects, err := sub.live.MLS.Commit(sub.req.Message, sub.req.GroupInfo)
	end()
	if err != nil {
		return nil, err
	}
	if err := requireOwnLeaf(sub.caller, effects.Committer); err != nil {
		return nil, err
	}
	added, err := registry.Identities(effects.Added)
	if err != nil {
		return nil, err
	}
	removed, err := registry.Identities(effects.Removed)
	if err != nil {
		return nil, err
	}
	updated, err := registry.Identities(effects.Updated)
	if err != nil {
		return nil, err
	}
	if err := s.requireAdmissible(ctx, sub.room, users(added)); err != nil {
		return nil, err
	}
	// An Update stays valid when the ACL denies its server later. Otherwise nobody could commit while the Update is
	// pending.
	if err := s.requireJoined(ctx, sub.room, users(updated)); err != nil {
		return nil, err
	}
	entries := []storage.Entry{{
		Kind: storage.EntryCommit, Epoch: sub.live.MLS.Epoch(), Sender: sub.caller.UserID, Message: sub.req.Message,
		GroupInfo: sub.req.GroupInfo, Recipients: removed,
	}}
	if len(sub.req.Welcome) > 0 {
		entries = append(entries, storage.Entry{
			Kind: storage.EntryWelcome, Epoch: next.Epoch(), Sender: sub.caller.UserID, Message: sub.req.Welcome,
			Recipients: added,
		})
	}
	return &registry.Accepted{Next: next, Effects: effects, Entries: entries}, s.requireWelcomes(sub, effects)
}

func users(identities []mimiport.LeafIdentity) []string {
	var users []string
	for _, id := range identities {
		users = append(users, id.UserID)
	}
	return users
}

// requireWelcomes fails unless the Welcome is for exactly the members that the Commit adds.
func (s intake) requireWelcomes(sub *submission, effects *mls.Effects) error {
	engine, err := s.Engines.Find(sub.group.Protocol)
	if err != nil {
		return err
	}
	var all [][]byte
	if len(sub.req.Welcome) > 0 {
		all = [][]byte{sub.req.Welcome}
	}
	return engine.CheckWelcomes(effects, all)
}

// dropped returns rows that make this server check a group again after an external Commit has dropped its proposals.
func (s intake) dropped(g *storage.Group, before mls.Group) []storage.Row {
	rows := []storage.Row{s.expelRow(g, g.Version)}
	servers := make(map[string]bool)
	for _, leaf := range pendingRemoves(g.Server, before) {
		m, _ := before.Member(leaf)
		if id, err := registry.Identity(m); err == nil {
			servers[registry.ServerOf(id.UserID)] = true
		}
	}
	for _, server := range slices.Sorted(maps.Keys(servers)) {
		rows = append(rows, s.devicesRow(g, server, "", g.Version))
	}
	return rows
}

// append writes an accepted message and its fan-out to the store in one transaction.
func (s intake) append(ctx context.Context, sub *submission, a *registry.Accepted) (*api.SubmitResponse, error) {
	g := sub.group
	next, change, err := s.extend(ctx, g, sub.live, a)
	if err != nil {
		return nil, err
	}
	if err := s.countBytes(ctx, change, sub.caller.UserID); err != nil {
		return nil, err
	}
	receipt, err := signedReceipt(change.Receipt)
	if err != nil {
		return nil, err
	}
	if a.Effects != nil && a.Effects.Sender.Type == mls.SenderNewMemberCommit {
		change.Rows = append(change.Rows, s.dropped(g, sub.live.MLS)...)
	}
	if err := sub.known.requireCurrent(); err != nil {
		return nil, err
	}
	if err := s.apply(ctx, change); err != nil {
		return nil, err
	}
	sub.held.Advance(next, sub.live, a)
	return &api.SubmitResponse{Term: g.Term, Seq: g.NextSeq, Epoch: next.Epoch, Receipt: receipt}, nil
}
