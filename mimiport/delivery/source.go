package delivery

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// InitMigration implements API. A repeated Init, also for a migration that has ended, gets the outcome and never a second freeze.
func (s *Service) InitMigration(ctx context.Context, c api.Caller, id mimiport.MigrationID, req *api.MigrationInitRequest) (*api.MigrationStatus, error) {
	if err := s.checkSize("init", &req.SubmitRequest); err != nil {
		return nil, err
	}
	init, err := mimiport.UnmarshalMigrationInit(req.MigrationInit)
	if err != nil {
		return nil, err
	}
	if init.Response.ID() != id {
		return nil, mimiport.Errorf("init", mimiport.KindBadMessage, "the MigrationInit is for migration %s", init.Response.ID())
	}
	rec, err := s.Store.Migration(ctx, id)
	if errors.Is(err, storage.ErrNotFound) {
		err = s.init(ctx, c, init, req)
	} else if err == nil && rec.Role != migration.Source {
		err = mimiport.Errorf("init", mimiport.KindInvalid, "this server is the migration's target")
	} else if err == nil && rec.User != c.UserID {
		err = mimiport.Errorf("init", mimiport.KindForbidden, "the migration is another user's")
	}
	if err != nil {
		return nil, err
	}
	return s.outcome(ctx, id)
}

// outcome waits for a migration to be decided, for a while, and tells how it stands.
func (s *Service) outcome(ctx context.Context, id mimiport.MigrationID) (*api.MigrationStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, s.Limits.Wait)
	defer cancel()
	for {
		changed := s.waits.changed(id)
		rec, err := s.record(context.WithoutCancel(ctx), id)
		if err != nil {
			return nil, err
		}
		if rec.State != migration.Frozen {
			return status(rec), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return status(rec), nil
		}
	}
}

// init freezes the group for a migration. What needs another server comes before the group's lock is taken.
func (s *Service) init(ctx context.Context, c api.Caller, init *mimiport.MigrationInit, req *api.MigrationInitRequest) error {
	r := &init.Response.Request
	if err := r.Validate(); err != nil {
		return err
	}
	if !s.IsLocal(r.SourceDomain) || s.IsLocal(r.TargetDomain) {
		return mimiport.Errorf("init", mimiport.KindInvalid, "the migration is not from this server to another one")
	}
	g, err := s.group(ctx, r.GroupID)
	if err != nil {
		return err
	}
	if err := s.member(ctx, c, g.RoomID); err != nil {
		return err
	}
	id := init.Response.ID()
	rec, err := s.newSource(g, init, id, c, req)
	if err != nil {
		return err
	}
	if err := s.decide(ctx, migration.Source, rec, c, &quotaFacts{starting: true}); err != nil {
		return err // before the target's name is dialled
	}
	if err := s.Keys.Verify(ctx, r.TargetDomain, req.KeyID, &init.Response); err != nil {
		return err
	}
	limits, err := s.probe(ctx, r, g, id)
	if err != nil {
		return err
	}
	defer s.locks.lock(r.GroupID)()
	return retryConflicts(func() error { return s.freeze(ctx, c, init, id, req, limits) })
}

// probe asks the target, before anything freezes, whether it is there, knows of its offer, and speaks the group's protocol. It
// returns what the target takes.
func (s *Service) probe(ctx context.Context, r *mimiport.MigrationRequest, g *storage.Group, id mimiport.MigrationID) (*api.TargetLimits, error) {
	const op = "probe target"
	there, err := s.Sender.AskStatus(ctx, r.SourceDomain, r.TargetDomain, id)
	if mimiport.KindOf(err) == mimiport.KindUnsupported { // a target that speaks only the draft: it can say nothing
		return &api.TargetLimits{GroupStateBytes: s.Limits.GroupStateBytes}, nil
	}
	if err != nil {
		return nil, err
	}
	if there.State != string(migration.Offered) {
		return nil, mimiport.Errorf(op, mimiport.KindOfferExpired, "the target says that its offer is %s", there.State)
	}
	limits := there.Limits
	if limits == nil { // a target that does not say is left to refuse the content
		return &api.TargetLimits{GroupStateBytes: s.Limits.GroupStateBytes}, nil
	}
	if !slices.Contains(limits.Protocols, g.Protocol) {
		return nil, mimiport.Errorf(op, mimiport.KindUnsupported, "the target does not speak %q", g.Protocol)
	}
	return limits, nil
}

