package delivery

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// frozenRetry is when to try again what a frozen or staged group refuses.
const frozenRetry = time.Second

// Submit implements API.
func (s *Service) Submit(ctx context.Context, c api.Caller, id []byte, req *api.SubmitRequest) (*api.SubmitResponse, error) {
	if err := s.checkSize("submit", req); err != nil {
		return nil, err
	}
	defer s.locks.lock(id)()
	var res *api.SubmitResponse
	err := retryConflicts(func() (err error) {
		res, err = s.submit(ctx, c, id, req)
		return err
	})
	return res, err
}

// checkSize fails for a message that is larger, with what goes along, than this server takes.
func (s *Service) checkSize(op string, req *api.SubmitRequest) error {
	if n := len(req.Message) + len(req.GroupInfo) + len(req.Welcome); int64(n) > s.Limits.MessageBytes {
		return mimiport.Errorf(op, mimiport.KindTooLarge, "%d bytes, %d are allowed", n, s.Limits.MessageBytes)
	}
	return nil
}

// submit accepts one message into the log, by a compare-and-set on the group's row. The caller holds the group's lock.
func (s *Service) submit(ctx context.Context, c api.Caller, id []byte, req *api.SubmitRequest) (*api.SubmitResponse, error) {
	g, err := s.group(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := s.member(ctx, c, g.RoomID); err != nil {
		return nil, err
	}
	if first, err := s.answered(ctx, c, g, req.Message); first != nil || err != nil {
		return first, err
	}
	if err := s.here(ctx, g); err != nil {
		return nil, err
	}
	engine, err := s.engine(g.Protocol)
	if err != nil {
		return nil, err
	}
	msg, err := engine.Parse(req.Message)
	if err != nil {
		return nil, err
	}
	if err := s.admits(g, msg); err != nil {
		if failed := s.notice(ctx, c, g, msg, req); failed != nil {
			err = failed
		}
		return nil, err
	}
	l, err := s.live(ctx, g)
	if err != nil {
		return nil, err
	}
	step, err := s.step(ctx, c, g, l, msg, req)
	if err != nil {
		return nil, err
	}
	return s.append(ctx, g, l, step)
}

// answered finds the answer that the same message of the same user got before.
func (s *Service) answered(ctx context.Context, c api.Caller, g *storage.Group, message []byte) (*api.SubmitResponse, error) {
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
	return &api.SubmitResponse{Term: g.Term, Seq: e.Seq, Epoch: epochAfter(e)}, nil
}

func epochAfter(e *storage.Entry) uint64 {
	if e.Kind == storage.EntryCommit {
		return e.Epoch + 1
	}
	return e.Epoch
}

// admits fails unless the group's state and epoch allow the message.
func (s *Service) admits(g *storage.Group, msg *mls.Message) error {
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
		return fail(mimiport.KindWrongEpoch, mimiport.Info{Epoch: &g.Epoch}, "the group is at epoch %d, the message at %d", g.Epoch, msg.Epoch)
	}
	return nil
}

// step is what accepting one message writes to the log, and the state after it.
type step struct {
	next    mls.Group       // nil for an application message
	effects *mls.Effects    // of a Commit
	entries []storage.Entry // without numbers
}

func (s *Service) step(ctx context.Context, c api.Caller, g *storage.Group, l *live, msg *mls.Message, req *api.SubmitRequest) (*step, error) {
	entry := storage.Entry{Epoch: msg.Epoch, Sender: c.UserID, Message: req.Message}
	switch msg.Kind {
	case mls.KindProposal:
		entry.Kind = storage.EntryProposal
		next, err := s.propose(ctx, c, g, l, req.Message)
		return &step{next: next, entries: []storage.Entry{entry}}, err
	case mls.KindCommit:
		if err := plainCommit(msg); err != nil {
			return nil, err
		}
		st, err := s.commit(ctx, c, g, l, req)
		if err != nil {
			return nil, err
		}
		if err := removesThem(g.Server, l.mls, st.effects); err != nil {
			return nil, err
		}
		return st, s.keepsOwnEntries(ctx, g.Server, l.mls, st.next)
	}
	entry.Kind = storage.EntryApplication
	if !l.roster.has(c.UserID) {
		return nil, mimiport.Errorf("submit", mimiport.KindForbidden, "%s is not in the group", c.UserID)
	}
	return &step{entries: []storage.Entry{entry}}, nil
}

// propose checks a proposal: by the member who is calling, or by a user who asks to be added.
func (s *Service) propose(ctx context.Context, c api.Caller, g *storage.Group, l *live, message []byte) (mls.Group, error) {
	next, p, err := l.mls.Propose(message)
	if err != nil {
		return nil, err
	}
	var sender mls.Member
	switch {
	case p.Sender.Type == mls.SenderMember:
		sender, _ = l.mls.Member(p.Sender.Index)
	case p.Sender.Type == mls.SenderNewMemberProposal && p.Add != nil:
		sender = *p.Add
	default:
		return nil, mimiport.Errorf("submit", mimiport.KindForbidden, "external senders do not submit here")
	}
	if err := s.speaksFor(c, sender); err != nil {
		return nil, err
	}
	if p.Add == nil {
		return next, nil
	}
	added, err := identity(*p.Add)
	if err != nil {
		return nil, err
	}
	return next, s.joined(ctx, g.RoomID, []string{added.UserID})
}

