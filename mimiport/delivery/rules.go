package delivery

import (
	"bytes"
	"context"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
)

// The rules of the profile on Commits, as refusals name them.
const (
	ruleOutsideInit     = "migration-commit-outside-init"
	ruleAbortedCommit   = "aborted-commit"
	ruleOwnEntry        = "external-senders"
	ruleMigrationCommit = "migration-commit"
)

func broken(rule, format string, args ...any) error {
	err := mimiport.Errorf("check commit", mimiport.KindInvalid, format, args...)
	err.Info.Rule = rule
	return err
}

// plainCommit fails for a Commit that may not come outside a MigrationInit, or may not come at all (profile, section 5).
func (s *Service) plainCommit(ctx context.Context, g *Group, msg *mls.Message, req *SubmitRequest) error {
	aad, err := mimiport.UnmarshalMigrationCommitAAD(msg.AuthenticatedData)
	if err == nil && mimiport.ValidateServerName(aad.TargetDomain) == nil {
		return broken(ruleOutsideInit, "the Commit announces a migration to %s", aad.TargetDomain)
	}
	h := hash(req.Message)
	aborted, err := s.Store.CommitAborted(ctx, g.ID, h[:])
	if err != nil {
		return err
	}
	if aborted {
		return broken(ruleAbortedCommit, "the Commit belongs to a migration that was aborted")
	}
	return nil
}

// ownEntries lists the external_senders entries that name a server.
func ownEntries(server string, g mls.Group) [][]byte {
	var keys [][]byte
	for _, e := range g.ExternalSenders() {
		if string(e.Identity) == server {
			keys = append(keys, e.SignatureKey)
		}
	}
	return keys
}

// keepsOwnEntry fails for a Commit that changes the external_senders entries of the server itself.
func keepsOwnEntry(server string, before, after mls.Group) error {
	a, b := ownEntries(server, before), ownEntries(server, after)
	same := len(a) == len(b)
	for i := 0; same && i < len(a); i++ {
		same = bytes.Equal(a[i], b[i])
	}
	if !same {
		return broken(ruleOwnEntry, "the Commit changes the external_senders entry of %s", server)
	}
	return nil
}

// migrationCommit fails unless the step is a migration Commit to target as profile, section 5 has it.
func migrationCommit(source, target string, before mls.Group, st *step) error {
	e := st.effects
	aad, err := (&mimiport.MigrationCommitAAD{TargetDomain: target}).Marshal()
	switch {
	case err != nil:
		return err
	case e.Sender.Type != mls.SenderMember:
		return broken(ruleMigrationCommit, "the sender is not a member")
	case !bytes.Equal(e.AuthenticatedData, aad):
		return broken(ruleMigrationCommit, "authenticated_data is not MigrationCommitAAD{%s}", target)
	case !e.HasPath:
		return broken(ruleMigrationCommit, "the Commit has no path")
	case !e.SameCredential:
		return broken(ruleMigrationCommit, "the path changes the credential")
	case !bytes.Equal(e.ExtensionsBefore, e.ExtensionsAfter):
		return broken(ruleMigrationCommit, "the Commit changes the group's extensions")
	case len(ownEntries(source, before)) > 0 || len(ownEntries(target, st.next)) > 0:
		return broken(ruleOwnEntry, "external_senders names a Delivery Service that has given out no key")
	}
	for _, p := range e.Proposals {
		if p.Ref == nil {
			return broken(ruleMigrationCommit, "the Commit has a proposal by value")
		}
		if p.Type == mls.ProposalReInit {
			return broken(ruleMigrationCommit, "the Commit references a ReInit")
		}
	}
	return nil
}
