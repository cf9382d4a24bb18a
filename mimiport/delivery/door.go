package delivery

import (
	"context"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
)

// This file judges each proposal once: at its submission, or in the Commit that has it by value (profile, section 7).
// The server does not judge again the proposals of others that a Commit references.

// The names that refusals give to the profile's rules on proposals.
const (
	ruleJoined          = "joined"
	ruleKick            = "kick"
	ruleGroupPower      = "group-power"
	ruleProposalPending = "proposal-pending"
)

// requireProposable fails for a proposal by reference that would make a Commit with all pending proposals unacceptable.
// This is an Add whose KeyPackage is not valid now, or whose user may not have a leaf. It is also a
// GroupContextExtensions that drops or forges this server's external_senders entry.
func (s intake) requireProposable(ctx context.Context, sub *submission, p *mls.Proposal) error {
	switch p.Type {
	case mls.ProposalAdd:
		if err := mls.RequireLifetime(*p.Add, s.Now()); err != nil {
			return err
		}
		added, err := registry.Identity(*p.Add)
		if err != nil {
			return err
		}
		return s.requireAdmissible(ctx, sub.room, []string{added.UserID})
	case mls.ProposalGroupContextExtensions:
		return s.requireOwnEntries(ctx, sub.group.Server, sub.live.MLS, p.ExternalSenders)
	}
	return nil
}

// requireMay fails unless the room gives the caller the power for the caller's proposals.
func (s intake) requireMay(ctx context.Context, sub *submission, proposals []mls.Proposal) error {
	var removed []mls.Member
	for i := range proposals {
		switch p := &proposals[i]; p.Type {
		case mls.ProposalRemove:
			removed = append(removed, *p.Remove)
		case mls.ProposalGroupContextExtensions, mls.ProposalAppDataUpdate, mls.ProposalReInit:
			if err := requireGroupPower(sub); err != nil {
				return err
			}
		}
	}
	return s.requireMayRemove(ctx, sub, removed)
}

// requireGroupPower fails unless the caller may send the room's pointer event. Changing the properties of the whole
// group needs the same power.
func requireGroupPower(sub *submission) error {
	if st := sub.room.Standing(sub.caller.UserID); st.Power < st.PointerLevel {
		return forbidden(ruleGroupPower, "%s has power level %d, changing the group needs %d",
			sub.caller.UserID, st.Power, st.PointerLevel)
	}
	return nil
}

// requireMayRemove fails unless the caller may remove the leaves. Every caller may remove their own leaves, leaves that
// this server proposes to remove, and leaves of users who are not in the room. To remove any other leaf, the caller
// must be able to kick the leaf's user.
func (s intake) requireMayRemove(ctx context.Context, sub *submission, leaves []mls.Member) error {
	free := pendingRemoves(sub.group.Server, sub.live.MLS)
	var others []string
	for _, m := range leaves {
		id, err := registry.Identity(m)
		if err != nil {
			return err
		}
		if id.UserID != sub.caller.UserID && !slices.Contains(free, m.Leaf) {
			others = append(others, id.UserID)
		}
	}
	if len(others) == 0 {
		return nil
	}
	slices.Sort(others)
	others = slices.Compact(others)
	missing, err := s.absent(ctx, sub.room, others)
	if err != nil {
		return err
	}
	others = slices.DeleteFunc(others, func(user string) bool { return slices.Contains(missing, user) })
	return requireKick(sub, others)
}

// requireKick fails unless the caller may kick each of the users from the room. If this server was never in the room,
// it knows no power levels: MLS alone decides.
func requireKick(sub *submission, users []string) error {
	st := sub.room.Standing(sub.caller.UserID)
	if len(users) == 0 || !st.Exists {
		return nil
	}
	if st.Power < st.KickLevel {
		return forbidden(ruleKick, "%s has power level %d, removing others needs %d",
			sub.caller.UserID, st.Power, st.KickLevel)
	}
	for _, user := range users {
		if power := sub.room.Standing(user).Power; power >= st.Power {
			return forbidden(ruleKick, "%s has power level %d, %s has %d", sub.caller.UserID, st.Power, user, power)
		}
	}
	return nil
}

func forbidden(rule, format string, args ...any) error {
	err := mimiport.Errorf("authorise", mimiport.KindForbidden, format, args...)
	err.Info.Rule = rule
	return err
}

// byValue returns the proposals that a Commit has by value. These are the sender's own.
func byValue(effects *mls.Effects) (own []mls.Proposal) {
	for i := range effects.Proposals {
		if effects.Proposals[i].Ref == nil {
			own = append(own, effects.Proposals[i])
		}
	}
	return own
}

// requireLifetimes fails for an Add by value whose KeyPackage is not valid now.
func (s intake) requireLifetimes(proposals []mls.Proposal) error {
	for i := range proposals {
		if p := &proposals[i]; p.Type == mls.ProposalAdd {
			if err := mls.RequireLifetime(*p.Add, s.Now()); err != nil {
				return err
			}
		}
	}
	return nil
}
