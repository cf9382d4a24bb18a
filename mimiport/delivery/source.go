package delivery

import (
	"bytes"
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
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// InitMigration implements API. A repeated Init, also for a migration that has ended, gets the outcome and never a
// second freeze.
func (s *Service) InitMigration(
	ctx context.Context, c api.Caller, id mimiport.MigrationID, req *api.MigrationInitRequest,
) (*api.MigrationStatus, error) {
	if err := s.requireSize("init", &req.SubmitRequest); err != nil {
		return nil, err
	}
	init, err := mimiport.UnmarshalMigrationInit(req.MigrationInit)
	if err != nil {
		return nil, err
	}
	if init.Response.ID() != id {
		return nil, mimiport.Errorf(
			"init", mimiport.KindBadMessage, "the MigrationInit is for migration %s", init.Response.ID(),
		)
	}
	rec, err := s.Store.Migration(ctx, id)
	if errors.Is(err, storage.ErrNotFound) {
		err = s.init(ctx, c, init, req)
		if begun, none := s.Store.Migration(ctx, id); none == nil { // by this Init, or by the same one at the same time
			rec, err = begun, nil
		}
	}
	if err != nil {
		return nil, err
	}
	if rec.Role != migration.Source {
		return nil, mimiport.Errorf("init", mimiport.KindInvalid, "this server is the migration's target")
	}
	if rec.User != c.UserID {
		return nil, mimiport.Errorf("init", mimiport.KindForbidden, "the migration is another user's")
	}
	return s.outcome(ctx, id)
}

// outcome waits at most Limits.Wait for the decision on a migration, and returns its status.
func (s *Service) outcome(ctx context.Context, id mimiport.MigrationID) (*api.MigrationStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, s.Limits.Wait)
	defer cancel()
	defer s.waits.begin(id)()
	for {
		changed := s.waits.changed(id)
		rec, err := s.record(context.WithoutCancel(ctx), id)
		if err != nil {
			return nil, err
		}
		if rec.State != migration.Frozen {
			return s.statusOf(context.WithoutCancel(ctx), rec)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return status(rec), nil
		}
	}
}

// initiation is a MigrationInit, and the record that it begins.
type initiation struct {
	caller api.Caller
	init   *mimiport.MigrationInit
	req    *api.MigrationInitRequest
	record *migration.Migration
	limits *api.TargetLimits // what the target takes
}

// init freezes the group for a migration. It makes all requests to other servers before it holds the group.
func (s *Service) init(
	ctx context.Context, c api.Caller, init *mimiport.MigrationInit, req *api.MigrationInitRequest,
) error {
	r := &init.Response.Request
	if err := r.Validate(); err != nil {
		return err
	}
	if !s.IsLocal(r.SourceDomain) || s.IsLocal(r.TargetDomain) {
		return mimiport.Errorf("init", mimiport.KindInvalid, "the migration is not from this server to another one")
	}
	g, err := s.groups.Group(ctx, r.GroupID)
	if err != nil {
		return err
	}
	if err := s.requireReader(ctx, c, g); err != nil {
		return err
	}
	in := &initiation{caller: c, init: init, req: req}
	if in.record, err = s.newSource(g, in); err != nil {
		return err
	}
	if err := s.decide(ctx, migration.Source, in.record, c, nil); err != nil {
		return err
	}
	if err := s.requireFreezable(ctx, in.record); err != nil {
		return err // before this server connects to the target
	}
	if err := s.requireSigned(ctx, r.TargetDomain, req.KeyID, &init.Response); err != nil {
		return err
	}
	if in.limits, err = s.probe(ctx, &init.Response, g.Protocol); err != nil {
		return err
	}
	return s.withKnown(ctx, r.GroupID, g.RoomID, func(h *registry.Held, k *known) error {
		return s.freeze(ctx, h, in, k)
	})
}

// probe asks the target before the freeze whether it answers, knows its offer, and speaks the group's protocol. It
// returns the limits of the target.
func (s outgoing) probe(
	ctx context.Context, offer *mimiport.MigrationResponse, protocol string,
) (*api.TargetLimits, error) {
	const op = "probe target"
	there, err := s.Sender.AskStatus(ctx, offer.Request.SourceDomain, offer.Request.TargetDomain, offer.ID())
	if mimiport.KindOf(err) == mimiport.KindUnrecognized { // a target that speaks only the draft does not have this route
		return &api.TargetLimits{GroupStateBytes: s.Limits.GroupStateBytes}, nil
	}
	if err != nil {
		return nil, err
	}
	if there.State != string(migration.Offered) {
		return nil, mimiport.Errorf(op, mimiport.KindOfferExpired, "the target says that its offer is %s", there.State)
	}
	limits := there.Limits
	if limits == nil { // a target that states no limits may refuse the content later
		return &api.TargetLimits{GroupStateBytes: s.Limits.GroupStateBytes}, nil
	}
	if !slices.Contains(limits.Protocols, protocol) {
		return nil, mimiport.Errorf(op, mimiport.KindUnsupported, "the target does not speak %q", protocol)
	}
	return limits, nil
}

