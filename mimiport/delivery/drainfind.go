package delivery

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// finder finds out who can move groups to the targets of a drain. One finder is for one page or step: it asks once for
// each room.
type finder struct {
	*overview
	seen    *surroundings
	targets []string
}

// candidate is a member who can move a group, with the targets that take the group from the member.
type candidate struct {
	user    string
	targets []string
	rank    int // of the first of these targets
}

// found says who can move a group, in the order in which the service asks them.
type found struct {
	members    int
	candidates []candidate
	devices    registry.Roster
	why        []api.DrainReason
}

func (s drains) finder(ctx context.Context, targets []string) (*finder, error) {
	o, err := s.overview(ctx)
	if err != nil {
		return nil, err
	}
	o.policy, o.others = o.policy.Drained(), targets
	return &finder{overview: o, seen: s.seen, targets: targets}, nil
}

// find says who can move a group. It reads the group and its room, and asks the targets. A group that it cannot read
// has the obstacle "fault".
func (f *finder) find(ctx context.Context, g *storage.Group) (*found, error) {
	if g.State == migration.GroupStopped {
		return &found{why: []api.DrainReason{{Reason: *obstacle(g.State)}}}, nil
	}
	it := &found{devices: registry.Roster{}}
	users := make(map[string]bool)
	err := f.groups.WithLive(ctx, g.Key(), func(_ *storage.Group, l *registry.Live) error {
		it.members = l.MLS.NumMembers()
		for _, server := range l.Roster.Servers() {
			it.devices[server] = l.Roster.At(server)
			for user := range l.Roster[server] {
				users[user] = true
			}
		}
		return f.addLeaving(&api.Hosted{}, users, g, l)
	})
	if err != nil && ctx.Err() == nil { // one group that this server cannot read must not stop the others
		it.why = []api.DrainReason{fault(err)}
		return it, nil
	}
	if err != nil {
		return nil, err
	}
	return it, f.judge(ctx, g, users, it)
}

// judge adds the candidates among the users, and the obstacles.
func (f *finder) judge(ctx context.Context, g *storage.Group, users map[string]bool, it *found) error {
	m, err := f.movers(ctx, g, users)
	if err != nil {
		return err
	}
	if len(m.Users) == 0 {
		for _, why := range m.Why {
			it.why = append(it.why, reason("", string(why.Rule), why.Text, why.Remedy))
		}
		return nil
	}
	by := make(map[string]*candidate)
	for rank, target := range f.targets {
		takes, why, err := f.takes(ctx, g, it.members, target)
		if err != nil {
			return err
		}
		any := false
		for _, user := range m.Users {
			if !slices.Contains(takes, registry.ServerOf(user)) {
				continue
			}
			any = true
			if by[user] == nil {
				by[user] = &candidate{user: user, rank: rank}
			}
			by[user].targets = append(by[user].targets, target)
		}
		if why == nil && !any {
			r := f.noUser(target, takes)
			why = &r
		}
		if why != nil {
			it.why = append(it.why, *why)
		}
	}
	for _, c := range by {
		it.candidates = append(it.candidates, *c)
	}
	slices.SortFunc(it.candidates, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.foreign(), b.foreign()), strings.Compare(a.user, b.user))
	})
	return nil
}

// foreign is 0 for a user of the first target, and 1 for any other.
func (c *candidate) foreign() int {
	if registry.ServerOf(c.user) == c.targets[0] {
		return 0
	}
	return 1
}