// speaksFor fails unless the member's leaf is one of the caller's.
func (s *Service) speaksFor(c api.Caller, m mls.Member) error {
	id, err := identity(m)
	if err != nil {
		return err
	}
	if id.UserID != c.UserID {
		return mimiport.Errorf("submit", mimiport.KindForbidden, "the message is from a leaf of %s", id.UserID)
	}
	return nil
}

// commit checks a Commit with its GroupInfo and Welcome, migration or not, and gives the step it makes.
func (s *Service) commit(ctx context.Context, c api.Caller, g *storage.Group, l *live, req *api.SubmitRequest) (*step, error) {
	next, effects, err := l.mls.Commit(req.Message, req.GroupInfo)
	if err != nil {
		return nil, err
	}
	if err := s.speaksFor(c, effects.Committer); err != nil {
		return nil, err
	}
	added, err := identities(effects.Added)
	if err != nil {
		return nil, err
	}
	removed, err := identities(effects.Removed)
	if err != nil {
		return nil, err
	}
	updated, err := identities(effects.Updated)
	if err != nil {
		return nil, err
	}
	if err := s.joined(ctx, g.RoomID, users(added, updated)); err != nil {
		return nil, err
	}
	if effects.Sender.Type == mls.SenderNewMemberCommit {
		for _, r := range removed {
			if r.UserID != c.UserID {
				return nil, mimiport.Errorf("submit", mimiport.KindForbidden, "a resync removes its own leaf only")
			}
		}
	}
	entries := []storage.Entry{{
		Kind: storage.EntryCommit, Epoch: l.mls.Epoch(), Sender: c.UserID, Message: req.Message, GroupInfo: req.GroupInfo, Recipients: removed,
	}}
	if len(req.Welcome) > 0 {
		entries = append(entries, storage.Entry{
			Kind: storage.EntryWelcome, Epoch: next.Epoch(), Sender: c.UserID, Message: req.Welcome, Recipients: added,
		})
	}
	return &step{next, effects, entries}, s.welcomes(g, req.Welcome, effects)
}

func users(lists ...[]mimiport.LeafIdentity) []string {
	var users []string
	for _, list := range lists {
		for _, id := range list {
			users = append(users, id.UserID)
		}
	}
	return users
}

// welcomes fails unless the Welcome is for just those that the Commit adds.
func (s *Service) welcomes(g *storage.Group, welcome []byte, effects *mls.Effects) error {
	engine, err := s.engine(g.Protocol)
	if err != nil {
		return err
	}
	var all [][]byte
	if len(welcome) > 0 {
		all = [][]byte{welcome}
	}
	return engine.CheckWelcomes(effects, all)
}

// append writes a step to the log with its fan-out, in one transaction.
func (s *Service) append(ctx context.Context, g *storage.Group, l *live, st *step) (*api.SubmitResponse, error) {
	next, change := s.extend(g, l, st)
	if st.effects != nil && st.effects.Sender.Type == mls.SenderNewMemberCommit {
		change.Rows = append(change.Rows, s.expelRow(g, g.Version)) // such a Commit drops what was proposed
	}
	if err := s.apply(ctx, change); err != nil {
		return nil, err
	}
	s.advance(next, l, st)
	return &api.SubmitResponse{Term: g.Term, Seq: g.NextSeq, Epoch: next.Epoch}, nil
}

// extend is the change that appends a step to the log: the row after it, the entries, and a fan-out row for each entry and
// each server that has recipients.
func (s *Service) extend(g *storage.Group, l *live, st *step) (*storage.Group, *storage.Change) {
	next := *g
	if st.effects != nil {
		next.Epoch++
	}
	now := s.Now()
	change := &storage.Change{Group: &next}
	for _, e := range st.entries {
		e.GroupID, e.Term, e.Seq, e.At, e.Hash = g.ID, g.Term, next.NextSeq, now, hash(e.Message)
		next.NextSeq++
		change.Entries = append(change.Entries, e)
		for _, server := range destinations(l.roster, &e) {
			change.Rows = append(change.Rows, storage.Row{
				Destination: server, Queue: fanOutQueue(g), Order: e.Seq, Kind: storage.RowFanOut,
				GroupID: g.ID, Term: g.Term, Seq: e.Seq, Due: now,
			})
		}
	}
	if size := replayed(change.Entries); size > 0 && l.stored.outgrown(size) {
		change.Rows = append(change.Rows, s.compaction(&change.Entries[0]))
	}
	return &next, change
}

// fanOutQueue is the queue of a group's messages in one term. Its order is that of the log.
func fanOutQueue(g *storage.Group) string {
	return fmt.Sprintf("group/%s/%d", base64.RawURLEncoding.EncodeToString(g.ID), g.Term)
}

// destinations lists the servers an entry goes to: those of the members of its epoch, or of those a Welcome is for.
func destinations(members roster, e *storage.Entry) []string {
	if e.Kind != storage.EntryWelcome {
		return members.servers()
	}
	joiners := make(roster)
	for i := range e.Recipients {
		joiners.add(&e.Recipients[i])
	}
	return joiners.servers()
}

// advance brings the group in memory to where an applied step has brought the stored one. Where that fails it is loaded
// again next time.
func (s *Service) advance(g *storage.Group, l *live, st *step) {
	var err error
	switch {
	case st.effects != nil:
		err = l.accept(st.next, st.effects, g.NextSeq)
	case st.next != nil:
		l.mls = st.next
	}
	l.seq = g.NextSeq
	l.stored.grow(replayed(st.entries))
	key := cacheKey{string(g.ID), g.Term}
	if err != nil {
		s.cache.drop(key)
		return
	}
	s.cache.put(key, l)
}
