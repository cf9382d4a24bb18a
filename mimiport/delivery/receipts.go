package delivery

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// signReceipt signs the receipt for a Commit in the name of the group's host. The transaction that stores the Commit
// stores the receipt too (profile, section 3).
func (s *core) signReceipt(host string, e *storage.Entry) (*storage.Receipt, error) {
	m := &mimiport.CommitReceipt{GroupID: e.GroupID, Term: e.Term, Epoch: e.Epoch + 1, Seq: e.Seq, CommitHash: e.Hash}
	keyID, err := s.Keys.Sign(host, m)
	return &storage.Receipt{
		GroupID: m.GroupID, Term: m.Term, Epoch: m.Epoch, Seq: m.Seq, CommitHash: m.CommitHash,
		KeyID: keyID, Signature: m.Signature,
	}, err
}

// signedReceipt returns the signed message of a stored receipt, or nil.
func signedReceipt(r *storage.Receipt) (*api.SignedInfo, error) {
	if r == nil {
		return nil, nil
	}
	m := &mimiport.CommitReceipt{
		GroupID: r.GroupID, Term: r.Term, Epoch: r.Epoch, Seq: r.Seq, CommitHash: r.CommitHash, Signature: r.Signature,
	}
	data, err := m.Marshal()
	return &api.SignedInfo{Message: data, KeyID: r.KeyID}, err
}

// receipts returns the receipts of the Commits among successive log entries of one term, by the entries' numbers. A
// Commit that an older version of this program accepted has no receipt.
func (s *core) receipts(ctx context.Context, entries []storage.Entry) (map[uint64]*api.SignedInfo, error) {
	var first *storage.Entry
	commits := 0
	for i := range entries {
		if entries[i].Kind != storage.EntryCommit {
			continue
		}
		if commits++; first == nil {
			first = &entries[i]
		}
	}
	if first == nil {
		return nil, nil
	}
	key := storage.GroupKey{ID: first.GroupID, Term: first.Term}
	found, err := s.Store.Receipts(ctx, storage.Epoch{GroupKey: key, Epoch: first.Epoch + 1}, commits)
	if err != nil {
		return nil, err
	}
	signed := make(map[uint64]*api.SignedInfo, len(found))
	for i := range found {
		if signed[found[i].Seq], err = signedReceipt(&found[i]); err != nil {
			return nil, err
		}
	}
	return signed, nil
}

// recorded returns the receipt for the Commit that leads to an epoch, or nil.
func (s *core) recorded(ctx context.Context, epoch storage.Epoch) (*storage.Receipt, error) {
	found, err := s.Store.Receipts(ctx, epoch, 1)
	if err != nil || len(found) == 0 || found[0].Epoch != epoch.Epoch {
		return nil, err
	}
	return &found[0], nil
}

// migrationReceipt returns the receipt for the Commit by which a group has moved away from here, or nil.
func (s *core) migrationReceipt(ctx context.Context, m *migration.Migration) (*api.SignedInfo, error) {
	if m.Role != migration.Source || !m.Accepted() {
		return nil, nil
	}
	key := storage.GroupKey{ID: m.GroupID, Term: m.Term - 1}
	found, err := s.recorded(ctx, storage.Epoch{GroupKey: key, Epoch: m.Epoch + 1})
	if err != nil {
		return nil, err
	}
	return signedReceipt(found)
}

// requireKnown returns a KindWrongEpoch error unless this server has accepted the Commit of the caller's receipt. The
// caller can then show the receipt: see takeReceipt.
func (s intake) requireKnown(ctx context.Context, g *storage.Group, known *api.KnownCommit) error {
	if known == nil {
		return nil
	}
	own, err := s.recorded(ctx, storage.Epoch{GroupKey: g.Key(), Epoch: known.Epoch})
	if err != nil || own != nil && bytes.Equal(own.CommitHash[:], known.CommitHash) {
		return err
	}
	return &mimiport.Error{
		Op: "submit", Kind: mimiport.KindWrongEpoch, Group: g.ID, Info: mimiport.Info{Epoch: &g.Epoch},
		Err: fmt.Errorf("the Commit that led to the caller's epoch %d is not known here", known.Epoch),
	}
}

