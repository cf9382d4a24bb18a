package delivery

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"io"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// RequestMigration implements API. It stores the nonce before it returns the offer.
func (s *Service) RequestMigration(
	ctx context.Context, c api.Caller, req *api.MigrationRequestRequest,
) (*api.MigrationOffer, error) {
	r, err := mimiport.UnmarshalMigrationRequest(req.MigrationRequest)
	if err != nil {
		return nil, err
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	if !s.IsLocal(r.TargetDomain) || s.IsLocal(r.SourceDomain) {
		return nil, mimiport.Errorf(
			"request migration", mimiport.KindInvalid, "the migration is not from another server to this one",
		)
	}
	if c.UserID == "" {
		return nil, mimiport.Errorf("request migration", mimiport.KindForbidden, "this needs a user")
	}
	response := &mimiport.MigrationResponse{Request: *r}
	if _, err := io.ReadFull(s.Rand, response.Nonce[:]); err != nil {
		return nil, err
	}
	signed, err := s.sign(r.TargetDomain, response)
	if err != nil {
		return nil, err
	}
	now := s.Now()
	rec := migration.Migration{
		ID: response.ID(), GroupID: r.GroupID, RoomID: req.RoomID, Source: r.SourceDomain, Target: r.TargetDomain,
		User: c.UserID, Epoch: r.Epoch, CreatedAt: now, ExpiresAt: now.Add(s.Limits.OfferLife), Response: signed,
	}
	if err := s.decide(ctx, migration.Target, &rec, c, nil); err != nil {
		return nil, err
	}
	offer, err := s.senderOffer(ctx, &rec, req.SuiteRequest)
	if err != nil {
		return nil, err
	}
	err = s.groups.With(ctx, r.GroupID, func(h *registry.Held) error {
		return s.stepRecord(ctx, h, &rec, nil, migration.Offer{}, nil)
	})
	if err != nil {
		return nil, err
	}
	return &api.MigrationOffer{
		MigrationID: rec.ID.String(), MigrationResponse: signed.Message, KeyID: signed.KeyID,
		ExpiresAt:           rec.ExpiresAt.UnixMilli(),
		ExternalSenderOffer: offer,
	}, nil
}

// senderOffer returns the encoded, signed entry for external_senders, or nil if the request asks for none.
func (s *Service) senderOffer(ctx context.Context, m *migration.Migration, req api.SuiteRequest) ([]byte, error) {
	entry, err := s.senderEntry(ctx, m.Target, req)
	if len(entry) == 0 || err != nil {
		return nil, err
	}
	offer, err := s.sign(m.Target, &mimiport.ExternalSenderOffer{MigrationID: m.ID, ExternalSender: entry})
	return offer.Message, err
}

// PutContent takes the source's MigrationContent. It returns the vote, which is the same each time. It returns nil
// without an error while another request works on the content.
func (s *Service) PutContent(ctx context.Context, origin string, up *api.ContentUpload) (*api.SignedRequest, error) {
	end, ok := s.inWork.Take(up.ID)
	if !ok {
		return nil, nil
	}
	defer end()
	m, err := s.record(ctx, up.ID)
	if err != nil {
		return nil, err
	}
	if m.Role != migration.Target || m.Source != origin {
		return nil, mimiport.Errorf("stage", mimiport.KindForbidden, "the migration is not from %s", origin)
	}
	if m.State != migration.Offered {
		return s.vote(ctx, m, up)
	}
	if !s.Now().Before(m.ExpiresAt) {
		return nil, mimiport.Errorf("stage", mimiport.KindOfferExpired, "the offer expired")
	}
	vote, err := s.takeContent(ctx, m, up)
	if finalRefusal(err) { // it counts
		err = cmp.Or(s.takeEvent(ctx, m.ID, migration.RefusedContent{}, nil), err)
	}
	return vote, err
}

// takeContent verifies a content. It votes for the first one that verifies.
func (s *Service) takeContent(
	ctx context.Context, m *migration.Migration, up *api.ContentUpload,
) (*api.SignedRequest, error) {
	arrival, err := s.verifyContent(ctx, m, up)
	if err != nil {
		return nil, err
	}
	return s.stage(ctx, m, up, arrival)
}

// vote repeats the vote for the same content.
func (s *Service) vote(ctx context.Context, m *migration.Migration, up *api.ContentUpload) (*api.SignedRequest, error) {
	switch m.State {
	case migration.Staged, migration.Active:
		if !bytes.Equal(hashAs(m.ContentHash, up.Data), m.ContentHash) {
			return nil, s.takeSecondContent(ctx, m, up)
		}
		return voteOf(m), nil
	}
	return nil, mimiport.Errorf("stage", mimiport.KindEnded, "the migration has ended: %s", m.Reason)
}

// takeSecondContent refuses a second content for one offer, with evidence when the source has signed it.
func (s *Service) takeSecondContent(ctx context.Context, m *migration.Migration, up *api.ContentUpload) error {
	content, err := mimiport.UnmarshalMigrationContent(up.Data)
	if err != nil {
		return err
	}
	if err := s.requireSigned(ctx, m.Source, up.KeyID, content); err != nil {
		return err
	}
	return s.takeEvent(ctx, m.ID, migration.Content{
		Message:     migration.Signed{Message: proofOf(up.Data, content.Signature), KeyID: up.KeyID},
		ContentHash: hashAs(m.ContentHash, up.Data), At: s.Now(),
	}, nil)
}

// maxProof is the size in bytes up to which the server keeps all of a second content.
const maxProof = 64 << 10

// proofOf returns the proof that the server keeps of a second content that the source has signed. Of a small content it
// is all of it: anybody can verify this. Of a larger content it is the SHA-256 and the signature, together 96 bytes:
// only a party that has the content can verify them.
func proofOf(content, signature []byte) []byte {
	if len(content) <= maxProof {
		return content
	}
	sum := sha256.Sum256(content)
	return append(sum[:], signature...)
}

// hashAs hashes data with the hash function that gives values of value's length.
func hashAs(value, data []byte) []byte {
	switch len(value) {
	case sha512.Size:
		h := sha512.Sum512(data)
		return h[:]
	case sha512.Size384:
		h := sha512.Sum384(data)
		return h[:]
	}
	h := sha256.Sum256(data)
	return h[:]
}

// arrival is a content that has passed every check.
type arrival struct {
	state *mimiport.GroupState
	live  *registry.Live // the first epoch here
	hash  []byte
}

// verifyContent checks all of a MigrationContent. It trusts the source only for "this is the branch I accepted"
// (profile, section 4).
func (s *Service) verifyContent(ctx context.Context, m *migration.Migration, up *api.ContentUpload) (*arrival, error) {
	content, err := mimiport.UnmarshalMigrationContent(up.Data)
	if err != nil {
		return nil, err
	}
	response, err := content.Response.Marshal()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(response, m.Response.Message) {
		return nil, mimiport.Errorf("stage", mimiport.KindInvalid, "the MigrationResponse is not the one given out")
	}
	if _, err := proof.Verify(ctx, s.Keys, m.Source, up.KeyID, content, s.Now(), proof.Live); err != nil {
		return nil, err
	}
	if int64(len(content.GroupState)) > s.Limits.GroupStateBytes {
		return nil, mimiport.Errorf(
			"stage", mimiport.KindTooLarge, "the group_state has %d bytes, %d are allowed", len(content.GroupState),
			s.Limits.GroupStateBytes,
		)
	}
	state, err := mimiport.UnmarshalGroupState(content.GroupState)
	if err != nil {
		return nil, err
	}
	lineage, err := s.requireHistory(ctx, m, &state.Lineage)
	if err != nil {
		return nil, err
	}
	state.Lineage = *lineage
	live, err := s.derive(ctx, m, state)
	if err != nil {
		return nil, err
	}
	found := &arriving{members: live.MLS.NumMembers(), foreignID: state.Lineage.Preimage == nil}
	if err := s.decide(ctx, migration.Target, m, api.Caller{}, found); err != nil {
		return nil, err
	}
	return &arrival{state, live, live.MLS.Hash(up.Data)}, nil
}

// derive opens the group at the epoch of the request and applies the migration Commit itself. The group shares no
// memory with the content, which may be much larger.
func (s *Service) derive(
	ctx context.Context, m *migration.Migration, state *mimiport.GroupState,
) (*registry.Live, error) {
	defer s.Metrics.checking()()
	engine, err := s.Engines.Find(state.Base.Protocol)
	if err != nil {
		return nil, err
	}
	base, err := engine.Open(bytes.Clone(state.Base.GroupInfo), bytes.Clone(state.Base.RatchetTree))
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(base.ID(), m.GroupID) || base.Epoch() != m.Epoch {
		return nil, mimiport.Errorf("stage", mimiport.KindInvalid, "the base is not the group and epoch of the offer")
	}
	for _, p := range state.Proposals {
		if base, _, err = base.Propose(bytes.Clone(p)); err != nil {
			return nil, err
		}
	}
	next, effects, err := base.Commit(bytes.Clone(state.Commit.Commit), bytes.Clone(state.Commit.GroupInfo))
	if err != nil {
		return nil, err
	}
	entry, err := s.senderEntry(
		ctx, m.Target, api.SuiteRequest{Protocol: base.Protocol(), CipherSuite: base.CipherSuite()},
	)
	if err != nil {
		return nil, err
	}
	room, err := s.Rooms.Room(ctx, m.RoomID)
	if err != nil {
		return nil, err
	}
	step := &registry.Accepted{Next: next, Effects: effects}
	if err := s.requireMigrationCommit(ctx, room, m, base, step, entry); err != nil {
		return nil, err
	}
	if err := s.requireOwnKey(ctx, m.Target, next, next.ExternalSenders()); err != nil {
		return nil, err
	}
	if err := requireOwnLeaf(api.Caller{UserID: m.User}, effects.Committer); err != nil {
		return nil, err
	}
	return registry.NewLive(next, firstSeq)
}

// firstSeq is the number of the first message that a target accepts itself.
const firstSeq = 1

// stage stores the derived group, keeps it in memory, and votes.
func (s *Service) stage(
	ctx context.Context, m *migration.Migration, up *api.ContentUpload, a *arrival,
) (*api.SignedRequest, error) {
	g, err := s.newTerm(ctx, storage.GroupKey{ID: m.GroupID, Term: a.state.Lineage.Term() + 1})
	if err != nil {
		return nil, err
	}
	commitHash := hash(a.state.Commit.Commit)
	ready, err := m.Step(stateOf(g), migration.Content{
		Message: migration.Signed{Message: up.Data, KeyID: up.KeyID}, ContentHash: a.hash, CommitHash: commitHash[:],
		RoomID: a.state.Lineage.RoomID, Term: g.Term, DecideBy: up.DecideBy, At: s.Now(),
	})
	if err != nil {
		return nil, refusal(err)
	}
	if ready.Migration.State != migration.Staged {
		return nil, mimiport.Errorf("stage", mimiport.KindOfferExpired, "%s", ready.Migration.Reason)
	}
	change, err := s.stageChange(ctx, m, g, &ready, a)
	if err != nil {
		return nil, err
	}
	if err := s.apply(ctx, change); errors.Is(err, storage.ErrConflict) {
		return nil, nil // the record has changed meanwhile: the next request gets the answer
	} else if err != nil {
		return nil, err
	}
	s.groups.Keep(a.live, &change.Snapshots[0])
	return voteOf(&ready.Migration), nil
}

// voteOf returns the vote in the answer to the source.
func voteOf(m *migration.Migration) *api.SignedRequest {
	return &api.SignedRequest{Message: m.Complete.Message, KeyID: m.Complete.KeyID, Vote: m.Vote}
}

// newTerm returns the row that a group's row of a new term replaces: the stored row, or an empty row that is not stored
// yet.
func (s *core) newTerm(ctx context.Context, key storage.GroupKey) (*storage.Group, error) {
	g, err := s.Store.GroupAt(ctx, key)
	if errors.Is(err, storage.ErrNotFound) {
		return &storage.Group{ID: key.ID, Term: key.Term}, nil
	}
	return g, err
}

// stageChange returns the change that replaces the row old with the staged group. No request can reach this group
// before the decision.
func (s *Service) stageChange(
	ctx context.Context, m *migration.Migration, old *storage.Group, r *migration.Ready, a *arrival,
) (*storage.Change, error) {
	lineage, err := a.state.Lineage.Marshal()
	if err != nil {
		return nil, err
	}
	state := a.live.MLS
	g := &storage.Group{
		ID: m.GroupID, Term: old.Term, Version: old.Version,
		Server: m.Target, RoomID: a.state.Lineage.RoomID, Creator: m.User,
		Protocol: state.Protocol(), CipherSuite: state.CipherSuite(), Epoch: state.Epoch(), NextSeq: firstSeq,
		Members: state.NumMembers(),
		Lineage: lineage, CreatedAt: s.Now(),
	}
	log, err := s.imported(m, a)
	if err != nil {
		return nil, err
	}
	change, err := s.change(ctx, m, g, r)
	if err != nil {
		return nil, err
	}
	if change.Former, err = storedFormer(g.Key(), log); err != nil {
		return nil, err
	}
	change.Snapshots = []storage.Snapshot{a.live.Snapshot(g)}
	return change, nil
}

// ConfirmMigration implements API. Anybody may show the decision.
func (s *Service) ConfirmMigration(
	ctx context.Context, c api.Caller, id mimiport.MigrationID, req *api.SignedRequest,
) (*api.MigrationStatus, error) {
	m, err := s.targetRecord(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := s.confirm(ctx, m, req); err != nil {
		return nil, err
	}
	if m, err = s.record(ctx, id); err != nil {
		return nil, err
	}
	return status(m), nil
}

func (s *Service) targetRecord(ctx context.Context, id mimiport.MigrationID) (*migration.Migration, error) {
	m, err := s.record(ctx, id)
	if err == nil && m.Role != migration.Target {
		return nil, mimiport.Errorf("decide", mimiport.KindInvalid, "this server is the migration's source")
	}
	return m, err
}

// confirm compares S's decision with the record, verifies its signature, and activates the group.
func (s *Service) confirm(ctx context.Context, m *migration.Migration, req *api.SignedRequest) error {
	offer, err := mimiport.UnmarshalMigrationResponse(m.Response.Message)
	if err != nil {
		return err
	}
	confirmation, err := proof.Decision(offer, req.Message)
	if err != nil {
		return err
	}
	if m.State == migration.Offered {
		return mimiport.Errorf("confirm", mimiport.KindConflict, "no content has come for this migration")
	}
	key, err := proof.Verify(ctx, s.Keys, m.Source, req.KeyID, confirmation, m.CreatedAt, proof.Known)
	if err != nil {
		return err
	}
	signed := migration.Signed{Message: req.Message, KeyID: req.KeyID, KeyObject: key.Object}
	if err := s.takeEvent(ctx, m.ID, migration.Confirm{Confirmation: signed}, nil); err != nil {
		return err
	}
	if m, err = s.record(ctx, m.ID); err != nil {
		return err
	}
	if m.State != migration.Active { // the source must not believe that the target is active
		return mimiport.Errorf("confirm", mimiport.KindEnded, "the migration has ended: %s", m.Reason)
	}
	return s.takeMigrationReceipt(ctx, m, req.Receipt)
}

// AbortFromSource takes the source's signed abort.
func (s *Service) AbortFromSource(
	ctx context.Context, origin string, id mimiport.MigrationID, req *api.SignedRequest,
) error {
	m, err := s.targetRecord(ctx, id)
	if err != nil {
		return err
	}
	if m.Source != origin {
		return mimiport.Errorf("abort", mimiport.KindForbidden, "the migration is not from %s", origin)
	}
	return s.takeAbort(ctx, m, req)
}

func (s *Service) takeAbort(ctx context.Context, m *migration.Migration, req *api.SignedRequest) error {
	abort, err := mimiport.UnmarshalMigrationAbort(req.Message)
	if err != nil {
		return err
	}
	if abort.MigrationID != m.ID || abort.SourceDomain != m.Source {
		return mimiport.Errorf("abort", mimiport.KindInvalid, "the MigrationAbort is for another migration")
	}
	if _, err := proof.Verify(ctx, s.Keys, m.Source, req.KeyID, abort, m.CreatedAt, proof.Known); err != nil {
		return err
	}
	signed := migration.Signed{Message: req.Message, KeyID: req.KeyID}
	return s.takeEvent(ctx, m.ID, migration.SourceAbort{Abort: signed}, nil)
}

// DropStaged ends a migration at its target when the source will never answer. The target's vote is a promise. So
// DropStaged is for operators, and is unsafe unless the operator knows that the source has aborted or was lost before
// its decision.
func (s *Service) DropStaged(ctx context.Context, id mimiport.MigrationID) (*api.MigrationStatus, error) {
	m, err := s.targetRecord(ctx, id)
	if err != nil {
		return nil, err
	}
	s.Log.Warn("an operator drops a migration", "migration_id", id, "state", m.State, "source", m.Source)
	if err := s.takeEvent(ctx, id, migration.OperatorDrop{}, nil); err != nil {
		return nil, err
	}
	return s.AdminMigration(ctx, id)
}

// ask asks the source how a staged migration ended. The answer is a hint: only signed bytes change the record.
func (s *Service) ask(ctx context.Context, row *storage.Row) error {
	m, err := s.record(ctx, row.Migration)
	if err != nil {
		return err
	}
	if m.State != migration.Staged {
		return s.done(ctx, row)
	}
	there, err := s.Sender.AskStatus(ctx, m.Target, m.Source, m.ID)
	if err != nil {
		return err
	}
	switch {
	case there.Confirmation != nil:
		err = s.confirm(ctx, m, &api.SignedRequest{
			Message: there.Confirmation.Message, KeyID: there.Confirmation.KeyID, Receipt: there.Receipt,
		})
	case there.Abort != nil:
		err = s.takeAbort(ctx, m, &api.SignedRequest{Message: there.Abort.Message, KeyID: there.Abort.KeyID})
	default:
		err = mimiport.Errorf("ask source", mimiport.KindInProgress, "the source says that the migration is %s", there.State)
	}
	if err != nil {
		return err
	}
	return s.done(ctx, row)
}