// freeze checks everything against the group as it is now and stores the migration with its content. The caller holds the
// group's lock.
func (s *Service) freeze(ctx context.Context, c api.Caller, init *mimiport.MigrationInit, id mimiport.MigrationID, req *api.MigrationInitRequest, limits *api.TargetLimits) error {
	if _, err := s.Store.Migration(ctx, id); !errors.Is(err, storage.ErrNotFound) {
		return err // the same Init has come twice at once: the outcome of the first is the answer
	}
	r := &init.Response.Request
	g, err := s.group(ctx, r.GroupID)
	if err != nil {
		return err
	}
	if err := s.here(ctx, g); err != nil {
		return err
	}
	if g.Server != r.SourceDomain {
		return mimiport.Errorf("init", mimiport.KindInvalid, "the group is hosted by %s", g.Server)
	}
	engine, err := s.engine(g.Protocol)
	if err != nil {
		return err
	}
	msg, err := engine.Parse(req.Message)
	if err != nil {
		return err
	}
	if msg.Kind != mls.KindCommit || r.Epoch != msg.Epoch {
		return broken(ruleMigrationCommit, "the message is not a Commit of epoch %d", r.Epoch)
	}
	if err := s.admits(g, msg); err != nil {
		return err
	}
	l, err := s.live(ctx, g)
	if err != nil {
		return err
	}
	rec, err := s.newSource(g, init, id, c, req)
	if err != nil {
		return err
	}
	st, err := s.migrationStep(ctx, c, g, l, rec, init, req)
	if err != nil {
		return err
	}
	content, err := s.content(ctx, g, l, st, init, req, min(s.Limits.GroupStateBytes, limits.GroupStateBytes))
	if err != nil {
		return err
	}
	signed, err := s.sign(g.Server, content)
	if err != nil {
		return err
	}
	rec.ContentKey = signed.KeyID
	rec.ContentHash = l.mls.Hash(signed.Message)
	rec.DecideBy = s.Now().Add(s.decideBy(len(signed.Message), g.CipherSuite, l.mls.NumMembers()))
	return s.stepRecord(ctx, rec, g, migration.Init{Content: signed.Message}, nil)
}

// migrationStep checks the migration Commit and the client's signature on the Init.
func (s *Service) migrationStep(ctx context.Context, c api.Caller, g *storage.Group, l *live, rec *migration.Migration, init *mimiport.MigrationInit, req *api.MigrationInitRequest) (*step, error) {
	if err := s.notAborted(ctx, g, req.Message); err != nil {
		return nil, err
	}
	st, err := s.commit(ctx, c, g, l, &req.SubmitRequest)
	if err != nil {
		return nil, err
	}
	entry, err := s.offeredEntry(ctx, rec.ID, rec.Target, req)
	if err != nil {
		return nil, err
	}
	if err := s.migrationCommit(rec, l.mls, st, entry); err != nil {
		return nil, err
	}
	tbs, err := init.TBS()
	if err != nil {
		return nil, err
	}
	return st, l.mls.VerifyMember(st.effects.Sender.Index, mimiport.MigrationInitLabel, tbs, init.Signature)
}

// decideBy is how long S waits for the vote: longer for more to send and for slower signatures to verify, MaxWait at most
// (profile, section 6).
func (s *Service) decideBy(bytes int, cipherSuite uint16, members int) time.Duration {
	const perMiB = 2 * time.Second
	return min(s.Limits.DecideBy+time.Duration(bytes>>20)*perMiB+time.Duration(members)*verifying(cipherSuite), storage.MaxWait)
}

// verifying is generously how long a target takes to verify one leaf of a group.
func verifying(cipherSuite uint16) time.Duration {
	switch cipherSuite {
	case 5: // P-521
		return 6 * time.Millisecond
	case 7: // P-384
		return 2 * time.Millisecond
	}
	return 500 * time.Microsecond
}