// takeReceipt judges a receipt of this server that a caller shows. If the receipt is of the present term, and the
// record has another Commit for the receipt's epoch or none, this server's database is older than the receipt:
// takeReceipt stops the group. Any other receipt changes nothing (profile, section 3).
func (s *Service) takeReceipt(ctx context.Context, g *storage.Group, shown *api.SignedInfo) error {
	r, err := mimiport.UnmarshalCommitReceipt(shown.Message)
	if err != nil {
		return err
	}
	if !bytes.Equal(r.GroupID, g.ID) {
		return &mimiport.Error{
			Op: "take receipt", Kind: mimiport.KindInvalid, Group: g.ID,
			Err: fmt.Errorf("it is of the group %s", mimiport.IDText(r.GroupID)),
		}
	}
	if err := s.Keys.VerifyOwn(g.Server, shown.KeyID, r); err != nil {
		return err
	}
	return s.groups.With(ctx, g.ID, func(h *registry.Held) error {
		g, err := h.Group(ctx)
		if err != nil || r.Term != g.Term || !hosted(g) {
			return err
		}
		own, err := s.recorded(ctx, storage.Epoch{GroupKey: g.Key(), Epoch: r.Epoch})
		if err != nil || own != nil && own.CommitHash == r.CommitHash {
			return err
		}
		return s.stop(ctx, h, g, contradiction{r, shown.KeyID, own})
	})
}

// contradiction is a receipt of this server and the id of its key, with the receipt that the server has on record for
// the same epoch, or nil.
type contradiction struct {
	shown *mimiport.CommitReceipt
	keyID string
	own   *storage.Receipt
}

// forgotten gives up a migration because the server learns that it has forgotten a Commit.
var forgotten = migration.GiveUp{Reason: "this server has forgotten a Commit that it accepted"}

// stop makes the group refuse all messages until an operator decides. It gives up the migration that the group is
// frozen for, unless the receipt is for the migration Commit: then this server decided to move the group before, and
// will decide so again.
func (s *Service) stop(ctx context.Context, h *registry.Held, g *storage.Group, c contradiction) error {
	if g.State == migration.GroupFrozen {
		m, err := s.record(ctx, g.Migration)
		if err != nil || c.shown.Epoch == m.Epoch+1 && bytes.Equal(c.shown.CommitHash[:], m.CommitHash) {
			return err
		}
		if err := s.stepRecord(ctx, h, m, g, forgotten, nil); err != nil {
			return err
		}
		if g, err = h.GroupAt(ctx, g.Term); err != nil {
			return err
		}
	}
	evidence, err := c.evidence(s.Now())
	if err != nil {
		return err
	}
	s.Log.Error("this server has forgotten a Commit that it signed for: it accepts no more messages for the group",
		"group_id", mimiport.IDText(g.ID), "term", g.Term, "epoch", g.Epoch, "receipt_epoch", c.shown.Epoch)
	stopped := *g
	stopped.State = migration.GroupStopped
	return s.apply(ctx, &storage.Change{Group: &stopped, Evidence: evidence})
}

// evidence returns the shown receipt, and the receipt on record.
func (c *contradiction) evidence(now time.Time) ([]storage.Evidence, error) {
	shown, err := c.shown.Marshal()
	if err != nil {
		return nil, err
	}
	kept := []storage.Evidence{
		{GroupID: c.shown.GroupID, Kind: migration.EvidenceOwnForgotten, Data: shown, KeyID: c.keyID, At: now},
	}
	own, err := signedReceipt(c.own)
	if own != nil {
		kept = append(kept, storage.Evidence{
			GroupID: c.shown.GroupID, Kind: storage.EvidenceFork, Data: own.Message, KeyID: own.KeyID, At: now,
		})
	}
	return kept, err
}