// freeze checks the Init against the group's present state and stores the migration with its content.
func (s *Service) freeze(ctx context.Context, h *registry.Held, in *initiation, k *known) error {
	if _, err := s.Store.Migration(ctx, in.record.ID); !errors.Is(err, storage.ErrNotFound) {
		return err // the same Init came twice at once: the answer is the outcome of the first
	}
	sub, err := s.migrationSubmission(ctx, h, in)
	if err != nil {
		return err
	}
	if sub.room, err = k.of(sub.group); err != nil {
		return err
	}
	sub.known = k
	if in.record, err = s.newSource(sub.group, in); err != nil {
		return err
	}
	if err := s.judge(ctx, facts(sub.room, migration.Source, in.record, in.caller)); err != nil {
		return err
	}
	a, err := s.migrationCommit(ctx, sub, in)
	if err != nil {
		return err
	}
	content, err := s.content(ctx, sub, in, a)
	if err != nil {
		return err
	}
	signed, err := s.sign(sub.group.Server, content)
	if err != nil {
		return err
	}
	in.record.ContentKey = signed.KeyID
	in.record.ContentHash = sub.live.MLS.Hash(signed.Message)
	in.record.DecideBy = s.Now().Add(s.decideBy(len(signed.Message), sub.live.MLS))
	if err := k.requireCurrent(); err != nil {
		return err
	}
	return s.stepRecord(ctx, h, in.record, sub.group, migration.Init{Content: signed.Message}, nil)
}

// migrationSubmission returns the migration Commit of an Init with its group. It fails unless the group's state allows
// the Commit.
func (s *Service) migrationSubmission(ctx context.Context, h *registry.Held, in *initiation) (*submission, error) {
	r := &in.init.Response.Request
	g, err := h.Group(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.requireHosted(ctx, g); err != nil {
		return nil, err
	}
	if g.Server != r.SourceDomain {
		return nil, mimiport.Errorf("init", mimiport.KindInvalid, "the group is hosted by %s", g.Server)
	}
	engine, err := s.Engines.Find(g.Protocol)
	if err != nil {
		return nil, err
	}
	sub := &submission{caller: in.caller, held: h, group: g, req: &in.req.SubmitRequest}
	if sub.msg, err = engine.Parse(in.req.Message); err != nil {
		return nil, err
	}
	if sub.msg.Kind != mls.KindCommit || r.Epoch != sub.msg.Epoch {
		return nil, broken(ruleMigrationCommit, "the message is not a Commit of epoch %d", r.Epoch)
	}
	if err := requireAdmissible(g, sub.msg); err != nil {
		return nil, err
	}
	if err := s.requireKnown(ctx, g, in.req.Known); err != nil {
		return nil, err
	}
	sub.live, err = h.Live(ctx, g)
	return sub, err
}

// migrationCommit checks the migration Commit and the client's signature on the Init.
func (s *Service) migrationCommit(ctx context.Context, sub *submission, in *initiation) (*registry.Accepted, error) {
	if err := s.requireNotAborted(ctx, sub.group, in.req.Message); err != nil {
		return nil, err
	}
	a, err := s.commit(ctx, sub)
	if err != nil {
		return nil, err
	}
	entry, err := s.offeredEntry(ctx, in.record.ID, in.record.Target, in.req)
	if err != nil {
		return nil, err
	}
	if err := s.requireMigrationCommit(ctx, sub.room, in.record, sub.live.MLS, a, entry); err != nil {
		return nil, err
	}
	tbs, err := in.init.TBS()
	if err != nil {
		return nil, err
	}
	err = sub.live.MLS.VerifyMember(a.Effects.Sender.Index, mimiport.MigrationInitLabel, tbs, in.init.Signature)
	if err != nil {
		return nil, err
	}
	return a, s.requireDeviceKeys(ctx, sub.group, a.Next, sub.incomers(a.Effects), sub.known.leaves)
}

// decideBy returns the time that S waits for the vote. It grows with the bytes to send and with the time to verify the
// signatures, up to MaxWait (profile, section 6).
func (s outgoing) decideBy(bytes int, g mls.Group) time.Duration {
	const perMiB = 2 * time.Second
	return min(
		s.Limits.DecideBy+time.Duration(bytes>>20)*perMiB+time.Duration(g.NumMembers())*verifying(g.CipherSuite()),
		storage.MaxWait,
	)
}

// verifying is a generous estimate of the time that a target needs to verify one leaf of a group.
func verifying(cipherSuite uint16) time.Duration {
	switch cipherSuite {
	case 5: // P-521
		return 6 * time.Millisecond
	case 7: // P-384
		return 2 * time.Millisecond
	}
	return 500 * time.Microsecond
}

// newSource returns the record that an Init for a group begins.
func (s outgoing) newSource(g *storage.Group, in *initiation) (*migration.Migration, error) {
	offer := &in.init.Response
	response, err := offer.Marshal()
	if err != nil {
		return nil, err
	}
	h := hash(in.req.Message)
	return &migration.Migration{
		ID: offer.ID(), GroupID: g.ID, RoomID: g.RoomID, Term: g.Term + 1,
		Source: g.Server, Target: offer.Request.TargetDomain, User: in.caller.UserID, ByAdmin: in.caller.Admin,
		Epoch:     g.Epoch,
		CreatedAt: s.Now(), CommitHash: h[:],
		Response: migration.Signed{Message: response, KeyID: in.req.KeyID},
	}, nil
}

// content returns the unsigned MigrationContent for a migration Commit.
func (s outgoing) content(
	ctx context.Context, sub *submission, in *initiation, a *registry.Accepted,
) (*mimiport.MigrationContent, error) {
	state, err := s.groupState(ctx, sub, a)
	if err != nil {
		return nil, err
	}
	if most := min(s.Limits.GroupStateBytes, in.limits.GroupStateBytes); int64(len(state)) > most {
		return nil, mimiport.Errorf(
			"init", mimiport.KindTooLarge, "the group_state has %d bytes, %d are allowed", len(state), most,
		)
	}
	return &mimiport.MigrationContent{Response: in.init.Response, GroupState: state}, nil
}

// sendContent sends the content to the target and takes its answer.
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
	return s.takeVote(ctx, row, vote)
}

