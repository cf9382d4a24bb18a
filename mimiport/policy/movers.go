package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// Levels are a room's power levels.
type Levels struct {
	Users    map[string]int64 // creators of room version 12 have math.MaxInt64
	Default  int64            // of all other users
	Pointer  int64            // that sending the pointer event needs
	Explicit bool             // the room names the level for the pointer event
	Left     bool             // this server has left the room; the levels are the last that it saw
}

// Of returns the power of a user.
func (l *Levels) Of(user string) int64 {
	if power, ok := l.Users[user]; ok {
		return power
	}
	return l.Default
}

// Room has the facts about a room on which permission to move its groups depends.
type Room struct {
	Levels *Levels         // nil if this server was never in the room
	Joined map[string]bool // the joined users
	Denied map[string]bool // of the servers of joined users and the host: those that the room's ACL denies
}

// Place is a hosted group, for Movers.
type Place struct {
	Host    string              // this server, as the group's host
	Users   map[string]bool     // the users with a leaf; true if a leaf stays in the group at the next Commit
	IsLocal func(string) bool   // reports whether a server name is local
	Admins  func(u string) bool // reports whether a local user administers this server
}

// Moves says who may move a group to which servers. Each of the users may move it to each of the targets, as far as
// this server decides: a target has a policy of its own. By default a target takes groups from its own users only.
type Moves struct {
	Users    []string // sorted; first those of a target
	Targets  []string // sorted
	Anywhere bool     // the policy also lets the group move to servers without a user in the room
	Own      int      // how many of the users are users of a target
	Why      []Reason // why nobody may move the group, or why every target must make an exception; otherwise none
}

// Reason is an obstacle and its remedy.
type Reason struct {
	Rule   ReasonRule
	Text   string // a sentence for people
	Remedy string // a sentence for people
}

// ReasonRule names an obstacle.
type ReasonRule string

// The obstacles. Each but ReasonNoOwnUser stops every move.
const (
	ReasonHostDenied   ReasonRule = "host_denied"    // the room's server ACL denies this server
	ReasonNobodyMay    ReasonRule = "source_nobody"  // the policy's source is nobody
	ReasonNoMember     ReasonRule = "no_member"      // no user with a leaf is joined to the room
	ReasonLeaving      ReasonRule = "leaving"        // who may move the group has only leaves that must go
	ReasonUsersDenied  ReasonRule = "users_denied"   // the ACL denies the homeservers of all who may
	ReasonNoAdmin      ReasonRule = "no_admin"       // the policy wants an administrator
	ReasonNoPower      ReasonRule = "no_power"       // no member may send the pointer event
	ReasonNoTarget     ReasonRule = "no_target"      // no other server has a user in the room
	ReasonTargetsRules ReasonRule = "targets_denied" // policy or ACL rule out each other server in the room
	ReasonNoOwnUser    ReasonRule = "no_own_user"    // nobody who may move the group is a user of a target
)

