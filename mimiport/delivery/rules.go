package delivery

import (
	"bytes"
	"context"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// The rules of the profile on Commits, as refusals name them.
const (
	ruleOutsideInit     = "migration-commit-outside-init"
	ruleAbortedCommit   = "aborted-commit"
	ruleOwnEntry        = "external-senders"
	ruleMigrationCommit = "migration-commit"
	rulePendingRemove   = "pending-remove"
	ruleContested       = "contested"
)

func broken(rule, format string, args ...any) error {
	err := mimiport.Errorf("check commit", mimiport.KindInvalid, format, args...)
	err.Info.Rule = rule
	return err
}

// requirePlain fails for a Commit that may not come outside a MigrationInit (profile, section 5): an aborted one is
// among them.
func requirePlain(msg *mls.Message) error {
	aad, err := mimiport.UnmarshalMigrationCommitAAD(msg.AuthenticatedData)
	if err == nil && mimiport.ValidateServerName(aad.TargetDomain) == nil {
		return broken(ruleOutsideInit, "the Commit announces a migration to %s", aad.TargetDomain)
	}
	return nil
}

// requireNotAborted fails for a Commit of a migration that was aborted: a retry needs a Commit of its own (profile,
// section 5).
func (s intake) requireNotAborted(ctx context.Context, g *storage.Group, commit []byte) error {
	h := hash(commit)
	aborted, err := s.Store.CommitAborted(ctx, g.ID, h[:])
	if err == nil && aborted {
		return broken(ruleAbortedCommit, "the Commit belongs to a migration that was aborted")
	}
	return err
}

// requireMigrationCommit fails unless the step is a migration Commit as profile, section 5 has it. entry is the
// target's external_senders entry, nil where there is none.
func (s senders) requireMigrationCommit(
	m *migration.Migration, before mls.Group, a *registry.Accepted, entry []byte,
) error {
	e := a.Effects
	aad, err := (&mimiport.MigrationCommitAAD{TargetDomain: m.Target}).Marshal()
	switch {
	case err != nil:
		return err
	case e.Sender.Type != mls.SenderMember:
		return broken(ruleMigrationCommit, "the sender is not a member")
	case !bytes.Equal(e.AuthenticatedData, aad):
		return broken(ruleMigrationCommit, "authenticated_data is not MigrationCommitAAD{%s}", m.Target)
	case !e.HasPath:
		return broken(ruleMigrationCommit, "the Commit has no path")
	case !e.SameCredential:
		return broken(ruleMigrationCommit, "the path changes the credential")
	case slices.Contains(pendingRemoves(m.Source, before), e.Sender.Index):
		return broken(rulePendingRemove, "the sender's removal is proposed")
	}
	if err := requirePendingRemoves(m.Source, before, e); err != nil {
		return err
	}
	return s.requireSwap(m, before, a, entry)
}

// requirePendingRemoves fails for a member's Commit that leaves a leaf in the group which the server has proposed to
// remove, unless it is the sender's own (profile, section 7).
func requirePendingRemoves(server string, before mls.Group, effects *mls.Effects) error {
	if effects.Sender.Type != mls.SenderMember {
		return nil
	}
	for _, leaf := range pendingRemoves(server, before) {
		removed := slices.ContainsFunc(effects.Removed, func(m mls.Member) bool { return m.Leaf == leaf })
		if !removed && leaf != effects.Sender.Index {
			return broken(rulePendingRemove, "leaf %d, whose user has left the room, must be removed", leaf)
		}
	}
	return nil
}