// finalRefusal reports whether the target will never take this content. An error that may pass is not final: then the
// deadline ends the migration.
func finalRefusal(err error) bool {
	switch mimiport.KindOf(err) {
	case mimiport.KindBadMessage, mimiport.KindTooLarge, mimiport.KindUnsupported, mimiport.KindInvalid,
		mimiport.KindBadSignature, mimiport.KindForbidden, mimiport.KindUnknownMigration, mimiport.KindWrongEpoch,
		mimiport.KindConflict, mimiport.KindEnded, mimiport.KindOfferExpired:
		return true
	}
	return false
}

// takeVote verifies the target's vote and decides. The decision, the fan-out of the Commit and the redirect are one
// transaction.
func (s *Service) takeVote(ctx context.Context, row *storage.Row, answer *api.SignedRequest) error {
	complete, err := mimiport.UnmarshalTargetMigrationComplete(answer.Message)
	if err != nil {
		return err
	}
	m, err := s.record(ctx, row.Migration)
	if err != nil {
		return err
	}
	if err := s.requireSigned(ctx, m.Target, answer.KeyID, complete); err != nil {
		return err
	}
	// A vote for another content does not count: this server asks the target again until decide_by.
	if !bytes.Equal(complete.ContentHash, m.ContentHash) {
		return mimiport.Errorf("take vote", mimiport.KindInvalid, "the vote is for another content")
	}
	if err := s.requireNamed(ctx, m, answer); err != nil {
		return err
	}
	var refused error
	err = s.withKnown(ctx, m.GroupID, m.RoomID, func(h *registry.Held, k *known) error {
		if refused = s.judge(ctx, facts(k.room, migration.Source, m, api.Caller{})); refused != nil {
			return nil
		}
		if err := k.requireCurrent(); err != nil {
			return err
		}
		return s.takeHeld(ctx, h, m.ID, migration.Vote{
			Complete:    migration.Signed{Message: answer.Message, KeyID: answer.KeyID},
			Vote:        answer.Vote,
			ContentHash: complete.ContentHash, At: s.Now(),
		}, row)
	})
	if refused != nil {
		return s.giveUp(ctx, m.ID, row, refused)
	}
	return err
}

// requireNamed fails if the vote comes with a MigrationVote that the target has not signed for this migration. A target
// that speaks only the draft sends no MigrationVote.
func (s *core) requireNamed(ctx context.Context, m *migration.Migration, answer *api.SignedRequest) error {
	if len(answer.Vote) == 0 {
		return nil
	}
	vote, err := mimiport.UnmarshalMigrationVote(answer.Vote)
	if err != nil {
		return err
	}
	if vote.MigrationID != m.ID || vote.Term != m.Term || !bytes.Equal(vote.ContentHash, m.ContentHash) {
		return mimiport.Errorf("take vote", mimiport.KindInvalid, "the MigrationVote is for another migration")
	}
	return s.requireSigned(ctx, m.Target, answer.KeyID, vote)
}

