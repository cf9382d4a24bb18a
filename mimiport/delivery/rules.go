package delivery

import (
	"bytes"
	"context"
	"maps"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// The names that refusals give to the profile's rules on Commits.
const (
	ruleOutsideInit     = "migration-commit-outside-init"
	ruleAbortedCommit   = "aborted-commit"
	ruleOwnEntry        = "external-senders"
	ruleMigrationCommit = "migration-commit"
	rulePendingRemove   = "pending-remove"
	ruleContested       = "contested"
	ruleHostLeftRoom    = "host-left-room"
	ruleDeviceUnique    = "device-unique"
	ruleDeviceKey       = "device-key"
)

func broken(rule, format string, args ...any) error {
	err := mimiport.Errorf("check commit", mimiport.KindInvalid, format, args...)
	err.Info.Rule = rule
	return err
}

// requirePlain fails for a Commit that may come only in a MigrationInit (profile, section 5). The Commit of an aborted
// migration is one of them.
func requirePlain(g mls.Group, msg *mls.Message) error {
	data, found := mls.MigrationAAD(g, msg.AuthenticatedData)
	if !found {
		return nil
	}
	aad, err := mimiport.UnmarshalMigrationCommitAAD(data)
	if err == nil && mimiport.ValidateServerName(aad.TargetDomain) == nil {
		return broken(ruleOutsideInit, "the Commit announces a migration to %s", aad.TargetDomain)
	}
	return nil
}

// requireNotAborted fails for the Commit of an aborted migration. A retry needs a new Commit (profile, section 5).
func (s intake) requireNotAborted(ctx context.Context, g *storage.Group, commit []byte) error {
	h := hash(commit)
	aborted, err := s.Store.CommitAborted(ctx, g.ID, h[:])
	if err == nil && aborted {
		return broken(ruleAbortedCommit, "the Commit belongs to a migration that was aborted")
	}
	return err
}

// requireMigrationCommit fails unless the step is a migration Commit as in profile, section 5. entry is the target's
// external_senders entry, or nil.
func (s senders) requireMigrationCommit(
	ctx context.Context, room Room, m *migration.Migration, before mls.Group, a *registry.Accepted, entry []byte,
) error {
	e := a.Effects
	aad, err := (&mimiport.MigrationCommitAAD{TargetDomain: m.Target}).Marshal()
	announced, _ := mls.MigrationAAD(before, e.AuthenticatedData)
	switch {
	case err != nil:
		return err
	case e.Sender.Type != mls.SenderMember:
		return broken(ruleMigrationCommit, "the sender is not a member")
	case !bytes.Equal(announced, aad):
		return broken(ruleMigrationCommit, "authenticated_data is not MigrationCommitAAD{%s}", m.Target)
	case !e.HasPath:
		return broken(ruleMigrationCommit, "the Commit has no path")
	case !e.SameCredential:
		return broken(ruleMigrationCommit, "the path changes the credential")
	case slices.Contains(pendingRemoves(m.Source, before), e.Sender.Index):
		return broken(rulePendingRemove, "the sender's removal is proposed")
	}
	if err := s.requirePendingRemoves(ctx, room, m.Source, before, e); err != nil {
		return err
	}
	return s.requireSwap(m, before, a, entry)
}

// requirePendingRemoves fails if a member's Commit keeps a leaf in the group that must go, unless the leaf is the
// sender's own (profile, section 7). Any proposal may remove the leaf.
func (s senders) requirePendingRemoves(
	ctx context.Context, room Room, server string, before mls.Group, effects *mls.Effects,
) error {
	if effects.Sender.Type != mls.SenderMember {
		return nil
	}
	leaves, err := s.demanded(ctx, room, server, before)
	if err != nil {
		return err
	}
	for _, leaf := range leaves {
		removed := slices.ContainsFunc(effects.Removed, func(m mls.Member) bool { return m.Leaf == leaf })
		if !removed && leaf != effects.Sender.Index {
			return broken(rulePendingRemove, "leaf %d must be removed: its removal is proposed", leaf)
		}
	}
	return nil
}

// demanded lists the leaves that must go. These are the leaves that the server has proposed to remove. They are also
// the leaves of users outside the room for which a member has made a Remove or a SelfRemove: the server makes no second
// proposal for such a leaf.
func (s senders) demanded(ctx context.Context, room Room, server string, g mls.Group) ([]uint32, error) {
	leaves := pendingRemoves(server, g)
	others, owners := []uint32(nil), make(map[uint32]string)
	for _, p := range g.Proposals() {
		if p.Remove == nil || slices.Contains(leaves, p.Remove.Leaf) {
			continue
		}
		id, err := registry.Identity(*p.Remove)
		if err != nil {
			return nil, err
		}
		others, owners[p.Remove.Leaf] = append(others, p.Remove.Leaf), id.UserID
	}
	if len(others) == 0 {
		return leaves, nil
	}
	missing, err := authority(s).absent(ctx, room, slices.Collect(maps.Values(owners)))
	if err != nil {
		return nil, err
	}
	return append(leaves, slices.DeleteFunc(others, func(leaf uint32) bool {
		return !slices.Contains(missing, owners[leaf])
	})...), nil
}