func (s *Service) newSource(g *storage.Group, init *mimiport.MigrationInit, id mimiport.MigrationID, c api.Caller, req *api.MigrationInitRequest) (*migration.Migration, error) {
	response, err := init.Response.Marshal()
	if err != nil {
		return nil, err
	}
	h := hash(req.Message)
	return &migration.Migration{
		ID: id, GroupID: g.ID, RoomID: g.RoomID, Term: g.Term + 1,
		Source: g.Server, Target: init.Response.Request.TargetDomain, User: c.UserID, ByAdmin: c.Admin, Epoch: g.Epoch,
		CreatedAt: s.Now(), CommitHash: h[:],
		Response: migration.Signed{Message: response, KeyID: req.KeyID},
	}, nil
}

// content is the MigrationContent for a migration Commit, unsigned.
func (s *Service) content(ctx context.Context, g *storage.Group, l *live, st *step, init *mimiport.MigrationInit, req *api.MigrationInitRequest, most int64) (*mimiport.MigrationContent, error) {
	state, err := s.groupState(ctx, g, l, st, req)
	if err != nil {
		return nil, err
	}
	if int64(len(state)) > most {
		return nil, mimiport.Errorf("init", mimiport.KindTooLarge, "the group_state has %d bytes, %d are allowed", len(state), most)
	}
	return &mimiport.MigrationContent{Response: init.Response, GroupState: state}, nil
}

// sendContent hands the content to the target and takes its answer.
func (s *Service) sendContent(ctx context.Context, row *storage.Row) error {
	m, err := s.record(ctx, row.Migration)
	if err != nil {
		return err
	}
	if m.State != migration.Frozen {
		return s.done(ctx, row)
	}
	if err := s.decide(ctx, migration.Source, m, api.Caller{}, nil); err != nil {
		return s.giveUp(ctx, row.Migration, row, err)
	}
	data, err := s.Store.Content(ctx, m.ID)
	if err != nil {
		return err
	}
	vote, err := s.Sender.PutContent(ctx, m.Source, m.Target, &api.ContentUpload{
		ID: m.ID, SHA256: sha256.Sum256(data), KeyID: m.ContentKey, DecideBy: m.DecideBy, Data: data,
	})
	switch {
	case finalRefusal(err):
		return s.giveUp(ctx, m.ID, row, err)
	case err != nil:
		return err
	case vote == nil:
		return &mimiport.Error{
			Op: "send content", Kind: mimiport.KindInProgress,
			Info: mimiport.Info{RetryAfter: frozenRetry}, Err: errors.New("the target is at work"),
		}
	}
	return s.voted(ctx, row, vote)
}

// finalRefusal says whether the target will never take this content. Anything that may pass is not: the deadline ends it.
func finalRefusal(err error) bool {
	switch mimiport.KindOf(err) {
	case mimiport.KindBadMessage, mimiport.KindTooLarge, mimiport.KindUnsupported, mimiport.KindInvalid, mimiport.KindBadSignature,
		mimiport.KindForbidden, mimiport.KindUnknownMigration, mimiport.KindConflict, mimiport.KindOfferExpired, mimiport.KindEnded,
		mimiport.KindWrongEpoch:
		return true
	case mimiport.KindQuota: // unless it is a rate limit
		var e *mimiport.Error
		return errors.As(err, &e) && e.Info.RetryAfter == 0
	}
	return false
}

// voted verifies the target's vote and decides. The decision, the fan-out of the Commit and the redirect are one transaction.
func (s *Service) voted(ctx context.Context, row *storage.Row, answer *api.SignedRequest) error {
	complete, err := mimiport.UnmarshalTargetMigrationComplete(answer.Message)
	if err != nil {
		return err
	}
	m, err := s.record(ctx, row.Migration)
	if err != nil {
		return err
	}
	if err := s.Keys.Verify(ctx, m.Target, answer.KeyID, complete); err != nil {
		return err
	}
	if err := s.decide(ctx, migration.Source, m, api.Caller{}, nil); err != nil {
		return s.giveUp(ctx, m.ID, row, err)
	}
	return s.takeEvent(ctx, m.ID, migration.Vote{
		Complete: migration.Signed{Message: answer.Message, KeyID: answer.KeyID}, ContentHash: complete.ContentHash, At: s.Now(),
	}, row)
}

