package delivery

import (
	"context"
	"strconv"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// peerPatience is the longest wait for the other server of a migration.
const peerPatience = 10 * time.Second

// AdminMessages shows a migration to an operator as the draft's seven messages, with its state on both sides. It asks
// the other server, for at most peerPatience. The error is KindUnknownMigration if there is no such migration here.
func (s overviews) AdminMessages(ctx context.Context, id mimiport.MigrationID) (*api.MigrationMessages, error) {
	m, err := s.record(ctx, id)
	if err != nil {
		return nil, err
	}
	messages, err := messagesOf(m)
	if err != nil {
		return nil, err
	}
	return &api.MigrationMessages{Migration: status(m), Peer: s.otherSide(ctx, m), Messages: messages}, nil
}

// otherSide asks the other server of a migration for its state.
func (s overviews) otherSide(ctx context.Context, m *migration.Migration) api.MigrationPeer {
	own, other := m.Source, m.Target
	if m.Role == migration.Target {
		own, other = other, own
	}
	ctx, cancel := context.WithTimeout(ctx, peerPatience)
	defer cancel()
	there, err := s.Sender.AskStatus(ctx, own, other, m.ID)
	switch {
	case mimiport.KindOf(err) == mimiport.KindUnknownMigration:
		return api.MigrationPeer{Server: other}
	case err != nil:
		return api.MigrationPeer{Server: other, Error: mimiport.Clip(err.Error())}
	}
	return api.MigrationPeer{Server: other, State: mimiport.Clip(there.State), UpdatedAt: there.UpdatedAt}
}

// messagesOf lists the draft's seven messages, as far as a record has them. An abort takes the place of the
// confirmation.
func messagesOf(m *migration.Migration) ([]api.MigrationMessage, error) {
	response, err := responseFields(m.Response)
	if err != nil {
		return nil, err
	}
	vote, err := completeFields(m.Complete)
	if err != nil {
		return nil, err
	}
	decision, err := decisionOf(m)
	if err != nil {
		return nil, err
	}
	const notKept = "This server does not keep its signature."
	all := []api.MigrationMessage{
		{Name: "MigrationRequest", From: m.User, To: m.Target, Progress: api.ProgressDone, Fields: map[string]string{
			"source_domain_name": m.Source, "target_domain_name": m.Target, "group_id": mimiport.IDText(m.GroupID),
			"epoch": strconv.FormatUint(m.Epoch, 10),
		}},
		{Name: "MigrationResponse", From: m.Target, To: m.User, Progress: api.ProgressDone, Fields: response},
		{Name: "MigrationInit", From: m.User, To: m.Source, Note: notKept,
			Progress: progress(m, m.Role == migration.Source || m.CommitHash != nil)},
		{Name: "MigrationCommitAAD", From: m.User, To: m.Source, Progress: progress(m, m.CommitHash != nil),
			Note: "It is in the Commit that ends the epoch."},
		{Name: "MigrationContent", From: m.Source, To: m.Target, Progress: progress(m, m.ContentHash != nil),
			Note: "It is the state of the group, which the target checks."},
		{Name: "TargetMigrationComplete", From: m.Target, To: m.Source, Progress: progress(m, vote != nil), Fields: vote},
		*decision,
	}
	if m.CommitHash != nil {
		all[3].Fields = map[string]string{
			"target_ds_domain": m.Target, "commit_sha256": mimiport.IDText(m.CommitHash),
			"epoch": strconv.FormatUint(m.Epoch, 10),
		}
	}
	if m.ContentHash != nil {
		all[4].Fields = map[string]string{
			"migration_content_hash": mimiport.IDText(m.ContentHash), "key_id": m.ContentKey,
		}
	}
	return all, nil
}

// progress says how far a message is that a record shows, or does not show.
func progress(m *migration.Migration, made bool) api.Progress {
	switch {
	case made:
		return api.ProgressDone
	case m.State.Ended():
		return api.ProgressNever
	}
	return api.ProgressAwaited
}

func responseFields(signed migration.Signed) (map[string]string, error) {
	if signed.Message == nil {
		return nil, nil
	}
	r, err := mimiport.UnmarshalMigrationResponse(signed.Message)
	if err != nil {
		return nil, err
	}
	return map[string]string{
		"nonce": mimiport.IDText(r.Nonce[:]), "signature": mimiport.IDText(r.Signature), "key_id": signed.KeyID,
	}, nil
}

func completeFields(signed migration.Signed) (map[string]string, error) {
	if signed.Message == nil {
		return nil, nil
	}
	c, err := mimiport.UnmarshalTargetMigrationComplete(signed.Message)
	if err != nil {
		return nil, err
	}
	return map[string]string{
		"migration_content_hash": mimiport.IDText(c.ContentHash), "signature": mimiport.IDText(c.Signature),
		"key_id": signed.KeyID,
	}, nil
}

// decisionOf is the seventh message: the confirmation, or the abort.
func decisionOf(m *migration.Migration) (*api.MigrationMessage, error) {
	shown := &api.MigrationMessage{
		Name: "MigrationConfirmation", From: m.Source, To: m.Target, Progress: progress(m, m.Confirmation.Message != nil),
	}
	switch {
	case m.Confirmation.Message != nil:
		c, err := mimiport.UnmarshalMigrationConfirmation(m.Confirmation.Message)
		if err != nil {
			return nil, err
		}
		shown.Fields = map[string]string{
			"domain_name": c.DomainName, "nonce": mimiport.IDText(c.Nonce[:]), "group_id": mimiport.IDText(c.GroupID),
			"signature": mimiport.IDText(c.Signature), "key_id": m.Confirmation.KeyID,
		}
	case m.Abort.Message != nil:
		a, err := mimiport.UnmarshalMigrationAbort(m.Abort.Message)
		if err != nil {
			return nil, err
		}
		shown.Name, shown.Progress = "MigrationAbort", api.ProgressDone
		shown.Note = "The source has decided against the move."
		shown.Fields = map[string]string{
			"migration_id": a.MigrationID.String(), "source_domain": a.SourceDomain,
			"signature": mimiport.IDText(a.Signature), "key_id": m.Abort.KeyID,
		}
	}
	return shown, nil
}

// ListEvidence lists at most limit pieces of evidence of all groups, with the reports of members, by key after a given
// one.
func (s overviews) ListEvidence(
	ctx context.Context, f storage.EvidenceFilter, after storage.EvidenceKey, limit int,
) ([]storage.Evidence, error) {
	return s.Store.AllEvidence(ctx, f, after, limit)
}
