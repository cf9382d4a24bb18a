package delivery

import (
	"context"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// noticeLaterEpoch looks at a Commit of a later epoch than this server's epoch of the group. Members submit such a
// Commit to a server that was restored from a backup (profile, section 3). The server cannot verify the Commit's
// signature without that epoch's GroupContext. It verifies the signature of the GroupInfo beside the Commit. Members
// can make up both, so this function only raises an alarm, once. Only a receipt stops the group.
func (s intake) noticeLaterEpoch(ctx context.Context, sub *submission) error {
	g, msg := sub.group, sub.msg
	if g.State != migration.GroupActive || msg.Kind != mls.KindCommit || msg.Epoch <= g.Epoch {
		return nil
	}
	claimed, err := claimed(g)
	if err != nil || claimed { // epochs after the claimed one were lost with the host before, and are void
		return err
	}
	l, err := sub.held.Live(ctx, g)
	if err != nil || l.Alarmed {
		return err
	}
	epoch, signer, err := l.MLS.VerifyGroupInfo(sub.req.GroupInfo)
	if err != nil || epoch != msg.Epoch+1 || requireOwnLeaf(sub.caller, signer) != nil {
		return nil // the GroupInfo proves nothing
	}
	s.Log.Error("a member claims a later epoch than this server has: was an old backup restored?",
		"group_id", mimiport.IDText(g.ID), "epoch", g.Epoch, "later_epoch", epoch, "user_id", sub.caller.UserID)
	l.Alarmed = true
	return s.apply(ctx, &storage.Change{Evidence: []storage.Evidence{
		{GroupID: g.ID, Kind: storage.EvidenceLaterEpoch, Data: sub.req.GroupInfo, At: s.Now()},
	}})
}

// claimed reports whether the group's present term began with a reclaim or a recover.
func claimed(g *storage.Group) (bool, error) {
	l, err := mimiport.UnmarshalLineage(g.Lineage)
	if err != nil || len(l.Steps) == 0 {
		return false, err
	}
	return l.Steps[len(l.Steps)-1].Kind != mimiport.StepMigration, nil
}