// decidedCommit returns the log entries of the migration Commit. It reads the Commit from the stored content, so that
// the source accepts exactly the Commit that it has sent.
func (s *core) decidedCommit(
	ctx context.Context, m *migration.Migration, l *registry.Live,
) (*registry.Accepted, error) {
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
	next, effects, err := l.MLS.Commit(state.Commit.Commit, state.Commit.GroupInfo)
	if err != nil {
		return nil, err
	}
	removed, err := registry.Identities(effects.Removed)
	if err != nil {
		return nil, err
	}
	entries := []storage.Entry{{
		Kind: storage.EntryCommit, Epoch: m.Epoch, Sender: m.User, Message: state.Commit.Commit,
		GroupInfo:  state.Commit.GroupInfo,
		Recipients: removed, Migration: &m.ID,
	}}
	if n := len(state.Welcomes); n > 0 && state.Welcomes[n-1].Epoch == m.Epoch+1 {
		entries = append(entries, welcomeEntry(&state.Welcomes[n-1], m.User))
	}
	return &registry.Accepted{Next: next, Effects: effects, Entries: entries}, nil
}

// signConfirmation returns S's signed decision to move.
func (s *core) signConfirmation(m *migration.Migration) (migration.Signed, error) {
	response, err := mimiport.UnmarshalMigrationResponse(m.Response.Message)
	if err != nil {
		return migration.Signed{}, err
	}
	return s.sign(
		m.Source, &mimiport.MigrationConfirmation{DomainName: m.Target, Nonce: response.Nonce, GroupID: m.GroupID},
	)
}

// signAbort returns S's signed decision not to move.
func (s *core) signAbort(m *migration.Migration) (migration.Signed, error) {
	return s.sign(m.Source, &mimiport.MigrationAbort{MigrationID: m.ID, SourceDomain: m.Source})
}

// giveUp aborts an undecided migration. The status of the migration shows the reason.
func (s *Service) giveUp(ctx context.Context, id mimiport.MigrationID, row *storage.Row, reason error) error {
	return s.takeEvent(ctx, id, migration.GiveUp{Reason: reason.Error()}, row)
}

// AbortMigration implements API. The migrating user may abort, and every user who may migrate the group.
func (s *Service) AbortMigration(
	ctx context.Context, c api.Caller, id mimiport.MigrationID,
) (*api.MigrationStatus, error) {
	m, err := s.record(ctx, id)
	if err != nil {
		return nil, err
	}
	if m.Role != migration.Source {
		return nil, mimiport.Errorf("abort", mimiport.KindForbidden, "only the source aborts a migration")
	}
	g, err := s.groups.Group(ctx, m.GroupID)
	if err != nil {
		return nil, err
	}
	if err := s.requireReader(ctx, c, g); err != nil {
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

// sendDecision sends the confirmation or the signed abort to the target. The row stays until the target has taken the
// decision.
func (s *Service) sendDecision(ctx context.Context, row *storage.Row) error {
	m, err := s.record(ctx, row.Migration)
	if err != nil {
		return err
	}
	if row.Kind == migration.RowAbort {
		if m.State != migration.Aborted { // this server was shown its own confirmation meanwhile, and sends that
			return s.done(ctx, row)
		}
		abort, err := s.signAbort(m) // signed anew: the key may have been rotated
		if err != nil {
			return err
		}
		err = s.Sender.PutAbort(ctx, m.Source, m.Target, m.ID, &api.SignedRequest{Message: abort.Message, KeyID: abort.KeyID})
		switch mimiport.KindOf(err) {
		case mimiport.KindUnknownMigration, mimiport.KindUnrecognized:
			err = nil // the target has nothing to abort
		}
		if err != nil {
			return err
		}
		return s.done(ctx, row)
	}
	confirmation, err := s.signConfirmation(m)
	if err != nil {
		return err
	}
	receipt, err := s.migrationReceipt(ctx, m)
	if err != nil {
		return err
	}
	err = s.Sender.PutConfirmation(ctx, m.Source, m.Target, m.ID, &api.SignedRequest{
		Message: confirmation.Message, KeyID: confirmation.KeyID, Receipt: receipt,
	})
	// A target that speaks only the draft is active since its vote. Any other target lacks this module only for a while.
	if err != nil && (m.Vote != nil || mimiport.KindOf(err) != mimiport.KindUnrecognized) {
		return err
	}
	return s.takeEvent(ctx, m.ID, migration.Ack{}, row)
}