// takes returns the servers from whose users a target takes a group, or else the obstacle.
func (f *finder) takes(
	ctx context.Context, g *storage.Group, members int, target string,
) (servers []string, why *api.DrainReason, err error) {
	room, err := f.room(ctx, g)
	if err != nil {
		return nil, nil, err
	}
	no := func(rule, text, remedy string) ([]string, *api.DrainReason, error) {
		r := reason(target, rule, text, remedy)
		return nil, &r, nil
	}
	if room.Denied[target] {
		return no("target_denied", "The room's server ACL denies "+target+".", "Ask the room's moderators to let it in.")
	}
	in, err := f.seen.intake(ctx, f.core, g.Server, target, g.RoomID, serversOf(room, target, g.Server))
	if ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	switch {
	case err != nil:
		return no("target_away", target+" does not answer: "+mimiport.Clip(err.Error()), "Wait until it answers, or name "+
			"another target.")
	case in.Refusal == api.IntakeRoom:
		return no("target_not_in_room", target+" has no user in the room.", "Invite a user of "+target+" into the room.")
	case in.Refusal == api.IntakeDenied:
		return no("target_denied", "The room's server ACL denies "+target+", as "+target+" sees it.",
			"Ask the room's moderators to let it in.")
	case in.Refusal == api.IntakePeer:
		return no("target_nobody", target+" exchanges no groups with this server.", "Ask its operator to change "+
			"allow_servers or deny_servers.")
	case in.Refusal == api.IntakeNobody:
		return no("target_nobody", target+" takes no groups.", "Ask its operator for "+f.acceptDrain(g)+".")
	case in.Refusal == api.IntakeFull:
		return no("target_full", "A quota of "+target+" for groups is used up.", "Ask its operator to raise the quotas "+
			"groups and groups_per_room.")
	case in.Limits.Protocols != nil && !slices.Contains(in.Limits.Protocols, g.Protocol):
		return no("target_protocol", target+" does not speak "+g.Protocol+".", "Name another target.")
	case in.Limits.Members > 0 && members > in.Limits.Members:
		return no("target_size", target+" takes no group of so many members.", "Ask its operator to raise the quota members.")
	}
	return in.Servers, nil, nil
}

// noUser is the obstacle that no member is a user of the servers from whose users a target takes a group.
func (f *finder) noUser(target string, takes []string) api.DrainReason {
	from := target
	if len(takes) > 0 {
		from = strings.Join(takes[:min(len(takes), 5)], ", ")
	}
	return reason(target, "target_users", target+" takes groups of this room from users of "+from+" alone, and none of "+
		"them can move the group.", "Invite a user of "+target+" into the group, or ask the operator of "+target+" for "+
		"accept_drain or target: joined_servers.")
}

// acceptDrain is the policy that a target's operator sets for a group.
func (f *finder) acceptDrain(g *storage.Group) string { return `accept_drain: ["` + g.Server + `"]` }

// fault is the obstacle that this server fails to deal with a group.
func fault(err error) api.DrainReason {
	return reason("", "fault", "This server cannot read the group: "+mimiport.Clip(err.Error()), "Run mimictl fsck.")
}

func reason(target, rule, text, remedy string) api.DrainReason {
	return api.DrainReason{Target: target, Reason: api.Reason{Rule: rule, Text: text, Remedy: remedy}}
}

// serversOf lists the servers of a room's users, at most api.MaxIntakeServers: the target, the host, whose
// administrators may move a group in a drain, and the others by the power of their most powerful users. So newcomers
// cannot hide the servers of those who may move a group.
func serversOf(room *policy.Room, target, host string) []string {
	if room.Levels == nil {
		return []string{target}
	}
	powers := make(map[string]int64)
	for user := range room.Joined {
		server, power := registry.ServerOf(user), room.Levels.Of(user)
		if most, known := powers[server]; !room.Denied[server] && (!known || power > most) {
			powers[server] = power
		}
	}
	if _, joined := powers[host]; joined {
		powers[host] = math.MaxInt64
	}
	delete(powers, target)
	others := slices.SortedFunc(maps.Keys(powers), func(a, b string) int {
		return cmp.Or(cmp.Compare(powers[b], powers[a]), strings.Compare(a, b))
	})
	servers := append([]string{target}, others...)
	return servers[:min(len(servers), api.MaxIntakeServers)]
}

// moves lists who can move a group to each target.
func (it *found) moves(targets []string) []api.DrainMove {
	moves := []api.DrainMove{}
	for _, target := range targets {
		m := api.DrainMove{Target: target}
		for i := range it.candidates {
			if c := &it.candidates[i]; slices.Contains(c.targets, target) {
				if m.Total++; len(m.Users) < api.MaxMovers {
					m.Users = append(m.Users, c.user)
				}
			}
		}
		if m.Total > 0 {
			moves = append(moves, m)
		}
	}
	return moves
}