// Movers finds who may move a group to which servers by this server's policy. It agrees with Decide on the source's
// side for every user and target. Its time is linear in the joined users and the leaves.
func Movers(p *Policy, r *Room, g *Place) *Moves {
	m := &Moves{Anywhere: !p.RequireRoom}
	var users, targets []Reason
	m.Targets, targets = p.targets(r, g)
	m.Users, users = p.movers(r, g)
	m.Why = append(users, targets...)
	if r.Denied[g.Host] {
		m.Users = nil
		m.Why = append(m.Why, Reason{ReasonHostDenied, "The room's server ACL denies this server.",
			"Ask the room's moderators to let " + g.Host + " in again."})
	}
	isTarget := make(map[string]bool)
	for _, server := range m.Targets {
		isTarget[server] = true
	}
	foreign := func(user string) bool { return !isTarget[serverOf(user)] }
	slices.SortFunc(m.Users, func(a, b string) int {
		if fa, fb := foreign(a), foreign(b); fa != fb {
			if fb {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	m.Own = len(m.Users)
	if first := slices.IndexFunc(m.Users, foreign); first >= 0 {
		m.Own = first
	}
	if len(m.Why) == 0 && m.Own == 0 {
		m.Why = append(m.Why, Reason{ReasonNoOwnUser, "No user who may move the group is a user of a possible target, and " +
			"a target takes groups from its own users only, unless its operator says otherwise.",
			"Give a member on a target the power for it, or ask a target's operator for the policy target: joined_servers."})
	}
	return m
}

// Possible reports whether somebody may move the group somewhere, as far as this server decides.
func (m *Moves) Possible() bool { return len(m.Users) > 0 && (len(m.Targets) > 0 || m.Anywhere) }

// targets lists the servers in the room to which the policy lets a group move.
func (p *Policy) targets(r *Room, g *Place) (targets []string, why []Reason) {
	others := make(map[string]bool)
	for user := range r.Joined {
		if server := serverOf(user); !g.IsLocal(server) {
			others[server] = true
		}
	}
	for server := range others {
		f := Facts{Side: migration.Source, Peer: server, TargetInRoom: true, UserJoined: true}
		if r.Denied[server] {
			f.Denied = []string{server}
		}
		if p.peerRefusal(&f) == "" {
			targets = append(targets, server)
		}
	}
	slices.Sort(targets)
	switch {
	case len(targets) > 0 || !p.RequireRoom:
	case len(others) == 0:
		why = append(why, Reason{ReasonNoTarget, "No other server has a user in the room.",
			"Invite a user of the target into the room."})
	default:
		names := strings.Join(slices.Sorted(maps.Keys(others))[:min(len(others), 5)], ", ")
		why = append(why, Reason{ReasonTargetsRules, "The policy or the room's server ACL rules out the servers in the " +
			"room: " + names + ".", "Change allow_servers or deny_servers of the policy, ask the room's moderators, or invite " +
			"a user of another server."})
	}
	return targets, why
}

// movers lists the users who may move a group away.
func (p *Policy) movers(r *Room, g *Place) (users []string, why []Reason) {
	joined, leaving, denied := 0, 0, 0
	known := r.Levels != nil
	for user, stays := range g.Users {
		if known && !r.Joined[user] {
			continue
		}
		joined++
		f := Facts{UserMayPoint: known && r.Levels.Of(user) >= r.Levels.Pointer}
		f.UserAdmin = p.Source == SourceServerAdmin && g.IsLocal(serverOf(user)) && g.Admins(user)
		switch {
		case p.sourceRefusal(&f) != "":
		case r.Denied[serverOf(user)]:
			denied++
		case !stays:
			leaving++
		default:
			users = append(users, user)
		}
	}
	if len(users) == 0 {
		why = []Reason{p.nobody(r, joined, leaving, denied)}
	}
	return users, why
}

// nobody says why no user may move a group: the first obstacle that the operator or the room must remove.
func (p *Policy) nobody(r *Room, joined, leaving, denied int) Reason {
	switch {
	case p.Source == SourceNobody:
		return Reason{ReasonNobodyMay, "The policy lets nobody move groups away from this server.",
			`Set the policy {"source": "power_level"} or {"source": "any_member"}.`}
	case joined == 0:
		return Reason{ReasonNoMember, "No user with a leaf in the group is joined to the room.",
			"Wait for a member who joins the room again."}
	case denied > 0:
		return Reason{ReasonUsersDenied, "The room's server ACL denies the homeservers of all who may move the group.",
			"Ask the room's moderators to change the server ACL."}
	case leaving > 0:
		return Reason{ReasonLeaving, "All leaves of those who may move the group are about to be removed.",
			"Ask any other member to make a Commit, and the user to join the group again."}
	case p.Source == SourceServerAdmin:
		return Reason{ReasonNoAdmin, "The policy lets only administrators of this server move groups away, and none is a " +
			"member.", `Join the group as an administrator, or set the policy {"source": "power_level"}.`}
	}
	need := "the power"
	if r.Levels != nil {
		need = fmt.Sprintf("the power level %d", r.Levels.Pointer)
	}
	return Reason{ReasonNoPower, "No member has " + need + " that sending the room's pointer event needs.",
		`Give a member the power in the room, or set the policy {"source": "any_member"}.`}
}

func serverOf(user string) string {
	_, server, _ := strings.Cut(user, ":")
	return server
}