// decidedStep is the step of the migration Commit, read back from the stored content: what was sent is what is accepted.
func (s *Service) decidedStep(ctx context.Context, m *migration.Migration, l *live) (*step, error) {
	data, err := s.Store.Content(ctx, m.ID)
	if err != nil {
		return nil, err
	}
	content, err := mimiport.UnmarshalMigrationContent(data)
	if err != nil {
		return nil, err
	}
	state, err := mimiport.UnmarshalGroupState(content.GroupState)
	if err != nil {
		return nil, err
	}
	next, effects, err := l.mls.Commit(state.Commit.Commit, state.Commit.GroupInfo)
	if err != nil {
		return nil, err
	}
	removed, err := identities(effects.Removed)
	if err != nil {
		return nil, err
	}
	entries := []storage.Entry{{
		Kind: storage.EntryCommit, Epoch: m.Epoch, Sender: m.User, Message: state.Commit.Commit, GroupInfo: state.Commit.GroupInfo,
		Recipients: removed, Migration: &m.ID,
	}}
	if n := len(state.Welcomes); n > 0 && state.Welcomes[n-1].Epoch == m.Epoch+1 {
		entries = append(entries, welcomeEntry(&state.Welcomes[n-1], m.User))
	}
	return &step{next, effects, entries}, nil
}

// signConfirmation is S's signed decision to move.
func (s *Service) signConfirmation(m *migration.Migration) (migration.Signed, error) {
	response, err := mimiport.UnmarshalMigrationResponse(m.Response.Message)
	if err != nil {
		return migration.Signed{}, err
	}
	return s.sign(m.Source, &mimiport.MigrationConfirmation{DomainName: m.Target, Nonce: response.Nonce, GroupID: m.GroupID})
}

// signAbort is S's signed decision not to move.
func (s *Service) signAbort(m *migration.Migration) (migration.Signed, error) {
	return s.sign(m.Source, &mimiport.MigrationAbort{MigrationID: m.ID, SourceDomain: m.Source})
}

// sign signs a message as a local server and encodes it.
func (s *Service) sign(server string, message interface {
	mimiport.Signed
	Marshal() ([]byte, error)
}) (migration.Signed, error) {
	keyID, err := s.Keys.Sign(server, message)
	if err != nil {
		return migration.Signed{}, err
	}
	data, err := message.Marshal()
	return migration.Signed{Message: data, KeyID: keyID}, err
}

// giveUp aborts a migration that is not decided, for a reason to tell.
func (s *Service) giveUp(ctx context.Context, id mimiport.MigrationID, row *storage.Row, reason error) error {
	return s.takeEvent(ctx, id, migration.GiveUp{Reason: reason.Error()}, row)
}

// AbortMigration implements API: for the migrating user, or whoever may migrate the group.
func (s *Service) AbortMigration(ctx context.Context, c api.Caller, id mimiport.MigrationID) (*api.MigrationStatus, error) {
	m, err := s.record(ctx, id)
	if err != nil {
		return nil, err
	}
	if m.Role != migration.Source {
		return nil, mimiport.Errorf("abort", mimiport.KindForbidden, "only the source aborts a migration")
	}
	if err := s.member(ctx, c, m.RoomID); err != nil {
		return nil, err
	}
	if c.UserID != m.User {
		if err := s.decide(ctx, migration.Source, m, c, nil); err != nil {
			return nil, err
		}
	}
	if err := s.giveUp(ctx, id, nil, fmt.Errorf("aborted by %s", c.UserID)); err != nil {
		return nil, err
	}
	if m, err = s.record(ctx, id); err != nil {
		return nil, err
	}
	return status(m), nil
}

// sendDecision hands the target the confirmation or the signed abort, until it has taken it.
func (s *Service) sendDecision(ctx context.Context, row *storage.Row) error {
	m, err := s.record(ctx, row.Migration)
	if err != nil {
		return err
	}
	if row.Kind == migration.RowAbort {
		if m.State != migration.Aborted { // it has been shown its own confirmation since: that is what it stands by
			return s.done(ctx, row)
		}
		abort, err := s.signAbort(m) // signed again: the key may have been rotated since
		if err != nil {
			return err
		}
		err = s.Sender.PutAbort(ctx, m.Source, m.Target, m.ID, &api.SignedRequest{Message: abort.Message, KeyID: abort.KeyID})
		if kind := mimiport.KindOf(err); err != nil && kind != mimiport.KindUnknownMigration && kind != mimiport.KindUnsupported {
			return err
		}
		return s.done(ctx, row)
	}
	confirmation, err := s.signConfirmation(m)
	if err != nil {
		return err
	}
	err = s.Sender.PutConfirmation(ctx, m.Source, m.Target, m.ID, &api.SignedRequest{Message: confirmation.Message, KeyID: confirmation.KeyID})
	if err != nil && mimiport.KindOf(err) != mimiport.KindUnsupported { // one that speaks only the draft is active since it voted
		return err
	}
	return s.takeEvent(ctx, m.ID, migration.Ack{}, row)
}

// logBytes and logEntries bound what of the log moves along.
const (
	logEntries = 1000
	logBytes   = 1 << 20
)

// groupState is the encoded group_state (profile, section 4).
func (s *Service) groupState(ctx context.Context, g *storage.Group, l *live, st *step, req *api.MigrationInitRequest) ([]byte, error) {
	lineage, err := mimiport.UnmarshalLineage(g.Lineage)
	if err != nil {
		return nil, err
	}
	state := &mimiport.GroupState{
		Base:    mimiport.BaseState{Protocol: g.Protocol, GroupInfo: l.mls.GroupInfo(), RatchetTree: l.mls.RatchetTree()},
		Commit:  mimiport.CommitState{Commit: req.Message, GroupInfo: req.GroupInfo},
		Lineage: *lineage,
	}
	for _, p := range st.effects.Proposals {
		if p.Ref != nil {
			state.Proposals = append(state.Proposals, p.Message)
		}
	}
	entries, err := s.recent(ctx, g)
	if err != nil {
		return nil, err
	}
	addLog(state, entries)
	for i := range st.entries[1:] {
		state.Welcomes = append(state.Welcomes, joiners(&st.entries[1+i])) // its own Welcome travels whatever the size
	}
	return state.Marshal()
}

// recent is the end of the log without application messages, as much of it as the bounds allow. It is never all in memory.
func (s *Service) recent(ctx context.Context, g *storage.Group) (tail []storage.Entry, err error) {
	from, size := uint64(1), 0
	if g.NextSeq > logEntries {
		from = g.NextSeq - logEntries
	}
	for {
		page, err := s.Store.Entries(ctx, g.Key(), from, logEntries)
		if err != nil || len(page) == 0 {
			return tail, err
		}
		for _, e := range page {
			if e.Kind != storage.EntryApplication {
				e.GroupInfo = nil // it does not travel
				tail, size = append(tail, e), size+len(e.Message)
			}
		}
		for size > logBytes {
			size -= len(tail[0].Message)
			tail = tail[1:]
		}
		from = page[len(page)-1].Seq + 1
	}
}

// addLog puts log entries into the state.
func addLog(state *mimiport.GroupState, entries []storage.Entry) {
	for i := range entries {
		switch e := &entries[i]; e.Kind {
		case storage.EntryProposal, storage.EntryCommit:
			state.Log = append(state.Log, mimiport.LogEntry{Epoch: e.Epoch, Message: e.Message})
		case storage.EntryWelcome:
			state.Welcomes = append(state.Welcomes, joiners(e))
		}
	}
}

func joiners(e *storage.Entry) mimiport.Joiners {
	return mimiport.Joiners{Epoch: e.Epoch, Welcome: e.Message, Identities: e.Recipients}
}

// welcomeEntry is the log entry for a Welcome that came with a group's state.
func welcomeEntry(j *mimiport.Joiners, sender string) storage.Entry {
	return storage.Entry{Kind: storage.EntryWelcome, Epoch: j.Epoch, Sender: sender, Message: j.Welcome, Recipients: j.Identities}
}
